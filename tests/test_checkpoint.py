"""Checkpoints: what was interrupted ends with the same bits, and nothing but what was saved is believed."""

import ast
import io
import json
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny import TINY, runs

from grokking.engine import checkpoint
from grokking.engine.checkpoint import FILES, SCHEMA, Checkpoints, discard, started
from grokking.engine.cohort import compiled_width, power_of_two
from grokking.engine.loop import begin
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput, Interrupted, Notice, Unwritable
from grokking.execute.local import execute
from grokking.execute.signals import Stop
from grokking.execute.unit import Terms, train_unit
from grokking.optim import optimizer, optimizers, zeros
from grokking.optim.orthogonalize import newton_schulz
from grokking.roles import Role
from grokking.runs import run_spec
from grokking.store import prepare, stored
from grokking.store.sealed import read, seal
from grokking.store.units import unit_name
from grokking.study import plan

BUILT_IN = sorted(name for name, entry in optimizers.items() if entry.make.__module__.startswith("grokking."))


CPU = torch.device("cpu")


def folder_of(folder, specs):
    return folder / "checkpoints" / unit_name([spec.run_id for spec in specs])


def kept(folder, specs):
    """The steps of the checkpoints on disk."""
    return sorted(int(path.name) for path in folder_of(folder, specs).glob("[0-9]*"))


def train(folder, specs, at=None, between=None, **terms):
    """Train this unit; with `at`, as if a signal came in during that step. `between` is called after every step."""
    prepare(folder)
    stop, advance = Stop(), Trainer.advance

    def step(self, cohort, most):
        advance(self, cohort, most)
        if cohort.step == at:
            stop.code = 143
        if between is not None:
            between()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", step)
        if at is None:
            return list(train_unit(specs, Terms(folder, **terms), stop))
        with pytest.raises(Interrupted) as raised:
            list(train_unit(specs, Terms(folder, **terms), stop))
        assert raised.value.code == 143
        assert kept(folder, specs)[-1] == at


def unit(folder, specs):
    return stored(folder)[specs[0].run_id]


def results(folder, specs):
    return {name: (unit(folder, specs) / name).read_bytes() for name in ("runs.csv", "curves.npy")}


def resumed_at(folder, specs):
    return json.loads((unit(folder, specs) / "unit.json").read_text())["resumed_at_step"]


def change(path, tensors=None, progress=None):
    """Put something else into a checkpoint, under hashes that are right."""
    content = read(path)
    if tensors is not None:
        changed = tensors(safetensors.torch.load(content["cohort.safetensors"]))
        content["cohort.safetensors"] = safetensors.torch.save(changed)
    if progress is not None:
        content["progress.json"] = json.dumps(progress(json.loads(content["progress.json"]))).encode()
    reseal(path, content)


def reseal(path, content):
    shutil.rmtree(path)
    seal(path, {name: bytes_ for name, bytes_ in content.items() if name != "DONE"})


# --- parity -------------------------------------------------------------------------------------------------------


def assert_continues_with_the_same_bits(tmp_path, specs, *stops):
    train(tmp_path / "whole", specs)
    for at in stops:
        train(tmp_path / "parts", specs, at=at)
    train(tmp_path / "parts", specs)
    assert results(tmp_path / "parts", specs) == results(tmp_path / "whole", specs)
    assert resumed_at(tmp_path / "parts", specs) == stops[-1]
    assert not folder_of(tmp_path / "parts", specs).exists()


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_optimizer_continues_with_the_same_bits(tmp_path, name):
    batch = {"batch_size": 0} if optimizers[name].extra["full_batch"] else {}
    assert_continues_with_the_same_bits(tmp_path, runs(optimizer__name=name, **batch), 5, 11)


def test_a_unit_continues_from_before_at_and_after_an_evaluation(tmp_path):
    assert_continues_with_the_same_bits(tmp_path, runs(1), 1, 3, 4, 5, 8, 15, 16)


