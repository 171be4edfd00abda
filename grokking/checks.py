"""How settings are checked, before any work: every mistake is one `BadInput` sentence."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from grokking.errors import BadInput, words
from grokking.inits import inits, try_init
from grokking.losses import losses, try_loss
from grokking.measures import measured
from grokking.models.adopted import try_model
from grokking.optim import optimizers
from grokking.optim.schedules import schedules
from grokking.optim.transforms import transforms
from grokking.optim.trial import try_optimizer, try_schedule, try_transform
from grokking.registry import Scalar, Settings, Share, is_rate, suggest
from grokking.scaling import check_factors
from grokking.setting import DEFAULTS, KINDS, Setting
from grokking.tasks import prompted, split, tasks

PER_RUN = ("optimizer", "schedule", "transform")  # whose float options are numbers of each run, and split no cohort
PRECISIONS = ("fp32", "tf32", "bf16")
RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {  # what a value may be, in words and in code
    "steps": ("integers from 1 on", lambda x: x >= 1),
    "evaluation.every": ("integers from 1 on", lambda x: x >= 1),
    "linger": ("finite numbers from 0 on", lambda x: 0 <= x < math.inf),
    "evaluation.growth": ("finite numbers from 0 on", lambda x: 0 <= x < math.inf),
    "precision": (", ".join(PRECISIONS), lambda x: x in PRECISIONS),
    "threshold": ("above 0, up to 1", lambda x: 0 < x <= 1),
    "label_noise": ("0 to 1", lambda x: 0 <= x <= 1),
    "init.scale": ("positive finite numbers", lambda x: 0 < x < math.inf),
    "train_fraction": ("strictly between 0 and 1", lambda x: 0 < x < 1),
}


def refuse_unknown(settings: Settings, known: Settings) -> None:
    """Raise `BadInput` for a name that is not among the known ones."""
    for name in settings:
        if name not in known:
            _, own, rest = name.partition("transform.")
            if own and (called := rest.partition(".")[0]) in transforms:
                raise BadInput(f"{name} is an option of a transform that is not in use; add transforms={called}")
            kind, _, option = name.partition(".")
            having = [entry.name for entry in KINDS[kind].values() if option in entry.defaults] if kind in KINDS else []
            others = f" (an option of {kind}.name={', '.join(having)})" if having else ""
            raise BadInput(f"unknown setting {name!r}{others}; {suggest(name, sorted(known))}")


def told_by_the_name(settings: Settings) -> Settings:
    """`task.name = "mod_add:97"` is the task with its first option: `mod_add` and `task.p = 97`."""
    name, told, value = str(settings.get("task.name", DEFAULTS["task.name"])).partition(":")
    if not told:
        return settings
    if not tasks[name].defaults:
        raise BadInput(f"task.name = {settings['task.name']!r}, but {name} has no options; leave {':' + value!r} out")
    option = f"task.{next(iter(tasks[name].defaults))}"
    if str(settings.get(option, value)) != value:
        raise BadInput(
            f"task.name = {settings['task.name']!r} says {option} = {value!r}, but {option} = {settings[option]!r} was said, too; say it once"
        )
    return {**settings, "task.name": name, option: value}


def cast(name: str, value: Scalar, default: Scalar) -> Scalar:
    """The value in the type of its default; `BadInput` where it has none in that type."""
    kind = float if isinstance(default, float) else type(default)
    try:
        if kind is bool:
            if str(value).lower() not in ("true", "false"):
                raise ValueError
            return str(value).lower() == "true"
        if kind is int and (float(value) != int(float(value)) or abs(float(value)) >= 2**31):
            raise ValueError
        if kind is float:
            checked_later = name in RANGES or name.split(".")[0] in PER_RUN
            if math.isnan(float(value)) and not checked_later:
                raise ValueError
            return float(value) + 0.0  # -0.0 and 0.0 are one number
        if kind is str and not str(value).isprintable():
            raise ValueError
        return int(float(value)) if kind is int else str(value)
    except (ValueError, TypeError, OverflowError):
        allowed = {bool: "true or false", int: "integers", float: "numbers", str: "text on one line"}[kind]
        hint = f" (its default is {default}; one written {default}.0 would allow numbers)" if kind is int else ""
        raise BadInput(
            f"{name} = {value!r}; allowed: {allowed}{hint if name.split('.')[0] in PER_RUN else ''}"
        ) from None


def check_number(name: str, value: float, default: Scalar, external: bool) -> None:
    """Raise `BadInput` where a run's number is out of the range that its name and its default imply."""
    last = name.split(".")[-1]
    if is_rate(last) or last == "bound":
        allowed, good = "positive finite numbers", 0 < value < math.inf
    elif external:  # it knows itself what it takes
        allowed, good = "finite numbers", math.isfinite(value)
    elif last in ("momentum", "alpha") or "beta" in last:
        allowed, good = "0 up to, but not including, 1", 0 <= value < 1
    elif isinstance(default, Share):
        allowed, good = "0 to 1", 0 <= value <= 1
    elif isinstance(default, float) and default < 0:
        allowed, good = "finite numbers", math.isfinite(value)
    else:
        allowed, good = "finite numbers from 0 on", 0 <= value < math.inf
    if not good:
        raise BadInput(f"{name} = {value}; allowed: {allowed}")


