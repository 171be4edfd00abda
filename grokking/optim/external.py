"""Anyone's `torch.optim.Optimizer`, by its dotted name: which options it has, and what its `step` asks for."""

import importlib
import importlib.metadata
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from grokking.errors import BadInput
from grokking.registry import Entry, Scalar, source_version, suggest

TRIED = 25  # updates of a stand-in: optimizers that look at curvature do so every ten steps or so


@lru_cache(maxsize=64)
def entry(name: str) -> Entry:
    """The optimizer of this dotted name, `torch.optim.NAdam` or `my_module.MyOptimizer`, as if it were registered.

    Its options are the parameters of its constructor with a number, a bool, a text or a tuple of numbers as default
    (written "0.9,0.98"). A function does as well as a class, and may return several optimizers, which step one after the
    other. If the first parameter is called `model`, it is given the module, otherwise its parameters.
    """
    make = _found(name)
    first, *others = inspect.signature(make).parameters.values()
    defaults = {option.name: default for option in others if (default := _default(name, option)) is not None}
    summary = (inspect.getdoc(make) or name).strip().splitlines()[0]
    extra = {"external": True, "full_batch": False, "slots": lambda role, options: {}, "model": first.name == "model"}
    return Entry(name, make, defaults, summary, _version(make), extra)


def _found(name: str) -> Callable[..., Any]:
    path, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        missing = path.partition(".")[0]
        raise BadInput(
            f"optimizer {name!r}: cannot import {path!r} ({error}); install {missing!r}, or name your own file with --import"
        ) from None
    found = getattr(module, attribute, None)
    if not callable(found):
        there = [key for key, thing in vars(module).items() if isinstance(thing, type)]
        raise BadInput(f"optimizer {name!r}: {path} has no {attribute!r}; {suggest(attribute, sorted(there))}")
    return found


def _default(name: str, option: inspect.Parameter) -> Scalar | None:
    """The default of a constructor's parameter, as a setting; None for what cannot be set."""
    default, kind = option.default, option.annotation
    if option.kind in (option.VAR_POSITIONAL, option.VAR_KEYWORD):
        return None
    if default is option.empty:
        if option.name == "lr":
            return 1e-3
        raise BadInput(
            f"optimizer {name!r} wants {option.name!r}, which has no default; write a function of (params, lr=…) that "
            "returns it made, in a file of your own, and name that"
        )
    if isinstance(default, bool | str):
        return default
    if isinstance(default, int | float):
        numeric = "float" in str(kind) or option.name in ("lr", "weight_decay", "momentum", "eps")
        return None if not math.isfinite(default) else float(default) if numeric else default
    if isinstance(default, tuple) and default and all(isinstance(part, int | float) for part in default):
        return ",".join(f"{part:g}" for part in default)
    return None


def _version(make: Callable[..., Any]) -> str:
    """The release that it comes from, or a hash of a user's own source."""
    package = make.__module__.partition(".")[0]
    try:
        distribution = importlib.metadata.packages_distributions()[package][0]
        return f"{distribution} {importlib.metadata.version(distribution).partition('+')[0]}"
    except (KeyError, importlib.metadata.PackageNotFoundError):
        return source_version(make)


@dataclass(frozen=True)
class Contract:
    """What an optimizer's `step` asks for, beside gradients."""

    closure: bool = False  # a function that computes loss and gradients again
    graph: bool = False  # gradients that can be differentiated once more


def made(entry: Entry, options: Mapping[str, Scalar], model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of this model's parameters, ready for its first step."""
    tuples = {name: tuple(float(part) for part in str(options[name]).split(",")) for name in _tuples(entry)}
    optimizer = entry.make(model if entry.extra["model"] else list(model.parameters()), **{**options, **tuples})
    if isinstance(optimizer, list | tuple):
        optimizer = Together(optimizer)
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()
    return optimizer


class Together:
    """Several optimizers as one, each with parameters of its own."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def zero_grad(self) -> None:
        """Forget the gradients of all."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self, *closure: Any) -> None:
        """A step of each."""
        for optimizer in self.optimizers:
            optimizer.step(*closure)

    def train(self) -> None:
        """Set each to training, where it knows the difference."""
        self._each("train")

    def eval(self) -> None:
        """Set each to evaluation, where it knows the difference."""
        self._each("eval")

    def _each(self, name: str) -> None:
        for optimizer in self.optimizers:
            if callable(method := getattr(optimizer, name, None)):
                method()


def _tuples(entry: Entry) -> Iterable[str]:
    parameters = inspect.signature(entry.make).parameters
    return [name for name in entry.defaults if isinstance(parameters[name].default, tuple)]


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float | None], factor: float) -> None:
    """Every group's learning rate, as it was at first (None: it has none), times a schedule's factor."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, float) and isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate * factor)
        elif isinstance(rate, float):
            group["lr"] = rate * factor


def rates_of(optimizer: torch.optim.Optimizer) -> list[float | None]:
    """The learning rate of every group; None where it has none."""
    return [None if group.get("lr") is None else float(group["lr"]) for group in optimizer.param_groups]


def take_step(optimizer: torch.optim.Optimizer, contract: Contract, loss: Callable[[], Tensor]) -> bool:
    """One update; `loss` computes the loss anew. False, and nothing is changed, if it or a gradient is not finite."""

    @torch.enable_grad()
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Using backward\(\) with create_graph=True")
            value.backward(create_graph=contract.graph)
        return value.detach()

    value = closure()
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (value, *gradients)):
        return False
    optimizer.step(closure) if contract.closure else optimizer.step()  # type: ignore[arg-type]
    optimizer.zero_grad()  # a gradient with a graph would keep itself alive
    return True


@lru_cache(maxsize=64)
def _contract(name: str, options: tuple[tuple[str, Scalar], ...]) -> Contract:
    """What `step` asks for, found by trying on a stand-in; `BadInput` where nothing helps."""
    errors = []
    for contract in (Contract(), Contract(graph=True), Contract(closure=True), Contract(closure=True, graph=True)):
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3, bias=False))
                optimizer = made(entry(name), dict(options), model)
                for _ in range(TRIED):
                    take_step(optimizer, contract, partial(_stand_in_loss, model))
            return contract
        except Exception as error:
            errors.append((str(error).strip() or type(error).__name__).splitlines()[0])
    different = "; with what some ask for: ".join(dict.fromkeys([errors[0], errors[-1]]))
    raise BadInput(
        f"optimizer {name!r} fails on a model of embeddings, matrices and vectors: {different}. If it is for some of them only, "
        "write a function of `model` that returns it and another for the rest, in a file of your own, and name that"
    )


def _stand_in_loss(model: nn.Module) -> Tensor:
    return model(torch.arange(3)).tanh().square().sum()  # bounded: no rate makes it overflow


def contract(entry: Entry, options: Mapping[str, Scalar]) -> Contract:
    """What `step` of this optimizer asks for, at its default numbers."""
    return _contract(entry.name, tuple(sorted({**entry.defaults, **options}.items())))


def check_external(entry: Entry, options: Mapping[str, Scalar]) -> None:
    """Raise `BadInput` where the optimizer cannot be made or cannot take a step, or a tuple is none."""
    for name in _tuples(entry):
        length = len(inspect.signature(entry.make).parameters[name].default)
        try:
            right = len([float(part) for part in str(options[name]).split(",")]) == length
        except ValueError:
            right = False
        if not right:
            raise BadInput(
                f"optimizer.{name} = {options[name]!r}; allowed: {length} numbers, such as {entry.defaults[name]}"
            )
    contract(entry, options)
