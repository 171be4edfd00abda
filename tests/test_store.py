import errno
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import grokking.store as store
from grokking.errors import BadInput, Interrupted
from grokking.store import STEP_COLUMNS, load, prepare, read_runs, stored, write_unit

NAN = float("nan")
INFO = {"machine": "a test machine", "seconds": 1.5}


def ids(*names):
    return [hashlib.sha256(str(name).encode()).hexdigest()[:16] for name in names]


def rows_of(run_ids, steps_trained=60, **columns):
    """Lines of a runs table with what the store must tell apart: text, flags, counts with gaps, floats."""
    return [
        {
            "run_id": run_id,
            "model.norm": "none",
            "optimizer.lr": 0.1 + 0.2,
            "optimizer.nesterov": True,
            "seed": at,
            "status": "censored",
            "sustained": False,
            "steps_to_memorize": 20,
            "steps_to_generalize": None if at % 2 else 40 + at,
            "steps_to_generalize_after": None if at % 2 else 30,
            "steps_to_sustain": None,
            "delay": None if at % 2 else 20 + at,
            "diverged_at": None,
            "steps_trained": steps_trained[at] if isinstance(steps_trained, list) else steps_trained,
            "epochs_to_generalize": None if at % 2 else (40 + at) / 3,
            **columns,
        }
        for at, run_id in enumerate(run_ids)
    ]


def curves_of(runs, steps=(20, 40, 60)):
    draws = np.random.Generator(np.random.PCG64(len(steps))).random((2, len(steps), runs))
    return {"steps": np.array(steps), "train_loss": draws[0], "validation_accuracy": draws[1]}


def write(folder, run_ids, **columns):
    return write_unit(folder, rows_of(run_ids, **columns), curves_of(len(run_ids)), INFO)


def left_over(folder):
    """Everything in the store that is no unit."""
    return [path.name for path in (folder / "units").iterdir() if path.name.startswith(".")]


# --- round trip ---------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path):
    run_ids = ids("a", "b", "c")
    write(tmp_path, run_ids)
    results = load(tmp_path, run_ids)
    assert (results.missing, results.machines) == (0, ("a test machine",))
    assert len(results.runs) == 3
    for written, (_, read) in zip(rows_of(run_ids), results.runs.iterrows(), strict=True):
        assert set(read.index) == set(written)
        for name, value in written.items():
            if value is None:
                assert pd.isna(read[name]), name
            else:
                assert read[name] == value, name
    curves = curves_of(3)
    for run, run_id in enumerate(run_ids):
        own = results.curves[results.curves["run_id"] == run_id]
        assert own["step"].tolist() == [20, 40, 60]
        for metric in ("train_loss", "validation_accuracy"):
            assert own[metric].tolist() == curves[metric][:, run].tolist()


def test_counts_are_nullable_integers_flags_are_booleans_and_words_are_words(tmp_path):
    run_ids = ids("a", "b")
    write(tmp_path, run_ids)
    runs = load(tmp_path, run_ids).runs
    for name in STEP_COLUMNS:
        assert runs[name].dtype == "Int64", name
    assert (runs["seed"].dtype, runs["steps_trained"].dtype) == ("int64", "int64")
    assert (runs["sustained"].dtype, runs["optimizer.nesterov"].dtype) == (bool, bool)
    assert runs["model.norm"].tolist() == ["none", "none"]


FLOATS = [0.1 + 0.2, 1 / 3, np.pi, 1e22, 1e-5, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -0.0, 1.0]


def test_floats_come_back_to_the_last_bit(tmp_path):
    run_ids = ids(*range(len(FLOATS)))
    rows = [{**row, "optimizer.lr": value} for row, value in zip(rows_of(run_ids), FLOATS, strict=True)]
    arrays = {"steps": np.array([60]), "train_loss": np.array([FLOATS])}
    write_unit(tmp_path, rows, arrays, INFO)
    results = load(tmp_path, run_ids)
    assert [value.hex() for value in results.runs["optimizer.lr"]] == [float(value).hex() for value in FLOATS]
    assert [value.hex() for value in results.curves["train_loss"]] == [float(value).hex() for value in FLOATS]


