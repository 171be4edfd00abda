"""What a run is: settings by dotted name, complete and hashable."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from grokking.errors import BadInput
from grokking.later import LATER
from grokking.losses import losses
from grokking.models import models
from grokking.optim import Numbers, State, optimizers
from grokking.optim.schedules import schedules
from grokking.registry import Registry, Scalar, suggest
from grokking.roles import Role, declarations
from grokking.tasks import Table, split, tasks

Settings = Mapping[str, Scalar]

ENGINE_VERSION = "1"  # raised when the engine's own results change (streams, batches, evaluation)
KINDS: dict[str, Registry] = {
    "task": tasks,
    "model": models,
    "loss": losses,
    "optimizer": optimizers,
    "schedule": schedules,
}
DEFAULTS: dict[str, Scalar] = {
    "task.name": "mod_add",
    "model.name": "transformer",
    "loss.name": "cross_entropy",
    "optimizer.name": "adamw",
    "schedule.name": "linear_warmup",
    "train_fraction": 0.4,
    "batch_size": 512,
    "steps": 10_000,
    "threshold": 0.95,
    "linger": 0.5,
    "evaluation.every": 10,
    "evaluation.growth": 0.05,
    "precision": "fp32",
}
PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class Setting:
    """The static part of a run: everything that decides a shape or a code path, by dotted name, sorted."""

    values: tuple[tuple[str, Scalar], ...]
    versions: tuple[tuple[str, str], ...]  # of the engine and of each registered thing in use

    @cached_property
    def by_name(self) -> dict[str, Scalar]:
        """The values as a mapping."""
        return dict(self.values)

    def number(self, name: str) -> float:
        """The value of a numeric setting."""
        value = self.by_name[name]
        assert isinstance(value, (int, float))
        return value

    def integer(self, name: str) -> int:
        """The value of an integer setting."""
        value = self.by_name[name]
        assert isinstance(value, int)
        return value

    def options(self, kind: str) -> dict[str, Scalar]:
        """The static options of the task, model, …, without the prefix and the name."""
        prefix = kind + "."
        return {
            key.removeprefix(prefix): value
            for key, value in self.values
            if key.startswith(prefix) and key != prefix + "name"
        }

    def name(self, kind: str) -> str:
        """The registered name of the task, model, …"""
        return str(self.by_name[f"{kind}.name"])

    def table(self) -> Table:
        """The task's table of examples."""
        return _table(self.name("task"), tuple(self.options("task").items()))

    def model(self) -> torch.nn.Module:
        """The model, on the `meta` device: shapes, roles and code, no weights."""
        with torch.device("meta"):
            return models[self.name("model")].make(self.table(), **self.options("model"))


def check_versions(setting: Setting) -> None:
    """Raise `BadInput` where what is registered in this process is not what the setting was made with.

    A user's file may be edited between a sweep's start and the moment at which a worker imports it.
    """
    for kind, version in setting.versions:
        if kind in KINDS and (now := KINDS[kind][setting.name(kind)].version) != version:
            raise BadInput(
                f"{kind} {setting.name(kind)!r} has changed since this sweep began ({version}, now {now}); start it again"
            )


@lru_cache(maxsize=32)
def _table(name: str, options: tuple[tuple[str, Scalar], ...]) -> Table:
    try:
        table = tasks[name].make(**dict(options))
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"task {name!r} fails with {dict(options)}: {type(error).__name__}: {error}") from error
    if not isinstance(table, Table):
        raise BadInput(f"task {name!r} returns {type(table).__name__}; a task returns a Table")
    return table


@dataclass(frozen=True)
class RunSpec:
    """A run is its description: static setting, per-run numbers, seed."""

    setting: Setting
    hyper: tuple[tuple[str, float], ...]  # the optimizer's float options by dotted name, sorted
    seed: int

    @cached_property
    def run_id(self) -> str:
        """Hash of the canonical description; what is stored under it is final."""
        return hashlib.sha256(json.dumps(self.description(), sort_keys=True).encode()).hexdigest()[:16]

    def description(self) -> dict[str, object]:
        """The complete description as plain JSON values."""
        return {
            "setting": _without_later(self.setting.by_name),
            "versions": dict(self.setting.versions),
            "hyper": dict(self.hyper),
            "seed": self.seed,
        }

    def row(self) -> dict[str, Scalar]:
        """All settings of the run by dotted name, the seed and the run_id: the left part of the runs table."""
        settings = {**_without_later(self.setting.by_name), **dict(self.hyper)}
        return {"run_id": self.run_id, **dict(sorted(settings.items())), "seed": self.seed}


def _without_later(settings: Settings) -> dict[str, Scalar]:
    return {name: value for name, value in settings.items() if name not in LATER or value != LATER[name]}


