"""What every optimizer, every transform and every schedule has to keep, a user's too: tried on small runs, one promise after the other.

`grokking check my_rule.py` tries all that a file registers; `check_optimizer("adamw")`, `check_transform("clip_norm")` and
`check_schedule("cosine")` raise in a test of your own.
"""

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from grokking.engine.checkpoint import Checkpoints
from grokking.engine.cohort import Cohort, start
from grokking.engine.external import ExternalTrainer
from grokking.engine.loop import Training, Trains, begin
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput, words
from grokking.optim import Numbers, State, optimizers
from grokking.optim.schedules import schedules
from grokking.optim.stepping import made, take_step
from grokking.optim.transforms import transforms
from grokking.registry import Registry, Scalar, is_rate
from grokking.roles import Role
from grokking.runs import RunSpec, run_spec
from grokking.seeding import stream
from grokking.selfcheck import Promise
from grokking.setting import contract, optimizer_options
from grokking.store import prepare

CPU = torch.device("cpu")
SMALL: dict[str, Scalar] = {
    "task.p": 7,
    "train_fraction": 0.6,
    "batch_size": 16,
    "model.width": 16,
    "model.heads": 2,
    "model.bias": True,
    "model.norm": "layernorm",
    "steps": 40,
}
RATES = [10.0**-power for power in (0, 0.5, 1, 1.5, 2, 2.5, 3, 4)]
DESCENT = 150  # steps on the quadratic, or as many as it takes
LOW_ENOUGH = 0.25  # of the loss at the start
SHAPES = {Role.HIDDEN: (5, 3), Role.EMBEDDING: (3, 4), Role.HEAD: (4, 5), Role.GAIN: (4,), Role.BIAS: (5,)}


class Broken(AssertionError):
    """A promise that did not hold, and what was seen."""


def check_optimizer(name: str, **settings: Scalar) -> None:
    """Raise `Broken` at the first promise that the optimizer does not keep; `optimizer__lr` stands for `optimizer.lr`."""
    _raise_at_first(optimizer_promises(name, settings))


def check_transform(name: str, **settings: Scalar) -> None:
    """Raise `Broken` at the first promise that the transform does not keep."""
    _raise_at_first(transform_promises(name, settings))


def check_schedule(name: str, **settings: Scalar) -> None:
    """Raise `Broken` at the first promise that the schedule does not keep."""
    _raise_at_first(schedule_promises(name, settings))


def kind_of(name: str) -> tuple[str, str]:
    """The kind of what has this name, and the name; `BadInput` where nothing has."""
    for kind, (there, _) in CHECKED.items():
        if name in there:
            return kind, name
    return "optimizer", optimizers[name].name


def promises_of(kind: str, name: str) -> Iterator[Promise]:
    """The promises of an optimizer, a transform or a schedule."""
    return CHECKED[kind][1](name)


def optimizer_promises(name: str, settings: Mapping[str, Scalar] | None = None) -> Iterator[Promise]:
    """Try every promise of an optimizer, with these settings changed."""
    spec = _spec({"optimizer.name": name}, settings or {})
    problem = _external_problem if spec.setting.external else _problem
    yield _promise("some learning rate takes it down a convex quadratic", lambda: _descends(problem, spec))
    yield _promise("zero gradients and zero decay leave the weights where they are", lambda: _stays(problem, spec))
    yield from _in_the_engine(spec)


def transform_promises(name: str, settings: Mapping[str, Scalar] | None = None) -> Iterator[Promise]:
    """Try every promise of a transform, before AdamW's rule."""
    _ = transforms[name]
    yield from _in_the_engine(_spec({"transforms": name}, settings or {}))


def schedule_promises(name: str, settings: Mapping[str, Scalar] | None = None) -> Iterator[Promise]:
    """Try every promise of a schedule, for budgets of 1 step to 1,000."""
    _ = schedules[name]
    spec = _spec({"schedule.name": name}, settings or {})
    yield _promise("every factor is a finite number from 0 on", lambda: _finite_factors(spec))
    yield from _in_the_engine(spec)


CHECKED: dict[str, tuple[Registry, Callable[[str], Iterator[Promise]]]] = {
    "optimizer": (optimizers, optimizer_promises),
    "transform": (transforms, transform_promises),
    "schedule": (schedules, schedule_promises),
}


def _finite_factors(spec: RunSpec) -> str:
    own = {key.removeprefix("schedule."): value for key, value in spec.hyper if key.startswith("schedule.")}
    numbers = {key: torch.tensor(value, dtype=torch.float64) for key, value in own.items()}
    for steps in (1, 2, 10, 1_000):
        for step in range(1, steps + 1):
            at = torch.tensor(float(step), dtype=torch.float64)
            options = {**spec.setting.options("schedule"), **numbers}
            factor = float(schedules[spec.setting.name("schedule")].make(at, steps, **options))
            if not 0 <= factor < math.inf:
                return f"{factor:g} at step {step} of {steps}"
    return ""


