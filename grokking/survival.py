"""Estimates of steps-to-generalize from runs of which some never generalise.

`steps` [run] is in optimizer steps: steps-to-generalize where `generalized` [run], else the step at which observation
ended. A run that never generalised or diverged is censored at its budget, never dropped: the mean of the survivors
prefers an arm that is fast when it works. Intervals are 95 %. What does not exist is None, in a curve nan.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from grokking.seeding import stream

CONFIDENCE = 0.95
RESAMPLES = 10_000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value (None: not reached) with its 95 % interval (None: unbounded or not estimable) over n runs or pairs."""

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, eq=False)
class KaplanMeier:
    """A step curve, right-continuous: `survival[i]` holds from `steps[i]` until `steps[i + 1]`.

    `steps` [time] (optimizer steps; 0, then every distinct step of a run), `survival` [time] (share of runs not yet
    generalised just after that step, in [0, 1]), `low` and `high` [time] (95 % band of `survival`; nan = undefined).
    """

    steps: Floats
    survival: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class PermutationTest:
    """Two-sided p-value over n seed pairs, and the smallest p-value that n pairs can give."""

    p_value: float
    smallest_p: float
    n: int


def success_rate(generalized: ArrayLike) -> Estimate:
    """Share of runs that generalised, with the score interval of Wilson (1927), JASA 22:209.

    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z the normal quantile: inside [0, 1], and still with a width
    at 0 of n and n of n, where the textbook interval has none.
    """
    flags = _flags(generalized)
    test = stats.binomtest(int(flags.sum()), flags.size)
    interval = test.proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Estimate(float(flags.mean()), float(interval.low), float(interval.high), flags.size)


def kaplan_meier(steps: ArrayLike, generalized: ArrayLike) -> KaplanMeier:
    """Kaplan-Meier curve S(t) = product over event steps <= t of (1 - events / at risk), with its log-log band.

    The band is S ** exp(± z sqrt(V) / log S), V = sum of events / (at risk (at risk - events)) (Greenwood; Kalbfleisch
    & Prentice 1980, ch. 1). Where S is 1 although some run ended, or 0, the method defines no band: nan. Step 0 is
    prepended with S = low = high = 1, exact because no run generalises in zero steps. A run censored at the step of
    an event counts as at risk there.
    """
    flags = _flags(generalized)
    curve = stats.ecdf(stats.CensoredData.right_censored(_times(steps, flags.size), ~flags)).sf
    with warnings.catch_warnings():
        # scipy warns of the nan bounds that the docstring above promises.
        warnings.simplefilter("ignore", RuntimeWarning)
        band = curve.confidence_interval(CONFIDENCE, method="log-log")
    return KaplanMeier(
        steps=np.append(0.0, curve.quantiles),
        survival=np.append(1.0, curve.probabilities),
        low=np.append(1.0, band.low.probabilities),
        high=np.append(1.0, band.high.probabilities),
    )


def median_steps(steps: ArrayLike, generalized: ArrayLike) -> Estimate:
    """Kaplan-Meier median (optimizer steps): the first step with S(t) <= 1/2, None when S stays above.

    The interval inverts the log-log band (Brookmeyer & Crowley 1982, Biometrics 38:29): `low` is the first step where
    the low band is <= 1/2, `high` the first where the high band is; None when the band never gets there.
    """
    curve = kaplan_meier(steps, generalized)

    def first_at_half(level: Floats) -> float | None:
        # The product that makes S rounds to just above 1/2 for some n (24 runs, 12 events), hence the tolerance;
        # without it the median would move on to the next event. nan compares False: no band, no bound.
        reached = level <= 0.5 + 1e-9
        return float(curve.steps[reached.argmax()]) if reached.any() else None

    low, high = first_at_half(curve.low), first_at_half(curve.high)
    return Estimate(first_at_half(curve.survival), low, high, np.size(generalized))


def restricted_times(steps: ArrayLike, generalized: ArrayLike, horizon: float) -> Floats:
    """min(T, horizon) of every run [run] (optimizer steps), unknown and so refused for a run censored before it."""
    flags = _flags(generalized)
    times = _times(steps, flags.size)
    if not (np.isfinite(horizon) and horizon > 0):
        raise ValueError(f"The horizon must be a positive number of steps, not {horizon:g}.")
    short = times[~flags & (times < horizon)]
    if short.size:
        raise ValueError(
            f"A run censored at step {short.min():.12g} was not observed through the horizon of {horizon:.12g} steps."
        )
    return np.minimum(times, float(horizon))


