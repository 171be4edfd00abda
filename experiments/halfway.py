"""Where half of the runs succeed: a logistic curve in the log-odds of a fraction, with an interval that few runs can bear."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from grokking.errors import BadInput
from grokking.seeding import stream
from grokking.survival import CONFIDENCE, Estimate

RESAMPLES = 400
FINENESS = 0.0005  # of the fractions that are tried as the middle
SLOPES = np.geomspace(0.5, 200.0, 60)
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Halfway:
    """The fraction at which half of the runs succeed (None: not within the fractions tried), and the slope there.

    The curve is P(f) = expit(slope · (logit f - logit middle)). `gap` holds the fractions below which, and above which, the
    rate is on one side of a half; `resampled` [draw] the middle for seeds drawn anew.
    """

    estimate: Estimate
    slope: float
    gap: tuple[float, float]
    resampled: Floats

    def curve(self, fractions: ArrayLike) -> Floats:
        """Fitted share of runs [fraction] that succeed."""
        if self.estimate.value is None:
            raise BadInput("there is no curve where half of the runs is not crossed within the fractions tried")
        return np.asarray(special.expit(self.slope * (_logit(fractions) - _logit(self.estimate.value))))


def halfway(fractions: ArrayLike, success: ArrayLike) -> Halfway:
    """Fit successes [seed, fraction] over fractions [fraction], increasing and between 0 and 1.

    Maximum, by brute force over middle and slope (> 0), of the likelihood with the penalty of Firth 1993 (Biometrika 80:27),
    ½ log det of the information of intercept and slope: without it the slope is infinite wherever all runs fail up to one
    fraction and succeed from the next on, which is common here. The interval is the hull of two: Student's with the standard
    error of seeds drawn anew, on the log-odds (runs of one seed are not independent, so the likelihood's would be too
    narrow); and the gap between the fractions where the rate crosses a half, inside of which no run tells anything. None of a
    single seed.
    """
    x, flags = np.asarray(fractions, dtype=np.float64), np.asarray(success, dtype=np.float64)
    if x.ndim != 1 or x.size < 2 or not (np.all((x > 0) & (x < 1)) and np.all(np.diff(x) > 0)):
        raise BadInput(f"fractions = {x.tolist()}; allowed: at least two, increasing, between 0 and 1")
    if flags.ndim != 2 or flags.shape[1] != x.size or not len(flags) or not np.isin(flags, (0, 1)).all():
        raise BadInput(
            f"success has the shape {flags.shape}; allowed: 0 or 1 for each seed and each of {x.size} fractions"
        )
    n, rates = len(flags), flags.mean(axis=0)
    if not (rates[0] < 0.5 < rates[-1]):
        return Halfway(Estimate(None, None, None, n), np.nan, (float(x[0]), float(x[-1])), np.empty(0))
    surface = _Surface(x, n)
    middle, slope = surface.best(flags.sum(axis=0)[None])
    seeds = stream(0, "halfway").integers(0, n, (RESAMPLES, n))
    resampled, _ = surface.best(flags[seeds].sum(axis=1))
    gap = float(x[np.flatnonzero(rates >= 0.5)[0] - 1]), float(x[np.flatnonzero(rates <= 0.5)[-1] + 1])
    value, half = float(middle[0]), _half_width(_logit(resampled), n)
    low, high = (float(special.expit(_logit(value) + sign * half)) for sign in (-1, 1))
    low, high = min(low, gap[0]), max(high, gap[1])
    estimate = Estimate(value, low, high, n) if n > 1 else Estimate(value, None, None, n)
    return Halfway(estimate, float(slope[0]), gap, resampled)


def difference(a: Halfway, b: Halfway) -> Estimate:
    """The middle of `a` minus that of `b`, fitted to the same seeds in the same order; intervals as for a middle, paired."""
    n = a.estimate.n
    if n != b.estimate.n:
        raise BadInput(f"paired by seed, but there are {n} and {b.estimate.n}")
    if a.estimate.value is None or b.estimate.value is None:
        return Estimate(None, None, None, n)
    value, half = a.estimate.value - b.estimate.value, _half_width(a.resampled - b.resampled, n)
    low, high = min(value - half, a.gap[0] - b.gap[1]), max(value + half, a.gap[1] - b.gap[0])
    return Estimate(value, float(low), float(high), n) if n > 1 else Estimate(value, None, None, n)


def _half_width(resampled: Floats, n: int) -> float:
    """Student's, where the standard error is that of means over n seeds drawn anew, widened by √(n / (n - 1))."""
    return (
        float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * resampled.std(ddof=1) * np.sqrt(n / (n - 1)))
        if n > 1
        else np.inf
    )


class _Surface:
    """Penalised log-likelihood of successes, n runs at each fraction, at every middle and slope that is tried."""

    def __init__(self, fractions: Floats, n: int) -> None:
        low, high = fractions[0], fractions[-1]
        self.middles = np.linspace(low, high, round((high - low) / FINENESS) + 1)
        z = _logit(fractions)
        self.scores = SLOPES[:, None] * (z - _logit(self.middles)[:, None, None])  # [middle, slope, fraction]
        weights = n * special.expit(self.scores) * special.expit(-self.scores)
        zero, one, two = (np.sum(weights * z**power, axis=-1) for power in (0, 1, 2))
        with np.errstate(divide="ignore"):
            penalty = 0.5 * np.log(np.maximum(zero * two - one**2, 0.0))
        self.base = penalty - n * np.logaddexp(0, self.scores).sum(axis=-1)

    def best(self, successes: Floats) -> tuple[Floats, Floats]:
        """The middle and the slope [sample] of the greatest likelihood of successes [sample, fraction]; equal ones are fitted once."""
        distinct, which = np.unique(successes, axis=0, return_inverse=True)
        found = np.array([(self.base + self.scores @ own).argmax() for own in distinct])
        at, slope = np.unravel_index(found[which.ravel()], self.base.shape)
        return self.middles[at], SLOPES[slope]


def _logit(fractions: ArrayLike) -> Floats:
    return np.asarray(special.logit(np.asarray(fractions, dtype=np.float64)))