def test_a_final_loss_that_is_not_finite_stays_so(tmp_path):
    run_ids = ids("nan", "inf")
    rows = [{**row, "final_train_loss": x} for row, x in zip(rows_of(run_ids), (NAN, float("inf")), strict=True)]
    write_unit(tmp_path, rows, curves_of(2), INFO)
    values = load(tmp_path, run_ids).runs["final_train_loss"].tolist()
    assert np.isnan(values[0])
    assert values[1] == float("inf")


@pytest.mark.parametrize("run_id", ["1234567890123456", "0000000000000012", "12345678901234e5", "1e99999999999999"])
def test_a_run_id_that_looks_like_a_number_is_still_a_name(tmp_path, run_id):
    write(tmp_path, [run_id])
    results = load(tmp_path, [run_id])
    assert results.missing == 0
    assert results.runs["run_id"].tolist() == [run_id]
    assert set(results.curves["run_id"]) == {run_id}


def test_runs_come_in_the_order_asked_for_once_each_across_units(tmp_path):
    a, b, c, d, e = ids(*"abcde")
    write(tmp_path, [a, b, c])
    write(tmp_path, [d, e])
    results = load(tmp_path, iter([e, b, d, b, a]))
    assert results.runs["run_id"].tolist() == [e, b, d, a]
    assert list(dict.fromkeys(results.curves["run_id"])) == [e, b, d, a]
    assert results.runs.index.tolist() == [0, 1, 2, 3]
    assert results.runs["seed"].tolist() == [1, 1, 0, 0]
    assert len(results.curves) == 4 * 3


def test_runs_that_are_not_stored_are_counted_and_not_invented(tmp_path):
    a, b, c = ids(*"abc")
    write(tmp_path, [a])
    results = load(tmp_path, [b, a, c, b])
    assert results.missing == 2
    assert results.runs["run_id"].tolist() == [a]


@pytest.mark.parametrize("there", [True, False])
def test_an_empty_or_absent_store_has_only_missing_runs(tmp_path, there):
    folder = tmp_path / "results"
    if there:
        prepare(folder)
    results = load(folder, ids("a", "b"))
    assert (len(results.runs), len(results.curves), results.machines, results.missing) == (0, 0, (), 2)
    assert stored(folder) == {}
    assert folder.exists() == there


def test_units_with_other_columns_share_a_table_with_gaps(tmp_path):
    a, b = ids("a", "b")
    write(tmp_path, [a], **{"optimizer.beta1": 0.9})
    write(tmp_path, [b], **{"optimizer.momentum": 0.8, "steps_to_generalize": None, "epochs_to_generalize": None})
    runs = load(tmp_path, [a, b]).runs
    assert runs["optimizer.beta1"].tolist()[0] == 0.9
    assert runs["optimizer.momentum"].tolist()[1] == 0.8
    assert runs.isna()[["optimizer.beta1", "optimizer.momentum"]].to_numpy().tolist() == [[False, True], [True, False]]
    assert runs["steps_to_generalize"].dtype == "Int64"


def test_each_machine_is_named_once(tmp_path):
    a, b, c = ids(*"abc")
    for run_id, machine in ((a, "two"), (b, "one"), (c, "two")):
        write_unit(tmp_path, rows_of([run_id]), curves_of(1), {**INFO, "machine": machine})
    assert load(tmp_path, [a, b, c]).machines == ("one", "two")
    assert load(tmp_path, [a, c]).machines == ("two",)