def test_a_unit_of_which_some_runs_have_ended_continues_with_the_same_bits(tmp_path):
    specs = runs(2, optimizer__lr=0.01, threshold=0.1, linger=0.1, steps=24)
    assert_continues_with_the_same_bits(tmp_path, specs, 13, 18)
    train(tmp_path / "again", specs, at=18)
    progress = json.loads(read(folder_of(tmp_path / "again", specs) / "000000018")["progress.json"])
    assert len(set(progress["going"])) == 1 < len(progress["run_ids"]) == 2  # beside a copy of itself


@pytest.mark.parametrize("at", [2, 3, 6])  # as it happens; before its end is noticed; after it has left
def test_a_unit_of_which_a_run_diverged_continues_with_the_same_bits(tmp_path, at):
    specs = [run_spec({**TINY, "optimizer.name": "sgd", "optimizer.lr": lr}, 0) for lr in (0.1, 1e30)]
    assert_continues_with_the_same_bits(tmp_path, specs, at)
    assert b"diverged" in results(tmp_path / "parts", specs)["runs.csv"]


def test_a_model_with_dropout_continues_with_the_same_bits(tmp_path):
    specs = runs(model__dropout=0.2)
    assert_continues_with_the_same_bits(tmp_path, specs, 6)
    plain = runs()
    train(tmp_path / "plain", plain)
    curves = [np.load(io.BytesIO(results(tmp_path / "whole", specs)["curves.npy"]))]
    curves += [np.load(io.BytesIO(results(tmp_path / "plain", plain)["curves.npy"]))]
    assert not np.array_equal(curves[0]["train_loss"], curves[1]["train_loss"])  # dropout does something


@pytest.fixture
def own_rules():
    """Rules whose state is not as one would expect; the registry is left as it was."""
    before = set(optimizers)

    @optimizer(lr=0.01, state=zeros("turned", "last"))
    def checkpoint_test_awkward(w, grad, state, h, role):
        """State that is not contiguous, and state that shares memory with the weight."""
        turned = (state.turned + grad).transpose(0, -1).contiguous().transpose(0, -1)
        step = newton_schulz(turned) if role is Role.HIDDEN else grad  # in which strides would decide bits
        new = w - h.lr * step - 0.1 * h.lr * (w - state.last)
        return new, state(turned=turned, last=new)

    @optimizer(lr=0.01, state={"size": lambda w: torch.zeros(())})
    def checkpoint_test_scalar(w, grad, state, h, role):
        """One number a parameter, which numbers of the run (float64) make float64."""
        size = state.size + h.lr * grad.abs().mean()
        return w - h.lr * grad / (1 + size), state(size=size)

    yield
    for name in set(optimizers) - before:
        optimizers._entries.pop(name)


def test_state_that_is_not_contiguous_or_shares_memory_with_the_weight_continues_with_the_same_bits(
    tmp_path, own_rules
):
    assert_continues_with_the_same_bits(tmp_path, runs(optimizer__name="checkpoint_test_awkward"), 5, 9)


def test_state_whose_precision_the_rule_raised_continues_with_the_same_bits(tmp_path, own_rules):
    assert_continues_with_the_same_bits(tmp_path, runs(optimizer__name="checkpoint_test_scalar"), 5)


def test_a_unit_saved_after_every_step_has_the_same_bits(tmp_path, monkeypatch):
    specs = runs(1)
    train(tmp_path / "plain", specs)
    monkeypatch.setattr(Checkpoints, "due", lambda self: True)
    seen = []
    train(tmp_path / "saved", specs, between=lambda: seen.append(kept(tmp_path / "saved", specs)))
    assert results(tmp_path / "saved", specs) == results(tmp_path / "plain", specs)
    assert seen[:4] == [[], [1], [1, 2], [2, 3]]
    assert seen[-1] == [14, 15]  # two are kept, and none once the unit is stored
    assert not folder_of(tmp_path / "saved", specs).exists()


