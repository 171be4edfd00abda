"""What a parameter is for, declared where the parameter is created; never guessed from its shape or name."""

import enum
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from grokking.errors import BadInput
from grokking.seeding import stream


class Role(enum.Enum):
    """The part a parameter plays; optimizers and scaling rules depend on it."""

    EMBEDDING = "embedding"  # rows are looked up: [token, width] or [position, width]
    HIDDEN = "hidden"  # a matrix between features: [out, in]
    HEAD = "head"  # features to class scores: [class, in]
    GAIN = "gain"  # elementwise factor of a norm: [width]
    BIAS = "bias"  # added vector: [out]


@dataclass(frozen=True)
class Declaration:
    """Role of a parameter and the law of its initial value: `mean + std · N(0, 1)`, elementwise."""

    role: Role
    mean: float
    std: float


class Declaring(nn.Module):
    """A module that says of each of its own parameters what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.declared: dict[str, Declaration] = {}

    def declare(self, name: str, shape: tuple[int, ...], role: Role, std: float = 0.0, mean: float = 0.0) -> None:
        """Create the parameter `name` of this `shape`, empty until `initial_weights` draws it."""
        self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self.declared[name] = Declaration(role, mean, std)


def declarations(model: nn.Module) -> dict[str, Declaration]:
    """Declaration of every parameter, by its full name, in the order of `named_parameters`."""
    found = {
        f"{prefix}.{name}" if prefix else name: declaration
        for prefix, module in model.named_modules()
        if isinstance(module, Declaring)
        for name, declaration in module.declared.items()
    }
    missing = [name for name, _ in model.named_parameters() if name not in found]
    if missing:
        raise BadInput(f"parameters without a declared role: {', '.join(missing)}; create them with `declare`")
    return {name: found[name] for name, _ in model.named_parameters()}


def initial_weights(model: nn.Module, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Initial value of every parameter, each from its own stream (seed, "weights", name).

    Drawn in float64 and then cast: float32 draws differ between CPUs. The model itself is only read for shapes and
    declarations (it may live on the `meta` device).
    """
    weights = {}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, law in declarations(model).items():
        values = np.full(shapes[name], law.mean)
        if law.std:
            values = values + law.std * stream(seed, "weights", name).standard_normal(shapes[name])
        weights[name] = torch.from_numpy(values).to(dtype)
    return weights
