import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grokking.engine.evaluation_grid import evaluation_steps
from grokking.engine.loop import Record
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput
from grokking.execute.local import choose_device, execute
from grokking.execute.progress import Progress
from grokking.execute.signals import Stop
from grokking.execute.unit import Terms, stack, train_unit
from grokking.extensions import import_extension
from grokking.optim import optimizers
from grokking.runs import run_spec
from grokking.store import METRICS, load, prepare, stored
from grokking.study import Study, plan, total_steps

TINY = {"task.p": 7, "model.width": 16, "model.heads": 2, "batch_size": 16, "steps": 60, "train_fraction": 0.5}
# A low threshold, so that some of these short runs generalise and end early and others do not.
STUDY = Study(
    {**TINY, "threshold": 0.2, "linger": 0.25},
    ({"optimizer.name": "adamw", "optimizer.lr": 0.01}, {"optimizer.name": "muon"}),
    range(4),
)


def lines(folder):
    """The line of each run as it stands in its runs.csv, under the header that goes with it."""
    found = {}
    for path in sorted((folder / "units").glob("*/runs.csv")):
        header, *rows = path.read_text().splitlines()
        for row in rows:
            run_id = row.split(",")[0]
            assert run_id not in found
            found[run_id] = (header, row)
    return found


def trained(folder, cohorts, workers=1, imports=()):
    prepare(folder)
    return execute(cohorts, Terms(folder, "cpu"), workers, imports)


@pytest.fixture(scope="module")
def by_width_eight(tmp_path_factory):
    """The study, trained in this process in cohorts as wide as allowed."""
    folder = tmp_path_factory.mktemp("wide")
    cohorts = plan(STUDY.specs(), 8)
    assert [len(cohort) for cohort in cohorts] == [4, 4]
    assert trained(folder, cohorts) == []
    return folder


def assert_same_results(folder, other):
    run_ids = [spec.run_id for spec in STUDY.specs()]
    assert lines(folder) == lines(other)
    assert set(lines(folder)) == set(run_ids)
    ours, theirs = load(folder, run_ids), load(other, run_ids)
    assert ours.missing == theirs.missing == 0
    assert ours.curves.equals(theirs.curves)
    assert ours.runs.equals(theirs.runs)


def test_the_study_has_runs_that_end_early_and_runs_that_do_not(by_width_eight):
    runs = load(by_width_eight, [spec.run_id for spec in STUDY.specs()]).runs
    assert runs["steps_trained"].min() < 60
    assert runs["steps_trained"].max() == 60
    assert runs["sustained"].nunique() == 2


@pytest.mark.parametrize("width", [1, 3])
def test_the_width_of_cohorts_does_not_change_a_byte_of_any_run(tmp_path, by_width_eight, width):
    specs = STUDY.specs()
    cohorts = [arm[at : at + width] for arm in (specs[:4], specs[4:]) for at in range(0, 4, width)]
    assert max(len(cohort) for cohort in cohorts) == width
    assert trained(tmp_path, cohorts) == []
    assert_same_results(tmp_path, by_width_eight)


def test_the_order_of_runs_does_not_change_a_byte_of_any_run(tmp_path, by_width_eight):
    assert trained(tmp_path, plan(STUDY.specs()[::-1], 8)) == []
    assert_same_results(tmp_path, by_width_eight)


RULE = '''from grokking.optim import optimizer, zeros

calls = 0


@optimizer(lr=0.1, state=zeros())
def execute_test_rule(w, grad, state, h, role):
    """Gradient descent that gives up."""
    global calls
    calls += 1
    if calls > 200:
        raise RuntimeError("the rule gave up")
    return w - h.lr * grad, state
'''


@pytest.fixture
def rule_that_gives_up(tmp_path):
    path = tmp_path / "rule.py"
    path.write_text(RULE)
    module = import_extension(str(path))
    yield str(path)
    assert module.calls < 10  # it is the workers that train
    optimizers._entries.pop("execute_test_rule")


def test_two_workers_give_the_same_bytes_and_survive_a_cohort_that_fails(
    tmp_path, by_width_eight, rule_that_gives_up, capfd
):
    folder = tmp_path / "results"
    breaking = [run_spec({**TINY, "optimizer.name": "execute_test_rule"}, 0)]
    cohorts = plan(STUDY.specs(), 8, workers=2)
    failures = trained(folder, [cohorts[0], breaking, *cohorts[1:]], 2, [rule_that_gives_up])
    assert [path.parent for path in failures] == [folder / "failures"]
    assert "the rule gave up" in failures[0].read_text()
    assert_same_results(folder, by_width_eight)
    assert "8/9 runs done" in capfd.readouterr().err


