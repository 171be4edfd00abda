"""What is captured of a step: compiled, or recorded as a CUDA graph; and that neither asks the host anything."""

import contextlib
import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import runs
from torch.overrides import TorchFunctionMode

from grokking.commands.arguments import Where
from grokking.commands.training import train
from grokking.engine import compiled as compiling
from grokking.engine.cohort import Moving, power_of_two, start
from grokking.engine.loop import begin, training
from grokking.engine.recorded import Recorded
from grokking.engine.trainer import BLOCK, Trainer
from grokking.errors import BadInput
from grokking.execute.unit import Terms
from grokking.models import distinct
from grokking.optim import optimizer, optimizers

CPU, META = torch.device("cpu"), torch.device("meta")


def advanced(trainer, specs, steps):
    cohort = start(specs, CPU, places=trainer.places)
    while cohort.step < steps:
        trainer.advance(cohort, steps - cohort.step)
    return cohort


def leaves(cohort, run):
    """All that one run carries, as bytes."""
    found = {name: w[run] for name, w in cohort.weights.items()}
    found |= {f"{name}/{slot}": s[run] for name, slots in cohort.state.items() for slot, s in slots.items()}
    found |= {"finite": cohort.finite[run], "frozen_at": cohort.moving.frozen_at[run]}
    return {name: tensor.numpy().tobytes() for name, tensor in found.items()}


# --- recorded ---------------------------------------------------------------------------------------------------------


def recording(specs):
    """A trainer that does on a CPU what it does on CUDA, but for the graph: blocks of steps in static buffers."""
    trainer = Trainer(specs[0].setting, CPU)
    trainer.records_steps, trainer.may_look, trainer.places = True, False, power_of_two
    return trainer


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_steps_that_are_recorded_are_the_steps(optimizer):
    specs = [
        *runs(3, optimizer__name=optimizer, model__dropout=0.1),
        *runs(1, optimizer__name=optimizer, model__dropout=0.1, optimizer__lr=1e30),
    ]
    steps = 2 * BLOCK + 3
    plain, recorded = Trainer(specs[0].setting, CPU), recording(specs)
    ours, theirs = advanced(recorded, specs, steps), advanced(plain, specs, steps)
    assert [leaves(ours, run) for run in range(4)] == [leaves(theirs, run) for run in range(4)]
    assert ours.diverged_at == theirs.diverged_at == [None, None, None, theirs.diverged_at[3]]
    assert ours.diverged_at[3] is not None
    assert sorted(recorded._recorded) == [1, BLOCK]


@pytest.mark.parametrize(
    ("options", "waits"),
    [
        ({"name": "adamw"}, False),
        ({"name": "muon"}, False),
        ({"name": "muon", "orthogonalize": "frobenius_norm"}, False),
        ({"name": "muon", "orthogonalize": "svd"}, True),
        ({"name": "muon", "orthogonalize": "spectral_norm"}, True),
        ({"name": "egd"}, True),
        ({"name": "egd", "matrices": "none"}, False),
        ({"name": "shampoo"}, True),
        ({"name": "soap"}, True),
        ({"name": "soap", "max_size": 0}, False),
    ],
)
def test_steps_that_decompose_a_matrix_are_not_recorded(options, waits):
    """There the host looks whether it succeeded (`torch.linalg.eigh`: "synchronizes that device with the CPU")."""
    setting = runs(1, **{f"optimizer__{name}": value for name, value in options.items()})[0].setting
    assert Trainer(setting, CPU).waits_for_host() == waits


def test_a_recording_serves_the_next_cohort_of_its_width_and_a_narrower_one_gets_its_own():
    specs = runs(4)
    recorded, plain = recording(specs), Trainer(specs[0].setting, CPU)
    advanced(recorded, specs, 2 * BLOCK)
    buffers = recorded._recorded[BLOCK]
    again = advanced(recorded, runs(8)[4:], BLOCK)
    assert recorded._recorded[BLOCK] is buffers
    assert leaves(again, 1) == leaves(advanced(plain, runs(8)[4:], BLOCK), 1)
    narrow = again.keep([1, 2])
    expected = leaves(again, 2)
    assert leaves(narrow, 1) == expected
    recorded.advance(narrow, BLOCK)
    assert recorded._recorded[BLOCK] is not buffers
    assert recorded._recorded[BLOCK].rows.shape[1] == 2
    assert leaves(narrow, 1) == leaves(advanced(plain, runs(8)[4:], 2 * BLOCK), 2)