def test_seconds_and_steps_of_before_the_interruption_are_reported(tmp_path):
    specs = runs(1)
    train(tmp_path, specs, at=9)
    change(folder_of(tmp_path, specs) / "000000009", progress=lambda progress: {**progress, "seconds": 1000.0})
    reports = list(train_unit(specs, Terms(tmp_path), Stop()))
    assert reports[0] == (9, [], False)
    assert sum(steps for steps, _, _ in reports) == 16
    assert 1000 < json.loads((unit(tmp_path, specs) / "unit.json").read_text())["seconds"] < 1100


# --- the parity check has teeth -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def specs():
    return runs()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, specs):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder, specs)
    return results(folder, specs)


@pytest.fixture(scope="module")
def interrupted_twice(tmp_path_factory, specs):
    folder = tmp_path_factory.mktemp("interrupted")
    train(folder, specs, at=6)
    train(folder, specs, at=10)
    assert kept(folder, specs) == [6, 10]
    return folder


@pytest.fixture
def interrupted(tmp_path, interrupted_twice):
    """A store with the checkpoints of steps 6 and 10, to do with as one likes."""
    return Path(shutil.copytree(interrupted_twice, tmp_path / "results"))


def without_state(tensors):
    return {name: torch.zeros_like(t) if name.startswith("state/") else t for name, t in tensors.items()}


def nudged(tensors):
    up = torch.tensor(torch.inf)
    return {name: torch.nextafter(t, up) if name.startswith("weights/") else t for name, t in tensors.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"tensors": without_state},
        {"tensors": nudged},
        *[{"progress": lambda progress, step=step: {**progress, "step": step}} for step in (9, 11)],
    ],
    ids=["no optimizer state", "the last bit of weights", "one step less", "one step more"],
)
def test_a_checkpoint_that_lacks_something_does_not_give_the_same_bits(interrupted, specs, undisturbed, changes):
    change(folder_of(interrupted, specs) / "000000010", **changes)
    train(interrupted, specs)
    assert results(interrupted, specs)["curves.npy"] != undisturbed["curves.npy"]


@pytest.mark.parametrize(
    "changed",
    [
        *[{"step": step} for step in (0, -5, 10**6)],
        {"going": []},
        {"going": ["somebody else"]},
        {"records": [[[5], {}, None]]},
        {"records": []},
    ],
    ids=str,
)
def test_a_checkpoint_whose_numbers_cannot_be_right_is_left_out(interrupted, specs, undisturbed, changed):
    change(folder_of(interrupted, specs) / "000000010", progress=lambda progress: {**progress, **changed})
    with pytest.warns(Notice, match="left out the damaged checkpoint"):
        train(interrupted, specs)
    assert results(interrupted, specs) == undisturbed


# --- damage -------------------------------------------------------------------------------------------------------


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickled(name):
    def put(path):
        reseal(path, {**read(path), name: pickle.dumps(Malicious(path.parents[2] / "executed"))})

    return put


def without(name):
    return lambda path: change(path, tensors=lambda tensors: {n: t for n, t in tensors.items() if n != name})


def lacking(key):
    return lambda path: change(path, progress=lambda progress: {n: v for n, v in progress.items() if n != key})


def holding(value):
    return lambda path: change(path, progress=lambda _: value)


def with_progress(**changed):
    return lambda path: change(path, progress=lambda progress: {**progress, **changed})


def flipped(name, place):
    def flip(path):
        content = bytearray((path / name).read_bytes())
        content[int(place * (len(content) - 1))] ^= 1
        (path / name).write_bytes(content)

    return flip


