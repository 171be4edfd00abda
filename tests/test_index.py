import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_store import PARTS, contents, flip, ids, left_over, load, put, rows_of, told, write

from grokking.errors import BadInput, Notice
from grokking.store import SCHEMA, check_verify, index, sealed, set_aside_damaged, stored, units


def settled(folder, *names):
    """A store of one unit per run, read once its files are old enough to be believed; the units."""
    for name in names:
        put(folder, rows_of(ids(name)), name=name)
    time.sleep(0.06)
    found = units(folder)
    assert all(unit.signature for unit in found)
    return found


def unread(monkeypatch):
    """From now on, opening a unit is an error."""

    def refuse(directory):
        raise AssertionError(f"{directory} was opened")

    monkeypatch.setattr(index, "read", refuse)


def spoil_silently(path):
    """Flip a bit, and keep the file's size and the time of its last change."""
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def forge(folder, change):
    """Rewrite the index, its own hash included."""
    entries = json.loads((folder / "index.json").read_bytes().partition(b"\n")[2])
    body = json.dumps(change(entries)).encode()
    (folder / "index.json").write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def forge_signatures(folder):
    """Have the index say that every file was read as it is now."""

    def change(entries):
        return [e | {"signature": sealed.signature(folder / "units" / e["name"], PARTS)} for e in entries]

    forge(folder, change)


# --- believing it -------------------------------------------------------------------------------------------------


def test_with_a_valid_index_no_unit_is_opened_and_the_answers_are_the_same(tmp_path, monkeypatch):
    first = settled(tmp_path, "a", "b", "c")
    whole = load(tmp_path)
    unread(monkeypatch)
    assert units(tmp_path) == first
    assert [unit.name for unit in first] == ["a", "b", "c"]
    assert stored(tmp_path) == {ids(name)[0]: tmp_path / "units" / name for name in "abc"}
    assert load(tmp_path).runs.equals(whole.runs)
    with pytest.raises(AssertionError, match="was opened"):
        units(tmp_path, "full")


def test_only_a_new_unit_is_opened_and_one_that_is_gone_is_forgotten(tmp_path, monkeypatch):
    settled(tmp_path, "a", "b")
    put(tmp_path, rows_of(ids("c")), name="c")
    shutil.rmtree(tmp_path / "units" / "a")
    opened = []
    monkeypatch.setattr(index, "read", lambda directory: opened.append(directory.name) or sealed.read(directory))
    assert [unit.name for unit in units(tmp_path)] == ["b", "c"]
    assert opened == ["c"]


def test_an_unchanged_index_is_not_written_again(tmp_path):
    settled(tmp_path, "a")
    before = (tmp_path / "index.json").stat()
    units(tmp_path)
    units(tmp_path, "full")
    assert (tmp_path / "index.json").stat().st_ino == before.st_ino
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", "units"]


def test_a_unit_that_was_just_written_is_opened_until_its_times_can_tell(tmp_path, monkeypatch):
    write(tmp_path, ids("a"))
    monkeypatch.setattr(index, "TICK", 10**15)
    units(tmp_path)
    unread(monkeypatch)
    with pytest.raises(AssertionError, match="was opened"):
        units(tmp_path)


@pytest.mark.parametrize("name", [*PARTS, "DONE"])
def test_a_file_lost_from_a_unit_that_was_read_young_is_noticed(tmp_path, monkeypatch, name):
    monkeypatch.setattr(index, "TICK", 10**15)
    unit = write(tmp_path, ids("a"))
    units(tmp_path)
    (unit / name).unlink()
    notices, found = told(units, tmp_path)
    assert (len(notices), found) == (1, [])


@pytest.mark.parametrize("name", [*PARTS, "DONE"])
def test_a_flip_that_keeps_size_and_time_is_noticed(tmp_path, name):
    settled(tmp_path, "a", "b")
    spoil_silently(tmp_path / "units" / "a" / name)
    for _ in range(2):
        notices, found = told(units, tmp_path)
        assert [unit.name for unit in found] == ["b"]
        assert len(notices) == 1 and str(tmp_path / "units" / "a") in notices[0]


def test_full_finds_what_fast_cannot_know(tmp_path):
    settled(tmp_path, "a", "b")
    spoil_silently(tmp_path / "units" / "a" / "runs.csv")
    forge_signatures(tmp_path)
    assert load(tmp_path, ids("a", "b"), verify="fast", curves=False).missing == 0
    notices, results = told(load, tmp_path, ids("a", "b"), verify="full")
    assert (results.missing, results.runs["run_id"].tolist()) == (1, ids("b"))
    assert ["runs.csv has changed" in notice for notice in notices] == [True]
    assert told(units, tmp_path)[1] == told(units, tmp_path, "full")[1]  # what "full" found, "fast" knows from then on


