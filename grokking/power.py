"""How many seeds it takes until the paired sign-flip test sees a ratio: its power in simulated studies."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from grokking.coverage import STUDIES, sign_flip_p_values
from grokking.seeding import stream
from grokking.simulation import Arm, Floats, draw
from grokking.survival import RESAMPLES

GROWTH = 1.4  # of the numbers of seeds that are tried until one is enough


@dataclass(frozen=True)
class Power:
    """Share of studies of n seed pairs in which the test rejects, its Monte-Carlo error, and the smallest p there is."""

    n: int
    power: float
    standard_error: float
    smallest_p: float


@dataclass(frozen=True)
class Comparison:
    """What is compared: two arms with the same seeds, on one task or more; a seed's log ratio is its mean over the tasks."""

    first: Arm
    second: Arm
    correlation: float = 0.0
    tasks: int = 1

    def log_ratios(self, most: int, studies: int = STUDIES) -> Floats:
        """log T(first) - log T(second), at most the budget each, of simulated studies [study, seed]."""
        draws = stream(0, "power", *(repr(value) for value in asdict(self).values()))
        shared, total = draws.standard_normal((studies, most)), np.zeros((studies, most))
        for _ in range(self.tasks):
            (a, _), (b, _) = draw((self.first, self.second), self.correlation, shared, draws)
            total += np.log(a) - np.log(b)
        return total / self.tasks


def power(log_ratios: Floats, n: int, alpha: float) -> Power:
    """The power of the first n seeds of each study [study, seed] at the two-sided level `alpha`."""
    share = float(np.mean(sign_flip_p_values(log_ratios[:, :n]) <= alpha))
    error = float(np.sqrt(share * (1 - share) / len(log_ratios)))
    return Power(n, share, error, 2 / 2**n if 2**n <= RESAMPLES else 2 / (RESAMPLES + 1))


def seeds_needed(log_ratios: Floats, wanted: float, alpha: float) -> Iterator[Power]:
    """The power at numbers of seeds: more until `wanted` is reached, then between the last two by bisection.

    The fewest of them that reach it, if any does, are the fewest that do, up to the Monte-Carlo error.
    """
    most = log_ratios.shape[1]
    few, many = 1, min(5, most)  # of one pair no p is below 1
    yield (found := power(log_ratios, many, alpha))
    while found.power < wanted:
        if many == most:
            return
        few, many = many, min(most, round(GROWTH * many))
        yield (found := power(log_ratios, many, alpha))
    while many - few > 1:
        middle = (few + many) // 2
        found = power(log_ratios, middle, alpha)
        yield found
        few, many = (few, middle) if found.power >= wanted else (middle, many)