def test_a_recorded_evaluation_sees_the_weights_of_now_and_the_runs_that_are_left():
    """Runs on another split, too: the rows of an evaluation are part of what is recorded."""
    specs = runs(4)
    recorded, plain = recording(specs), Trainer(specs[0].setting, CPU)
    ours, theirs = advanced(recorded, specs, 3), advanced(plain, specs, 3)
    for steps in (0, 7):
        while ours.step < 3 + steps:
            recorded.advance(ours, 1)
            plain.advance(theirs)
        assert_equal_metrics(recorded.evaluate(ours), plain.evaluate(theirs))
    first = recorded._measure
    assert first is not None
    recorded.evaluate(ours)
    assert recorded._measure is first
    assert_equal_metrics(recorded.evaluate(ours.keep([1, 3])), plain.evaluate(theirs.keep([1, 3])))
    assert_equal_metrics(recorded.evaluate(ours.keep([0, 2])), plain.evaluate(theirs.keep([0, 2])))


def assert_equal_metrics(ours, theirs):
    assert list(ours) == list(theirs)
    for name, values in theirs.items():
        assert np.array_equal(ours[name], values), name


def test_the_loop_gives_the_same_curves_with_recorded_steps():
    specs = runs(3, steps=60, threshold=0.2, linger=0.25)
    found = []
    for trainer in (recording(specs), Trainer(specs[0].setting, CPU)):
        unit = begin(specs, trainer)
        for _ in training(unit, trainer):
            pass
        found.append([(record.steps, record.curves) for record in unit.records])
    assert found[0] == found[1]


@contextlib.contextmanager
def nothing_from_the_host():
    """Whoever makes a tensor of Python's numbers, or indexes with a list of them, copies from the host in a step."""

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            index = args[1] if func is torch.Tensor.__getitem__ else ()
            listed = any(
                isinstance(part, (list, np.ndarray)) for part in (index if isinstance(index, tuple) else (index,))
            )
            assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy), func
            assert not listed, index
            return func(*args, **(kwargs or {}))

    with Watch():
        yield


def test_the_watch_sees_what_is_brought_from_the_host():
    x = torch.zeros(3, 3, device=META)
    for brings in (lambda: torch.tensor([0, 2], device=META), lambda: x[[0, 2]], lambda: x[:, [0, 2]]):
        with pytest.raises(AssertionError), nothing_from_the_host():
            brings()
    with nothing_from_the_host():
        x[:, 0] + torch.arange(3, device=META)


def test_no_step_looks_at_a_value_or_brings_one_from_the_host():
    """On the meta device there are no values: whoever looks at one fails, and whoever brings one is seen."""
    for changed in ({}, {"model__dropout": 0.1, "model__positions": "rope"}, {"optimizer__name": "muon"}):
        specs = runs(2, model__depth=2, **changed)
        trainer = Trainer(specs[0].setting, META)
        trainer.may_look = False
        cohort = start(specs, META)
        rows = trainer.data.batches(cohort, 3)
        recorded = Recorded(trainer.step, cohort.hyper, cohort.seeds, cohort.moving, rows)
        with nothing_from_the_host():
            recorded.replay(cohort.hyper, cohort.seeds, 1, cohort.moving, rows)


# --- compiled ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captured():
    """Compiled once for all tests here: that takes its time."""
    return Trainer(runs()[0].setting, CPU, compile=True)