WEIGHT = "weights/embedding.weight"
DAMAGE = {
    "lacks a weight": without(WEIGHT),
    "lacks state": without("state/embedding.weight/mean"),
    "lacks finite": without("finite"),
    "lacks frozen_at": without("frozen_at"),
    "adds a tensor": lambda path: change(path, tensors=lambda tensors: {**tensors, "more": torch.zeros(1)}),
    "another dtype": lambda path: change(path, tensors=lambda t: {**t, WEIGHT: t[WEIGHT].double()}),
    "another shape": lambda path: change(path, tensors=lambda t: {**t, WEIGHT: t[WEIGHT][:, 1:].contiguous()}),
    "another width": lambda path: change(path, tensors=lambda t: {**t, "finite": t["finite"][:1].contiguous()}),
    "not safetensors": lambda path: reseal(path, {**read(path), "cohort.safetensors": b"\xff" * 100}),
    "not JSON": lambda path: reseal(path, {**read(path), "progress.json": b"\xff{"}),
    **{f"lacks {key}": lacking(key) for key in ("step", "going", "records", "seconds")},
    "no records": with_progress(records=[]),
    "records of nothing": with_progress(records=None),
    "runs unknown": with_progress(going=["0" * 16]),
    "step is a word": with_progress(step="many"),
    **{f"a pickle as {name}": pickled(name) for name in FILES},
    **{f"a bit of {name} at {p}": flipped(name, p) for name in (*FILES, "DONE") for p in (0, 0.5, 1)},
    **{f"truncated {n}": (lambda path, n=n: os.truncate(path / n, (path / n).stat().st_size // 2)) for n in FILES},
    **{f"empty {n}": (lambda path, n=n: os.truncate(path / n, 0)) for n in (*FILES, "DONE")},
    **{f"no {n}": (lambda path, n=n: (path / n).unlink()) for n in (*FILES, "DONE")},
    "one file more": lambda path: reseal(path, {**read(path), "more": b""}),
}


def assert_left_out(interrupted, specs, path):
    """Only `latest` is asked, as training on from step 6 would take most of this file's time."""
    trainer = Trainer(specs[0].setting, torch.device("cpu"))
    with pytest.warns(Notice, match=f"left out the damaged checkpoint .*{path.name}") as said:
        saved, _ = Terms(interrupted).checkpoints(specs).latest(trainer)
    assert saved.cohort.step == 6
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    assert not (interrupted / "executed").exists()
    assert kept(interrupted, specs) == [6]


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_left_out_with_a_notice_and_the_one_before_is_taken(interrupted, specs, kind):
    path = folder_of(interrupted, specs) / "000000010"
    DAMAGE[kind](path)
    assert_left_out(interrupted, specs, path)


@pytest.mark.parametrize("value", [[], None, 3, "words"])
def test_a_checkpoint_whose_progress_is_no_mapping_is_left_out(interrupted, specs, value):
    path = folder_of(interrupted, specs) / "000000010"
    holding(value)(path)
    assert_left_out(interrupted, specs, path)


@pytest.mark.parametrize("both", [False, True])
def test_with_damaged_checkpoints_the_result_is_the_same(interrupted, specs, undisturbed, both):
    flipped("cohort.safetensors", 0.9)(folder_of(interrupted, specs) / "000000010")
    if both:
        pickled("cohort.safetensors")(folder_of(interrupted, specs) / "000000006")
    with pytest.warns(Notice, match="left out the damaged checkpoint") as said:
        train(interrupted, specs)
    assert len(said) == 1 + both
    assert resumed_at(interrupted, specs) == (0 if both else 6)
    assert results(interrupted, specs) == undisturbed
    assert not (interrupted / "executed").exists()


def test_what_is_damaged_and_what_was_abandoned_is_gone_once_the_unit_is_stored(interrupted, specs):
    folder = folder_of(interrupted, specs)
    (folder / "000000010" / "DONE").unlink()
    (folder / ".tmp-elsewhere-1-abc").mkdir()
    with pytest.warns(Notice):
        train(interrupted, specs)
    assert list((interrupted / "checkpoints").iterdir()) == []


def test_the_same_files_can_be_checked_with_sha256sum(interrupted, specs):
    from hashlib import sha256

    for path in folder_of(interrupted, specs).iterdir():
        assert sorted(file.name for file in path.iterdir()) == ["DONE", *FILES]
        for line in (path / "DONE").read_text().splitlines():
            assert sha256((path / line[66:]).read_bytes()).hexdigest() == line[:64]


# --- what a checkpoint belongs to ---------------------------------------------------------------------------------

ELSEWHERE = {"torch": "2.0.0", "machine": "abacus", "threads": 4}


def elsewhere(path):
    change(path, progress=lambda progress: {**progress, "execution": {**progress["execution"], **ELSEWHERE}})


def refusal(folder, specs, any_execution=False):
    """The message with which both the training and the look before it refuse."""
    with pytest.raises(BadInput) as early:
        Terms(folder).checkpoints(specs).refuse_unfit(any_execution)
    with pytest.raises(BadInput) as late:
        train(folder, specs, any_execution=any_execution)
    assert str(early.value) == str(late.value)
    assert kept(folder, specs) == [6, 10]  # a refused checkpoint is kept
    return str(late.value)


def test_a_checkpoint_of_another_machine_or_version_is_refused_with_a_line_for_each_difference(interrupted, specs):
    elsewhere(folder_of(interrupted, specs) / "000000010")
    first, *lines, last = refusal(interrupted, specs).splitlines()
    assert str(folder_of(interrupted, specs) / "000000010") in first
    now = Terms(interrupted).execution()
    assert lines == [
        f"  execution.{name}: {ELSEWHERE[name]!r} in the checkpoint, {now[name]!r} now" for name in sorted(ELSEWHERE)
    ]
    assert "--resume anyway" in last
    assert "--resume never" in last


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"null"])
def test_a_damaged_checkpoint_is_not_refused_for_what_its_progress_says(interrupted, specs, content):
    (folder_of(interrupted, specs) / "000000010" / "progress.json").write_bytes(content)
    Terms(interrupted).checkpoints(specs).refuse_unfit(False)


def test_a_bit_flip_in_what_progress_says_of_the_machine_is_damage_and_no_other_machine(interrupted, specs):
    path = folder_of(interrupted, specs) / "000000010" / "progress.json"
    path.write_bytes(path.read_bytes().replace(b'"threads": 1', b'"threads": 3'))
    Terms(interrupted).checkpoints(specs).refuse_unfit(False)


def test_resume_anyway_continues_what_was_begun_elsewhere(interrupted, specs, undisturbed):
    for step in (6, 10):
        elsewhere(folder_of(interrupted, specs) / f"{step:09d}")
    Terms(interrupted).checkpoints(specs).refuse_unfit(True)
    train(interrupted, specs, any_execution=True)
    assert resumed_at(interrupted, specs) == 10
    assert results(interrupted, specs) == undisturbed  # as in truth it was this machine


@pytest.mark.parametrize("any_execution", [False, True])
def test_a_checkpoint_of_other_runs_is_always_refused(interrupted, specs, any_execution):
    def other(progress):
        progress["runs"][1]["hyper"]["optimizer.lr"] = 0.5
        return progress

    change(folder_of(interrupted, specs) / "000000010", progress=other)
    message = refusal(interrupted, specs, any_execution)
    lr = dict(specs[1].hyper)["optimizer.lr"]
    assert f"  runs[1].hyper.optimizer.lr: 0.5 in the checkpoint, {lr} now" in message.splitlines()


@pytest.mark.parametrize("any_execution", [False, True])
def test_a_checkpoint_of_another_schema_is_always_refused(interrupted, specs, any_execution):
    change(folder_of(interrupted, specs) / "000000010", progress=lambda progress: {**progress, "schema": 0})
    assert f"  schema: 0 in the checkpoint, {SCHEMA} now" in refusal(interrupted, specs, any_execution)


@pytest.mark.parametrize("places", [power_of_two, compiled_width])
def test_a_checkpoint_holds_each_run_once_and_fills_whatever_places_there_are(tmp_path, places):
    specs = runs(3)
    train(tmp_path, specs, at=6)
    trainer = Trainer(specs[0].setting, CPU)
    trainer.places = places
    unit, _ = Terms(tmp_path).checkpoints(specs).latest(trainer)
    assert unit.cohort.specs == [*specs, specs[2]]
    as_it_was, _ = Terms(tmp_path).checkpoints(specs).latest(Trainer(specs[0].setting, CPU))
    for name, w in as_it_was.cohort.weights.items():
        assert torch.equal(unit.cohort.weights[name][:3], w)
        assert torch.equal(unit.cohort.weights[name][3], w[2])


def test_the_seconds_of_evaluations_are_those_of_all_attempts(tmp_path, specs):
    train(tmp_path, specs, at=10)
    unit, _ = Terms(tmp_path).checkpoints(specs).latest(Trainer(specs[0].setting, CPU))
    assert unit.evaluating > 0
    train(tmp_path, specs)
    (info,) = [json.loads(path.read_text()) for path in tmp_path.glob("units/*/unit.json")]
    assert info["evaluation_seconds"] > unit.evaluating


def test_discard_removes_the_checkpoints_of_units_that_hold_one_of_these_runs(interrupted, specs, undisturbed):
    others = runs(1, steps=12)
    train(interrupted, others, at=4)
    discard(interrupted, [specs[1].run_id])
    assert kept(interrupted, specs) == []
    assert kept(interrupted, others) == [4]
    train(interrupted, specs)
    assert resumed_at(interrupted, specs) == 0
    assert results(interrupted, specs) == undisturbed


# --- when ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set; saving takes `cost` of its seconds."""
    time = SimpleNamespace(now=1000.0, cost=0.0)
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: time.now))

    def slow(directory, files, **how):
        seal(directory, files, **how)
        time.now += time.cost

    monkeypatch.setattr(checkpoint, "seal", slow)
    return time


