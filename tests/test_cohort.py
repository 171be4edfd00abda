import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from grokking.engine.batches import Batches
from grokking.engine.cohort import power_of_two, start
from grokking.engine.data import TRAIN_ROWS
from grokking.engine.evaluation_grid import evaluation_steps
from grokking.engine.loop import begin, training
from grokking.engine.trainer import Trainer
from grokking.models import models
from grokking.models.parts import ACTIVATIONS
from grokking.optim import optimizers
from grokking.roles import initial_weights
from grokking.runs import run_spec
from grokking.tasks import split

CPU = torch.device("cpu")
TINY = {
    "task.p": 11,
    "model.width": 16,
    "model.heads": 2,
    "batch_size": 32,
    "steps": 60,
    "train_fraction": 0.5,
    "evaluation.growth": 0.0,
}
BUILT_IN = [name for name in optimizers if optimizers[name].make.__module__.startswith("grokking.")]
METRICS = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")


def spec(seed=0, optimizer="adamw", **changed):
    changed = {name.replace("__", "."): value for name, value in changed.items()}
    batch = {"batch_size": 0} if optimizers[optimizer].extra["full_batch"] else {}
    return run_spec({**TINY, "optimizer.name": optimizer, **batch, **changed}, seed)


def varied(count, optimizer="adamw", **changed):
    """Runs with other seeds, learning rates, decays and every other number of the optimizer."""
    runs = []
    for at in range(count):
        floats = {n: v for n, v in optimizers[optimizer].defaults.items() if isinstance(v, float)}
        other = {f"optimizer__{n}": v * (1 - 0.06 * at) for n, v in floats.items()}
        runs.append(spec(at, optimizer, **{**other, **changed}))
    return runs