def test_a_compiled_step_is_the_step_but_for_rounding(captured):
    specs = runs(2)
    ours, theirs = advanced(captured, specs, 12), advanced(Trainer(specs[0].setting, CPU), specs, 12)
    for name, w in theirs.weights.items():
        assert torch.allclose(ours.weights[name][:2], w, rtol=0, atol=2e-5), name
        assert ours.weights[name].dtype == w.dtype
    assert ours.diverged_at == [None, None]


def test_compiled_too_a_run_does_not_know_its_mates(captured):
    together, (alone,) = advanced(captured, runs(2), 20), [advanced(captured, runs(2)[1:], 20)]
    assert leaves(alone, 0) == leaves(together, 1)
    assert 2 in captured._compiled


def test_compiled_for_two_and_for_four_a_run_is_the_same_bits(captured):
    four, two = advanced(captured, runs(4), 20), advanced(captured, runs(4)[2:], 20)
    assert sorted(captured._compiled) == [2, 4]
    assert [leaves(four, 2), leaves(four, 3)] == [leaves(two, 0), leaves(two, 1)]


def test_a_lone_part_of_a_cohort_s_states_is_not_laid_out_anew():
    """A cat of one is a copy to PyTorch and nothing to its compiler, which then finds other strides: three layers failed."""
    x = torch.zeros(2, 3, 4).transpose(1, 2)
    assert distinct.side_by_side([x]) is x
    assert torch.equal(distinct.side_by_side([x, x + 1]), torch.cat([x, x + 1], dim=1))


def test_a_compiled_width_is_kept_when_runs_end(captured):
    cohort = advanced(captured, runs(4), 3)
    narrower = cohort.keep([1, 3])
    assert len(narrower.specs) == 4
    assert leaves(narrower, 1) == leaves(cohort, 3) == leaves(narrower, 3)


@pytest.fixture
def awkward_rule():
    """The registry is left as it was."""

    @optimizer(lr=0.01, state={"size": lambda w: torch.zeros(())})
    def capture_test_scalar(w, grad, state, h, role):
        """One number a parameter, whose first value does not come from it; and another path late in training."""
        size = state.size + torch.where(h.step > 3, 1.0, 0.5) * grad.abs().mean()
        return w - h.lr * grad / (1 + size), state(size=size)

    yield
    optimizers._entries.pop("capture_test_scalar")


def test_a_rule_of_ones_own_is_compiled_like_any_other(awkward_rule):
    specs = runs(2, optimizer__name="capture_test_scalar")
    ours, theirs = (advanced(Trainer(specs[0].setting, CPU, compile=way), specs, 6) for way in (True, False))
    for name, w in theirs.weights.items():
        assert torch.allclose(ours.weights[name], w, rtol=0, atol=2e-6), name
        assert torch.allclose(ours.state[name]["size"], theirs.state[name]["size"], rtol=1e-5)


def test_a_step_that_cannot_be_compiled_says_what_to_do(monkeypatch):
    trainer = Trainer(runs(1)[0].setting, CPU, compile=True)
    monkeypatch.setattr(
        trainer, "loss", lambda scores, labels: scores.sum() if float(scores.sum()) > 0 else scores.mean()
    )
    with pytest.raises(RuntimeError, match=r"the step cannot be compiled \(.*\); say --compile off"):
        advanced(trainer, runs(1), 1)


def test_compiled_too_a_run_that_overflows_is_frozen_and_touches_no_other(captured):
    bad = runs(1, optimizer__lr=1e30)
    beside, apart = advanced(captured, [*runs(1), *bad], 10), advanced(captured, runs(1), 10)
    assert beside.diverged_at[0] is None
    assert beside.diverged_at[1] == advanced(Trainer(bad[0].setting, CPU), bad, 10).diverged_at[0]
    assert leaves(beside, 0) == leaves(apart, 0)