@pytest.mark.parametrize("verify", ["fast", "full"])
def test_damage_in_curves_is_found_wherever_curves_are_read(tmp_path, verify):
    settled(tmp_path, "a", "b")
    spoil_silently(tmp_path / "units" / "a" / "curves.npy")
    forge_signatures(tmp_path)
    notices, results = told(load, tmp_path, ids("a", "b"), verify=verify)
    assert (results.missing, results.runs["run_id"].tolist(), len(results.curves)) == (1, ids("b"), 3)
    assert len(notices) == 1 and str(tmp_path / "units" / "a") in notices[0]


def test_curves_that_vanish_between_index_and_reading_are_left_out(tmp_path, monkeypatch):
    settled(tmp_path, "a", "b")
    monkeypatch.setattr("grokking.store.tables.units", lambda folder, verify: found)
    found = units(tmp_path)
    (tmp_path / "units" / "a" / "curves.npy").unlink()
    notices, results = told(load, tmp_path)
    assert (results.missing, len(notices)) == (1, 1)
    assert notices[0].startswith(f"left out {tmp_path / 'units' / 'a' / 'curves.npy'}, which is damaged: ")


def test_the_ways_to_verify_are_named_when_another_is_asked_for():
    assert [check_verify(verify) for verify in ("fast", "full")] == ["fast", "full"]
    with pytest.raises(BadInput, match=r"^verify = 'quick'; allowed: fast, full$"):
        check_verify("quick")


# --- not believing it ---------------------------------------------------------------------------------------------


def test_an_index_that_is_lost_cut_or_changed_in_any_bit_changes_nothing(tmp_path, monkeypatch):
    first = settled(tmp_path, "a")
    intact = (tmp_path / "index.json").read_bytes()
    spoiled = [intact[:length] for length in range(0, len(intact), 7)]
    for bit in range(8 * len(intact)):
        flipped = bytearray(intact)
        flipped[bit // 8] ^= 1 << bit % 8
        spoiled.append(bytes(flipped))
    with monkeypatch.context() as patch:
        for content in (*spoiled, intact):
            patch.setattr(Path, "read_bytes", lambda self, content=content: content)
            assert len(index._read_index(tmp_path)) == (content == intact)
    for content in (*spoiled[::499], b"", b"[]", b"\xff", None):
        if content is None:
            (tmp_path / "index.json").unlink()
        else:
            (tmp_path / "index.json").write_bytes(content)
        assert told(units, tmp_path) == ([], first)
        assert (tmp_path / "index.json").read_bytes() == intact


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: {"schema": 9},
        lambda entries: [1, None],
        lambda entries: ["name"],
        lambda entries: [{}],
        lambda entries: [e | {"new": 1} for e in entries],
        lambda entries: [{"name": e["name"]} for e in entries],
        lambda entries: [e | {"name": f"../{e['name']}"} for e in entries],
        lambda entries: [e | {"name": "nowhere"} for e in entries],
        lambda entries: [],
        lambda entries: None,
    ],
)
def test_an_index_of_another_version_is_read_as_none(tmp_path, change):
    first = settled(tmp_path, "a", "b")
    forge(tmp_path, change)
    assert told(units, tmp_path) == ([], first)


def test_an_index_of_another_folder_is_not_believed(tmp_path):
    settled(tmp_path / "one", "a", "b")
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # with the times of last change, as cp --archive
    spoil_silently(tmp_path / "two" / "units" / "a" / "runs.csv")
    notices, found = told(units, tmp_path / "two")
    assert [unit.name for unit in found] == ["b"]
    assert len(notices) == 1
    assert [unit.name for unit in units(tmp_path / "one")] == ["a", "b"]


def test_a_moved_store_is_the_same_store(tmp_path, monkeypatch):
    first = settled(tmp_path / "one", "a")
    (tmp_path / "one").rename(tmp_path / "two")
    unread(monkeypatch)
    assert units(tmp_path / "two") == first


def test_two_units_that_changed_names_are_read_again(tmp_path):
    settled(tmp_path, "a", "b")
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        (tmp_path / "units" / old).rename(tmp_path / "units" / new)
    assert {unit.name: unit.run_ids for unit in units(tmp_path)} == {"a": ids("b"), "b": ids("a")}