def equal(a, b):
    """Whether two tensors or arrays are the same bits, NaNs included."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def tensors(cohort, run):
    """Everything that one run carries from step to step, by name."""
    found = {name: w[run] for name, w in cohort.weights.items()}
    for name, slots in cohort.state.items():
        found |= {f"{name}/{slot}": s[run] for slot, s in slots.items()}
    return found | {f"hyper/{name}": number[run] for name, number in cohort.hyper.items()}


def assert_same_run(one, run, other, other_run):
    ours, theirs = tensors(one, run), tensors(other, other_run)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not equal(ours[name], theirs[name])] == []


def trained(specs, steps, dtype=torch.float32):
    trainer, cohort = Trainer(specs[0].setting, CPU), start(specs, CPU, dtype)
    for _ in range(steps):
        trainer.advance(cohort)
    return trainer, cohort


def assert_same_metrics(metrics, run, other, other_run):
    assert set(metrics) == set(METRICS) == set(other)
    for name in METRICS:
        assert equal(metrics[name][run], other[name][other_run]), name


def trained_from_start(specs, device):
    trainer = Trainer(specs[0].setting, device)
    return training(begin(specs, trainer), trainer)


# --- a run does not know its mates --------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", BUILT_IN)
def test_a_run_alone_is_bit_for_bit_the_run_among_seven_others(optimizer):
    specs = varied(8, optimizer)
    assert len({run.hyper for run in specs}) == 8
    trainer, cohort = trained(specs, 35)
    among = trainer.evaluate(cohort)
    for run in (0, 5):
        own, alone = trained([specs[run]], 35)
        assert_same_run(alone, 0, cohort, run)
        assert_same_metrics(own.evaluate(alone), 0, among, run)
    assert not equal(cohort.weights["head.weight"][0], cohort.weights["head.weight"][5])


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_an_activation_does_not_know_how_many_other_elements_there_are(name):
    x = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).standard_normal(300).astype(np.float32)) * 4
    whole = ACTIVATIONS[name](x)
    differing = [n for n in range(2, 300) if not equal(ACTIVATIONS[name](x[:n].clone()), whole[:n])]
    assert differing == []


@pytest.mark.parametrize("activation", ["silu", "swiglu", "gelu"])
def test_runs_whose_elements_fill_no_vector_register_do_not_know_their_mates(activation):
    odd = {"model__activation": activation, "model__width": 18, "model__mlp_ratio": 1, "batch_size": 31}
    specs = varied(3, **odd)
    _, cohort = trained(specs, 6)
    for run in range(3):
        _, alone = trained([specs[run]], 6)
        assert_same_run(alone, 0, cohort, run)


@pytest.mark.parametrize(
    ("before", "mode"),
    [("import torch", "one path"), ("import torch; torch.ones(64, 64) @ torch.ones(64, 64)", "free")],
)
def test_the_matrix_library_is_asked_and_not_the_environment(before, mode):
    code = f"{before}\nimport os, grokking\nfrom grokking.execute.unit import matrix_library\nprint(matrix_library())"
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if "mkl" not in torch.__config__.show().lower():
        pytest.skip("this PyTorch was built without Intel's matrix library")
    assert done.stdout.strip() == mode


def test_a_lone_run_trains_beside_a_copy_of_itself_from_its_start_or_when_its_mates_have_left():
    specs = [spec(0), spec(1)]
    assert start(specs[:1], CPU).specs == specs[:1] * 2
    left = start(specs, CPU).keep([1])
    assert left.specs == specs[1:] * 2
    assert left.finite.shape == (2,)
    assert left.keep([0, 1]).specs == left.specs


def test_on_cuda_a_cohort_takes_a_power_of_two_of_places_and_copies_fill_it():
    specs = [spec(seed) for seed in range(5)]
    cohort = start(specs, CPU, places=power_of_two)
    assert cohort.specs == [*specs, *specs[4:] * 3]
    for going, places in (((0, 1, 2, 3, 4), 8), ((1, 2, 4), 4), ((3,), 1)):
        assert cohort.keep(list(going)).specs == [specs[run] for run in going] + [specs[going[-1]]] * (
            places - len(going)
        )
    assert [power_of_two(runs, 0) for runs in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]


@pytest.mark.parametrize(
    "changed",
    [
        {"model__dropout": 0.2},
        {"model__depth": 2, "model__norm": "layernorm", "model__bias": True, "model__positions": "rope"},
        {"task__name": "parity", "task__bits": 6, "model__attention": "bidirectional", "model__tied": True},
        {"batch_size": 7, "model__activation": "swiglu", "model__norm_placement": "post"},
    ],
    ids=["dropout", "deep", "parity", "odd batch"],
)
def test_a_run_alone_is_the_run_in_a_cohort_for_other_models_and_tasks(changed):
    if changed.get("task__name") == "parity":
        specs = [run_spec({**without_p(), **dotted(changed)}, seed) for seed in range(5)]
    else:
        specs = varied(5, **changed)
    trainer, cohort = trained(specs, 20)
    among = trainer.evaluate(cohort)
    for run in (0, 4):
        own, alone = trained([specs[run]], 20)
        assert_same_run(alone, 0, cohort, run)
        assert_same_metrics(own.evaluate(alone), 0, among, run)


def without_p():
    return {name: value for name, value in TINY.items() if name != "task.p"}


def dotted(changed):
    return {name.replace("__", "."): value for name, value in changed.items()}


def test_dropout_takes_part_and_differs_between_seeds_and_steps():
    specs = [spec(0, model__dropout=0.3), spec(1, model__dropout=0.3)]
    trainer, cohort = Trainer(specs[0].setting, CPU), start(specs, CPU)
    keys = [trainer.noise(cohort.seeds, torch.tensor(step)) for step in (1, 2)]
    trainer.advance(cohort)
    drawn = [int(key) for noise in keys for key in next(iter(noise.values()))]
    assert len(set(drawn)) == 4
    _, dry = trained([spec(0)], 1)
    assert not equal(cohort.weights["head.weight"][0], dry.weights["head.weight"][0])


def test_evaluation_is_without_dropout_and_changes_nothing():
    trainer, cohort = trained([spec(0, model__dropout=0.3), spec(1, model__dropout=0.3)], 5)
    before = [{n: t.clone() for n, t in tensors(cohort, run).items()} for run in range(2)]
    first, second = trainer.evaluate(cohort), trainer.evaluate(cohort)
    for run in range(2):
        assert_same_metrics(first, run, second, run)
        assert all(equal(before[run][name], now) for name, now in tensors(cohort, run).items())
    dry = Trainer(spec().setting, CPU)
    assert_same_metrics(dry.evaluate(cohort), 0, first, 0)
    assert cohort.step == 5


def test_weights_and_state_keep_their_precision():
    for dtype in (torch.float32, torch.float64):
        _, cohort = trained([spec(0, "muon")], 2, dtype)
        kept = {t.dtype for name, t in tensors(cohort, 0).items() if not name.startswith("hyper/")}
        assert kept == {dtype}


def test_keeping_some_runs_changes_no_bit_of_them():
    specs = varied(6)
    trainer, whole = trained(specs, 12)
    _, parted = trained(specs, 12)
    parted = parted.keep([1, 4])
    assert parted.specs == [specs[1], specs[4]]
    assert parted.step == 12
    for _ in range(20):
        trainer.advance(whole)
        trainer.advance(parted)
    for here, there in ((0, 1), (1, 4)):
        assert_same_run(parted, here, whole, there)
        assert_same_metrics(trainer.evaluate(parted), here, trainer.evaluate(whole), there)


# --- a run that goes non-finite -----------------------------------------------------------------------------------


def test_an_overflow_freezes_its_run_and_touches_no_other():
    good = varied(4, "sgd")
    bad = spec(9, "sgd", optimizer__lr=1e30)
    _, apart = trained(good, 32)
    trainer, together = trained([*good[:2], bad, *good[2:]], 3)
    assert together.finite.tolist() == [True, True, False, True, True]
    assert together.diverged_at == [None, None, 2, None, None]
    frozen = {name: t.clone() for name, t in tensors(together, 2).items()}
    for _ in range(29):
        trainer.advance(together)
    assert together.diverged_at == [None, None, 2, None, None]
    assert all(equal(frozen[name], now) for name, now in tensors(together, 2).items())
    for here, there in ((0, 0), (1, 1), (3, 2), (4, 3)):
        assert_same_run(together, here, apart, there)
        assert together.weights["head.weight"][here].isfinite().all()


@pytest.mark.parametrize(
    ("optimizer", "poison"), [*((name, math.nan) for name in BUILT_IN), ("muon", math.inf), ("sgd", -math.inf)]
)
def test_a_poisoned_run_is_frozen_and_touches_no_other(optimizer, poison):
    specs = varied(4, optimizer)
    trainer, cohort = trained(specs, 8)
    _, clean = trained(specs, 8)
    cohort.weights["blocks.0.mlp.up.weight"][1, 0, 0] = poison
    frozen = {name: t.clone() for name, t in tensors(cohort, 1).items()}
    for _ in range(12):
        trainer.advance(cohort)
        trainer.advance(clean)
    assert cohort.diverged_at == [None, 9, None, None]
    assert all(equal(frozen[name], now) for name, now in tensors(cohort, 1).items())
    for run in (0, 2, 3):
        assert_same_run(cohort, run, clean, run)


def test_one_non_finite_gradient_entry_is_enough_although_the_loss_is_finite(monkeypatch):
    specs = varied(3)
    gradients = Trainer.gradients

    steps = iter(range(1, 100))

    def spoiled(self, weights, *given):
        found, loss = gradients(self, weights, *given)
        if len(loss) == 3 and next(steps) == 5:
            found["blocks.0.attention.key.weight"][2, 3, 5] = math.nan
        return found, loss

    _, clean = trained(specs, 10)
    monkeypatch.setattr(Trainer, "gradients", spoiled)
    _, cohort = trained(specs, 10)
    assert cohort.diverged_at == [None, None, 5]
    for run in (0, 1):
        assert_same_run(cohort, run, clean, run)
    _, before = trained([specs[2]], 4)
    assert_same_run(cohort, 2, before, 0)  # as the last healthy update left it, and never thawed


def test_the_loop_counts_a_diverged_run_and_lets_the_others_finish():
    good = varied(3, "sgd")
    bad = spec(9, "sgd", optimizer__lr=1e30)
    apart = curves(good)
    snapshots = list(trained_from_start([good[0], bad, *good[1:]], CPU))
    rows = {record.spec: record.row() for snapshot in snapshots for record in snapshot.ended}
    assert len(rows) == 4
    assert (rows[bad]["status"], rows[bad]["diverged_at"], rows[bad]["steps_to_generalize"]) == ("diverged", 2, None)
    assert [rows[run]["status"] for run in good] == ["censored"] * 3
    assert [rows[run]["steps_trained"] for run in good] == [60] * 3
    for run in good:
        record = next(record for snapshot in snapshots for record in snapshot.ended if record.spec == run)
        assert_same_curves(record, apart[run])
    assert [len(snapshot.cohort.specs) for snapshot in snapshots] == [4, 3, 3, 3, 3, 3]


def test_a_run_whose_last_update_overflows_diverged_at_it():
    """No further update comes that would find its loss non-finite."""
    bad = run_spec({**TINY, "optimizer.name": "sgd", "optimizer.lr": 1e308, "schedule.name": "constant", "steps": 1}, 0)
    (snapshot,) = trained_from_start([bad], CPU)
    row = snapshot.ended[0].row()
    assert (row["status"], row["diverged_at"], row["steps_trained"]) == ("diverged", 1, 1)


def test_an_accuracy_seen_behind_the_divergence_is_no_generalising(scripted):
    scripted |= {0: lambda step: float(step >= 10)}
    (snapshot,) = trained_from_start([spec(0, "sgd", optimizer__lr=1e30)], CPU)
    row = snapshot.ended[0].row()
    assert (row["status"], row["diverged_at"], row["steps_to_generalize"]) == ("diverged", 2, None)


def test_all_runs_diverging_ends_the_loop():
    snapshots = list(trained_from_start([spec(seed, "sgd", optimizer__lr=1e30) for seed in range(3)], CPU))
    assert [snapshot.step for snapshot in snapshots] == [10]
    assert [record.row()["status"] for record in snapshots[0].ended] == ["diverged"] * 3


# --- the loop -----------------------------------------------------------------------------------------------------


def curves(specs):
    """The record of each run of a training."""
    return {record.spec: record for snapshot in trained_from_start(specs, CPU) for record in snapshot.ended}


def assert_same_curves(record, other):
    assert record.steps == other.steps
    assert record.diverged_at == other.diverged_at
    for metric in METRICS:
        assert equal(record.curves[metric], other.curves[metric]), metric


@pytest.fixture
def scripted(monkeypatch):
    """Replaces what evaluations find: run → function from step to validation accuracy."""
    script = {}

    def evaluate(self, cohort):
        accuracy = np.array([script[run.seed](cohort.step) for run in cohort.specs])
        ones = np.ones(len(cohort.specs))
        return dict(zip(METRICS, (ones, ones, ones, accuracy), strict=True))

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    return script


@pytest.mark.parametrize(("every", "growth"), [(10, 0.0), (7, 0.0), (1, 0.5), (100, 0.0)])
def test_evaluations_follow_the_grid_to_the_budget(every, growth):
    run = spec(0, evaluation__every=every, evaluation__growth=growth)
    snapshots = list(trained_from_start([run], CPU))
    expected = list(evaluation_steps(every, growth, 60))
    assert [snapshot.step for snapshot in snapshots] == expected
    assert [record.steps for record in snapshots[-1].ended] == [expected]
    assert snapshots[-1].cohort.step == 60
    assert snapshots[-1].ended[0].row()["status"] == "censored"


def test_a_run_ends_when_it_has_sustained_and_is_not_trained_further(scripted):
    scripted |= {
        0: lambda step: float(step >= 20),  # sustained is known at 30
        1: lambda step: 0.0,  # never
        2: lambda step: float(step in (20, 40, 50, 60)),  # 20 falls back at 30; 40 is known at 60
    }
    snapshots = list(trained_from_start([spec(seed, steps=80) for seed in range(3)], CPU))
    assert [(s.step, [record.spec.seed for record in s.records]) for s in snapshots] == [
        (10, [0, 1, 2]),
        (20, [0, 1, 2]),
        (30, [0, 1, 2]),
        (40, [1, 2]),
        (50, [1, 2]),
        (60, [1, 2]),
        (70, [1]),
        (80, [1]),
    ]
    assert [(s.step, record.spec.seed) for s in snapshots for record in s.ended] == [(30, 0), (60, 2), (80, 1)]
    records = {record.spec.seed: record for s in snapshots for record in s.ended}
    assert [records[seed].steps for seed in range(3)] == [list(range(10, end + 1, 10)) for end in (30, 80, 60)]
    rows = [records[seed].row() for seed in range(3)]
    assert [row["steps_trained"] for row in rows] == [30, 80, 60]
    assert [row["status"] for row in rows] == ["generalized", "censored", "generalized"]
    assert [row["steps_to_generalize"] for row in rows] == [20, None, 20]
    assert [row["steps_to_sustain"] for row in rows] == [20, None, 40]


def test_the_loop_makes_no_update_after_the_last_run_ended(scripted, monkeypatch):
    updates = []
    advance = Trainer.advance
    monkeypatch.setattr(
        Trainer, "advance", lambda self, cohort, most: (updates.append(cohort.step), advance(self, cohort, most))
    )
    scripted |= {0: lambda step: 1.0, 1: lambda step: 1.0}
    snapshots = list(trained_from_start([spec(0), spec(1)], CPU))
    assert [snapshot.step for snapshot in snapshots] == [10, 20]
    assert updates == list(range(20))


def test_runs_that_stay_are_the_same_bits_after_others_left(scripted):
    scripted |= {seed: (lambda step: float(step >= 10)) if seed % 2 else (lambda step: 0.0) for seed in range(5)}
    specs = [spec(seed) for seed in range(5)]
    *_, last = trained_from_start(specs, CPU)
    _, whole = trained(specs, 60)
    assert [run.seed for run in last.cohort.specs] == [0, 2, 4]
    for here, there in ((0, 0), (1, 2), (2, 4)):
        assert_same_run(last.cohort, here, whole, there)


def test_a_budget_that_no_grid_step_meets_is_still_the_last_evaluation():
    (record,) = curves([spec(0, steps=13)]).values()
    assert record.steps == [10, 13]
    assert record.row()["steps_trained"] == 13


def test_the_row_holds_the_last_evaluation_and_the_epochs_of_the_real_batch():
    (record,) = curves([spec(0, batch_size=512, threshold=0.01, linger=0)]).values()
    row = record.row()
    assert {name: row[f"final_{name}"] for name in METRICS} == {name: record.curves[name][-1] for name in METRICS}
    assert row["epochs_to_generalize"] == row["steps_to_generalize"]  # the whole training set is one batch
    assert row["run_id"] == record.spec.run_id


def test_learning_goes_on_a_run_memorises_its_training_set():
    (record,) = curves([spec(0, optimizer__lr=0.01, optimizer__weight_decay=0.0, steps=120)]).values()
    assert record.curves["train_accuracy"][-1] == 1.0
    assert record.onset().memorize is not None
    assert record.curves["train_loss"][-1] < 0.1 < record.curves["train_loss"][0]


# --- the same seeds, and nothing but the seeds --------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", BUILT_IN)
def test_the_same_seeds_give_the_same_records(optimizer):
    specs = varied(3, optimizer, model__dropout=0.1, steps=30)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = curves(specs)
        torch.manual_seed(2)
        second = curves(specs)
    for run in specs:
        assert_same_curves(first[run], second[run])
    assert first[specs[0]].curves["train_loss"] != first[specs[1]].curves["train_loss"]


def global_generators():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def test_training_leaves_the_global_generators_alone():
    before = global_generators()
    curves([spec(0, model__dropout=0.2)])
    assert global_generators() == before


# --- training and validation rows ---------------------------------------------------------------------------------


def test_batches_come_from_the_run_s_own_training_rows_alone():
    specs = [spec(seed) for seed in (3, 8)]
    trainer, cohort = Trainer(specs[0].setting, CPU), start(specs, CPU)
    seen = [set(), set()]
    for cohort.step in range(20):
        rows = trainer.data.batch(cohort)
        assert rows.shape == (2, 32)
        for run in range(2):
            training_rows, _ = split(121, 0.5, specs[run].seed)
            expected = training_rows[Batches(specs[run].seed, len(training_rows), 32).at(cohort.step)]
            assert equal(rows[run], expected)
            seen[run] |= set(rows[run].tolist())
    for run in range(2):
        training_rows, validation_rows = split(121, 0.5, specs[run].seed)
        assert seen[run] == set(training_rows.tolist())
        assert not seen[run] & set(validation_rows.tolist())


def mislabelled(trainer, rows):
    """The trainer, with wrong labels for these rows."""
    trainer.data.labels = trainer.data.labels.clone()
    trainer.data.labels[rows] = (trainer.data.labels[rows] + 1) % 11
    return trainer


def test_wrong_labels_in_the_validation_set_change_validation_alone():
    run = spec(5)
    trainer, cohort = trained([run], 0)
    _, validation_rows = trainer.data.split(5)
    wrong, other = mislabelled(Trainer(run.setting, CPU), validation_rows), start([run], CPU)
    for _ in range(25):
        trainer.advance(cohort)
        wrong.advance(other)
    assert_same_run(cohort, 0, other, 0)
    right, off = trainer.evaluate(cohort), wrong.evaluate(other)
    assert equal(right["train_loss"], off["train_loss"])
    assert equal(right["train_accuracy"], off["train_accuracy"])
    assert right["validation_loss"][0] != off["validation_loss"][0]


def test_wrong_labels_in_the_training_set_do_not_show_in_validation():
    specs = [spec(5), spec(6)]
    trainer, cohort = trained(specs, 25)
    shared = np.intersect1d(trainer.data.split(5)[0], trainer.data.split(6)[0])
    right = trainer.evaluate(cohort)
    off = mislabelled(trainer, shared).evaluate(cohort)
    assert equal(right["validation_loss"], off["validation_loss"])
    assert equal(right["validation_accuracy"], off["validation_accuracy"])
    assert all(right["train_loss"] != off["train_loss"])


@torch.no_grad()
@pytest.mark.parametrize("p", [11, 53])
def test_metrics_are_means_over_the_whole_validation_set_and_the_first_training_rows(p):
    specs = [spec(seed, task__p=p) for seed in range(2)]
    trainer, cohort = trained(specs, 10)
    metrics = trainer.evaluate(cohort)
    table = specs[0].setting.table()
    for run in range(2):
        model = loaded(specs[run], {name: w[run] for name, w in cohort.weights.items()}, torch.float32)
        training_rows, validation_rows = split(len(table.labels), 0.5, run)
        for part, rows in (("train", training_rows[:TRAIN_ROWS]), ("validation", validation_rows)):
            scores = model.plain(torch.from_numpy(table.tokens[rows]))
            labels = torch.from_numpy(table.labels[rows])
            hits = (scores.argmax(-1) == labels).double().mean()
            assert metrics[f"{part}_accuracy"][run] == pytest.approx(float(hits), abs=1.5 / len(rows))
            assert metrics[f"{part}_loss"][run] == pytest.approx(float(F.cross_entropy(scores, labels)), rel=1e-5)


# --- an ordinary training loop ------------------------------------------------------------------------------------


def loaded(run, weights, dtype):
    """The run's ordinary module, off the meta device, with these weights."""
    options = run.setting.options("model")
    model = models[run.setting.name("model")].make(run.setting.table(), **options).to(dtype)
    model.load_state_dict(dict(weights), strict=False)
    assert {name for name, _ in model.named_parameters()} == set(weights)
    return model