def test_a_cohort_that_fails_is_reported_and_the_others_are_stored(tmp_path, monkeypatch):
    advance = Trainer.advance

    def breaks(self, cohort, most):
        if cohort.step >= 20 and cohort.specs[0].seed == 1:
            raise RuntimeError("out of luck at step 20")
        advance(self, cohort, most)

    monkeypatch.setattr(Trainer, "advance", breaks)
    cohorts = plan([run_spec({**TINY, "steps": 30}, seed) for seed in range(3)], 1)
    failures = trained(tmp_path, cohorts)
    assert len(failures) == 1
    told = failures[0].read_text()
    assert "out of luck at step 20" in told
    assert "Traceback" in told
    assert cohorts[1][0].run_id in told
    assert set(stored(tmp_path)) == {cohorts[0][0].run_id, cohorts[2][0].run_id}
    assert [path.name for path in (tmp_path / "units").iterdir() if path.name.startswith(".")] == []
    monkeypatch.undo()
    assert trained(tmp_path, [cohorts[1]]) == []  # a second try trains what is missing
    assert set(stored(tmp_path)) == {cohort[0].run_id for cohort in cohorts}
    assert list((tmp_path / "failures").iterdir()) == []


def test_a_unit_says_what_it_was_trained_on_and_how_wide(by_width_eight):
    for path in (by_width_eight / "units").glob("*/unit.json"):
        told = json.loads(path.read_text())
        assert (told["device"], told["width"], told["threads"]) == ("cpu", 4, 1)
        assert told["torch"] == torch.__version__
        assert told["machine"]
        assert told["seconds"] > 0
        assert told["resumed_at_step"] == 0
        assert {file.name for file in path.parent.iterdir()} == {"DONE", "runs.csv", "curves.npy", "unit.json"}
        described = {run.run_id: json.loads(json.dumps(run.description())) for run in STUDY.specs()}
        assert told["runs"] == [described[run_id] for run_id in told["run_ids"]]


def test_a_row_of_a_diverged_run_is_stored_with_the_others(tmp_path):
    settings = {**TINY, "optimizer.name": "sgd"}
    specs = [run_spec({**settings, "optimizer.lr": lr}, 0) for lr in (0.1, 1e30)]
    assert trained(tmp_path, plan(specs, 8)) == []
    results = load(tmp_path, [spec.run_id for spec in specs])
    assert results.runs["status"].tolist() == ["censored", "diverged"]
    assert results.runs["diverged_at"].isna().tolist() == [True, False]
    assert results.runs["diverged_at"][1] == 2
    assert results.missing == 0


# --- progress -----------------------------------------------------------------------------------------------------


def test_reported_steps_and_what_ended_runs_left_add_up_to_every_budget(tmp_path):
    specs = [spec for spec in STUDY.specs() if spec.setting.name("optimizer") == "adamw"]
    prepare(tmp_path)
    reports = list(train_unit(specs, Terms(tmp_path), Stop()))
    rests = [rest for _, ended, _ in reports for rest, _ in ended]
    assert len(rests) == len(specs)
    assert sum(steps for steps, _, _ in reports) + sum(rests) == total_steps(specs)
    trained_steps = load(tmp_path, [spec.run_id for spec in specs]).runs["steps_trained"]
    assert sum(steps for steps, _, _ in reports) == trained_steps.sum()
    assert reports[0] == (0, [], False)  # nothing was done before
    assert all(now for _, _, now in reports[1:])


def test_the_bar_is_full_when_all_runs_ended_and_counts_those_that_generalised(capsys):
    specs = [run_spec(TINY, seed) for seed in range(2)]
    with Progress(specs) as progress:
        progress.add(40, [(40, "generalized")])
        assert progress.bar.n == 80
        progress.add(40, [(0, "censored")])
        assert progress.bar.n == progress.bar.total == 120
        assert "2/2 runs done, 1 generalized" in progress.bar.desc
    assert "100%" in capsys.readouterr().err


def test_an_unknown_device_is_refused():
    with pytest.raises(BadInput, match="device = 'tpu'; allowed: auto, cpu, cuda"):
        choose_device("tpu")
    assert choose_device("cpu") == "cpu"


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(BadInput, match="no CUDA device here; allowed: auto, cpu"):
        choose_device("cuda")


# --- curves side by side ------------------------------------------------------------------------------------------


