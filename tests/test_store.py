import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grokking.errors import BadInput, Notice, Unwritable
from grokking.later import EVERYWHERE
from grokking.store import SCHEMA, STEP_COLUMNS, load, prepare, read_runs, stored, unit_name, units, write_unit
from grokking.store.failures import failures, forget_failures, note_failure

PARTS = ("runs.csv", "curves.npy", "unit.json")
NAN = float("nan")
STEPS = (20, 40, 60)
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


def curves_of(runs, metrics=("train_loss", "validation_accuracy"), steps=STEPS):
    generator = np.random.Generator(np.random.PCG64(len(steps)))
    return {metric: generator.random((len(steps), runs)) for metric in metrics}


def put(folder, rows, curves=None, steps=STEPS, name=None, **info):
    """A unit of these lines, in a store that is made if need be, under a name of the test's own choice."""
    (folder / "units").mkdir(parents=True, exist_ok=True)
    unit = write_unit(folder, rows, steps, curves_of(len(rows)) if curves is None else curves, {**INFO, **info})
    return unit.rename(unit.with_name(name)) if name else unit


def write(folder, run_ids, **columns):
    return put(folder, rows_of(run_ids, **columns))


def left_over(folder):
    """Everything in the store that is no unit."""
    return [path.name for path in (folder / "units").iterdir() if path.name.startswith(".")]


