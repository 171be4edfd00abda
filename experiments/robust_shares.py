"""Measures of perceptrons on x + y: the share of answers that no step of a length changes, certified from below, attacked from above."""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from grokking.lipschitz import attack
from grokking.lipschitz.certificate import certificate
from grokking.measures import measure
from grokking.models.mlp import MLP, Embedded

RADII = (0.25, 0.5, 1.0, 2.0, 4.0)
EXAMPLES = 256


def answers(model: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Some examples and their answers: x + y over the two operands, which the model's first layer says where to find."""
    some = tokens[:: max(1, len(tokens) // EXAMPLES)]
    perceptron = cast(MLP, model)
    operands = [index for index, _ in cast(Embedded, perceptron.first).read]
    return some, some[:, operands].sum(1) % len(perceptron.head.weight)


def certified(model: nn.Module, tokens: Tensor, radius: float) -> float:
    """Share of examples whose answer no step of this length changes, by the certificate."""
    some, labels = answers(model, tokens)
    x = attack.embedded(model, some)
    width = x.shape[-1]
    slope = certificate(model, attack.reach(model, some) + radius / math.sqrt(width)).slope
    with torch.no_grad():
        scores = attack.through(model)(x)
    return attack.certified_accuracy(scores, labels, slope, radius, width)


def attacked(model: nn.Module, tokens: Tensor, radius: float) -> float:
    """Share of examples whose answer stays right as far as an attack of this length finds."""
    some, labels = answers(model, tokens)
    return attack.accuracy(attack.through(model), attack.embedded(model, some), labels, radius)


def _at(function: Callable[[nn.Module, Tensor, float], float], radius: float) -> str:
    """Register a measure of this share at this radius; its name."""

    def share(model: nn.Module, tokens: Tensor) -> float:
        return function(model, tokens, radius)

    share.__name__ = f"{function.__name__}_{radius:g}".replace(".", "_")
    share.__doc__ = function.__doc__
    return measure(share).__name__


NAMES = {(kind.__name__, radius): _at(kind, radius) for kind in (certified, attacked) for radius in RADII}