def test_curves_end_at_each_run_s_own_last_step(tmp_path):
    run_ids = ids("short", "long", "middle")
    rows = rows_of(run_ids, steps_trained=[20, 60, 40])
    curves = curves_of(3)
    for metric in ("train_loss", "validation_accuracy"):
        curves[metric][1:, 0] = NAN
        curves[metric][2:, 2] = NAN
    write_unit(tmp_path, rows, curves, INFO)
    read = load(tmp_path, run_ids).curves
    steps = {run_id: read.loc[read["run_id"] == run_id, "step"].tolist() for run_id in run_ids}
    assert list(steps.values()) == [[20], [20, 40, 60], [20, 40]]
    assert not read.isna().any().any()


def test_a_nan_before_a_run_s_end_is_kept(tmp_path):
    (run_id,) = ids("a")
    curves = curves_of(1)
    curves["train_loss"][1, 0] = NAN
    write_unit(tmp_path, rows_of([run_id]), curves, INFO)
    assert load(tmp_path, [run_id]).curves["train_loss"].isna().tolist() == [False, True, False]


def test_a_runs_table_reads_the_same_from_text_as_from_a_file(tmp_path):
    unit = write(tmp_path, ids("a", "b"))
    text = (unit / "runs.csv").read_text()
    (tmp_path / "copy.csv").write_text(text)
    pd.testing.assert_frame_equal(read_runs(tmp_path / "copy.csv"), read_runs(unit / "runs.csv"))
    assert "None" not in text
    assert text.count("\n") == 3
    assert "\r" not in text


# --- damage -------------------------------------------------------------------------------------------------------


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


DAMAGE = [(spoil, name) for spoil in (flip, truncate, empty) for name in ("runs.csv", "curves.npz", "unit.json")]
DAMAGE += [(Path.unlink, name) for name in ("runs.csv", "curves.npz", "unit.json", "DONE")]
DAMAGE += [(truncate, "DONE"), (empty, "DONE")]
damaged = pytest.mark.parametrize(("spoil", "name"), DAMAGE, ids=[f"{spoil.__name__} {name}" for spoil, name in DAMAGE])


@damaged
def test_a_damaged_unit_is_named_on_stderr_and_left_out(tmp_path, capsys, spoil, name):
    a, b = ids("a", "b")
    unit = write(tmp_path, [a])
    write(tmp_path, [b])
    spoil(unit / name)
    results = load(tmp_path, [a, b])
    assert (results.missing, results.runs["run_id"].tolist()) == (1, [b])
    told = capsys.readouterr().err
    assert str(unit) in told
    assert told.count("\n") == 1


@damaged
def test_training_the_runs_of_a_damaged_unit_again_mends_it(tmp_path, spoil, name):
    run_ids = ids("a", "b")
    spoil(write(tmp_path, run_ids) / name)
    assert load(tmp_path, run_ids).missing == 2
    write(tmp_path, run_ids)
    results = load(tmp_path, run_ids)
    assert results.missing == 0
    assert results.runs["run_id"].tolist() == run_ids


def test_an_intact_store_says_nothing(tmp_path, capsys):
    run_ids = ids("a", "b")
    write(tmp_path, run_ids)
    load(tmp_path, run_ids)
    assert capsys.readouterr() == ("", "")


def test_what_a_killed_process_left_half_written_is_ignored(tmp_path, capsys):
    run_ids = ids("a")
    unit = write(tmp_path, run_ids)
    unit.rename(tmp_path / "units" / ".tmp-0123-4567")  # complete, but never put in place
    assert load(tmp_path, run_ids).missing == 1
    assert capsys.readouterr().err == ""


# --- writing ------------------------------------------------------------------------------------------------------


def contents(unit):
    return {path.name: path.read_bytes() for path in unit.iterdir()}


def test_a_unit_holds_its_files_and_nothing_temporary_is_left(tmp_path):
    run_ids = ids("a", "b")
    unit = write(tmp_path, run_ids)
    assert set(contents(unit)) == {"runs.csv", "curves.npz", "unit.json", "DONE"}
    assert left_over(tmp_path) == []
    told = json.loads((unit / "unit.json").read_text())
    assert (told["run_ids"], told["machine"], told["schema"]) == (run_ids, "a test machine", store.SCHEMA)