def contents(unit):
    return {path.name: path.read_bytes() for path in unit.iterdir()}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def told(call, *args, **kwargs):
    """The notices that a call gives, and what it returns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = call(*args, **kwargs)
    assert all(issubclass(notice.category, Notice) for notice in caught)
    return [str(notice.message) for notice in caught], found


# --- round trip ---------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path):
    run_ids = ids("a", "b", "c")
    write(tmp_path, run_ids)
    results = load(tmp_path, run_ids)
    assert (results.missing, results.machines) == (0, ("a test machine",))
    assert len(results.runs) == 3
    for written, (_, read) in zip(rows_of(run_ids), results.runs.iterrows(), strict=True):
        assert set(read.index) == {*written, *EVERYWHERE}
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
    put(tmp_path, rows, {"train_loss": np.array([FLOATS])}, steps=[60])
    results = load(tmp_path, run_ids)
    assert [value.hex() for value in results.runs["optimizer.lr"]] == [float(value).hex() for value in FLOATS]
    assert [value.hex() for value in results.curves["train_loss"]] == [float(value).hex() for value in FLOATS]


def test_a_final_loss_that_is_not_finite_stays_so(tmp_path):
    run_ids = ids("nan", "inf")
    rows = [{**row, "final_train_loss": x} for row, x in zip(rows_of(run_ids), (NAN, float("inf")), strict=True)]
    put(tmp_path, rows)
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
        put(tmp_path, rows_of([run_id]), machine=machine)
    assert load(tmp_path, [a, b, c]).machines == ("one", "two")
    assert load(tmp_path, [a, c]).machines == ("two",)


def test_curves_end_at_each_run_s_own_last_step(tmp_path):
    run_ids = ids("short", "long", "middle")
    rows = rows_of(run_ids, steps_trained=[20, 60, 40])
    curves = curves_of(3)
    for metric in ("train_loss", "validation_accuracy"):
        curves[metric][1:, 0] = NAN
        curves[metric][2:, 2] = NAN
    put(tmp_path, rows, curves)
    read = load(tmp_path, run_ids).curves
    steps = {run_id: read.loc[read["run_id"] == run_id, "step"].tolist() for run_id in run_ids}
    assert list(steps.values()) == [[20], [20, 40, 60], [20, 40]]
    assert not read.isna().any().any()


def test_a_nan_before_a_run_s_end_is_kept(tmp_path):
    (run_id,) = ids("a")
    curves = curves_of(1)
    curves["train_loss"][1, 0] = NAN
    put(tmp_path, rows_of([run_id]), curves)
    assert load(tmp_path, [run_id]).curves["train_loss"].isna().tolist() == [False, True, False]


def test_a_runs_table_reads_the_same_from_text_as_from_a_file(tmp_path):
    unit = write(tmp_path, ids("a", "b"))
    text = (unit / "runs.csv").read_text()
    (tmp_path / "copy.csv").write_text(text)
    pd.testing.assert_frame_equal(read_runs(tmp_path / "copy.csv"), read_runs(unit / "runs.csv"))
    assert "None" not in text
    assert text.count("\n") == 3
    assert "\r" not in text


# --- duplicates and merging ---------------------------------------------------------------------------------------


def test_equal_results_of_a_run_in_two_units_merge_silently(tmp_path):
    a, b, c = rows_of(ids(*"abc"))
    curves = curves_of(3)
    put(tmp_path, [a, b], {metric: values[:, :2] for metric, values in curves.items()})
    put(tmp_path, [b, c], {metric: values[:, 1:] for metric, values in curves.items()})
    results = load(tmp_path)
    assert sorted(results.runs["run_id"]) == sorted(ids(*"abc"))
    assert len(results.curves) == 9
    assert results.core_seconds == pytest.approx(1.5 * 3 / 2)


def test_unequal_results_of_a_run_are_told_once_and_the_first_unit_by_name_is_used(tmp_path):
    a, b, c = rows_of(ids(*"abc"))
    put(tmp_path, [{**b, "status": "diverged", "delay": None}, c], name="2")
    put(tmp_path, [a, {**b, "steps_to_memorize": 40}], name="1")
    for _ in range(2):
        notices, results = told(load, tmp_path, [b["run_id"]])
        assert notices == [
            f"run {b['run_id']} is stored twice with different results, in {tmp_path / 'units' / '1'} (used) and 2: "
            "status is censored and diverged; remove one of them"
        ]
        assert results.runs["steps_to_memorize"].tolist() == [40]
        assert stored(tmp_path)[b["run_id"]].name == "1"
    assert told(load, tmp_path, [a["run_id"], c["run_id"]])[0] == []


@pytest.mark.parametrize(
    ("columns", "told_of"),
    [
        ({"diverged_at": 40}, r"diverged_at is nothing and 40;"),
        ({"epochs_to_generalize": 1.5}, r"epochs_to_generalize is 13\.33\d* and 1\.5;"),
        ({"steps_trained": 40}, r"steps_trained is 60 and 40;"),
        ({"extra": 0.5}, r"extra is nothing and 0\.5;"),
    ],
)
def test_the_first_column_that_differs_is_named_also_behind_gaps(tmp_path, columns, told_of):
    (row,) = rows_of(ids("a"))
    put(tmp_path, [row], name="1")
    put(tmp_path, [{**row, **columns}], name="2")
    (notice,) = told(load, tmp_path)[0]
    assert re.search(told_of, notice), notice


def test_equal_lines_with_unequal_curves_are_told(tmp_path):
    (row,) = rows_of(ids("a"))
    curves = curves_of(1)
    put(tmp_path, [row], curves, name="1")
    curves["train_loss"][1, 0] = np.nextafter(curves["train_loss"][1, 0], 1)
    put(tmp_path, [row], curves, name="2")
    (notice,) = told(load, tmp_path)[0]
    assert "their curves differ" in notice


def test_a_cohort_that_was_longer_after_a_run_s_end_makes_no_difference_to_the_run(tmp_path):
    (a, b), curves = rows_of(ids("a", "b"), steps_trained=[40, 60]), curves_of(2)
    for values in curves.values():
        values[2, 0] = NAN
    put(tmp_path, [a, b], curves)
    put(tmp_path, [a], {metric: values[:2, :1] for metric, values in curves.items()}, STEPS[:2])
    assert told(load, tmp_path)[0] == []


def test_a_run_whose_first_unit_is_damaged_is_taken_from_the_second(tmp_path):
    rows = rows_of(ids("a"))
    flip(put(tmp_path, rows, name="1", machine="one") / "curves.npy")
    put(tmp_path, rows, name="2", machine="two")
    notices, results = told(load, tmp_path)
    assert (len(notices), results.machines, results.missing, len(results.curves)) == (1, ("two",), 0, 3)


def test_the_same_runs_from_two_machines_are_both_kept_by_the_readme_s_command_and_told(tmp_path):
    rows, curves = rows_of(ids("a", "b")), curves_of(2)
    for folder, machine, nudge in (("one", "Intel", 0.0), ("two", "AMD", 1e-9), ("three", "Intel", 0.0)):
        put(tmp_path / folder, rows, {name: values + nudge for name, values in curves.items()}, machine=machine)
    for folder in ("two", "three"):
        subprocess.run(["cp", "-rn", f"{folder}/units/.", "one/units/"], cwd=tmp_path, check=True)
    assert {unit.machine for unit in units(tmp_path / "one")} == {"Intel", "AMD"}
    assert len(units(tmp_path / "one")) == 2
    notices, results = told(load, tmp_path / "one")
    assert len(notices) == len(results.runs) == 2
    assert all("is stored twice with different results" in notice for notice in notices)


def test_two_stores_merge_by_copying_their_units(tmp_path):
    rows, curves = rows_of(ids(*"abcd")), curves_of(4)
    for folder, runs in (("one", [0, 1]), ("two", [1, 2]), ("two", [3])):
        own = {metric: values[:, runs] for metric, values in curves.items()}
        put(tmp_path / folder, [rows[run] for run in runs], own)
    assert len(units(tmp_path / "one")) == 1  # so that it has an index already
    shutil.copytree(tmp_path / "two" / "units", tmp_path / "one" / "units", dirs_exist_ok=True)
    everything = ids(*"abcd")
    merged = load(tmp_path / "one", everything)
    assert (merged.missing, merged.runs["run_id"].tolist()) == (0, everything)
    for folder in ("one", "two"):
        own = load(tmp_path / folder)
        for table, whole in ((own.runs, merged.runs), (own.curves, merged.curves)):
            part = whole[whole["run_id"].isin(table["run_id"])].sort_values(["run_id"], kind="stable")
            same = table.sort_values(["run_id"], kind="stable").reset_index(drop=True)
            pd.testing.assert_frame_equal(part.reset_index(drop=True), same)


# --- what is asked for --------------------------------------------------------------------------------------------


def test_asking_for_nothing_in_particular_gives_every_run_in_the_order_of_the_units(tmp_path):
    a, b, c = ids(*"abc")
    put(tmp_path, rows_of([c, a]), name="1")
    put(tmp_path, rows_of([b]), name="0")
    results = load(tmp_path)
    assert (results.runs["run_id"].tolist(), results.missing) == ([b, c, a], 0)
    assert load(tmp_path, []).runs.empty


def test_without_curves_no_curve_is_read_and_the_runs_are_the_same(tmp_path, monkeypatch):
    a, b = ids("a", "b")
    write(tmp_path, [a])
    write(tmp_path, [b])
    units(tmp_path)
    whole = load(tmp_path)
    opened, once = [], Path.read_bytes

    def noted(self):
        opened.append(self.name)
        return once(self)

    monkeypatch.setattr(Path, "read_bytes", noted)
    monkeypatch.setattr("grokking.store.index.TICK", -(10**18))  # however young, the index is believed
    units(tmp_path)
    opened.clear()
    results = load(tmp_path, curves=False)
    assert "curves.npy" not in opened
    pd.testing.assert_frame_equal(results.runs, whole.runs)
    assert (len(results.curves), results.machines, results.core_seconds) == (0, whole.machines, whole.core_seconds)
    load(tmp_path, [b])
    assert opened.count("curves.npy") == 1  # of the unit that holds what was asked for, and of no other


def test_runs_of_units_with_different_metrics_may_be_asked_for_in_turns(tmp_path):
    a, b, c, d, e = ids(*"abcde")
    put(tmp_path, rows_of([a, c, e]), curves_of(3, ("train_loss",)))
    put(tmp_path, rows_of([b, d]), curves_of(2, ("validation_accuracy", "train_loss")))
    order = [c, d, a, b, e]
    curves = load(tmp_path, order).curves
    assert list(dict.fromkeys(curves["run_id"])) == order
    assert curves.index.tolist() == list(range(15))
    for run_id, metric, values in (
        (c, "train_loss", curves_of(3, ("train_loss",))["train_loss"][:, 1]),
        (d, "train_loss", curves_of(2, ("validation_accuracy", "train_loss"))["train_loss"][:, 1]),
        (b, "validation_accuracy", curves_of(2)["train_loss"][:, 0]),  # whichever is drawn first
    ):
        assert curves.loc[curves["run_id"] == run_id, metric].tolist() == values.tolist()
    assert curves["validation_accuracy"].isna().tolist() == [run_id in (a, c, e) for run_id in curves["run_id"]]


def test_core_seconds_are_shared_by_steps(tmp_path):
    a, b, c = ids(*"abc")
    put(tmp_path, rows_of([a, b], steps_trained=[20, 60]), seconds=8.0)
    put(tmp_path, rows_of([c]), seconds=5.0)
    assert [load(tmp_path, asked).core_seconds for asked in ([a], [b], [a, b, c], [])] == [2.0, 6.0, 13.0, 0.0]


def test_the_share_of_evaluations_is_that_of_the_seconds_of_the_runs_asked_for(tmp_path):
    a, b, c = ids(*"abc")
    put(tmp_path, rows_of([a, b], steps_trained=[20, 60]), seconds=8.0, evaluation_seconds=2.0)
    put(tmp_path, rows_of([c]), seconds=2.0, evaluation_seconds=1.0)
    assert [load(tmp_path, asked).evaluation_share for asked in ([a], [c], [a, b, c])] == [0.25, 0.5, 0.3]
    assert np.isnan(load(tmp_path, []).evaluation_share)


# --- writing ------------------------------------------------------------------------------------------------------


def test_a_unit_holds_its_files_and_nothing_temporary_is_left(tmp_path):
    run_ids = ids("a", "b")
    unit = write(tmp_path, run_ids)
    results = [(unit / name).read_bytes() for name in ("runs.csv", "curves.npy")]
    assert unit == tmp_path / "units" / unit_name(run_ids, *results)
    assert set(contents(unit)) == {*PARTS, "DONE"}
    assert left_over(tmp_path) == []
    facts = json.loads((unit / "unit.json").read_text())
    assert (facts["run_ids"], facts["machine"], facts["schema"]) == (run_ids, "a test machine", SCHEMA)


def test_a_unit_can_be_checked_and_opened_without_this_package(tmp_path):
    unit = write(tmp_path, ids("a", "b"))
    assert subprocess.run(["sha256sum", "--check", "--quiet", "DONE"], cwd=unit).returncode == 0
    curves = np.load(unit / "curves.npy", allow_pickle=False)
    assert (curves.shape, curves.dtype.names) == ((3, 2), ("step", "train_loss", "validation_accuracy"))
    assert curves["step"].tolist() == [[step, step] for step in STEPS]
    assert curves["train_loss"].tolist() == curves_of(2)["train_loss"].tolist()


def test_writing_the_same_runs_again_changes_nothing(tmp_path):
    run_ids = ids("a", "b")
    unit = write(tmp_path, run_ids)
    before = contents(unit)
    assert put(tmp_path, rows_of(run_ids), seconds=9.0) == unit
    assert contents(unit) == before
    assert [path.name for path in (tmp_path / "units").iterdir()] == [unit.name]


def test_the_same_results_are_the_same_bytes(tmp_path):
    run_ids = ids("a", "b")
    assert contents(write(tmp_path / "one", run_ids)) == contents(write(tmp_path / "two", run_ids))


def test_two_processes_that_write_the_same_units_leave_one_of_each(tmp_path):
    code = f"""
