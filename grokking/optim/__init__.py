"""How it learns: each optimizer is one decorated rule on one parameter tensor of one run."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from grokking.errors import BadInput
from grokking.optim import external
from grokking.registry import Entry, Registry, Scalar, is_rate
from grokking.roles import Geometry, Role, Update

optimizers = Registry("optimizer", elsewhere=external.entry)

Slots = Mapping[str, Callable[[Tensor], Tensor]]  # name of a state tensor → its initial value, given the parameter


class State(dict[str, Tensor]):
    """State tensors of one parameter: `state.velocity` reads one, `state(velocity=v)` is a copy with it replaced."""

    def __getattr__(self, name: str) -> Tensor:
        if name not in self:
            raise BadInput(f"the rule reads state.{name}, which is not declared; declared: {', '.join(self) or 'none'}")
        return self[name]

    def __call__(self, **changed: Tensor) -> "State":
        """A copy with these tensors replaced."""
        return State({**self, **changed})


class Numbers(dict[str, Any]):
    """An optimizer's numbers: `h.lr` and its like are 0-d float64 tensors of one run, bools and strings are static.

    Learning rates are multiplied by the schedule already. `h.step` counts updates from 1. Never branch on a tensor.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise BadInput(
                f"the rule reads h.{name}, which its optimizer does not declare; declared: {', '.join(self)}"
            )
        return self[name]

    def under(self, prefix: str) -> "Numbers":
        """The numbers whose names begin with `prefix`, without it, beside all others."""
        return Numbers({**self, **{name.removeprefix(prefix): self[name] for name in self if name.startswith(prefix)}})


Rule = Callable[[Tensor, Tensor, State, Numbers, Role], tuple[Tensor, State]]
Updates = Update | Callable[[Role, Mapping[str, Scalar]], Update] | None
Declared = Slots | Callable[[Role], Slots] | Callable[[Role, Mapping[str, Scalar]], Slots]


NO_STATE: Slots = {}
GRADIENT = Update(Geometry.GRADIENT, coupled=True)  # and decay is part of it
ENTRYWISE = Update(Geometry.ENTRYWISE)
ENTRYWISE_COUPLED = Update(Geometry.ENTRYWISE, coupled=True)
RESERVED = ("step", "name")  # what `h` and the settings call by these names already


def zeros(*names: str) -> Slots:
    """State tensors of the parameter's own shape that start at zero."""
    return dict.fromkeys(names, torch.zeros_like)


def entrywise(role: Role, options: Mapping[str, Scalar]) -> Update:
    """Of a rule whose static option `decoupled` says where weight decay goes."""
    return ENTRYWISE if options["decoupled"] else ENTRYWISE_COUPLED


def optimizer(
    state: Declared = NO_STATE,
    version: int = 1,
    full_batch: bool = False,
    update: Updates = None,
    **numbers: Scalar,
) -> Callable[[Rule], Rule]:
    """Register an update rule `rule(w, grad, state, h, role) -> (w, state)` with its numbers and their defaults.

    Floats are per-run numbers (the learning rates among them are called `lr` or `…_lr`; `Share(0.3)` is one between 0 and
    1); bools, ints and strings are static. `state` is the declared initial state, from `zeros(…)`, or a function that
    returns it, of the role or of the role and the static options; none by default. `full_batch`: the method is defined on
    the whole training set only. `update` says how large its updates are (GRADIENT, ENTRYWISE, …, or a function of the role and
    the static options), from which scaling rules such as muP know how its numbers change with the width; without it they refuse.

    `grokking list optimizers` shows the docstring's first line, the paragraph with an arrow (←), which is the formula,
    and what follows `Source:`.
    """

    if callable(state) and len(inspect.signature(state).parameters) == 5:
        raise BadInput(
            f"@optimizer stands before {getattr(state, '__name__', state)} without its numbers; write @optimizer(lr=0.1)"
        )
    given: object = state
    if not callable(given) or given is zeros:  # zeros without its names is a function, too
        check_slots(given)
    for name, value in numbers.items():
        if name in RESERVED:
            raise BadInput(f"a rule cannot declare {name}, which it is given")
        if type(value) is int and (is_rate(name) or name.endswith("weight_decay")):
            raise BadInput(f"{name}={value} would be static; write {name}={float(value)} for a number of each run")

    def register(rule: Rule) -> Rule:
        optimizers.add(
            rule,
            numbers,
            version,
            slots=_of_role_and_options(state),
            full_batch=full_batch,
            external=False,
            update=update,
        )
        return rule

    return register


def updated_by(entry: Entry, static: Mapping[str, Scalar], role: Role) -> Update:
    """What an optimizer says of its updates of a parameter; `BadInput` where it does not."""
    update = entry.extra.get("update")
    if update is None:
        if entry.extra["external"]:
            hint = "it keeps its own rates, so leave scaling out"
        elif entry.make.__module__.startswith("grokking."):
            hint = "no rule of widths is known to hold for it, so leave scaling out"
        else:
            hint = "write @optimizer(update=ENTRYWISE, …)"
        raise BadInput(f"optimizer {entry.name!r} does not say how large its updates are; {hint}")
    return update(role, static) if callable(update) else update


def check_slots(state: object) -> None:
    """Raise `BadInput` where this is no mapping from names to functions of the parameter."""
    if not isinstance(state, Mapping):
        raise BadInput(
            f'state = {state!r}; allowed: zeros("momentum"), with the names of its tensors, or a dict of them'
        )
    for name, start in state.items():
        if not callable(start):
            raise BadInput(
                f"state {name!r} starts as {start!r}; declare it by zeros({name!r}) or a function of w that returns a tensor"
            )
        if "." in name:
            raise BadInput(f"state {name!r} has a dot in its name, by which transforms are told apart; leave it out")


def _of_role_and_options(state: Declared) -> Callable[[Role, Mapping[str, Scalar]], Slots]:
    if not callable(state):
        return lambda role, options: state
    if len(inspect.signature(state).parameters) == 1:
        return lambda role, options: state(role)  # type: ignore[call-arg]
    return state  # type: ignore[return-value]


from grokking.optim import adaptive, gradient, preconditioned, signs, spectral, steepest  # noqa: E402  (they register themselves with `optimizer`)

__all__ = [
    "ENTRYWISE",
    "ENTRYWISE_COUPLED",
    "GRADIENT",
    "Geometry",
    "Numbers",
    "Role",
    "State",
    "Update",
    "adaptive",
    "gradient",
    "optimizer",
    "optimizers",
    "preconditioned",
    "signs",
    "spectral",
    "steepest",
    "zeros",
]
