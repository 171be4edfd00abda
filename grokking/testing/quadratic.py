"""A rule on a problem without data, ½ scale ‖w - target‖²: does it go down, and stay where nothing pulls?"""

import itertools
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from grokking.optim import Numbers, State, optimizers
from grokking.optim.stepping import made, take_step
from grokking.registry import Scalar, is_rate
from grokking.roles import Role
from grokking.runs import RunSpec
from grokking.seeding import stream
from grokking.setting import contract, optimizer_options

RATES = [10.0**-power for power in (0, 0.5, 1, 1.5, 2, 2.5, 3, 4)]
DESCENT = 150  # steps, or as many as it takes
LOW_ENOUGH = 0.25  # of the loss at the start
SHAPES = {Role.HIDDEN: (5, 3), Role.EMBEDDING: (3, 4), Role.HEAD: (4, 5), Role.GAIN: (4,), Role.BIAS: (5,)}

Points = list[tuple[Tensor, Tensor]]  # start and target of each parameter
# The points of a problem, ½ scale ‖w - target‖² summed over parameters, and the weights after each step.
Problem = Callable[[RunSpec, Mapping[str, Scalar], float], tuple[Points, Iterator[list[Tensor]]]]


def problem(spec: RunSpec, options: Mapping[str, Scalar], scale: float) -> tuple[Points, Iterator[list[Tensor]]]:
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


def external_problem(
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
            torch.default_generator.manual_seed(0)
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


def descends(problem: Problem, spec: RunSpec) -> str:
    """Nothing where some learning rate takes the loss down; else, how far it went."""
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


def stays(problem: Problem, spec: RunSpec) -> str:
    """Nothing where weights stay without gradients and decay; else, which moved."""
    points, steps = problem(spec, _options(spec), 0.0)
    for weights in itertools.islice(steps, 5):
        moved = [tuple(w.shape) for w, (first, _) in zip(weights, points, strict=True) if not w.equal(first)]
        if moved:
            return f"parameters that moved, by their shapes: {', '.join(map(str, moved))}"
    return ""