def test_a_sweep_sets_damaged_units_aside_and_says_so_once(tmp_path):
    unit, other = write(tmp_path, ids("a")), write(tmp_path, ids("b"))
    flip(unit / "runs.csv")
    notices, _ = told(set_aside_damaged, tmp_path)
    (aside,) = (tmp_path / "units").glob(".damaged-*")
    assert notices == [f"set aside the damaged unit {unit} (runs.csv has changed) as {aside.name}"]
    assert [one.name for one in units(tmp_path)] == [other.name]
    assert told(set_aside_damaged, tmp_path)[0] == []


@pytest.mark.parametrize(
    "spoilt",
    [
        {"curves.npy": b"garbage"},
        {"unit.json": b"[" * 100_000},
        {"unit.json": b'{"schema": 2, "run_ids": ["somebody", "else"]}'},
        {"runs.csv": b"run_id\n1\n"},
    ],
    ids=["curves", "nested", "other runs", "columns"],
)
def test_a_unit_with_right_hashes_and_content_that_cannot_be_read_is_replaced_by_training_again(tmp_path, spoilt):
    resealed(write(tmp_path, ids("a", "b")), **spoilt)
    notices, found = told(units, tmp_path)
    assert (len(notices), found) == (1, [])
    write(tmp_path, ids("a", "b"))
    assert told(units, tmp_path)[0] == []
    assert load(tmp_path, ids("a", "b")).missing == 0


# --- stores that cannot be written, and what is no unit -----------------------------------------------------------


@pytest.mark.parametrize(("owner", "name"), [(Path, "open"), (Path, "replace")])
def test_a_store_that_cannot_be_written_can_be_read(tmp_path, monkeypatch, owner, name):
    write(tmp_path, ids("a"))
    once = getattr(owner, name)

    def refuse(self, *args, **kwargs):
        if self.name.startswith(".tmp-") and "rb" not in (*args, kwargs.get("mode")):
            raise OSError(errno.EROFS, "Read-only file system")
        return once(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, refuse)
    assert told(load, tmp_path, ids("a"))[0] == []
    assert load(tmp_path, ids("a")).missing == 0
    assert [path.name for path in tmp_path.iterdir()] == ["units"]


def test_a_store_on_a_read_only_mount_can_be_read(tmp_path, monkeypatch):
    write(tmp_path, ids("a"))
    open_once, unlink_once = Path.open, Path.unlink

    def refuse_open(self, *args, **kwargs):
        if self.name.startswith(".tmp-"):
            raise OSError(errno.EROFS, "Read-only file system")
        return open_once(self, *args, **kwargs)

    def refuse_unlink(self, missing_ok=False):  # Linux refuses before it looks whether there is such a file
        if self.name.startswith(".tmp-"):
            raise OSError(errno.EROFS, "Read-only file system")
        return unlink_once(self, missing_ok)

    monkeypatch.setattr(Path, "open", refuse_open)
    monkeypatch.setattr(Path, "unlink", refuse_unlink)
    assert len(units(tmp_path)) == 1


