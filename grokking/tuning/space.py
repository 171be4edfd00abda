"""What a search may choose from: a range or a few values for each of some settings."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grokking.errors import BadInput
from grokking.registry import Scalar, Settings

AROUND = 30.0  # default ranges: from a thirtieth of the default to thirty times it
DIGITS = 4  # significant, of a number that is tried: enough for any optimizer, and a person can type them


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, even in their logarithm where `log`; whole ones where `integer`."""

    low: float
    high: float
    log: bool = True
    integer: bool = False

    def points(self, number: int) -> list[Scalar]:
        """So many of them, evenly spaced, both ends among them."""
        shares = [step / (number - 1) for step in range(number)] if number > 1 else [0.5]
        return list(dict.fromkeys(self.at(share) for share in shares))

    def at(self, share: float) -> Scalar:
        """What lies there between `low` (0) and `high` (1)."""
        even = self.low + share * (self.high - self.low)
        return self.value(self.low ** (1 - share) * self.high**share if self.log else even)

    def value(self, number: float) -> Scalar:
        """The number as it is tried."""
        return round(number) if self.integer else float(f"{number:.{DIGITS}g}")

    def holds(self, value: Scalar | None) -> bool:
        """Whether the value is one of them."""
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    def __str__(self) -> str:
        """To the last digit: it is part of a search's name."""
        ends = (repr(end).removesuffix(".0") for end in (self.low, self.high))
        return ":".join(ends) + ("" if self.log else ":linear")


@dataclass(frozen=True)
class Choices:
    """One of these values."""

    values: tuple[Scalar, ...]

    def points(self, number: int) -> list[Scalar]:
        """All of them, however many points a range gets."""
        return list(self.values)

    def holds(self, value: Scalar | None) -> bool:
        """Whether the value is one of them."""
        return value in self.values

    def __str__(self) -> str:
        return ",".join(map(str, self.values))


Axis = Range | Choices
Space = Mapping[str, Axis]  # by the dotted name of the setting


def settings_at(space: Space, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The settings that a sampler's `params` stand for."""
    return {
        name: axis.value(float(params[name])) if isinstance(axis, Range) else params[name]
        for name, axis in space.items()
    }


def grid_of(space: Space, number: int) -> list[dict[str, Scalar]]:
    """Every combination of `number` points of each range and all choices."""
    return [
        dict(zip(space, values, strict=True))
        for values in itertools.product(*(axis.points(number) for axis in space.values()))
    ]


def drawn(space: Mapping[str, Range], number: int, generator: np.random.Generator) -> list[dict[str, Scalar]]:
    """So many configurations, each independent of the others and even over the space: a random search."""
    return [{name: axis.at(generator.random()) for name, axis in space.items()} for _ in range(number)]


def parse_space(texts: Iterable[str], defaults: Settings) -> dict[str, Axis]:
    """`optimizer.lr=1e-4:1e-1` (log), `optimizer.momentum=0.5:0.99:linear`, `model.width=64,128` (choices).

    The type of a setting's default decides: whole numbers stay whole, words and switches can only be chosen from.
    """
    space: dict[str, Axis] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise BadInput(
                f"--space {text!r}; allowed: name=low:high, name=low:high:linear, name=value,value, such as optimizer.lr=1e-4:1e-1"
            )
        if name in space:
            raise BadInput(f"--space has {name} twice; say it once")
        if name not in defaults:
            raise BadInput(f"--space {name} is no setting of these runs; allowed: {', '.join(sorted(defaults))}")
        space[name] = _range(text, values, defaults[name]) if ":" in values else _choices(text, values, defaults[name])
    return space


def parse_point(texts: Iterable[str], space: Space, defaults: Settings, usual: Settings) -> dict[str, Scalar]:
    """`name=value` … → one configuration of the space; what is not named is as `usual` (of a recipe), or else as by default."""
    from grokking.checks import cast

    said: dict[str, Scalar] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in space or name in said:
            raise BadInput(f"--start {text!r}; allowed: name=value, once for each of {', '.join(space)}")
        said[name] = cast(name, value, defaults[name])
    return {name: said.get(name, usual.get(name, defaults[name])) for name in space}


def around_defaults(defaults: Settings, chosen: Settings) -> dict[str, Axis]:
    """The optimizer's learning rate and weight decay, from a thirtieth of their defaults to thirty times those.

    Not what was `chosen` for all runs.
    """
    space: dict[str, Axis] = {}
    for name in ("optimizer.lr", "optimizer.weight_decay"):
        default = defaults.get(name)
        if isinstance(default, float) and default > 0 and name not in chosen:
            space[name] = Range(float(f"{default / AROUND:.1g}"), float(f"{default * AROUND:.1g}"))
    if not space:
        raise BadInput("no learning rate or weight decay with a default above 0 is left to be searched; say --space")
    return space


def _range(text: str, values: str, default: Scalar) -> Range:
    low, high, *scale = values.split(":")
    try:
        first, last = float(low), float(high)
    except ValueError:
        first = last = math.nan
    linear = scale == ["linear"]
    if isinstance(default, (bool, str)):
        raise BadInput(f"--space {text!r}: it is no number; allowed: values to choose from, such as name=value,value")
    if not (math.isfinite(first) and math.isfinite(last) and first < last) or scale not in ([], ["linear"]):
        raise BadInput(f"--space {text!r}; allowed: low:high or low:high:linear with finite low < high")
    if not linear and first <= 0:
        raise BadInput(f"--space {text!r}: a logarithmic range begins above 0; allowed: low > 0, or low:high:linear")
    integer = isinstance(default, int)
    if integer and not (first.is_integer() and last.is_integer()):
        raise BadInput(f"--space {text!r}; allowed: whole numbers")
    return Range(first, last, not linear, integer)


def _choices(text: str, values: str, default: Scalar) -> Choices:
    from grokking.checks import cast

    found: Sequence[Scalar] = [cast(text.partition("=")[0], value, default) for value in values.split(",")]
    if len(set(found)) != len(found):
        raise BadInput(f"--space {text!r} names a value twice")
    return Choices(tuple(found))