def run_spec(settings: Settings, seed: int) -> RunSpec:
    """Complete `settings` (dotted names) with defaults and check them; every mistake is one `BadInput` sentence.

    The type of a default is the type of its option: values are cast to it, so 1 and 1.0 are one learning rate.
    """
    defaults = dict(DEFAULTS)
    entries = {}
    for kind, registry in KINDS.items():
        entries[kind] = registry[str(settings.get(f"{kind}.name", DEFAULTS[f"{kind}.name"]))]
        defaults[f"{kind}.name"] = entries[kind].name
        defaults |= {f"{kind}.{option}": default for option, default in entries[kind].defaults.items()}
    for name in settings:
        if name not in defaults:
            raise BadInput(f"unknown setting {name!r}; {suggest(name, sorted(defaults))}")
    values = {name: _cast(name, settings.get(name, default), default) for name, default in defaults.items()}
    hyper = {
        name: value for name, value in values.items() if name.startswith("optimizer.") and isinstance(value, float)
    }
    versions = {"engine": ENGINE_VERSION} | {kind: entry.version for kind, entry in entries.items()}
    setting = Setting(
        tuple(sorted((name, value) for name, value in values.items() if name not in hyper)),
        tuple(sorted(versions.items())),
    )
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise BadInput(f"seed = {seed!r}; allowed: integers from 0 to 2³¹ - 1")
    for name, value in hyper.items():
        _check_number(name, value)
    _check_setting(setting)
    return RunSpec(setting, tuple(sorted(hyper.items())), seed)


def _cast(name: str, value: Scalar, default: Scalar) -> Scalar:
    kind = type(default)
    try:
        if kind is bool:
            if str(value).lower() not in ("true", "false"):
                raise ValueError
            return str(value).lower() == "true"
        if kind is int and float(value) != int(float(value)):
            raise ValueError
        if kind is float:
            return float(value) + 0.0  # -0.0 and 0.0 are one number
        if kind is str and not str(value).isprintable():
            raise ValueError
        return int(float(value)) if kind is int else str(value)
    except (ValueError, TypeError, OverflowError):
        allowed = {bool: "true or false", int: "integers", float: "numbers", str: "text on one line"}[kind]
        raise BadInput(f"{name} = {value!r}; allowed: {allowed}") from None


def _check_number(name: str, value: float) -> None:
    last = name.split(".")[-1]
    if last == "lr" or last.endswith("_lr"):
        allowed, good = "positive finite numbers", 0 < value < math.inf
    elif last in ("momentum", "alpha") or "beta" in last:
        allowed, good = "0 up to, but not including, 1", 0 <= value < 1
    else:
        allowed, good = "finite numbers from 0 on", 0 <= value < math.inf
    if not good:
        raise BadInput(f"{name} = {value}; allowed: {allowed}")


@lru_cache(maxsize=256)
def _check_setting(setting: Setting) -> None:
    for name in ("batch_size", "steps", "evaluation.every"):
        if setting.integer(name) < 1:
            raise BadInput(f"{name} = {setting.by_name[name]}; allowed: integers from 1 on")
    for name in ("linger", "evaluation.growth"):
        if not 0 <= setting.number(name) < math.inf:
            raise BadInput(f"{name} = {setting.by_name[name]}; allowed: finite numbers from 0 on")
    if setting.by_name["precision"] not in PRECISIONS:
        raise BadInput(f"precision = {setting.by_name['precision']!r}; allowed: {', '.join(PRECISIONS)}")
    if not 0 < setting.number("threshold") <= 1:
        raise BadInput(f"threshold = {setting.by_name['threshold']}; allowed: above 0, up to 1")
    if not 0 < setting.number("train_fraction") < 1:
        raise BadInput(f"train_fraction = {setting.by_name['train_fraction']}; allowed: strictly between 0 and 1")
    split(len(setting.table().tokens), setting.number("train_fraction"), 0)
    declarations(setting.model())
    _try_rule(setting)


def _try_rule(setting: Setting) -> None:
    """One update of stand-in parameters without data, so that a bad static option or a broken rule shows now.

    On the `meta` device nothing has a value, so whoever branches on one fails here, and not when it is compiled.
    """
    entry, number = optimizers[setting.name("optimizer")], torch.ones((), dtype=torch.float64, device="meta")
    numbers = {name: number for name, default in entry.defaults.items() if isinstance(default, float)}
    h = Numbers({**setting.options("optimizer"), **numbers, "step": number})
    _try_schedule(setting, number)
    for role in Role:
        shape = (2,) if role in (Role.GAIN, Role.BIAS) else (2, 2)
        w, grad = torch.empty(2, *shape, device="meta").unbind()
        state = State({name: start(w).to("meta") for name, start in entry.extra["slots"](role).items()})
        before = [tensor._version for tensor in (w, grad, *state.values())]
        try:
            new, after = entry.make(w, grad, state, h, role)
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(
                f"optimizer {entry.name!r} fails on a parameter with the role {role.value}: {error} "
                "(a rule must return (w, state) and cannot branch on the value of a tensor)"
            ) from error
        if new.shape != w.shape or set(after) != set(state):
            raise BadInput(f"optimizer {entry.name!r} changes the shape of its parameter or the names of its state")
        if before != [tensor._version for tensor in (w, grad, *state.values())]:
            raise BadInput(f"optimizer {entry.name!r} writes into a tensor that it was given; return new tensors")


def _try_schedule(setting: Setting, step: torch.Tensor) -> None:
    entry = schedules[setting.name("schedule")]
    try:
        entry.make(step, setting.integer("steps"), **setting.options("schedule"))
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"schedule {entry.name!r} fails: {error} (a schedule cannot branch on the value of its step, which is a tensor)"
        ) from error
