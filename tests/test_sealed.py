import errno
import hashlib
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grokking.errors import Interrupted, Unwritable
from grokking.store import sealed
from grokking.store.sealed import ABANDONED, DONE, Damaged, check, clear_abandoned, read, seal, set_aside, signature

FILES = {"a.txt": b"one\n", "b": b"\x00\xff"}
FULL = OSError(errno.ENOSPC, "No space left on device")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def on_disk(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def line(name, content=b""):
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode()


def sealed_with(folder, done):
    """A directory beside which a secret lies, with this DONE."""
    (folder / "secret").write_bytes(b"secret")
    directory = folder / "unit"
    directory.mkdir()
    (directory / "a").write_bytes(b"a")
    (directory / DONE).write_bytes(done)
    return directory


# --- what is sealed -------------------------------------------------------------------------------------------------


def test_what_is_sealed_is_read_back_and_nothing_else_is_left(tmp_path):
    seal(tmp_path / "unit", FILES)
    assert names(tmp_path) == ["unit"]
    assert read(tmp_path / "unit") == FILES
    assert set(on_disk(tmp_path / "unit")) == {*FILES, DONE}


def test_sha256sum_agrees_that_it_is_intact_and_that_it_is_not(tmp_path):
    seal(tmp_path / "unit", FILES)
    command = ["sha256sum", "--check", "--strict", DONE]
    intact = subprocess.run(command, cwd=tmp_path / "unit", capture_output=True, text=True)
    assert (intact.returncode, intact.stdout, intact.stderr) == (0, "a.txt: OK\nb: OK\n", "")
    (tmp_path / "unit" / "b").write_bytes(b"\x00\xfe")
    spoiled = subprocess.run(command, cwd=tmp_path / "unit", capture_output=True, text=True)
    assert (spoiled.returncode, spoiled.stdout) == (1, "a.txt: OK\nb: FAILED\n")


def test_every_file_is_synced_before_the_rename_and_the_parent_after_it(tmp_path, monkeypatch):
    told = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(handle):
        told.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def noted_rename(self, target):
        told.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    seal(tmp_path / "unit", FILES)
    *files, folder, renamed, parent = told
    assert (files, renamed, parent) == ([*FILES, DONE], "rename", tmp_path.name)
    assert folder.startswith(".tmp-")


def test_sealing_over_an_intact_directory_leaves_it(tmp_path):
    seal(tmp_path / "unit", FILES)
    before = signature(tmp_path / "unit", tuple(FILES))
    seal(tmp_path / "unit", {"a.txt": b"another"})
    assert read(tmp_path / "unit") == FILES
    assert signature(tmp_path / "unit", tuple(FILES)) == before
    assert names(tmp_path) == ["unit"]


def test_sealing_over_a_damaged_directory_moves_it_aside_with_its_bytes(tmp_path):
    seal(tmp_path / "unit", FILES)
    (tmp_path / "unit" / "b").write_bytes(b"damaged")
    before = on_disk(tmp_path / "unit")
    seal(tmp_path / "unit", {"a.txt": b"new"})
    aside, unit = names(tmp_path)
    assert (aside.startswith(".damaged-unit-"), unit) == (True, "unit")
    assert read(tmp_path / "unit") == {"a.txt": b"new"}
    assert on_disk(tmp_path / aside) == before


def test_sealing_where_a_file_or_a_dangling_link_stands_moves_that_aside(tmp_path):
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        seal(tmp_path / name, FILES)
        assert read(tmp_path / name) == FILES
    (aside,) = tmp_path.glob(".damaged-file-*")
    assert aside.read_bytes() == b"kept"
    assert [os.readlink(path) for path in tmp_path.glob(".damaged-link-*")] == ["nowhere"]
    assert len(names(tmp_path)) == 4


def test_setting_aside_what_somebody_else_set_aside_is_no_error(tmp_path):
    set_aside(tmp_path / "unit")
    assert names(tmp_path) == []


def test_one_that_another_puts_there_in_the_meantime_stands(tmp_path, monkeypatch):
    once = sealed._write

    def slowly(path, content):
        once(path, content)
        if path.name == DONE:
            monkeypatch.setattr(sealed, "_write", once)
            seal(tmp_path / "unit", {"theirs": b"1"})

    monkeypatch.setattr(sealed, "_write", slowly)
    seal(tmp_path / "unit", FILES)
    assert names(tmp_path) == ["unit"]
    assert read(tmp_path / "unit") == {"theirs": b"1"}


# --- failures -------------------------------------------------------------------------------------------------------


class Fuse:
    """Counts every call to the operating system with which seal() writes, and raises at the one numbered `at`."""

    def __init__(self, monkeypatch, error, at):
        self.error, self.at, self.calls = error, at, []
        for owner, name in ((Path, "mkdir"), (Path, "open"), (os, "open"), (os, "fsync"), (Path, "rename")):
            monkeypatch.setattr(owner, name, self.counted(name, getattr(owner, name)))

    def counted(self, name, call):
        def counting(*args, **kwargs):
            if "rb" not in (*args, kwargs.get("mode")):  # what only reads is none of them
                self.calls.append(name)
                if len(self.calls) - 1 == self.at:
                    raise self.error
            return call(*args, **kwargs)

        return counting


def calls_of(monkeypatch, act):
    with monkeypatch.context() as patch:
        fuse = Fuse(patch, FULL, None)
        act()
    return fuse.calls


@pytest.mark.parametrize("error", [FULL, Interrupted(130), KeyboardInterrupt(), MemoryError()], ids=lambda e: type(e))
def test_a_failure_at_any_call_leaves_nothing_temporary_and_no_half(tmp_path, monkeypatch, error):
    calls = calls_of(monkeypatch, lambda: seal(tmp_path / "unit", FILES))
    assert [calls.count(name) for name in ("mkdir", "fsync", "rename")] == [1, 5, 1]
    for at in range(len(calls)):
        shutil.rmtree(tmp_path / "unit", ignore_errors=True)
        with monkeypatch.context() as patch:
            Fuse(patch, error, at)
            with pytest.raises(Unwritable if error is FULL else type(error)) as raised:
                seal(tmp_path / "unit", FILES)
        if error is FULL:
            assert str(raised.value) == f"cannot write {str(tmp_path / 'unit')!r}: No space left on device"
        if at <= calls.index("rename"):
            assert names(tmp_path) == [], (at, calls[at])
        else:  # it was in place already when its parent was to be synced
            assert names(tmp_path) == ["unit"]
            assert read(tmp_path / "unit") == FILES


def test_a_failure_at_any_call_keeps_the_bytes_of_a_damaged_one_that_stands_there(tmp_path, monkeypatch):
    def damaged_unit():
        for path in tmp_path.iterdir():
            shutil.rmtree(path)
        seal(tmp_path / "unit", FILES)
        (tmp_path / "unit" / "b").write_bytes(b"damaged")

    damaged_unit()
    before = on_disk(tmp_path / "unit")
    calls = calls_of(monkeypatch, lambda: seal(tmp_path / "unit", FILES))
    assert calls.count("rename") == 3  # refused, set aside, done
    for at in range(len(calls)):
        damaged_unit()
        with monkeypatch.context() as patch:
            Fuse(patch, FULL, at)
            with pytest.raises(Unwritable):
                seal(tmp_path / "unit", FILES)
        assert list(tmp_path.glob(".tmp-*")) == []
        assert before in [on_disk(path) for path in tmp_path.iterdir()], (at, calls[at])


@pytest.mark.parametrize("filename", [*FILES, DONE])
def test_a_disk_that_fills_up_within_a_file_leaves_nothing(tmp_path, monkeypatch, filename):
    once = sealed._write

    def stopped(path, content):
        if path.name == filename:
            path.write_bytes(content[:1])
            raise FULL
        once(path, content)

    monkeypatch.setattr(sealed, "_write", stopped)
    with pytest.raises(Unwritable, match="No space left on device"):
        seal(tmp_path / "unit", FILES)
    assert names(tmp_path) == []


def test_a_write_that_the_operating_system_itself_refuses_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(Unwritable, match="File too large"):
            seal(tmp_path / "unit", {"small": b"1", "large": bytes(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


def test_a_parent_that_is_not_there_is_unwritable_and_is_not_made(tmp_path):
    with pytest.raises(Unwritable, match="No such file or directory"):
        seal(tmp_path / "removed" / "unit", FILES)
    assert names(tmp_path) == []


def test_somebody_who_keeps_putting_damaged_ones_there_ends_in_an_error(tmp_path, monkeypatch):
    seal(tmp_path / "unit", FILES)
    (tmp_path / "unit" / "b").write_bytes(b"damaged")
    monkeypatch.setattr(sealed, "set_aside", lambda directory: directory)
    with pytest.raises(Unwritable, match="something else writes there"):
        seal(tmp_path / "unit", FILES)
    assert names(tmp_path) == ["unit"]


def test_a_process_killed_while_it_writes_leaves_only_what_is_cleared(tmp_path):
    code = f"""
import os, signal, sys
from pathlib import Path
from grokking.store import sealed
once = sealed._write
def killed(path, content):
    once(path, content)
    if path.name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
sealed._write = killed
sealed.seal(Path({str(tmp_path / "unit")!r}), {FILES!r})
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    (left,) = names(tmp_path)
    assert left.startswith(".tmp-")
    clear_abandoned(tmp_path)
    assert names(tmp_path) == []


# --- abandoned ------------------------------------------------------------------------------------------------------


def dead_process():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_temporaries_of_dead_processes_and_old_foreign_ones_are_cleared_and_no_others(tmp_path):
    here = platform.node()
    hexa = 32 * "a"
    dead = [f".tmp-{here}-{dead_process()}-{hexa}", f".tmp-some-other-node-1-{hexa}", ".tmp-0123456789abcdef"]
    kept = [
        f".tmp-{here}-{os.getpid()}-{hexa}",
        f".tmp-{here}-1-{hexa}",
        f".tmp-young-1-{hexa}",
        ".damaged-x-1",
        "unit",
    ]
    for name in dead + kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").touch()
    old = time.time() - ABANDONED - 60
    for name in (*dead[1:], kept[0], "unit", ".damaged-x-1"):
        os.utime(tmp_path / name, (old, old))
    clear_abandoned(tmp_path)
    assert names(tmp_path) == sorted(kept)


def test_the_temporary_of_a_process_of_another_user_is_kept(tmp_path, monkeypatch):
    def refuse(process, signal):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    (tmp_path / f".tmp-{platform.node()}-12345-{32 * '0'}").mkdir()
    clear_abandoned(tmp_path)
    assert len(names(tmp_path)) == 1


def test_a_temporary_that_vanishes_is_passed_over_and_a_file_is_removed_as_a_directory_is(tmp_path):
    (tmp_path / ".tmp-link").symlink_to("nowhere")
    (tmp_path / f".tmp-{platform.node()}-{dead_process()}-{32 * '1'}").touch()
    clear_abandoned(tmp_path)
    clear_abandoned(tmp_path / "absent")
    assert names(tmp_path) == [".tmp-link"]


# --- damage ---------------------------------------------------------------------------------------------------------


def test_every_flip_of_a_bit_in_any_file_is_damage(tmp_path):
    seal(tmp_path / "unit", FILES)
    count = 0
    for path in list((tmp_path / "unit").iterdir()):
        content = path.read_bytes()
        for bit in range(8 * len(content)):
            spoiled = bytearray(content)
            spoiled[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bytes(spoiled))
            with pytest.raises(Damaged) as damage:
                read(tmp_path / "unit")
            assert re.search("has changed|is missing|does not name", str(damage.value))
            count += 1
        path.write_bytes(content)
    assert count == 8 * sum(map(len, on_disk(tmp_path / "unit").values())) > 1000
    assert read(tmp_path / "unit") == FILES


def test_every_truncation_and_every_loss_of_a_file_is_damage(tmp_path):
    seal(tmp_path / "unit", FILES)
    for path in list((tmp_path / "unit").iterdir()):
        content = path.read_bytes()
        for length in range(len(content)):
            if path.name == DONE and content[:length].endswith(b"\n"):
                continue  # tested below
            path.write_bytes(content[:length])
            with pytest.raises(Damaged):
                read(tmp_path / "unit")
        path.unlink()
        with pytest.raises(Damaged, match=f"{path.name} is missing"):
            read(tmp_path / "unit")
        path.write_bytes(content + b"\n")
        with pytest.raises(Damaged):
            read(tmp_path / "unit")
        path.write_bytes(content)
    assert read(tmp_path / "unit") == FILES


def test_a_done_that_lost_its_last_lines_is_damage(tmp_path):
    seal(tmp_path / "unit", FILES)
    (tmp_path / "unit" / DONE).write_bytes(line("a.txt", FILES["a.txt"]))
    with pytest.raises(Damaged):
        read(tmp_path / "unit")


def test_a_temporary_of_an_impossible_process_stops_nothing(tmp_path):
    (tmp_path / f".tmp-{platform.node()}-{10**20}-1").mkdir()
    clear_abandoned(tmp_path)


def test_two_files_that_changed_places_are_both_named(tmp_path):
    seal(tmp_path / "unit", {"a": b"1", "b": b"2", "c": b"3"})
    (tmp_path / "unit" / "a").write_bytes(b"2")
    (tmp_path / "unit" / "b").write_bytes(b"1")
    with pytest.raises(Damaged, match=r"^a and b has changed$"):
        read(tmp_path / "unit")


NAMES = ["..", ".", "", "/", "/etc/passwd", "../secret", "sub/file", "a/../a", "x\0y", "x" * 5000, "~", "a\ra", "DONE"]
NAMES += ["absent", "a\n\n", "\x1c", " a", "a "]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_a_name_in_done_that_is_no_file_s_is_damage_and_never_leads_outside(tmp_path, monkeypatch, name):
    directory = sealed_with(tmp_path, line("a", b"a") + line(name, b"secret"))
    opened, once = [], Path.read_bytes

    def noted(self):
        opened.append(self)
        return once(self)

    monkeypatch.setattr(Path, "read_bytes", noted)
    with pytest.raises(Damaged) as damage:
        read(directory)
    assert all(path.resolve().parent == directory for path in opened if os.path.isfile(path)), opened
    assert "\n" not in str(damage.value)


DONES = {
    "empty": b"",
    "newlines": b"\n\n",
    "binary": bytes(range(256)),
    "not ASCII": line("é"),
    "twice": 2 * line("a", b"a"),
    "other hash": line("a", b"b"),
    "no newline": line("a", b"a")[:-1],
    "CRLF": line("a", b"a").replace(b"\n", b"\r\n"),
    "capitals": line("a", b"a").upper().replace(b"  A", b"  a"),
    "binary mode": line("a", b"a").replace(b"  a", b" *a"),
    "comment": b"# one\n" + line("a", b"a"),
    "long": b"x" * 1_000_000,
}


@pytest.mark.parametrize("done", DONES.values(), ids=DONES)
def test_a_done_that_was_not_written_here_is_damage(tmp_path, done):
    with pytest.raises(Damaged):
        read(sealed_with(tmp_path, done))


def test_a_file_that_done_does_not_name_is_damage_unless_it_is_hidden(tmp_path):
    seal(tmp_path / "unit", FILES)
    (tmp_path / "unit" / ".DS_Store").touch()
    assert read(tmp_path / "unit") == FILES
    (tmp_path / "unit" / "extra").write_bytes(b"1")
    with pytest.raises(Damaged, match="DONE does not name extra"):
        read(tmp_path / "unit")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
def test_what_cannot_be_read_just_now_is_not_called_damaged_and_not_moved(tmp_path, monkeypatch, number):
    seal(tmp_path / "unit", FILES)

    def refuse(self):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(OSError, match=os.strerror(number)):
            read(tmp_path / "unit")
        with pytest.raises(Unwritable):
            seal(tmp_path / "unit", FILES)
    assert names(tmp_path) == ["unit"]
    assert read(tmp_path / "unit") == FILES


def test_nothing_a_file_and_a_directory_in_a_file_s_place_are_damage(tmp_path):
    (tmp_path / "file").touch()
    seal(tmp_path / "unit", FILES)
    (tmp_path / "unit" / "b").unlink()
    (tmp_path / "unit" / "b").mkdir()
    for name, told in (
        ("absent", "DONE is missing"),
        ("file", "it is a file, not a directory"),
        ("unit", "b is a directory"),
    ):
        with pytest.raises(Damaged, match=f"^{told}$"):
            read(tmp_path / name)


def test_files_that_are_too_many_or_too_few_are_named(tmp_path):
    check(FILES, ("b", "a.txt"))
    for content in ({"b": b""}, {**FILES, "c": b""}):
        with pytest.raises(Damaged, match=r"^it holds .* where a\.txt, b belong$"):
            check(content, ("b", "a.txt"))