import sys, time, pathlib
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_store import ids, load, write
folder = pathlib.Path({str(tmp_path)!r})
(folder / sys.argv[1]).touch()
while not (folder / "go").exists():
    time.sleep(0.001)
for number in range(20):
    write(folder, ids(number, "x"))
    load(folder, curves=False)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, name], stderr=subprocess.PIPE) for name in "ab"]
    while not all((tmp_path / name).exists() for name in "ab"):
        assert all(writer.poll() is None for writer in writers)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [writer.communicate()[1] for writer in writers] == [b"", b""]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert left_over(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "go", "index.json", "units"]
    assert len(list((tmp_path / "units").iterdir())) == 20
    assert load(tmp_path, [ids(number)[0] for number in range(20)]).missing == 0


def test_a_unit_that_cannot_be_put_in_place_is_unwritable_and_not_silence(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(Unwritable, match="Permission denied"):
        write(tmp_path, ids("a"))
    assert list((tmp_path / "units").iterdir()) == []


# --- preparing ----------------------------------------------------------------------------------------------------


def test_preparing_makes_the_folder_with_its_parents_clears_it_and_leaves_no_probe(tmp_path):
    folder = tmp_path / "some" / "results"
    prepare(folder)
    (folder / "units" / ".tmp-long-ago-1-0").mkdir()
    os.utime(folder / "units" / ".tmp-long-ago-1-0", (0, 0))
    prepare(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "failures", "units"]
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


# --- failures -----------------------------------------------------------------------------------------------------


def test_a_failure_counts_until_all_of_its_runs_are_stored_or_one_is_tried_again(tmp_path):
    prepare(tmp_path)
    a, b, c = ids(*"abc")
    both, other = note_failure(tmp_path, [a, b], "Traceback"), note_failure(tmp_path, [c], "Traceback")
    assert set(failures(tmp_path, lambda: [a])) == {both, other}
    assert failures(tmp_path, lambda: [a, b]) == [other]
    forget_failures(tmp_path, [b])
    assert failures(tmp_path, lambda: []) == [other]
    assert both.exists() is False
    assert other.read_text().splitlines()[-1] == "Traceback"