def seconds_until_due(checkpoints, clock):
    start = clock.now
    while not checkpoints.due():
        clock.now += 0.5
        assert clock.now - start < 10_000
    return clock.now - start


def test_checkpoints_are_as_far_apart_as_asked_or_farther_so_that_they_take_five_percent(tmp_path, specs, clock):
    prepare(tmp_path)
    checkpoints = Checkpoints(tmp_path, specs, dict, 60.0)
    unit = begin(specs, Trainer(specs[0].setting, torch.device("cpu")))
    assert seconds_until_due(checkpoints, clock) == 60
    for step, cost, gap in ((1, 1.0, 60), (2, 10.0, 190), (3, 0.0, 60)):
        unit.cohort.step, clock.cost = step, cost
        checkpoints.save(unit, 0.0)
        assert checkpoints.spent == sum((1.0, 10.0, 0.0)[:step])
        assert seconds_until_due(checkpoints, clock) == gap
    assert checkpoint.SHARE == 10 / (10 + 190)
    assert checkpoints.step() == 3


def test_every_zero_is_never_due_but_a_stop_still_saves(tmp_path, specs, clock):
    checkpoints = Checkpoints(tmp_path, specs, dict, 0.0)
    clock.now += 1e9
    assert not checkpoints.due()
    train(tmp_path, specs, at=2, checkpoint_every=0.0)
    assert kept(tmp_path, specs) == [2]