def _spec(chosen: Mapping[str, Scalar], changed: Mapping[str, Scalar]) -> RunSpec:
    more = {name.replace("__", "."): value for name, value in changed.items()}
    full = {"batch_size": 0} if optimizers[str(chosen.get("optimizer.name", "adamw"))].extra["full_batch"] else {}
    return run_spec({**SMALL, **full, **chosen, **more}, 3)


def _raise_at_first(promises: Iterator[Promise]) -> None:
    for promise in promises:
        if not promise.held:
            raise Broken(f"{promise.text}: no, {promise.seen}")


def _promise(text: str, tried: Callable[[], str]) -> Promise:
    """Held if `tried` returns nothing; what it returns, or the error that it raises, is what was seen."""
    try:
        seen = tried()
    except BadInput as error:
        seen = str(error)
    except (Exception, SystemExit) as error:
        seen = words(error)
    return Promise(text, not seen, seen)


# --- on problems without data -------------------------------------------------------------------------------------------

Points = list[tuple[Tensor, Tensor]]  # start and target of each parameter
# The points of a problem, ½ scale ‖w - target‖² summed over parameters, and the weights after each step.
Problem = Callable[[RunSpec, Mapping[str, Scalar], float], tuple[Points, Iterator[list[Tensor]]]]


def _problem(spec: RunSpec, options: Mapping[str, Scalar], scale: float) -> tuple[Points, Iterator[list[Tensor]]]:
    """By a rule, a parameter of each role."""
    entry = optimizers[spec.setting.name("optimizer")]
    numbers = {k: torch.tensor(v, dtype=torch.float64) if isinstance(v, float) else v for k, v in options.items()}
    points = [_point(shape) for shape in SHAPES.values()]

    def steps() -> Iterator[list[Tensor]]:
        weights = [w for w, _ in points]
        states = [
            State({slot: first(w) for slot, first in entry.extra["slots"](role, options).items()})
            for role, w in zip(SHAPES, weights, strict=True)
        ]
        for step in itertools.count(1):
            h = Numbers({**numbers, "step": torch.tensor(float(step), dtype=torch.float64)})
            for at, (role, (_, target)) in enumerate(zip(SHAPES, points, strict=True)):
                gradient = scale * (weights[at] - target)
                weights[at], states[at] = entry.make(weights[at], gradient, states[at], h, role)
            yield weights

    return points, steps()


