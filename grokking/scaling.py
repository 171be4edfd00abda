"""How a model's numbers change with its width, so that what was tuned on a narrow one holds on a wide one.

A scaling rule says by which factors the numbers of a parameter are multiplied; at the base width all are 1. It is told what the
parameter is for (its role) and how the optimizer updates it (its geometry), and nothing else: no optimizer is named here.
"""

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from grokking.errors import BadInput
from grokking.registry import Registry, is_rate, options
from grokking.roles import Geometry, Role, Update

scalings = Registry("scaling")


class Place(enum.Enum):
    """Where a model is multiplied by a number that is no parameter."""

    READOUT = "readout"  # what enters the head
    SCORES = "scores"  # attention's scores, which are divided by √channels already


@dataclass(frozen=True)
class Part:
    """A parameter, or a place, as it is and as it is in the model of base width."""

    role: Role | Place
    shape: tuple[int, ...]  # of a place: the channels that are summed over there
    base: tuple[int, ...]
    width: float  # numbers that enter the head, over those of the base
    spread: float = 1.0  # root mean square of its initial values, over that of the base, by the law of `init.name`
    update: Update | None = None
    tied: bool = False  # whether the head is the embedding, and so no parameter of its own

    @property
    def fan_out(self) -> float:
        """Numbers that it gives out, over those of the base."""
        at = 1 if self.role is Role.EMBEDDING else 0
        return self.shape[at] / self.base[at]

    @property
    def fan_in(self) -> float:
        """Numbers of which each of those is a sum, over those of the base; of an embedding and of a vector 1."""
        if self.role not in (Role.HIDDEN, Role.HEAD):
            return 1.0
        return math.prod(self.shape[1:]) / math.prod(self.base[1:])


@dataclass(frozen=True)
class Factors:
    """What the numbers of a part are multiplied by."""

    init: float = 1.0  # its initial values
    forward: float = 1.0  # of a place: what passes there
    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0

    def of(self, number: str) -> float:
        """That of an optimizer's number, by its name: `lr`, `adamw_lr`, `weight_decay`, `eps`, …"""
        if is_rate(number):
            return self.lr
        endings = {"weight_decay": self.weight_decay, "eps": self.eps}
        return next((factor for end, factor in endings.items() if number == end or number.endswith("_" + end)), 1.0)


Scaling = Callable[..., Factors]


def scaling(rule: Scaling) -> Scaling:
    """Register a scaling rule: a function of a `Part`, and options with defaults, that returns its `Factors`.

    It needs an option `base_width`, the `model.width` at which every factor is 1: without one, nothing would ever be scaled. The
    rule need not read it, as a `Part` has its sizes in both models.
    """
    own = options(rule, skip=1)
    if "base_width" not in own and rule.__name__ != "standard":
        raise BadInput(
            f"scaling {rule.__name__!r} has no option base_width; add base_width: int = 64, the model.width at which all factors are 1"
        )
    scalings.add(rule, own)
    return rule


@scaling
def standard(part: Part) -> Factors:
    """As the numbers stand, at every width."""
    return Factors()


@scaling
def mup(part: Part, base_width: int = 64) -> Factors:
    """Maximal update parametrization: every layer's output changes as much at every width, by steps as large as can be.

    Divides what enters the head by the width (over that of the base), and attention's scores by √channels once more.
    Source: Yang et al. 2022, Tensor Programs V, arXiv 2203.03466, table 8; decay and epsilon: Dey et al. 2025, arXiv 2505.01618
    """
    if part.role is Place.READOUT:
        return Factors(forward=1 / part.width)
    if part.role is Place.SCORES:
        return Factors(forward=part.fan_out**-0.5)
    return maximal(part, readout=1 / part.width)