def test_a_folder_of_units_that_cannot_be_listed_is_one_sentence(tmp_path):
    (tmp_path / "units").touch()
    with pytest.raises(
        BadInput, match=r"^cannot read '.*units': Not a directory; name a folder of results$"
    ) as refused:
        units(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_stray_file_or_folder_among_the_units_is_a_notice_and_hidden_ones_are_not_looked_at(tmp_path):
    write(tmp_path, ids("a"))
    (tmp_path / "units" / "notes.txt").write_text("mine")
    (tmp_path / "units" / "empty").mkdir()
    (tmp_path / "units" / ".DS_Store").touch()
    with pytest.warns(Notice) as caught:
        results = load(tmp_path)
    assert results.runs["run_id"].tolist() == ids("a")
    first, second = (str(notice.message) for notice in caught)
    assert first.startswith(f"left out the damaged unit {tmp_path / 'units' / 'empty'}: DONE is missing; ")
    assert second.startswith(f"left out the damaged unit {tmp_path / 'units' / 'notes.txt'}: it is a file, not a dir")


@pytest.mark.parametrize("schema", [1, SCHEMA + 1, None, "2"])
def test_a_unit_of_another_schema_is_left_out_and_both_numbers_are_named(tmp_path, schema):
    unit = write(tmp_path, ids("a"))
    write(tmp_path, ids("b"))
    facts = {"schema": schema, "run_ids": ids("a")}
    resealed(unit, **{"unit.json": json.dumps(facts).encode(), "whatever.npz": b""})  # its files may be others too
    notices, found = told(units, tmp_path)
    assert [one.run_ids for one in found] == [ids("b")]
    assert len(notices) == 1
    assert f"{unit}: its schema is {schema}, and this version of the package reads {SCHEMA};" in notices[0]


FOREIGN = {
    "no JSON": {"unit.json": b"no"},
    "a list": {"unit.json": b"[]"},
    "no run_ids": {"unit.json": json.dumps({"schema": SCHEMA}).encode()},
    "other run_ids": {"unit.json": json.dumps({"schema": SCHEMA, "run_ids": ids("b")}).encode()},
    "no seconds": {"unit.json": json.dumps({"schema": SCHEMA, "run_ids": ids("a"), "seconds": None}).encode()},
    "empty table": {"runs.csv": b""},
    "no steps_trained": {"runs.csv": b"run_id\n" + ids("a")[0].encode() + b"\n"},
    "short line": {"runs.csv": b"run_id,steps_trained\n" + ids("a")[0].encode() + b"\n"},
    "not UTF-8": {"runs.csv": b"\xff\xfe"},
    "words": {"runs.csv": b"run_id,steps_trained\n" + ids("a")[0].encode() + b",many\n"},
    "another file": {"extra": b""},
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_a_well_sealed_unit_that_another_program_wrote_is_left_out(tmp_path, files):
    resealed(write(tmp_path, ids("a")), **files)
    notices, found = told(units, tmp_path)
    assert (len(notices), found) == (1, [])


def test_processes_that_read_a_store_at_once_do_not_disturb_each_other(tmp_path):
    for name in "abcdefgh":
        put(tmp_path, rows_of(ids(name)), name=name)
    code = f"""
from pathlib import Path
from grokking.store import units
for _ in range(30):
    Path({str(tmp_path / "index.json")!r}).unlink(missing_ok=True)
    assert len(units(Path({str(tmp_path)!r}))) == 8
"""
    readers = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
    assert [reader.communicate()[1] for reader in readers] == [b"", b""]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "index.json") == ["units"]


# --- damage -------------------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


DAMAGE = [(spoil, name) for spoil in (flip, truncate, empty) for name in (*PARTS, "DONE")]
DAMAGE += [(Path.unlink, name) for name in (*PARTS, "DONE")]
damaged = pytest.mark.parametrize(("spoil", "name"), DAMAGE, ids=[f"{spoil.__name__} {name}" for spoil, name in DAMAGE])


@damaged
def test_a_damaged_unit_is_named_in_one_sentence_and_left_out_and_training_it_again_mends_it(tmp_path, spoil, name):
    a, b = ids("a", "b")
    unit = write(tmp_path, [a])
    write(tmp_path, [b])
    spoil(unit / name)
    before = {path.name: path.read_bytes() for path in unit.iterdir()}
    notices, results = told(load, tmp_path, [a, b])
    assert (results.missing, results.runs["run_id"].tolist()) == (1, [b])
    (notice,) = notices
    assert notice.startswith(f"left out the damaged unit {unit}: ")
    assert "\n" not in notice
    assert contents(unit) == before  # whoever looks changes nothing
    write(tmp_path, [a])
    assert load(tmp_path, [a, b]).missing == 0
    (aside,) = left_over(tmp_path)
    assert contents(tmp_path / "units" / aside) == before


def resealed(unit, **files):
    """The same unit, sealed with other files: nothing is damaged, but it is not what this version writes."""
    content = {**sealed.read(unit), **files}
    shutil.rmtree(unit)
    sealed.seal(unit, content)


@pytest.mark.parametrize("spoil", ["schema", "extra file", "lost line of DONE"])
def test_training_again_mends_a_unit_that_is_left_out_although_its_hashes_agree(tmp_path, spoil):
    unit = write(tmp_path, ids("a"))
    if spoil == "schema":
        resealed(unit, **{"unit.json": json.dumps({"schema": SCHEMA + 1, "run_ids": ids("a")}).encode()})
    elif spoil == "extra file":
        resealed(unit, extra=b"")
    else:
        (unit / "DONE").write_bytes(b"".join((unit / "DONE").read_bytes().splitlines(keepends=True)[:2]))
    assert len(told(load, tmp_path)[0]) == 1
    write(tmp_path, ids("a"))
    assert load(tmp_path, ids("a")).missing == 0


def test_what_a_killed_process_left_half_written_is_ignored(tmp_path):
    unit = write(tmp_path, ids("a"))
    unit.rename(tmp_path / "units" / ".tmp-0123-4567")  # complete, but never put in place
    assert load(tmp_path, ids("a")).missing == 1