def test_a_compiled_step_takes_its_arguments_by_name_whatever_order_they_come_in():
    """With two layers the order in which parameters are updated is not that in which they were declared."""
    specs = runs(2, model__depth=2)
    captured, plain = Trainer(specs[0].setting, CPU, compile=True), Trainer(specs[0].setting, CPU)
    ours, theirs = advanced(captured, specs, 6), advanced(plain, specs, 6)
    assert list(ours.weights) == list(theirs.weights)
    backwards = Moving(dict(reversed(ours.weights.items())), ours.state, ours.finite, ours.moving.frozen_at)
    shuffled = dataclasses.replace(ours, moving=backwards)
    for cohort in (ours, shuffled, theirs):
        (captured if cohort is not theirs else plain).advance(cohort)
    for name, w in theirs.weights.items():
        assert torch.allclose(ours.weights[name][:2], w, rtol=0, atol=2e-5), name
        assert torch.equal(ours.weights[name], shuffled.weights[name]), name


def test_where_an_experiment_declares_it_steps_are_compiled_if_they_can_be(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        "grokking.execute.local.Local.train", lambda self, cohorts: seen.append(self.terms.compile) or []
    )
    for compile, declared in (("declared", True), ("declared", False), ("off", True), ("on", False)):
        train(runs(1), Where(out=tmp_path, compile=compile), (), declared)
    assert seen == [True, False, False, True]
    assert "not compiled" not in capsys.readouterr().err
    monkeypatch.setattr(compiling, "obstacle", lambda: "no g++")
    train(runs(1), Where(out=tmp_path), (), declared=True)
    assert seen[4:] == [False]
    assert "steps are not compiled, which takes longer: no g++" in capsys.readouterr().err


def test_without_a_compiler_one_sentence_says_so_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "obstacle", lambda: "no g++")
    with pytest.raises(BadInput, match=r"--compile on, but nothing can be compiled here \(no g\+\+\); make that"):
        train(runs(1), Where(out=tmp_path / "out", compile="on"), ())
    assert not (tmp_path / "out").exists()


def test_whether_anything_can_be_compiled_is_tried():
    assert compiling.obstacle() == ""
    code = "from grokking.engine.compiled import obstacle; print(obstacle())"
    environment = {**os.environ, "CXX": "/no/such/compiler", "PATH": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "compiler" in done.stdout.lower()
    assert len(done.stdout.splitlines()) == 1


def test_a_checkpoint_of_a_compiled_step_is_another_execution():
    assert {**Terms(None).execution(), "compile": True} == Terms(None, compile=True).execution()
    assert Terms(None).execution()["compile"] is False


# --- CUDA -------------------------------------------------------------------------------------------------------------

gpu = pytest.mark.gpu
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@gpu
@needs_cuda
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_cuda_graph_is_the_same_steps_as_on_the_same_device_without_it(optimizer):
    cuda, specs = torch.device("cuda"), runs(4, optimizer__name=optimizer, steps=60)
    recorded, eager = Trainer(specs[0].setting, cuda), Trainer(specs[0].setting, cuda)
    eager.records_steps = False
    ours, theirs = start(specs, cuda, places=power_of_two), start(specs, cuda, places=power_of_two)
    while ours.step < 35:
        recorded.advance(ours, 35 - ours.step)
    while theirs.step < 35:
        eager.advance(theirs)
    for name, w in theirs.weights.items():
        assert torch.equal(ours.weights[name], w), name
    assert_equal_metrics(recorded.evaluate(ours), eager.evaluate(theirs))


@gpu
@needs_cuda
def test_between_evaluations_nothing_waits_for_the_device():
    cuda, specs = torch.device("cuda"), runs(8, steps=200)
    trainer = Trainer(specs[0].setting, cuda)
    cohort = start(specs, cuda, places=power_of_two)
    trainer.advance(cohort, BLOCK)  # records
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            trainer.advance(cohort, BLOCK)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
@needs_cuda
def test_on_cuda_the_same_run_twice_is_the_same_bits():
    cuda, specs = torch.device("cuda"), runs(4, steps=60)
    found = []
    for _ in range(2):
        trainer = Trainer(specs[0].setting, cuda)
        unit = begin(specs, trainer)
        for _ in training(unit, trainer):
            pass
        found.append([record.curves for record in unit.records])
    assert found[0] == found[1]
