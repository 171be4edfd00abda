"""What is looked at in a run's weights whenever it is evaluated: each measure is one decorated function of one run's model."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from grokking.errors import BadInput
from grokking.lipschitz import attack, certificate
from grokking.registry import Registry
from grokking.roles import Role, declarations

measures = Registry("measure")
Measure = Callable[[nn.Module, Tensor], float]

ATTACKED = 32  # examples
COLUMNS = ("run_id", "step", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy")  # of curves


def measure(function: Measure) -> Measure:
    """Register a measure: a function of (model, tokens [example, position] of all examples) that returns a number.

    With `--set measures=NAME` curves have a column of that name. The model is the run's own, on the CPU and in `eval` mode.
    """
    if function.__name__ in COLUMNS:
        raise BadInput(f"a measure cannot have the name {function.__name__}: curves have a column of that name")
    measures.add(function, {})
    return function


def measured(names: list[str], model: nn.Module, tokens: Tensor) -> dict[str, float]:
    """Each of these of a model; NaN where a weight is not finite."""
    if not all(torch.isfinite(w).all() for w in model.parameters()):
        return dict.fromkeys(names, math.nan)
    return {name: float(measures[name].make(model, tokens)) for name in names}


@measure
def certified_slope(model: nn.Module, tokens: Tensor) -> float:
    """Upper bound on how fast scores change with embedded inputs as large as the examples': grokking.lipschitz.certificate."""
    exact = _exact(model)
    return certificate.certificate(exact, attack.reach(exact, tokens)).slope


@measure
def steepest_slope(model: nn.Module, tokens: Tensor) -> float:
    """Lower bound on the same: the steepest that is found at 32 examples, spread over all: grokking.lipschitz.attack."""
    some = tokens[:: max(1, len(tokens) // ATTACKED)]
    exact = _exact(model)
    return float(attack.steepest(attack.through(exact), attack.embedded(exact, some))[1].max())


def _exact(model: nn.Module) -> nn.Module:
    """A copy in float64, so that rounding does not lift a lower bound above an upper one."""
    return copy.deepcopy(model).double()


@measure
def largest_norm(model: nn.Module, tokens: Tensor) -> float:
    """The largest norm of a hidden matrix or head, as a map between root mean squares."""
    matrices = [own.role in (Role.HIDDEN, Role.HEAD) for own in declarations(model).values()]
    found = [w for w, is_matrix in zip(model.parameters(), matrices, strict=True) if is_matrix]
    return max((certificate.norm(w.detach()) for w in found), default=math.nan)


@measure
def largest_entry(model: nn.Module, tokens: Tensor) -> float:
    """The largest absolute number that any part of the model gives out on any example."""
    return attack.largest_entry(model, tokens)
