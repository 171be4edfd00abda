"""What every optimizer, transform, schedule, model, task, loss and init has to keep, a user's too: tried on small runs.

`grokking check my_rule.py` tries all that a file registers; `check_optimizer("adamw")`, `check_transform("clip_norm")`,
`check_schedule("cosine")`, `check_model("mlp")` and `check_task("gcd")` raise in a test of your own.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import torch

from grokking.checks import told_by_the_name
from grokking.errors import BadInput, words
from grokking.inits import inits
from grokking.losses import losses
from grokking.models import models
from grokking.optim import optimizers
from grokking.optim.schedules import schedules
from grokking.optim.transforms import transforms
from grokking.registry import Registry, Scalar, suggest
from grokking.runs import RunSpec, run_spec
from grokking.selfcheck import Promise
from grokking.tasks import tasks
from grokking.testing.quadratic import descends, external_problem, problem, stays
from grokking.testing.trained import alone_as_among, contains_nan, keeps_shapes, mates, survives_a_checkpoint

SMALL: dict[str, Scalar] = {  # of which a model or a task takes what it knows
    "task.p": 7,
    "train_fraction": 0.6,
    "batch_size": 16,
    "model.width": 16,
    "model.heads": 2,
    "model.bias": True,
    "model.norm": "layernorm",
    "steps": 40,
}


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


def check_model(name: str, **settings: Scalar) -> None:
    """Raise `Broken` at the first promise that the model does not keep."""
    _raise_at_first(model_promises(name, settings))


def check_task(name: str, **settings: Scalar) -> None:
    """Raise `Broken` at the first promise that the task does not keep."""
    _raise_at_first(task_promises(name, settings))


def kind_of(name: str) -> tuple[str, str]:
    """The kind of what has this name, and the name; `BadInput` where nothing has."""
    for kind, (there, _) in CHECKED.items():
        if name in there:
            return kind, name
    if "." in name:  # anyone's optimizer
        return "optimizer", optimizers[name].name
    known = sorted(known for registry, _ in CHECKED.values() for known in registry)
    raise BadInput(f"nothing that can be checked is called {name!r}; {suggest(name, known)}")


def promises_of(kind: str, name: str) -> Iterator[Promise]:
    """The promises of what is registered as a kind under a name."""
    return CHECKED[kind][1](name)


def optimizer_promises(name: str, settings: Mapping[str, Scalar] | None = None) -> Iterator[Promise]:
    """Try every promise of an optimizer, with these settings changed."""
    spec = small_run({"optimizer.name": name}, settings)
    own = external_problem if spec.setting.external else problem
    yield _promise("some learning rate takes it down a convex quadratic", lambda: descends(own, spec))
    yield _promise("zero gradients and zero decay leave the weights where they are", lambda: stays(own, spec))
    yield from _in_the_engine(spec)


def transform_promises(name: str, settings: Mapping[str, Scalar] | None = None) -> Iterator[Promise]:
    """Try every promise of a transform, before AdamW's rule."""
    _ = transforms[name]
    yield from _in_the_engine(small_run({"transforms": name}, settings))


def schedule_promises(name: str, settings: Mapping[str, Scalar] | None = None) -> Iterator[Promise]:
    """Try every promise of a schedule, for budgets of 1 step to 1,000."""
    spec = small_run({"schedule.name": name}, settings)
    yield _promise("every factor is a finite number from 0 on", lambda: _finite_factors(spec))
    yield from _in_the_engine(spec)


def model_promises(name: str, settings: Mapping[str, Scalar] | None = None) -> Iterator[Promise]:
    """Try every promise of a model, on x + y (mod 7)."""
    spec = small_run({"model.name": name}, settings)
    yield _promise("an example's scores do not depend on the others of its batch", lambda: _scores_alone(spec))
    yield from _in_the_engine(spec)


def task_promises(name: str, settings: Mapping[str, Scalar] | None = None) -> Iterator[Promise]:
    """Try every promise of a task, with a small transformer."""
    yield from _in_the_engine(small_run({"task.name": name}, settings))


def loss_promises(name: str, settings: Mapping[str, Scalar] | None = None) -> Iterator[Promise]:
    """Try every promise of a loss."""
    yield from _in_the_engine(small_run({"loss.name": name}, settings))


def init_promises(name: str, settings: Mapping[str, Scalar] | None = None) -> Iterator[Promise]:
    """Try every promise of an initialisation."""
    spec = small_run({"init.name": name}, settings)
    yield _promise("a seed has one draw, and another seed another", lambda: _follows_the_seed(spec))
    yield from _in_the_engine(spec)


CHECKED: dict[str, tuple[Registry, Callable[[str], Iterator[Promise]]]] = {
    "optimizer": (optimizers, optimizer_promises),
    "transform": (transforms, transform_promises),
    "schedule": (schedules, schedule_promises),
    "model": (models, model_promises),
    "task": (tasks, task_promises),
    "loss": (losses, loss_promises),
    "init": (inits, init_promises),
}


def small_run(chosen: Mapping[str, Scalar], changed: Mapping[str, Scalar] | None = None) -> RunSpec:
    """A run of 40 steps with what is to be tried; `changed` has `optimizer__lr` for `optimizer.lr`."""
    more = {name.replace("__", "."): value for name, value in (changed or {}).items()}
    settings = told_by_the_name({**chosen, **more})
    model, task = (
        models[str(settings.get("model.name", "transformer"))],
        tasks[str(settings.get("task.name", "mod_add"))],
    )
    known = {"model": model.defaults, "task": task.defaults}
    small = {key: value for key, value in SMALL.items() if _knows(known, key)}
    full = {"batch_size": 0} if optimizers[str(settings.get("optimizer.name", "adamw"))].extra["full_batch"] else {}
    return run_spec({**small, **full, **settings}, 3)


def _knows(known: Mapping[str, Mapping[str, Scalar]], setting: str) -> bool:
    kind, _, option = setting.partition(".")
    return kind not in known or option in known[kind]


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


def _in_the_engine(spec: RunSpec) -> Iterator[Promise]:
    others = mates(spec)
    yield _promise("shapes and types of weights and state stay as they are", lambda: keeps_shapes(spec))
    yield _promise("a run has the same bits alone and among others", lambda: alone_as_among(spec, others))
    yield _promise("a NaN stays in its run", lambda: contains_nan(spec, others))
    if not spec.setting.external:
        yield _promise("a checkpoint holds all of its state", lambda: survives_a_checkpoint([spec, *others]))


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


def _scores_alone(spec: RunSpec) -> str:
    model, tokens = spec.setting.started_model(), torch.from_numpy(spec.setting.table().tokens[:4])
    with torch.no_grad():
        together, alone = model(tokens)[:1], model(tokens[:1])
    apart = float((together - alone).abs().max() / together.abs().max().clamp_min(1e-12))
    return "" if apart < 1e-4 else f"beside three others they differ by {apart:.2g} of the largest"


def _follows_the_seed(spec: RunSpec) -> str:
    first, again, other = (spec.setting.initial_weights(seed) for seed in (0, 0, 1))
    if any(not first[name].equal(again[name]) for name in first):
        return "drawn twice with one seed, weights differ; draw from the generator that is given"
    return "" if any(not first[name].equal(other[name]) for name in first) else "two seeds give the same weights"
