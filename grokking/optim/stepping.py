"""What the `step` of anyone's optimizer asks for, and taking such a step."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from grokking.errors import BadInput, words
from grokking.registry import Entry, Scalar

TRIED = 25  # updates: optimizers that look at curvature do so every ten steps or so


@dataclass(frozen=True)
class Contract:
    """What an optimizer's `step` asks for, beside gradients."""

    closure: bool = False  # a function that computes loss and gradients again
    graph: bool = False  # gradients that can be differentiated once more


def made(entry: Entry, options: Mapping[str, Scalar], model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of this model's parameters, ready for its first step; `BadInput` where it leaves some of them out."""
    tuples = {name: _numbers(entry, name, options) for name in entry.extra["tuples"]}
    optimizer = entry.make(model if entry.extra["model"] else list(model.parameters()), **{**options, **tuples})
    if isinstance(optimizer, list | tuple):
        optimizer = Together(optimizer)
    if not (hasattr(optimizer, "param_groups") and hasattr(optimizer, "step")):
        raise BadInput(
            f"optimizer {entry.name!r} makes a {type(optimizer).__name__}, which is no torch.optim.Optimizer"
        )
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if left := [name for name, p in model.named_parameters() if id(p) not in given]:
        raise BadInput(
            f"optimizer {entry.name!r} leaves parameters out, which would never be trained: {', '.join(left)}"
        )
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()
    return optimizer


def _numbers(entry: Entry, name: str, options: Mapping[str, Scalar]) -> tuple[float, ...]:
    """A tuple written as text, each number of the type that it has by default."""
    usual = [
        type(float(part) if "." in part or "e" in part else int(part)) for part in str(entry.defaults[name]).split(",")
    ]
    try:
        return tuple(kind(part) for kind, part in zip(usual, str(options[name]).split(","), strict=True))
    except ValueError:
        raise BadInput(
            f"optimizer.{name} = {options[name]!r}; allowed: {len(usual)} numbers, such as {entry.defaults[name]}"
        ) from None


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
    """One update; `loss` computes the loss anew. False, and no weight is changed, if it or a gradient is not finite."""

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
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in (value, *gradients))
    if finite:
        optimizer.step(closure) if contract.closure else optimizer.step()  # type: ignore[arg-type]
    optimizer.zero_grad()  # a gradient with a graph would keep itself alive
    return finite


def asked(entry: Entry, options: Mapping[str, Scalar], fresh: Callable[[], nn.Module], tokens: Tensor) -> Contract:
    """What `step` of this optimizer asks for, found by trying; `BadInput` where it cannot be made or nothing helps.

    `fresh` makes the model anew, `tokens` [example, position] is a little of what it reads.
    """
    errors = []
    for contract in (Contract(), Contract(graph=True), Contract(closure=True), Contract(closure=True, graph=True)):
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                model = fresh()
                optimizer = made(entry, options, model)
                for _ in range(TRIED):
                    take_step(optimizer, contract, partial(_bounded_loss, model, tokens))
            return contract
        except BadInput:
            raise
        except (Exception, SystemExit) as error:
            errors.append(words(error))
    different = "; with what some ask for: ".join(dict.fromkeys([errors[0], errors[-1]]))
    hint = (
        " (one that is for some parameters only goes into a function of `model`, in a file of your own, that returns it and "
        "another for the rest)"
    )
    raise BadInput(
        f"optimizer {entry.name!r} fails {_changed(entry, options)}: {different}{hint * ('parameters' in different)}"
    )


def _bounded_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    return model(tokens).tanh().square().sum()  # bounded: no rate makes it overflow


def _changed(entry: Entry, options: Mapping[str, Scalar]) -> str:
    """In words, what of the options is not as it is by default."""
    own = [f"{name} = {value}" for name, value in options.items() if value != entry.defaults[name]]
    return f"with {', '.join(own)}" if own else "at its defaults"
