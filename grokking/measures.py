"""What is looked at in a run's weights whenever it is evaluated: each measure is one decorated function of one run's model."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from grokking.errors import BadInput
from grokking.registry import Registry

measures = Registry("measure")
Measure = Callable[[nn.Module, Tensor], float]

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
def largest_entry(model: nn.Module, tokens: Tensor) -> float:
    """The largest absolute number that any part of the model gives out on any example, scores included; NaN where one is."""
    found = [0.0]

    def look(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            largest = float(output.detach().abs().amax())
            found[0] = largest if math.isnan(largest) else max(found[0], largest)  # NaN stays: nothing is larger

    handles = [module.register_forward_hook(look) for module in model.modules()]
    try:
        with torch.no_grad():
            look(model, tokens, getattr(model, "plain", model)(tokens))
    finally:
        for handle in handles:
            handle.remove()
    return found[0]