def restricted_mean(steps: ArrayLike, generalized: ArrayLike, horizon: float) -> Estimate:
    """Restricted mean E[min(T, horizon)] (optimizer steps): the area under S up to the horizon (Irwin 1949).

    Every run is observed through the horizon, so it is the plain mean m of `restricted_times`. Its interval is Student's on
    the scale of log(m / (horizon - m)): logit ± t(n-1) se horizon / (m (horizon - m)), se = sd / sqrt(n). It lies between 0
    and the horizon, and covers (experiments/coverage.py) where a plain t interval does not, when many runs are censored. No
    interval below two runs. When all times are equal (say all censored) it has no width, which says nothing about certainty:
    read it beside `success_rate`.
    """
    times = restricted_times(steps, generalized, horizon)
    mean, half = float(times.mean()), _half_width(times)
    if half is None or half == 0:
        return Estimate(mean, None if half is None else mean, None if half is None else mean, times.size)
    odds, factor = mean / (horizon - mean), float(np.exp(half * horizon / (mean * (horizon - mean))))
    return Estimate(mean, horizon * odds / (odds + factor), horizon * odds * factor / (1 + odds * factor), times.size)


def restricted_mean_ratio(numerator: ArrayLike, denominator: ArrayLike) -> Estimate:
    """Ratio mean(a) / mean(b) of two arms paired by seed (arrays [seed] from `restricted_times`); no unit.

    Delta method on the log ratio: z_i = a_i / mean(a) - b_i / mean(b) has mean 0, se = sd(z) / sqrt(n), and the
    interval is ratio * exp(± t(n-1) se); none below two pairs. Pairing keeps what a seed does to both arms out of it.
    """
    return stratified_ratio([(numerator, denominator)])


def stratified_ratio(pairs: Sequence[tuple[ArrayLike, ArrayLike]]) -> Estimate:
    """Geometric mean over strata (tasks) of the ratio of restricted means, each paired by the same n seeds; no unit.

    `pairs`: for each stratum the restricted times [seed] of both arms, in the same order of seeds. As in
    `restricted_mean_ratio`, with z_i the mean over the strata: a seed is one observation, whatever its runs share.
    """
    logs, parts = [], []
    for numerator, denominator in pairs:
        a, b = _times(numerator, np.size(denominator)), _times(denominator, np.size(numerator))
        logs.append(np.log(a.mean() / b.mean()))
        parts.append(a / a.mean() - b / b.mean())
    if len({part.size for part in parts}) != 1:
        raise ValueError("Every stratum needs the same seeds.")
    z = np.mean(parts, axis=0)
    ratio, half = float(np.exp(np.mean(logs))), _half_width(z)
    if half is None:
        return Estimate(ratio, None, None, z.size)
    return Estimate(ratio, ratio * float(np.exp(-half)), ratio * float(np.exp(half)), z.size)


def probability_earlier(a: ArrayLike, b: ArrayLike) -> Estimate:
    """Probability that `a` generalises before `b` with the same seed, ties (say both censored) half (restricted times [pair]).

    Wilson's score interval with the variance of a share with ties: it holds the p with (share - p)² <= z² (p (1 - p) - t/4) / n,
    where t is the share of ties, shrunk by n / (n + 4) as few pairs tell little of it. Within 3 pairs of 0 or 1 the end there
    is Poisson's, as far out as it lies (Brown, Cai & DasGupta 2001, Statistical Science 16:101): Wilson's excludes what is
    nearly certain. None where all pairs tie.
    """
    first, second = _times(a, np.size(b)), _times(b, np.size(a))
    n = first.size
    share = float(np.mean((first < second) + 0.5 * (first == second)))
    if (first == second).all():
        return Estimate(share, None, None, n)
    c = stats.norm.ppf((1 + CONFIDENCE) / 2) ** 2 / n
    ties = float(np.mean(first == second)) * n / (n + 4)
    middle, root = 2 * share + c, np.sqrt(max(0.0, (2 * share + c) ** 2 - 4 * (1 + c) * (share**2 + c * ties / 4)))
    low, high = ((middle + sign * root) / (2 * (1 + c)) for sign in (-1, 1))
    low, high = min(low, near_certain(n * share) / n), max(high, 1 - near_certain(n * (1 - share)) / n)
    return Estimate(share, float(max(0.0, low)), float(min(1.0, high)), n)


def near_certain(count: ArrayLike) -> Floats:
    """The smallest Poisson mean that a count of at most 3 does not exclude at 5 %, one-sided; infinity for larger counts."""
    counts = np.asarray(count, dtype=np.float64)
    few = stats.chi2.ppf(1 - CONFIDENCE, 2 * np.maximum(counts, 1e-9)) / 2
    return np.where(counts > 3, np.inf, np.where(counts == 0, 0.0, few))