def record(steps, offset):
    run = Record(run_spec(TINY, 0), 16, 24, steps=list(steps))
    for at, metric in enumerate(METRICS):
        run.curves[metric] = [offset + at + step / 100 for step in steps]
    return run


def test_stacked_curves_are_nan_after_a_run_s_end_and_nowhere_else():
    steps, arrays = stack([record([10, 20], 0), record([10, 20, 30, 40], 10), record([10], 20)])
    assert steps == [10, 20, 30, 40]
    for at, metric in enumerate(METRICS):
        expected = np.full((4, 3), np.nan)
        expected[:2, 0] = [at + 0.1, at + 0.2]
        expected[:, 1] = [10 + at + 0.1, 10 + at + 0.2, 10 + at + 0.3, 10 + at + 0.4]
        expected[0, 2] = 20 + at + 0.1
        assert np.array_equal(arrays[metric], expected, equal_nan=True)
    assert set(arrays) == set(METRICS)


# --- the evaluation grid ------------------------------------------------------------------------------------------

BUDGETS = st.integers(1, 20_000)
EVERY = st.integers(1, 500)
GROWTH = st.floats(0, 3, allow_nan=False)


@given(EVERY, GROWTH, BUDGETS)
def test_evaluations_ascend_and_end_at_the_budget(every, growth, budget):
    steps = list(evaluation_steps(every, growth, budget))
    assert steps[-1] == budget
    assert all(early < late for early, late in zip([0, *steps], steps, strict=False))
    assert all(type(step) is int for step in steps)


@given(EVERY, GROWTH, BUDGETS)
def test_evaluations_are_as_far_apart_as_asked_but_the_last_may_be_nearer(every, growth, budget):
    steps = [0, *evaluation_steps(every, growth, budget)]
    gaps = np.diff(steps)
    widest = [max(every, growth * step) for step in steps[:-1]]
    assert all(gap <= limit for gap, limit in zip(gaps, widest, strict=True))
    assert all(gap > limit - 1 for gap, limit in zip(gaps[:-1], widest[:-1], strict=True))


@given(EVERY, BUDGETS, st.integers(1, 20_000))
def test_a_longer_budget_has_the_same_evaluations_before_the_shorter_one_s_end(every, budget, more):
    short = list(evaluation_steps(every, 0.05, budget))
    assert list(evaluation_steps(every, 0.05, budget + more))[: len(short) - 1] == short[:-1]


def test_without_growth_evaluations_are_evenly_spaced():
    assert list(evaluation_steps(10, 0.0, 45)) == [10, 20, 30, 40, 45]


def test_the_cost_of_evaluating_grows_with_the_logarithm_of_the_budget():
    counts = [len(list(evaluation_steps(10, 0.05, 10**power))) for power in (4, 5, 6)]
    assert abs((counts[2] - counts[1]) - (counts[1] - counts[0])) <= 2
    assert counts[0] < 120


FAULTS = """
import resource, sys, torch
from grokking.execute.unit import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    for size in (5, 3, 7):  # megabytes
        torch.ones(size * 2**18) + 1
step()
before = faults()
for _ in range(20):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of the GNU C library")
def test_freed_memory_is_kept_for_the_next_step():
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True).stdout)
        for word in ("kept", "not")
    )
    assert kept < 10_000  # pages of 4 kB; every one touched anew is 150,000
    assert given_back > 1.5 * kept  # a kernel may map several pages at one fault


def subnormals_are_kept():
    return bool((torch.tensor([1e-40]) * 1).item())


@pytest.mark.parametrize(("eps", "kept"), [(1e-8, False), (1e-25, True), (0.0, True)])
def test_subnormal_numbers_count_as_zero_unless_epsilon_is_tiny(tmp_path, eps, kept):
    prepare(tmp_path)
    spec = run_spec({**TINY, "optimizer.eps": eps}, 0)
    seen = [subnormals_are_kept() for _ in train_unit([spec], Terms(tmp_path, "cpu"), Stop())]
    assert set(seen) == {kept}
    assert subnormals_are_kept()  # the caller's arithmetic is as it was


def test_runs_that_need_subnormal_numbers_are_not_trained_beside_others():
    specs = [run_spec({**TINY, "optimizer.eps": eps}, seed) for seed in range(2) for eps in (1e-8, 1e-25, 1e-6)]
    assert len({spec.setting for spec in specs}) == 1
    found = [{spec.needs_subnormals for spec in cohort} for cohort in plan(specs, 8)]
    assert sorted(map(sorted, found)) == [[False], [True]]
