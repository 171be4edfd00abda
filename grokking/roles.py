"""What a parameter is for: declared where it is created, or known from the type of its module; never guessed from its shape."""

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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


class Geometry(enum.Enum):
    """What decides the size of an optimizer's update of a matrix: how a rate must change with the width follows from it."""

    GRADIENT = "gradient"  # as large as the gradient: SGD
    ENTRYWISE = "entrywise"  # every entry near ± lr: Adam, Lion
    SPECTRAL = "spectral"  # a known largest singular value: Muon
    RELATIVE = "relative"  # a share of the weight's own norm: LARS, LAMB


@dataclass(frozen=True)
class Update:
    """How an optimizer updates a parameter, before its learning rate.

    `coupled`: weight decay is added to the gradient, as by L2 regularization, and not to the update. `size`: of a spectral update
    of [out, in], its largest singular value, or anything that grows with the shape as that does. `eps_power`: epsilon stands beside
    this power of the gradient's size: 2 where it is added to a square, and the root is taken of both.
    """

    geometry: Geometry
    coupled: bool = False
    size: Callable[[int, int], float] = lambda fan_out, fan_in: 1.0
    eps_power: int = 1


@dataclass(frozen=True)
class Declaration:
    """Role of a parameter and the law of its initial value: `mean + std · N(0, 1)`, elementwise, or what its module draws."""

    role: Role
    mean: float = 0.0
    std: float = 0.0
    by_module: bool = False  # the module's own constructor draws it
    fan_in: int | None = None  # numbers that enter the linear map that it belongs to, where it belongs to one

    @property
    def rms(self) -> float:
        """Root mean square of the initial values."""
        return math.hypot(self.mean, self.std)


class Declaring(nn.Module):
    """A module that says of each of its own parameters what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.declared: dict[str, Declaration] = {}

    def declare(
        self,
        name: str,
        shape: tuple[int, ...],
        role: Role,
        std: float = 0.0,
        mean: float = 0.0,
        fan_in: int | None = None,
    ) -> None:
        """Create the parameter `name` of this `shape`, empty until `initial_weights` draws it."""
        self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self.declared[name] = Declaration(role, mean, std, fan_in=fan_in)


Values = NDArray[np.float64]
Law = Callable[[Declaration, tuple[int, ...], np.random.Generator], Values | None]  # None: what the module draws

Inferred = Callable[[Any], Declaration]  # of a module


def _uniform(role: Role) -> Inferred:
    """As `nn.Linear` draws its matrix and its bias: uniform within ± 1 / √fan_in."""
    return lambda module: Declaration(role, std=(3 * module.in_features) ** -0.5, by_module=True)


def _fixed(role: Role, mean: float = 0.0, std: float = 0.0) -> Inferred:
    return lambda module: Declaration(role, mean, std, by_module=True)


INFERRED: dict[
    type[nn.Module], dict[str, Inferred]
] = {  # of PyTorch's own modules, by the beginning of a parameter's name
    nn.Linear: {"weight": _uniform(Role.HIDDEN), "bias": _uniform(Role.BIAS)},
    nn.Embedding: {"weight": _fixed(Role.EMBEDDING, std=1.0)},
    nn.LayerNorm: {"weight": _fixed(Role.GAIN, mean=1.0), "bias": _fixed(Role.BIAS)},
    nn.RMSNorm: {"weight": _fixed(Role.GAIN, mean=1.0)},
    nn.MultiheadAttention: {
        "in_proj_weight": lambda module: Declaration(Role.HIDDEN, std=(2 * module.embed_dim) ** -0.5, by_module=True),
        "in_proj_bias": _fixed(Role.BIAS),
    },
}


def declarations(model: nn.Module) -> dict[str, Declaration]:
    """Declaration of every parameter, by its full name, in the order of `named_parameters`.

    Of PyTorch's own modules it is inferred from their type. Where no head is declared, it is the `nn.Linear` that the
    constructor makes last.
    """
    found = {
        f"{prefix}.{name}".removeprefix("."): declaration
        for prefix, module in model.named_modules()
        for name, declaration in _own(module).items()
    }
    if not any(own.role is Role.HEAD for own in found.values()):
        # Not of a subclass: the last matrix of `nn.MultiheadAttention` is one.
        linear = [f"{prefix}.weight".removeprefix(".") for prefix, m in model.named_modules() if type(m) is nn.Linear]
        found |= {name: replace(found[name], role=Role.HEAD) for name in linear[-1:]}
    missing = [name for name, _ in model.named_parameters() if name not in found]
    if missing:
        raise BadInput(
            f"parameters without a role: {', '.join(missing)}; create them in a grokking.roles.Declaring by `declare`, or use "
            f"{', '.join(kind.__name__ for kind in INFERRED)} of torch.nn"
        )
    return {name: found[name] for name, _ in model.named_parameters()}


def role_table(model: nn.Module) -> list[tuple[str, str, str, str]]:
    """Of every parameter: name, shape, role, and the law of its initial value, as a person reads them."""
    shapes = {name: " × ".join(map(str, w.shape)) for name, w in model.named_parameters()}
    return [(name, shapes[name], own.role.value, _law(own)) for name, own in declarations(model).items()]


def _law(own: Declaration) -> str:
    if own.by_module:
        return "as the constructor leaves it"
    return f"N({own.mean:g}, {own.std:.3g}²)" if own.std else f"{own.mean:g}"


def _own(module: nn.Module) -> dict[str, Declaration]:
    """Declarations of a module's own parameters."""
    if isinstance(module, Declaring):
        return module.declared
    inferred = next((own for kind, own in INFERRED.items() if isinstance(module, kind)), {})
    return {
        name: declaration(module)
        for name, _ in module.named_parameters(recurse=False)
        for start, declaration in inferred.items()
        if name.startswith(start)
    }


def as_declared(law: Declaration, shape: tuple[int, ...], draws: np.random.Generator) -> Values | None:
    """`mean + std · N(0, 1)`; None where the module draws itself."""
    if law.by_module:
        return None
    values = np.full(shape, law.mean)
    return values + law.std * draws.standard_normal(shape) if law.std else values


def initial_weights(
    model: nn.Module,
    seed: int,
    dtype: torch.dtype = torch.float32,
    law: Law = as_declared,
    scale: float = 1.0,
    factors: Mapping[str, float] | None = None,
    make: Callable[[int], nn.Module] | None = None,
) -> dict[str, torch.Tensor]:
    """Initial value of every parameter, each from its own stream (seed, "weights", name), times `scale` and its own factor.

    Drawn in float64 and then cast: float32 draws differ between CPUs. The model itself is only read for shapes and
    declarations (it may live on the `meta` device). What modules draw themselves is drawn by `make`, which builds the model
    anew, from a seed that follows from this one.
    """
    own = drawn_by_modules(make, seed) if make is not None else {}
    weights = {}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, declaration in declarations(model).items():
        values = law(declaration, shapes[name], stream(seed, "weights", name))
        values = own[name] if values is None else values
        factor = scale if factors is None else scale * factors[name]
        weights[name] = torch.from_numpy(factor * values).to(dtype)
    return weights


def drawn_by_modules(make: Callable[[int], nn.Module], seed: int) -> dict[str, Values]:
    """The parameters of a model as its own constructor draws them in a run of this seed, in float64."""
    built = make(int(stream(seed, "weights", "modules").integers(2**62)))
    return {name: w.detach().double().numpy() for name, w in built.named_parameters()}