@lru_cache(maxsize=256)
def check_setting(setting: Setting) -> None:
    """Raise `BadInput` where the static part of a run cannot be trained; what is in use is tried without work."""
    _check_ranges(setting)
    _check_batch_size(setting)
    try_model(setting.model(), setting.table(), setting.name("model"))
    _refuse_draws(setting)
    try_loss(losses[setting.name("loss")], setting.options("loss"), setting.table().classes)
    try_init(inits[setting.name("init")], {k: v for k, v in setting.options("init").items() if k != "scale"})
    entry, options = optimizers[setting.name("optimizer")], setting.options("optimizer")
    try_schedule(schedules[setting.name("schedule")], setting.options("schedule"), setting.integer("steps"))
    for name in setting.transforms:
        try_transform(transforms[name], setting.options(f"transform.{name}"), entry)
    if setting.scaled:
        check_factors(setting.factors)
        for name in setting.transforms:
            if transforms[name].extra["at"] != "gradients":
                raise BadInput(
                    f"transform {name!r} changes weights or updates by rates that scaling {setting.name('scaling')!r} does not "
                    "know; leave one of them out"
                )
    if setting.measures:
        try_measures(setting)
    if not setting.external:
        try_optimizer(entry, options)
    elif setting.transforms:
        raise BadInput(
            f"transforms = {setting.by_name['transforms']!r}, but {entry.name} takes its gradients as they are; leave "
            "transforms out, or take one of `grokking list optimizers`"
        )


def try_measures(setting: Setting) -> None:
    """Raise `BadInput` where a measure fails on the model as it starts, on a few examples."""
    tokens = torch.as_tensor(setting.table().tokens[:4]).long()
    for name in setting.measures:
        try:
            measured([name], setting.started_model(), tokens)
        except BadInput as error:
            raise BadInput(f"measure {name!r}: {error}") from None
        except (Exception, SystemExit) as error:
            raise BadInput(f"measure {name!r} fails on model {setting.name('model')!r}: {words(error)}") from error


def _refuse_draws(setting: Setting) -> None:
    """Raise `BadInput` where what a user wrote gives another thing each time: it draws from a generator that no seed governs."""
    if setting.of_users("task"):
        again = tasks[setting.name("task")].make(**setting.options("task"))
        again, table = prompted(again, str(setting.by_name["prompt"])), setting.table()
        if again.tokens.tobytes() != table.tokens.tobytes() or again.labels.tobytes() != table.labels.tobytes():
            raise BadInput(
                f"task {setting.name('task')!r}, made twice, has other examples or labels; draw from grokking.seeding.stream(0, …)"
            )
    if setting.of_users("model"):
        built = [setting.model("cpu") for _ in range(2)]
        first, second = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in built)
        differing = [name for name in first if not torch.equal(first[name].nan_to_num(), second[name].nan_to_num())]
        if differing:
            raise BadInput(
                f"model {setting.name('model')!r}, built twice from one seed, differs in {', '.join(differing)}; draw from PyTorch's "
                "CPU generator"
            )


def _check_ranges(setting: Setting) -> None:
    for name, (allowed, good) in RANGES.items():
        value = setting.by_name[name]
        if not good(value):
            raise BadInput(f"{name} = {value!r}; allowed: {allowed}")


def _check_batch_size(setting: Setting) -> None:
    batch_size, optimizer = setting.integer("batch_size"), setting.name("optimizer")
    if batch_size < 0:
        raise BadInput(f"batch_size = {batch_size}; allowed: integers from 0 on (0: the whole training set)")
    examples = len(split(len(setting.table().tokens), setting.number("train_fraction"), 0)[0])
    if optimizers[optimizer].extra["full_batch"] and 0 < batch_size < examples:
        raise BadInput(
            f"batch_size = {batch_size}, but {optimizer} sees all {examples} training examples at every step; "
            "leave batch_size out, or take sgd"
        )
