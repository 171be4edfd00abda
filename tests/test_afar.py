"""What travels between a driver and the machines of a cluster, without a cluster."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import runs

from grokking.engine.checkpoint import Checkpoints
from grokking.errors import BadInput, Unwritable
from grokking.execute.afar import Finished, Saved, stream
from grokking.execute.local import execute
from grokking.execute.luggage import HEAVIEST, Luggage, packed
from grokking.execute.scratch import scratch
from grokking.execute.signals import Stop
from grokking.execute.unit import Outcome, Terms
from grokking.store import load, prepare
from grokking.store.sealed import seal
from grokking.store.units import parse_unit

NOTHING = packed(())


@pytest.fixture(scope="module")
def specs():
    return runs(2)


@pytest.fixture
def saving_every_step(monkeypatch):
    """Whatever the time says, which is a loaded machine's."""
    monkeypatch.setattr(Checkpoints, "due", lambda self: True)


def messages(specs, tmp_path, saved=None, **terms):
    """All that a unit says, and its outcome at the end."""
    return list(stream(specs, Terms(tmp_path / "nowhere", **terms), NOTHING, saved, Stop()))


def test_what_arrives_is_what_a_local_worker_would_have_written(specs, tmp_path):
    *_, finished = messages(specs, tmp_path)
    for name in ("here", "there"):
        prepare(tmp_path / name)
    assert execute([specs], Terms(tmp_path / "here"), 1, ()) == []
    seal(tmp_path / "there" / "units" / finished.name, finished.files, accept=parse_unit)
    here, there = load(tmp_path / "here"), load(tmp_path / "there")
    assert here.runs.equals(there.runs)
    assert here.curves.equals(there.curves)
    (unit,) = (tmp_path / "here" / "units").glob("[!.]*")
    assert unit.name == finished.name
    assert not (tmp_path / "nowhere").exists()


def test_a_unit_continues_from_a_checkpoint_that_travelled(specs, tmp_path, saving_every_step):
    said = messages(specs, tmp_path)
    saved = [message for message in said if isinstance(message, Saved)]
    assert len(saved) > 1
    assert all(set(message.files) == {"cohort.safetensors", "progress.json"} for message in saved)
    again = messages(specs, tmp_path, saved[0])
    assert again[0] == (int(saved[0].name) * 2, [], False)
    whole, continued = (
        next(message.files for message in unit if isinstance(message, Finished)) for unit in (said, again)
    )
    assert whole["runs.csv"] == continued["runs.csv"]
    assert whole["curves.npy"] == continued["curves.npy"]
    assert json.loads(continued["unit.json"])["resumed_at_step"] == int(saved[0].name)


@pytest.mark.parametrize("anyway", [False, True])
def test_a_checkpoint_of_another_kind_of_machine_is_left_aside_unless_told_otherwise(
    specs, tmp_path, anyway, saving_every_step
):
    saved = next(m for m in messages(specs, tmp_path) if isinstance(m, Saved))
    progress = json.loads(saved.files["progress.json"])
    progress["execution"]["machine"] = "another"
    elsewhere = Saved(saved.name, {**saved.files, "progress.json": json.dumps(progress).encode()})
    said = messages(specs, tmp_path, elsewhere, any_execution=anyway)
    assert said[0] == (int(saved.name) * 2 if anyway else 0, [], False)
    assert isinstance(said[-1], Finished)


def test_when_everything_is_to_stop_a_last_checkpoint_comes_and_nothing_else(specs, tmp_path):
    stop, said = Stop(), []
    for message in stream(specs, Terms(tmp_path, checkpoint_every=0.0), NOTHING, None, stop):
        said.append(message)
        if len(said) == 3:
            stop.code = 130
    assert [isinstance(message, Saved) for message in said] == [False, False, False, True]
    assert 0 < int(said[-1].name) < 16


@pytest.mark.parametrize("where", ["grokking.execute.unit.write_unit", "grokking.execute.afar.prepare"])
def test_a_full_disk_there_is_a_lost_attempt_and_not_the_end_of_the_sweep(specs, tmp_path, monkeypatch, where):
    def full(*_):
        raise Unwritable("no space left")

    monkeypatch.setattr(where, full)
    assert messages(specs, tmp_path)[-1] == Outcome("died", "on its machine: no space left")