def test_a_checkpoint_that_cannot_be_written_ends_the_training(tmp_path, specs, monkeypatch):
    def full(directory, files, **how):
        raise Unwritable("cannot write: No space left on device")

    monkeypatch.setattr(checkpoint, "seal", full)
    prepare(tmp_path)
    with pytest.raises(Unwritable):
        train(tmp_path, specs, checkpoint_every=1e-9)
    with pytest.warns(Notice, match="stopped without a checkpoint: cannot write"):
        with pytest.raises(IndexError):  # of `kept(…)[-1]`: it stopped as it should, but nothing is there
            train(tmp_path, specs, at=2)


def test_a_store_that_was_removed_is_not_made_again(tmp_path, specs):
    prepare(tmp_path / "results")
    unit = begin(specs, Trainer(specs[0].setting, torch.device("cpu")))
    checkpoints = Terms(tmp_path / "results").checkpoints(specs)
    shutil.rmtree(tmp_path / "results")
    with pytest.raises(Unwritable, match="cannot write"):
        checkpoints.save(unit, 0.0)
    assert not (tmp_path / "results").exists()


# --- what was started ---------------------------------------------------------------------------------------------


def ids(specs):
    return [spec.run_id for spec in specs]


def test_what_was_started_is_found_by_its_checkpoints(interrupted, specs):
    assert started(interrupted) == [ids(specs)]
    other = runs(1, steps=12)
    train(interrupted, other, at=1)
    assert sorted(started(interrupted)) == sorted([ids(specs), ids(other)])
    assert started(interrupted / "nowhere") == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"null", b"{}", b'{"run_ids": 3}', b'{"run_ids": ["a"]}'])