@scaling
def spectral(part: Part, base_width: int = 64) -> Factors:
    """The same without a multiplier before the head: weights and updates of [out, in] have singular values like √(out/in).

    Before a tied head it stays, as an embedding cannot be as small as a head must be.
    Source: Yang, Simon & Bernstein 2023, arXiv 2310.17813
    """
    if part.role is Place.SCORES:
        return Factors(forward=part.fan_out**-0.5)
    if part.role is Place.READOUT:
        return Factors(forward=1 / part.width if part.tied else 1.0)
    return maximal(part, readout=1.0)


def check_factors(factors: Mapping[str, Factors]) -> None:
    """Raise `BadInput` where a factor is no positive finite number."""
    for name, own in factors.items():
        for what, value in vars(own).items():
            if not 0 < value < math.inf:
                raise BadInput(f"scaling multiplies {what} of {name} by {value}; allowed: positive finite numbers")


def maximal(part: Part, readout: float) -> Factors:
    """Factors of a parameter in whose model what enters the head is multiplied by `readout`.

    What passes between layers is as large at every width, entry by entry; so what a layer gives out must change by as much
    too, and its rate is 1 over what an update of rate 1 would change.
    """
    assert part.update is not None
    lr, gradient = 1 / changed(part, readout), gradient_entries(part, readout)
    # Where decay is a part of the gradient, it must be as large beside it at every width, and what is learned has entries like
    # 1 over what they are multiplied by; elsewhere lr · weight_decay is the share that a step takes.
    decay = gradient * reach(part, readout) if part.update.coupled else 1 / lr
    # Beside epsilon stands what an update is divided by: entries of the gradient, or its singular values.
    beside = {Geometry.ENTRYWISE: gradient, Geometry.SPECTRAL: gradient * (part.fan_out * part.fan_in) ** 0.5}
    eps = beside.get(part.update.geometry, 1.0) ** part.update.eps_power
    return Factors(init=initial(part, readout) / part.spread, lr=lr, weight_decay=decay, eps=eps)


def reach(part: Part, readout: float) -> float:
    """By how much more a change of every entry, all in step, changes what the layer gives out (of the head: the scores)."""
    return part.fan_in * (readout if part.role is Role.HEAD else 1.0)


def initial(part: Part, readout: float) -> float:
    """Root mean square of the initial values, over that of the base."""
    if part.role is Role.HIDDEN:
        return part.fan_in**-0.5
    return 1 / (part.fan_in * readout) if part.role is Role.HEAD else 1.0


def gradient_entries(part: Part, readout: float) -> float:
    """An entry of the gradient, over that of the base: the scores' derivative by a hidden number is like 1 / width."""
    if part.role is Role.HEAD:
        return readout
    return 1 / part.width if part.fan_out != 1 else 1.0


def changed(part: Part, readout: float) -> float:
    """How much an update of rate 1 changes each number that the layer gives out (of the head: each score), over the base's.

    Updates and what enters the layer go together, so their products add up.
    """
    assert part.update is not None
    kind = part.update.geometry
    if kind is Geometry.SPECTRAL:
        return _by_spectral_update(part) * (readout if part.role is Role.HEAD else 1.0)
    entries = {
        Geometry.GRADIENT: gradient_entries(part, readout),
        Geometry.ENTRYWISE: 1.0,
        Geometry.RELATIVE: initial(part, readout),
    }
    return entries[kind] * reach(part, readout)


def _by_spectral_update(part: Part) -> float:
    """The same without `readout` for an update of known largest singular value, the others not far below it."""
    assert part.update is not None
    if len(part.shape) != 2:
        return 1.0
    size = part.update.size(*part.shape) / part.update.size(*part.base)
    if part.role is Role.EMBEDDING:
        # A row is looked up. Of an orthogonal matrix it has length 1, or less where there are more rows than columns.
        length, before = (min(1.0, columns / rows) ** 0.5 for rows, columns in (part.shape, part.base))
        return size * length / before * part.fan_out**-0.5
    return size * (part.fan_in / part.fan_out) ** 0.5