def test_the_newest_intact_checkpoint_is_what_travels(specs, tmp_path, saving_every_step):
    prepare(tmp_path)
    checkpoints = Terms(tmp_path).checkpoints(specs)
    assert checkpoints.newest() is None
    saved = [m for m in messages(specs, tmp_path) if isinstance(m, Saved)][:3]
    for each in saved:
        checkpoints.receive(each.name, each.files)
    assert sorted(path.name for path in checkpoints.place.iterdir()) == [
        each.name for each in saved[1:]
    ]  # two are kept
    assert checkpoints.newest() == (saved[2].name, saved[2].files)
    (checkpoints.place / saved[2].name / "progress.json").write_text("{}")
    assert checkpoints.newest() == (saved[1].name, saved[1].files)


def test_what_a_rule_prints_there_is_no_result(specs, tmp_path, capfd, monkeypatch):
    printing = Luggage(("0/rule.py",), (("0/rule.py", b"print('from the rule')"),))
    monkeypatch.setattr("sys.stdout", sys.stdout)  # put back afterwards
    assert isinstance(list(stream(specs, Terms(tmp_path), printing, None, Stop()))[-1], Finished)
    said = capfd.readouterr()
    assert (said.out, "from the rule" in said.err) == ("", True)


def test_folders_of_processes_that_were_killed_are_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    left, other = tmp_path / f"grokking-{int(dead.stdout)}-x", tmp_path / "grokking-notes"
    left.mkdir()
    other.mkdir()
    first, second = scratch(), scratch()
    assert {path.name for path in tmp_path.iterdir()} == {other.name, Path(first).name, Path(second).name}


def test_a_driver_without_the_device_can_still_move_checkpoints(specs, tmp_path):
    """The head of a cluster of GPUs may have none."""
    prepare(tmp_path)
    checkpoints = Terms(tmp_path, device="cuda:99").checkpoints(specs)
    assert (checkpoints.step(), checkpoints.newest()) == (0, None)
    checkpoints.clear()


# --- a user's files -----------------------------------------------------------------------------------------------


def test_files_and_what_they_import_come_along(tmp_path):
    """Unpacked by a process that has never seen the folder they lay in."""
    for name, text in (
        ("own/rule.py", "from beside import VALUE\nfrom package.inner import OTHER\nprint(VALUE + OTHER)"),
        ("own/beside.py", "VALUE = 40"),
        ("own/package/__init__.py", ""),
        ("own/package/inner.py", "OTHER = 2"),
        ("own/data/unrelated.py", "raise SystemExit('not a package')"),
        ("other/second.py", "print('second')"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    luggage = packed([str(tmp_path / "own/rule.py"), "json", str(tmp_path / "other/second.py")])
    assert luggage.imports == ("0/rule.py", "json", "1/second.py")
    assert {name for name, _ in luggage.files} == {
        "0/rule.py", "0/beside.py", "0/package/__init__.py", "0/package/inner.py", "1/second.py",
    }  # fmt: skip
    for name in ("own", "other"):
        shutil.rmtree(tmp_path / name)
    code = f"from grokking.execute.luggage import Luggage\nl = Luggage({luggage.imports!r}, {luggage.files!r})\n"
    code += "l.unpack()\nl.unpack()"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert said.stdout == "42\nsecond\n"


def test_what_cannot_be_carried_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no file 'nothing.py'"):
        packed(["nothing.py"])
    (tmp_path / "rule.py").write_text("")
    (tmp_path / "large.py").write_bytes(b"#" * (HEAVIEST + 1))
    with pytest.raises(BadInput, match="too much to carry"):
        packed([str(tmp_path / "rule.py")])


def test_a_file_that_cannot_be_imported_there_is_the_failure_of_its_unit(specs, tmp_path):
    broken = Luggage(("0/rule.py",), (("0/rule.py", b"1 / 0"),))
    (outcome,) = stream(specs, Terms(tmp_path), broken, None, Stop())
    assert outcome.end == "failed"
    assert "ZeroDivisionError" in outcome.text