def test_damaged_progress_does_not_stop_the_search_for_what_was_started(interrupted, specs, content):
    (folder_of(interrupted, specs) / "000000010" / "progress.json").write_bytes(content)
    (interrupted / "checkpoints" / "a file").write_text("")
    assert started(interrupted) == [ids(specs)]  # from the one before
    (folder_of(interrupted, specs) / "000000006" / "progress.json").write_bytes(content)
    assert started(interrupted) == []


def test_a_copy_under_another_name_is_not_what_was_started(interrupted, specs):
    folder_of(interrupted, specs).rename(interrupted / "checkpoints" / ("0" * 16))
    assert started(interrupted) == []


def test_a_stray_directory_beside_checkpoints_does_no_harm(interrupted, specs):
    (folder_of(interrupted, specs) / "000000010 (copy)").mkdir()
    assert Terms(interrupted).checkpoints(specs).step() == 10


def test_a_started_unit_continues_as_it_was_whatever_the_width_and_order_asked_for(interrupted, specs, undisturbed):
    asked = [*runs(1, steps=12), *specs[::-1]]
    cohorts = plan(asked, 1, 4, started(interrupted))
    assert [ids(cohort) for cohort in cohorts] == [ids(specs), ids(asked[:1])]
    assert execute(cohorts, Terms(interrupted), 1, ()) == []
    assert resumed_at(interrupted, specs) == 10
    assert results(interrupted, specs) == undisturbed
    assert list((interrupted / "checkpoints").iterdir()) == []


# --- nothing is unpickled -----------------------------------------------------------------------------------------

PICKLES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unpickling(tree):
    """What in this module's source could unpickle."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] in PICKLES)
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[0]
            if module in PICKLES or (
                module in ("torch", "numpy", "pandas")
                and any(name.name in ("load", "read_pickle") for name in node.names)
            ):
                yield f"from {node.module}"
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if node.attr == "read_pickle" or text in ("torch.load", "torch.hub", "torch.serialization"):
                yield text
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if said.get("allow_pickle") != "False":
                yield ast.unparse(node)


def test_nothing_in_the_package_unpickles():
    """What is read from disk never runs code.

    Out of scope: the pipe between our own processes, through which multiprocessing sends pickles of its own making.
    """
    root = Path(checkpoint.__file__).parents[1]
    files = sorted(root.rglob("*.py"))
    assert len(files) > 30
    found = [f"{path.relative_to(root)}: {what}" for path in files for what in unpickling(ast.parse(path.read_text()))]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import os, dill as d",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import pandas as pd\npd.read_pickle('x')",
        "f = torch.load",
    ],
)
def test_the_search_for_unpickling_finds_it(code):
    assert list(unpickling(ast.parse(code)))