def _external_problem(
    spec: RunSpec, options: Mapping[str, Scalar], scale: float
) -> tuple[Points, Iterator[list[Tensor]]]:
    """By anyone's optimizer, the parameters of the model."""
    model = spec.setting.started_model()
    points = [(p.detach().clone(), _point(tuple(p.shape))[1]) for p in model.parameters()]

    def loss() -> Tensor:
        pairs = zip(model.parameters(), points, strict=True)
        return scale * torch.stack([_loss(p, target) for p, (_, target) in pairs]).sum()

    def steps() -> Iterator[list[Tensor]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            optimizer = made(optimizers[spec.setting.name("optimizer")], options, model)
            while True:
                take_step(optimizer, contract(spec.setting, spec.hyper), loss)
                yield [p.detach() for p in model.parameters()]

    return points, steps()


def _loss(w: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (w - target).square().sum()


def _point(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A start and a target of this shape, always the same."""
    w, target = torch.from_numpy(stream(0, "contract", *map(str, shape)).standard_normal((2, *shape))).float().unbind()
    return w, target


def _options(spec: RunSpec, **changed: float) -> dict[str, Scalar]:
    """The optimizer's numbers in this run, without decay, and with another rate."""
    options = optimizer_options(spec.setting, spec.hyper)
    decays = {
        name: 0.0 for name, value in options.items() if name.endswith("weight_decay") and isinstance(value, float)
    }
    rates = {name: changed["lr"] for name in options if "lr" in changed and is_rate(name)}
    return {**options, **decays, **rates}


def _descends(problem: Problem, spec: RunSpec) -> str:
    least = 1.0
    for lr in RATES:
        points, steps = problem(spec, _options(spec, lr=lr), 1.0)
        first = sum(float(_loss(w, target)) for w, target in points)
        for weights in itertools.islice(steps, DESCENT):
            now = sum(float(_loss(w, target)) for w, (_, target) in zip(weights, points, strict=True)) / first
            if now < LOW_ENOUGH:
                return ""
            if not now < 1e6:
                break
            least = min(least, now)
    return f"within {DESCENT} steps, at the best of {len(RATES)} learning rates, the loss falls to {least:.2g} of what it was"


def _stays(problem: Problem, spec: RunSpec) -> str:
    points, steps = problem(spec, _options(spec), 0.0)
    for weights in itertools.islice(steps, 5):
        moved = [tuple(w.shape) for w, (first, _) in zip(weights, points, strict=True) if not w.equal(first)]
        if moved:
            return f"parameters that moved, by their shapes: {', '.join(map(str, moved))}"
    return ""


# --- in the engine ------------------------------------------------------------------------------------------------------


def _in_the_engine(spec: RunSpec) -> Iterator[Promise]:
    mates = [run_spec({**_settings(spec), **_other_numbers(spec, 1 - 0.2 * at)}, seed) for at, seed in ((1, 4), (2, 5))]
    yield _promise("shapes and types of weights and state stay as they are", lambda: _keeps_shapes(spec))
    yield _promise("a run has the same bits alone and among others", lambda: _alone_as_among(spec, mates))
    yield _promise("a NaN stays in its run", lambda: _contains_nan(spec, mates))
    if not spec.setting.external:
        yield _promise("a checkpoint holds all of its state", lambda: _survives_a_checkpoint([spec, *mates]))


def _settings(spec: RunSpec) -> dict[str, Scalar]:
    return {**spec.setting.by_name, **dict(spec.hyper)}


def _other_numbers(spec: RunSpec, factor: float) -> dict[str, float]:
    return {name: value * factor for name, value in spec.hyper}


def _trainer(spec: RunSpec) -> Trains:
    return (ExternalTrainer if spec.setting.external else Trainer)(spec.setting, CPU)


def _advanced(specs: Sequence[RunSpec], steps: int, change: Callable[[Cohort], None] = lambda cohort: None) -> Cohort:
    """The cohort of these runs after so many steps, `change`d at its start."""
    trainer = _trainer(specs[0])
    cohort = start(specs, CPU, places=trainer.places)
    change(cohort)
    for _ in range(steps):
        trainer.advance(cohort)
    return cohort


def _signature(cohort: Cohort) -> dict[str, Any]:
    named: dict[str, Any] = {name: (tuple(w.shape), w.dtype) for name, w in cohort.weights.items()}
    for name, slots in cohort.state.items():
        named |= {f"{slot} of {name}": (tuple(s.shape), s.dtype) for slot, s in slots.items()}
    return named


def _keeps_shapes(spec: RunSpec) -> str:
    before, after = _signature(_advanced([spec], 0)), _signature(_advanced([spec], 2))
    changed = [
        f"{name} {before.get(name)} → {after.get(name)}"
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]
    return "; ".join(changed)


def _first_run(cohort: Cohort) -> list[Tensor]:
    return [tensor[0] for tensor in tree_leaves((cohort.weights, cohort.state))]


def _equal(ours: Cohort, theirs: Cohort) -> bool:
    """Whether the first run of both is the same, to the bit."""
    return all(
        a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(_first_run(ours), _first_run(theirs), strict=True)
    )


def _alone_as_among(spec: RunSpec, mates: Sequence[RunSpec]) -> str:
    if _equal(_advanced([spec], 5), _advanced([spec, *mates], 5)):
        return ""
    return "after 5 steps its weights or state differ from those that it has beside two others"


def _contains_nan(spec: RunSpec, mates: Sequence[RunSpec]) -> str:
    def poison(cohort: Cohort) -> None:
        for w in cohort.weights.values():
            w[1:] = torch.nan

    among = _advanced([spec, *mates], 3, poison)
    if not _equal(_advanced([spec, *mates], 3), among):
        return "it changes a run beside it"
    return "" if not among.finite[1:].any() else "the run that has it goes on"


def _survives_a_checkpoint(specs: Sequence[RunSpec]) -> str:
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place))
        trainer = Trainer(specs[0].setting, CPU)
        unit = begin(specs, trainer)
        _advance(trainer, unit, 3)
        checkpoints = Checkpoints(Path(place), specs, {}, 1.0)
        checkpoints.save(unit, 0.0)
        found = checkpoints.latest(Trainer(specs[0].setting, CPU))
        if found is None:
            return "nothing could be read back"
        _advance(trainer, unit, 3)
        _advance(Trainer(specs[0].setting, CPU), found[0], 3)
    same = all(
        a.numpy().tobytes() == b.numpy().tobytes()
        for a, b in zip(tree_leaves(unit.cohort.moving), tree_leaves(found[0].cohort.moving), strict=True)
    )
    return "" if same else "continued from one, the runs go elsewhere"


def _advance(trainer: Trains, unit: Training, steps: int) -> None:
    for _ in range(steps):
        trainer.advance(unit.cohort)
