"""What a run is: settings by dotted name, complete and hashable."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import torch

from grokking.errors import BadInput, words
from grokking.inits import inits
from grokking.later import without_later
from grokking.losses import losses
from grokking.models import models
from grokking.models.adopted import adopted, try_model
from grokking.optim import optimizers
from grokking.optim.schedules import schedules
from grokking.optim.stepping import Contract, asked
from grokking.optim.transforms import named, transforms
from grokking.optim.trial import try_optimizer, try_schedule, try_transform
from grokking.registry import Entry, Registry, Scalar, Share, is_rate, suggest
from grokking.roles import declarations, initial_weights
from grokking.tasks import Table, prompted, split, tasks

Settings = Mapping[str, Scalar]

ENGINE_VERSION = "1"  # raised when the engine's own results change (streams, batches, evaluation)
KINDS: dict[str, Registry] = {
    "task": tasks,
    "model": models,
    "loss": losses,
    "optimizer": optimizers,
    "schedule": schedules,
    "init": inits,
}
DEFAULTS: dict[str, Scalar] = {
    "task.name": "mod_add",
    "model.name": "transformer",
    "loss.name": "cross_entropy",
    "optimizer.name": "adamw",
    "schedule.name": "linear_warmup",
    "init.name": "declared",
    "init.scale": 1.0,
    "train_fraction": 0.4,
    "batch_size": 512,
    "steps": 10_000,
    "threshold": 0.95,
    "linger": 0.5,
    "evaluation.every": 10,
    "evaluation.growth": 0.05,
    "precision": "fp32",
    "transforms": "none",
    "prompt": "expression",
    "label_noise": 0.0,
}
PER_RUN = ("optimizer", "schedule", "transform")  # whose float options are numbers of each run, and split no cohort
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

    @cached_property
    def transforms(self) -> list[str]:
        """Names of the transforms, in the order in which they act."""
        return named(str(self.by_name["transforms"]))

    @property
    def external(self) -> bool:
        """Whether the optimizer is anyone's `torch.optim.Optimizer`, trained run by run."""
        return bool(optimizers[self.name("optimizer")].extra["external"])

    def options(self, kind: str) -> dict[str, Scalar]:
        """The static options of the task, model, …, or of `transform.NAME`, without the prefix and the name."""
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
        return _table(self.name("task"), tuple(self.options("task").items()), str(self.by_name["prompt"]))

    def model(self, device: str = "meta") -> torch.nn.Module:
        """The model; on the `meta` device: shapes, roles and code, no weights. The global generator is as it was."""
        with torch.device(device), torch.random.fork_rng(devices=[], enabled=device != "meta"):
            return adopted(models[self.name("model")].make(self.table(), **self.options("model")))

    def initial_weights(self, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
        """What every parameter is at the start of a run with this seed."""
        options = {name: value for name, value in self.options("init").items() if name != "scale"}
        law, model = partial(inits[self.name("init")].make, **options), self.model()
        make = partial(self.model, "cpu") if any(d.by_module for d in declarations(model).values()) else None
        return initial_weights(model, seed, dtype, law, self.number("init.scale"), make)

    def started_model(self) -> torch.nn.Module:
        """The model on the CPU with the initial weights of seed 0, to try something on."""
        model = self.model().to_empty(device="cpu").eval()
        weights = self.initial_weights(0)
        for name, parameter in model.named_parameters():
            parameter.data = weights[name]
        return model


def check_versions(setting: Setting) -> None:
    """Raise `BadInput` where what is registered in this process is not what the setting was made with.

    A user's file may be edited between a sweep's start and the moment at which a worker imports it.
    """
    for kind, version in setting.versions:
        if kind != "engine" and (now := _version(kind, _entry(setting, kind), setting.by_name)) != version:
            name = setting.name(kind) if kind in KINDS else kind.removeprefix("transform.")
            raise BadInput(
                f"{kind.split('.')[0]} {name!r} has changed since this sweep began ({version}, now {now}); start it again"
            )


def _version(kind: str, entry: Entry, settings: Settings) -> str:
    """The version of a registered thing, with a hash of what it reads beside its options, if it does."""
    if (reads := entry.extra.get("reads")) is None:
        return entry.version
    own = {name: settings[f"{kind}.{name}"] for name in entry.defaults}
    return f"{entry.version} reads {reads(**own)}"


def _entry(setting: Setting, kind: str) -> Entry:
    """What is registered for a kind of `setting.versions`."""
    return KINDS[kind][setting.name(kind)] if kind in KINDS else transforms[kind.removeprefix("transform.")]


@lru_cache(maxsize=32)
def _table(name: str, options: tuple[tuple[str, Scalar], ...], prompt: str = "expression") -> Table:
    try:
        table = tasks[name].make(**dict(options))
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(f"task {name!r} fails with {dict(options)}: {words(error)}") from error
    if not isinstance(table, Table):
        raise BadInput(f"task {name!r} returns {type(table).__name__}; a task returns a Table")
    return prompted(table, prompt)


@dataclass(frozen=True)
class RunSpec:
    """A run is its description: static setting, per-run numbers, seed."""

    setting: Setting
    hyper: tuple[tuple[str, float], ...]  # float options of optimizer, schedule and transforms by dotted name, sorted
    seed: int

    @cached_property
    def run_id(self) -> str:
        """Hash of the canonical description; what is stored under it is final."""
        return hashlib.sha256(json.dumps(self.description(), sort_keys=True).encode()).hexdigest()[:16]

    def description(self) -> dict[str, object]:
        """The complete description as plain JSON values."""
        return {
            "setting": without_later(self.setting.by_name),
            "versions": dict(self.setting.versions),
            "hyper": dict(self.hyper),
            "seed": self.seed,
        }

    def row(self) -> dict[str, Scalar]:
        """All settings of the run by dotted name, the seed and the run_id: the left part of the runs table."""
        settings = {**without_later(self.setting.by_name), **dict(self.hyper)}
        return {"run_id": self.run_id, **dict(sorted(settings.items())), "seed": self.seed}


def run_spec(settings: Settings, seed: int) -> RunSpec:
    """Complete `settings` (dotted names) with defaults and check them; every mistake is one `BadInput` sentence.

    The type of a default is the type of its option: values are cast to it, so 1 and 1.0 are one learning rate.
    """
    defaults = dict(DEFAULTS)
    settings = _told_by_the_name(settings)
    entries = {}
    for kind, registry in KINDS.items():
        entries[kind] = registry[str(settings.get(f"{kind}.name", DEFAULTS[f"{kind}.name"]))]
        defaults[f"{kind}.name"] = entries[kind].name
    if entries["optimizer"].extra.get("full_batch"):
        defaults["batch_size"] = 0
    for name in named(str(settings.get("transforms", "none"))):
        entries[f"transform.{name}"] = transforms[name]
    defaults |= {f"{kind}.{name}": value for kind, entry in entries.items() for name, value in entry.defaults.items()}
    _refuse_unknown(settings, defaults)
    values = {name: _cast(name, settings.get(name, default), default) for name, default in defaults.items()}
    values["transforms"] = ",".join(named(str(values["transforms"]))) or "none"
    hyper = {
        name: value for name, value in values.items() if name.split(".")[0] in PER_RUN and isinstance(value, float)
    }
    static = {name: value for name, value in values.items() if name not in hyper}
    versions = {"engine": ENGINE_VERSION} | {kind: _version(kind, entry, static) for kind, entry in entries.items()}
    if entries["init"].name == "declared":
        del versions["init"]  # as in all descriptions from before there were others
    setting = Setting(tuple(sorted(static.items())), tuple(sorted(versions.items())))
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise BadInput(f"seed = {seed!r}; allowed: integers from 0 to 2³¹ - 1")
    for name, value in hyper.items():
        _check_number(name, value, defaults[name], setting.external and name.startswith("optimizer."))
    _check_setting(setting)
    spec = RunSpec(setting, tuple(sorted(hyper.items())), seed)
    if setting.external:
        contract(setting, spec.hyper)
    return spec


def _refuse_unknown(settings: Settings, known: Settings) -> None:
    for name in settings:
        if name not in known:
            _, own, rest = name.partition("transform.")
            if own and (called := rest.partition(".")[0]) in transforms:
                raise BadInput(f"{name} is an option of a transform that is not in use; add transforms={called}")
            raise BadInput(f"unknown setting {name!r}; {suggest(name, sorted(known))}")


def _told_by_the_name(settings: Settings) -> Settings:
    """`task.name = "mod_add:97"` is the task with its first option: `mod_add` and `task.p = 97`."""
    name, told, value = str(settings.get("task.name", DEFAULTS["task.name"])).partition(":")
    if not told:
        return settings
    if not tasks[name].defaults:
        raise BadInput(f"task.name = {settings['task.name']!r}, but {name} has no options; leave {':' + value!r} out")
    option = f"task.{next(iter(tasks[name].defaults))}"
    if str(settings.get(option, value)) != value:
        raise BadInput(f"task.name = {settings['task.name']!r}, but {option} = {settings[option]!r}; say it once")
    return {**settings, "task.name": name, option: value}


@lru_cache(maxsize=1024)
def contract(setting: Setting, hyper: tuple[tuple[str, float], ...]) -> Contract:
    """What the step of anyone's optimizer asks for, tried with these numbers on the setting's own model."""
    tokens = torch.from_numpy(setting.table().tokens[:3])
    entry = optimizers[setting.name("optimizer")]
    return asked(entry, optimizer_options(setting, hyper), setting.started_model, tokens)


def optimizer_options(setting: Setting, hyper: tuple[tuple[str, float], ...]) -> dict[str, Scalar]:
    """All options of the optimizer, static ones and numbers, without the prefix."""
    numbers = {name.removeprefix("optimizer."): value for name, value in hyper if name.startswith("optimizer.")}
    return {**setting.options("optimizer"), **numbers}


def _cast(name: str, value: Scalar, default: Scalar) -> Scalar:
    kind = float if isinstance(default, float) else type(default)
    try:
        if kind is bool:
            if str(value).lower() not in ("true", "false"):
                raise ValueError
            return str(value).lower() == "true"
        if kind is int and (float(value) != int(float(value)) or abs(float(value)) >= 2**31):
            raise ValueError
        if kind is float:
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


def _check_number(name: str, value: float, default: Scalar, external: bool) -> None:
    last = name.split(".")[-1]
    if is_rate(last):
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
def _check_setting(setting: Setting) -> None:
    _check_ranges(setting)
    _check_batch_size(setting)
    try_model(setting.model(), setting.table(), setting.name("model"))
    entry, options = optimizers[setting.name("optimizer")], setting.options("optimizer")
    try_schedule(schedules[setting.name("schedule")], setting.options("schedule"), setting.integer("steps"))
    for name in setting.transforms:
        try_transform(transforms[name], setting.options(f"transform.{name}"), "lr" in entry.defaults)
    if not setting.external:
        try_optimizer(entry, options)
    elif setting.transforms:
        raise BadInput(
            f"transforms = {setting.by_name['transforms']!r}, but {entry.name} takes its gradients as they are; leave "
            "transforms out, or take one of `grokking list optimizers`"
        )


def _check_ranges(setting: Setting) -> None:
    for name in ("steps", "evaluation.every"):
        if setting.integer(name) < 1:
            raise BadInput(f"{name} = {setting.by_name[name]}; allowed: integers from 1 on")
    for name in ("linger", "evaluation.growth"):
        if not 0 <= setting.number(name) < math.inf:
            raise BadInput(f"{name} = {setting.by_name[name]}; allowed: finite numbers from 0 on")
    if setting.by_name["precision"] not in PRECISIONS:
        raise BadInput(f"precision = {setting.by_name['precision']!r}; allowed: {', '.join(PRECISIONS)}")
    if not 0 < setting.number("threshold") <= 1:
        raise BadInput(f"threshold = {setting.by_name['threshold']}; allowed: above 0, up to 1")
    if not 0 <= setting.number("label_noise") <= 1:
        raise BadInput(f"label_noise = {setting.by_name['label_noise']}; allowed: 0 to 1")
    if not 0 < setting.number("init.scale") < math.inf:
        raise BadInput(f"init.scale = {setting.by_name['init.scale']}; allowed: positive finite numbers")
    if not 0 < setting.number("train_fraction") < 1:
        raise BadInput(f"train_fraction = {setting.by_name['train_fraction']}; allowed: strictly between 0 and 1")


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
