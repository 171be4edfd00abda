"""Simulated censored studies: runs whose true law is known, so that what a statistic says of them can be checked.

An arm's steps-to-generalize are log-normal: log T = log median + sigma (sqrt(correlation) z + sqrt(1 - correlation) e),
z standard normal and shared by all arms of a seed, e by none. As in a trained run, what is seen is the first evaluation
from T on, and nothing beyond the budget. Steps are optimizer steps; `correlation` is in [0, 1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from grokking.engine.evaluation_grid import evaluation_steps

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
EVERY, GROWTH = 10, 0.05  # the default evaluations
SHARED = np.linspace(-8, 8, 1601)  # values of z that integrals are taken over
WEIGHTS = stats.norm.pdf(SHARED) / stats.norm.pdf(SHARED).sum()


@dataclass(frozen=True)
class Arm:
    """The law of an arm's steps to generalise, and its budget in steps; `sigma` is the sd of their natural logarithm."""

    median: float
    sigma: float
    budget: int

    def evaluations(self) -> Floats:
        """Steps at which a run is evaluated."""
        return np.array(list(evaluation_steps(EVERY, GROWTH, self.budget)), dtype=np.float64)

    def chances(self, shared: ArrayLike = 0.0, correlation: float = 0.0) -> Floats:
        """Chance to generalise at each evaluation, and last not to within the budget [..., evaluation + 1], given z."""
        middle = np.log(self.median) + self.sigma * np.sqrt(correlation) * np.asarray(shared)[..., None]
        own = self.sigma * np.sqrt(1 - correlation)
        until = stats.norm.cdf((np.log(self.evaluations()) - middle) / own)
        return np.diff(until, axis=-1, prepend=0.0, append=1.0)

    def rate(self) -> float:
        """Share of runs that generalise within the budget."""
        return float(1 - self.chances()[-1])

    def restricted_mean(self) -> float:
        """E[min(T, budget)] as it is evaluated."""
        return float(self.chances() @ np.append(self.evaluations(), self.budget))

    def median_seen(self) -> float:
        """The first evaluation by which half of the runs have generalised; inf where that is beyond the budget."""
        reached = np.cumsum(self.chances()[:-1]) >= 0.5 - 1e-12
        return float(self.evaluations()[reached.argmax()]) if reached.any() else np.inf


def budget(median: float, sigma: float, censored: float) -> int:
    """The budget that leaves this share of an arm's runs censored; for 0 one in a million."""
    return ceil(median * np.exp(sigma * stats.norm.isf(max(censored, 1e-6))))


def pair(ratio: float, sigma: float, censored: float, median: float = 1000.0) -> tuple[Arm, Arm]:
    """A slower arm, of whose runs this share is censored, and one that takes 1 / `ratio` of its steps, at one budget."""
    until = budget(ratio * median, sigma, censored)
    return Arm(ratio * median, sigma, until), Arm(median, sigma, until)


def probability_earlier(first: Arm, second: Arm, correlation: float) -> float:
    """True probability that `first` is seen to generalise before `second` with the same seed, ties half (one budget)."""
    a, b = (arm.chances(SHARED, correlation)[:, :-1] for arm in (first, second))
    a, b = (np.column_stack([x[:, :-1], 1 - x[:, :-1].sum(axis=1)]) for x in (a, b))  # at the budget, or never: a tie
    later = np.cumsum(b[:, ::-1], axis=1)[:, ::-1] - b / 2
    return float(WEIGHTS @ (a * later).sum(axis=1))


def draw(
    arms: Sequence[Arm], correlation: float, shared: Floats, draws: np.random.Generator
) -> list[tuple[Floats, Flags]]:
    """Of each arm the steps [study, seed] (the budget where censored) and which runs generalise, given z [study, seed]."""
    runs = []
    for arm in arms:
        noise = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * draws.standard_normal(shared.shape)
        times, grid = arm.median * np.exp(arm.sigma * noise), arm.evaluations()
        at = np.searchsorted(grid, times)
        runs.append((grid[np.minimum(at, grid.size - 1)], at < grid.size))
    return runs


def fitted(steps: ArrayLike, generalized: ArrayLike) -> tuple[float, float]:
    """Median and sigma of log-normal steps [run], of which some are censored, by maximum likelihood.

    sigma² is multiplied by n / (n - 1), so that without censoring it is the sample variance of log steps. Raises ValueError
    unless runs generalise at two steps at least: nothing else tells their spread.
    """
    logs, flags = np.log(np.asarray(steps, dtype=np.float64)), np.asarray(generalized, dtype=bool)
    if np.unique(logs[flags]).size < 2:
        raise ValueError(f"the {flags.sum()} of {flags.size} runs that generalise do not tell how far apart they lie")
    middle, spread = stats.norm.fit(stats.CensoredData.right_censored(logs, ~flags))
    return float(np.exp(middle)), float(spread * np.sqrt(flags.size / (flags.size - 1)))


def fitted_correlation(
    first: tuple[ArrayLike, ArrayLike],
    second: tuple[ArrayLike, ArrayLike],
    laws: tuple[tuple[float, float], tuple[float, float]],
) -> float:
    """Correlation of the log steps of two arms by maximum likelihood, in [0, 0.99]; of each its steps and flags [seed] and law.

    Given z both arms are independent, so the likelihood of a pair is the mean over z of a product, in which a run counts
    with its density, or where it is censored with the chance to take longer.
    """
    (a, a_done), (b, b_done) = (
        ((np.log(np.asarray(steps, float)) - np.log(median)) / sigma, np.asarray(done, bool))
        for (steps, done), (median, sigma) in zip((first, second), laws, strict=True)
    )

    def surprise(correlation: float) -> float:
        own = np.sqrt(1 - correlation)

        def likelihood(z: Floats, done: Flags) -> Floats:
            at = (z[:, None] - np.sqrt(correlation) * SHARED) / own
            return np.where(done[:, None], stats.norm.pdf(at) / own, stats.norm.sf(at))

        return -float(np.log(likelihood(a, a_done) * likelihood(b, b_done) @ WEIGHTS).sum())

    return float(_least(surprise, 0.0, 0.99))


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function of one number is least, the ends among it, which a bounded search never tries."""
    inside = optimize.minimize_scalar(function, bounds=(low, high), method="bounded").x
    return min((low, float(inside), high), key=function)