REFERENCES = {
    "adamw": lambda parameters, h: torch.optim.AdamW(
        parameters, h["lr"], (h["beta1"], h["beta2"]), h["eps"], h["weight_decay"]
    ),
    "adam": lambda parameters, h: torch.optim.Adam(
        parameters, h["lr"], (h["beta1"], h["beta2"]), h["eps"], h["weight_decay"]
    ),
    "sgd": lambda parameters, h: torch.optim.SGD(parameters, h["lr"], h["momentum"], 0, h["weight_decay"]),
    "rmsprop": lambda parameters, h: torch.optim.RMSprop(parameters, h["lr"], h["alpha"], h["eps"], h["weight_decay"]),
}


def reference(run, steps):
    """Weights and losses of `run` from nn.Module, torch.optim and a loop, in float64."""
    table, seed = run.setting.table(), run.seed
    training_rows, _ = split(len(table.labels), run.setting.number("train_fraction"), seed)
    order = Batches(seed, len(training_rows), run.setting.integer("batch_size"))
    model = loaded(run, initial_weights(run.setting.model(), seed, torch.float64), torch.float64)
    h = {name.removeprefix("optimizer."): value for name, value in run.hyper}
    optimizer = REFERENCES[run.setting.name("optimizer")](model.parameters(), h)
    losses = []
    for step in range(steps):
        rows = training_rows[order.at(step)]
        optimizer.param_groups[0]["lr"] = h["lr"] * min(1.0, (step + 1) / 10)
        optimizer.zero_grad()
        loss = F.cross_entropy(model.plain(torch.from_numpy(table.tokens[rows])), torch.from_numpy(table.labels[rows]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {name: w.detach() for name, w in model.named_parameters()}, losses


@pytest.mark.parametrize("optimizer", list(REFERENCES))
def test_the_cohort_agrees_with_an_ordinary_loop_on_torch_optim(optimizer):
    specs = varied(3, optimizer, model__depth=2, task__p=13)
    trainer, cohort = trained(specs, 0, torch.float64)
    losses = []
    for _ in range(20):
        rows = trainer.data.batch(cohort)
        trainer.model.train()
        losses.append(
            trainer.gradients(cohort.weights, {}, trainer.data.tokens[rows], trainer.data.labels[rows])[1].tolist()
        )
        trainer.advance(cohort)
    for run, one in enumerate(specs):
        weights, expected = reference(one, 20)
        assert [loss[run] for loss in losses] == pytest.approx(expected, abs=1e-9)
        for name, w in weights.items():
            assert (cohort.weights[name][run] - w).abs().max() < 1e-9, name
        start_of = initial_weights(one.setting.model(), one.seed, torch.float64)
        moved = [(w - start_of[name]).abs().max().item() for name, w in weights.items()]
        assert min(moved) > 1e-6  # every parameter took part in the comparison


def test_the_warm_up_is_over_after_its_updates():
    runs = [spec(0, schedule__warmup=warmup) for warmup in (0, 1, 3)]
    none, one, three = (trained([run], 1)[1].weights["head.weight"] for run in runs)
    first = start([runs[0]], CPU).weights["head.weight"]
    assert equal(none, one)
    assert float((three - first).norm()) == pytest.approx(float((one - first).norm()) / 3, rel=1e-3)


def test_every_run_gets_its_own_gradient_from_its_own_batch():
    specs = [spec(seed) for seed in range(3)]
    trainer, cohort = Trainer(specs[0].setting, CPU), start(specs, CPU, torch.float64)
    rows = trainer.data.batch(cohort)
    together, _ = trainer.gradients(cohort.weights, {}, trainer.data.tokens[rows], trainer.data.labels[rows])
    for run in range(3):
        own = rows[[run, run]]  # beside a copy of itself
        alone, _ = trainer.gradients(cohort.keep([run]).weights, {}, trainer.data.tokens[own], trainer.data.labels[own])
        assert [name for name in together if not equal(together[name][run], alone[name][0])] == []
        assert not equal(together["head.weight"][run], together["head.weight"][run - 1])