def paired_permutation_test(a: ArrayLike, b: ArrayLike) -> PermutationTest:
    """Two-sided sign-flip test (Fisher 1935) of the mean of log a - log b over seed pairs (restricted times [seed]).

    Under the null the arms of a seed are exchangeable, so each difference may change sign. All 2^n flips are
    enumerated up to n = 13; above that 10,000 are drawn from a fixed stream and p = 2 (count + 1) / 10,001.
    `smallest_p` is 2 / 2^n or 2 / 10,001: with n = 5 pairs no p-value below 0.0625 exists, whatever the effect.
    Every pair with equal times (say both arms censored) doubles what an exact test can reach for those data.
    """
    first, second = _times(a, np.size(b)), _times(b, np.size(a))
    n = first.size
    if n == 1:
        return PermutationTest(1.0, 1.0, n)  # scipy refuses a single pair; both of its flips are equally extreme
    result = stats.permutation_test(
        (np.log(first) - np.log(second),),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=stream(0, "paired permutation test"),
    )
    return PermutationTest(float(result.pvalue), 2 / 2**n if 2**n <= RESAMPLES else 2 / (RESAMPLES + 1), n)


def best_of_k(chosen_by: ArrayLike, values: ArrayLike | None = None) -> Floats:
    """Expected value [k], for k = 1 … n, of the best of k configurations drawn without replacement from n [configuration].

    The best is the smallest by `chosen_by`; its `values` (by default the same) are averaged over all C(n, k) draws, exactly:
    rank i of 0 … n - 1 is the best of C(n-1-i, k-1) of them. Tied configurations share their weights. Of what random search
    would find with k trials this is unbiased (Tang et al. 2020, arXiv 2004.13705), if `values` are not those that chose.
    """
    by = np.asarray(chosen_by, dtype=np.float64)
    of = by if values is None else np.asarray(values, dtype=np.float64)
    if by.ndim != 1 or by.size == 0 or by.shape != of.shape or not np.isfinite([*by, *of]).all():
        raise ValueError("Best of k needs one finite number for each of at least one configuration.")
    return best_of_k_weights(by) @ of


def best_of_k_weights(chosen_by: Floats) -> Floats:
    """Probability [k, configuration] that it is the best by `chosen_by` of k drawn without replacement."""
    n = chosen_by.size
    order = np.argsort(chosen_by, kind="stable")
    k, rank = np.arange(1, n + 1)[:, None], np.arange(n)
    left = n - 1 - rank  # worse than it; k - 1 of them fill the draw
    # By logarithms: the binomial coefficients themselves overflow from n = 1,030 on.
    logs = special.gammaln(left + 1) - special.gammaln(k) - special.gammaln(np.maximum(left - k + 1, 0) + 1)
    logs += special.gammaln(k + 1) + special.gammaln(n - k + 1) - special.gammaln(n + 1)
    by_rank = np.where(left >= k - 1, np.exp(logs), 0.0)
    weights = np.empty((n, n))
    _, groups = np.unique(chosen_by[order], return_inverse=True)
    shared = np.stack([np.bincount(groups, row) for row in by_rank]) / np.bincount(groups)
    weights[:, order] = shared[:, groups]
    return weights


def holm(p_values: ArrayLike) -> Floats:
    """Holm (1979) adjusted p-values [test], order kept: i-th of m becomes max over j <= i of min(1, (m-j+1) p_(j))."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or p.size == 0 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError("The p-values must be a non-empty list of numbers between 0 and 1.")
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted


def _half_width(values: Floats) -> float | None:
    n = values.size
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else None


def _flags(generalized: ArrayLike) -> NDArray[np.bool_]:
    flags = np.asarray(generalized)
    if flags.ndim != 1 or flags.size == 0 or flags.dtype != np.bool_:  # as a boolean, nan would silently become True
        raise ValueError(f"`generalized` must hold one boolean for each run, not {flags.size} x {flags.dtype}.")
    return flags


def _times(steps: ArrayLike, n: int) -> Floats:
    times = np.asarray(steps, dtype=np.float64)
    if n == 0 or times.shape != (n,):
        raise ValueError(f"Steps must hold one number for each of at least one run: {times.size} do not match {n}.")
    if not np.all(np.isfinite(times) & (times > 0)):
        raise ValueError("Steps must be finite and greater than 0.")
    return times
