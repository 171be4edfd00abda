"""The static part of a run: everything that decides a shape or a code path."""

from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import torch

from grokking.errors import BadInput, words
from grokking.inits import inits, spread
from grokking.lipschitz import constraints, slopes  # noqa: F401  (they register themselves)
from grokking.losses import losses
from grokking.measures import measures
from grokking.models import models
from grokking.models.adopted import adopted
from grokking.optim import optimizers, updated_by
from grokking.optim.schedules import schedules
from grokking.optim.stepping import Contract, asked
from grokking.optim.transforms import named, transforms
from grokking.registry import Entry, Registry, Scalar, Settings, listed
from grokking.roles import declarations, initial_weights
from grokking.scaled import multiply, parts
from grokking.scaling import Factors, Part, Place, scalings
from grokking.tasks import Table, prompted, tasks

ENGINE_VERSION = "1"  # raised when the engine's own results change (streams, batches, evaluation)
KINDS: dict[str, Registry] = {
    "task": tasks,
    "model": models,
    "loss": losses,
    "optimizer": optimizers,
    "schedule": schedules,
    "init": inits,
    "scaling": scalings,
}
DEFAULTS: dict[str, Scalar] = {
    "task.name": "mod_add",
    "model.name": "transformer",
    "loss.name": "cross_entropy",
    "optimizer.name": "adamw",
    "schedule.name": "linear_warmup",
    "init.name": "declared",
    "init.scale": 1.0,
    "scaling.name": "standard",
    "train_fraction": 0.4,
    "batch_size": 512,
    "steps": 10_000,
    "threshold": 0.95,
    "linger": 0.5,
    "evaluation.every": 10,
    "evaluation.growth": 0.05,
    "precision": "fp32",
    "transforms": "none",
    "measures": "none",
    "prompt": "expression",
    "label_noise": 0.0,
}


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

    @cached_property
    def measures(self) -> list[str]:
        """Names of what is measured beside losses and accuracies."""
        return listed("measures", str(self.by_name["measures"]), measures)

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

    def of_users(self, kind: str) -> bool:
        """Whether the task, model, … is a user's own and not the package's."""
        return dict(self.versions)[kind].startswith("source:")

    def table(self) -> Table:
        """The task's table of examples."""
        prompt, version = str(self.by_name["prompt"]), dict(self.versions)["task"]
        return _table(self.name("task"), tuple(self.options("task").items()), prompt, version)

    def model(self, device: str = "meta", seed: int = 0) -> torch.nn.Module:
        """The model; on the `meta` device: shapes, roles and code, no weights.

        What its constructor draws comes from PyTorch's CPU generator, with this seed; that generator is as it was afterwards.
        """
        built = self._built(self.options("model"), device, seed)
        if self.scaled:
            multiply(built, {place: self.factors[place.value].forward for place in Place})
        return built

    def _built(self, options: Settings, device: str, seed: int = 0) -> torch.nn.Module:
        entry = models[self.name("model")]
        with torch.device(device), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            try:
                return adopted(entry.make(self.table(), **options))
            except BadInput:
                raise
            except (Exception, SystemExit) as error:
                raise BadInput(f"model {entry.name!r} fails with {dict(options)}: {words(error)}") from error

    @property
    def scaled(self) -> bool:
        """Whether anything changes with the width."""
        return self.name("scaling") != "standard"

    @cached_property
    def factors(self) -> dict[str, Factors]:
        """By which the scaling rule multiplies the numbers of every parameter, by its name, and of every `Place`, by its value."""
        rule, options = scalings[self.name("scaling")].make, self.options("scaling")
        return {name: rule(part, **options) for name, part in self.parts().items()}

    def parts(self) -> dict[str, Part]:
        """What the scaling rule is told of every parameter, by its name, and of every `Place`, by its value."""
        options, name = self.options("model"), self.name("scaling")
        if "width" not in options:
            raise BadInput(
                f"scaling.name = {name!r} needs a model with an option width; {self.name('model')!r} has none"
            )
        base = self.options("scaling").get("base_width", options["width"])
        try:
            narrow = self._built({**options, "width": base}, "meta")
        except BadInput as error:
            raise BadInput(f"scaling.base_width = {base}: {error}") from None
        law, optimizer = inits[self.name("init")], optimizers[self.name("optimizer")]
        return parts(
            self._built(options, "meta"),
            narrow,
            partial(spread, law),
            partial(updated_by, optimizer, self.options("optimizer")),
        )

    def initial_weights(self, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
        """What every parameter is at the start of a run with this seed."""
        options = {name: value for name, value in self.options("init").items() if name != "scale"}
        law, model = partial(inits[self.name("init")].make, **options), self.model()
        make = partial(self.model, "cpu") if any(d.by_module for d in declarations(model).values()) else None
        factors = {name: factor.init for name, factor in self.factors.items()} if self.scaled else None
        return initial_weights(model, seed, dtype, law, self.number("init.scale"), factors, make)

    def started_model(self) -> torch.nn.Module:
        """The model on the CPU with the initial weights of seed 0, to try something on."""
        model, weights = self.model("cpu").eval(), self.initial_weights(0)
        for name, parameter in model.named_parameters():
            parameter.data = weights[name]
        return model


def check_versions(setting: Setting) -> None:
    """Raise `BadInput` where what is registered in this process is not what the setting was made with.

    A user's file may be edited between a sweep's start and the moment at which a worker imports it.
    """
    for kind, version in setting.versions:
        if kind != "engine" and version_of(kind, _entry(setting, kind), setting.by_name) != version:
            name = setting.name(kind) if kind in KINDS else kind.partition(".")[2]
            raise BadInput(
                f"{kind.split('.')[0]} {name!r}, or what it reads, has changed since this sweep began; start it again"
            )


def version_of(kind: str, entry: Entry, settings: Settings) -> str:
    """The version of a registered thing, with a hash of what it reads beside its options, if it does."""
    if (reads := entry.extra.get("reads")) is None:
        return entry.version
    own = {name: settings[f"{kind}.{name}"] for name in entry.defaults}
    return f"{entry.version} reads {reads(**own)}"


def _entry(setting: Setting, kind: str) -> Entry:
    """What is registered for a kind of `setting.versions`."""
    if kind in KINDS:
        return KINDS[kind][setting.name(kind)]
    of, _, name = kind.partition(".")
    return measures[name] if of == "measure" else transforms[name]


@lru_cache(maxsize=32)
def _table(name: str, options: tuple[tuple[str, Scalar], ...], prompt: str, version: str) -> Table:
    """The table; of another version, another one: what a task reads may change while this process runs."""
    try:
        table = tasks[name].make(**dict(options))
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(f"task {name!r} fails with {dict(options)}: {words(error)}") from error
    if not isinstance(table, Table):
        raise BadInput(f"task {name!r} returns {type(table).__name__}; a task returns a Table")
    return prompted(table, prompt)


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