def test_writing_the_same_runs_again_changes_nothing(tmp_path):
    run_ids = ids("a", "b")
    unit = write(tmp_path, run_ids)
    before = contents(unit)
    assert write_unit(tmp_path, rows_of(run_ids), curves_of(2), {**INFO, "seconds": 9.0}) == unit
    assert contents(unit) == before
    assert left_over(tmp_path) == []
    assert len(list((tmp_path / "units").iterdir())) == 1


def test_the_same_results_are_the_same_bytes(tmp_path):
    run_ids = ids("a", "b")
    assert contents(write(tmp_path / "one", run_ids)) == contents(write(tmp_path / "two", run_ids))


def test_a_run_in_two_units_is_read_once(tmp_path):
    a, b, c = ids(*"abc")
    write(tmp_path, [a, b])
    write(tmp_path, [b, c])
    assert load(tmp_path, [a, b, c]).runs["run_id"].tolist() == [a, b, c]


def test_a_unit_that_another_wrote_in_the_meantime_stands(tmp_path, monkeypatch):
    run_ids = ids("a", "b")
    once = store._write

    def slowly(path, content):
        once(path, content)
        if path.name == "DONE":
            monkeypatch.setattr(store, "_write", once)
            write(tmp_path, run_ids)

    monkeypatch.setattr(store, "_write", slowly)
    unit = write(tmp_path, run_ids)
    assert [path.name for path in (tmp_path / "units").iterdir()] == [unit.name]
    assert load(tmp_path, run_ids).missing == 0


def test_two_processes_that_write_the_same_units_leave_one_of_each(tmp_path):
    code = f"""
import sys, time, pathlib
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_store import ids, write
folder = pathlib.Path({str(tmp_path)!r})
(folder / sys.argv[1]).touch()
while not (folder / "go").exists():
    time.sleep(0.001)
for number in range(40):
    write(folder, ids(number, "x"))
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, name], stderr=subprocess.PIPE) for name in "ab"]
    while not all((tmp_path / name).exists() for name in "ab"):
        assert all(writer.poll() is None for writer in writers)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [writer.communicate()[1] for writer in writers] == [b"", b""]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert left_over(tmp_path) == []
    assert len(list((tmp_path / "units").iterdir())) == 40
    assert load(tmp_path, [ids(number)[0] for number in range(40)]).missing == 0


@pytest.mark.parametrize("filename", ["runs.csv", "curves.npz", "unit.json", "DONE"])
@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), Interrupted(130)], ids=type)
def test_a_full_disk_or_a_signal_is_an_error_and_leaves_nothing_behind(tmp_path, monkeypatch, filename, stop):
    run_ids = ids("a")
    once = store._write

    def stopped(path, content):
        if path.name == filename:
            path.write_bytes(content[:5])
            raise stop
        once(path, content)

    monkeypatch.setattr(store, "_write", stopped)
    with pytest.raises(type(stop)):
        write(tmp_path, run_ids)
    assert list((tmp_path / "units").iterdir()) == []
    monkeypatch.setattr(store, "_write", once)
    write(tmp_path, run_ids)
    assert load(tmp_path, run_ids).missing == 0


def test_a_unit_that_cannot_be_put_in_place_is_an_error_and_not_silence(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Permission denied"):
        write(tmp_path, ids("a"))
    assert list((tmp_path / "units").iterdir()) == []


# --- preparing ----------------------------------------------------------------------------------------------------


def test_preparing_makes_the_folder_with_its_parents_and_leaves_no_probe(tmp_path):
    folder = tmp_path / "some" / "results"
    prepare(folder)
    prepare(folder)
    assert list((folder / "units").iterdir()) == []


def test_a_folder_below_a_file_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(BadInput) as refused:
            prepare(folder)
        assert f"cannot write results to {str(folder)!r}" in str(refused.value)
        assert "name a writable folder" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):  # a file mode would not stop root
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(BadInput, match="Permission denied; name a writable folder"):
        prepare(tmp_path)
