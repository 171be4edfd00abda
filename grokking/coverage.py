"""How often the intervals of `grokking.survival` contain the truth, and its tests err, in simulated studies.

The same formulas for all studies at once, because a study at a time takes a hundred times as long; tests hold them against those of
`survival`. Scenarios: `sigma`, the sd of log steps between the seeds of an arm; `censored`, the share of the (slower) arm's runs that do
not generalise within the budget; `correlation` between the arms of a seed. What is asked is what tables print: studies without
an interval there (no run of an arm generalises, or the median is not reached) are left out, and `printed` is the share of the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from grokking import simulation, survival
from grokking.seeding import stream
from grokking.simulation import Arm, Flags, Floats, draw, pair
from grokking.survival import CONFIDENCE, RESAMPLES, near_certain

SEEDS = (5, 10, 30, 64)
SIGMAS = (0.1, 0.2, 0.5)
CENSORED = (0.0, 0.2, 0.5)
CORRELATIONS = (0.0, 0.5, 0.9)
RATIO = 1.5
TASKS = (100, 200, 300, 500, 800, 1200, 2000)  # median steps of the faster arm in each of seven tasks
STUDIES = 2_000
ALPHA = 0.05


@dataclass(frozen=True)
class Scenario:
    """What is simulated."""

    n: int  # seeds
    sigma: float
    censored: float
    correlation: float = 0.0


@dataclass(frozen=True)
class Share:
    """A share of the studies that have an interval or a p-value: those whose interval covers, or whose test rejects."""

    share: float
    studies: int
    printed: float  # share of all studies

    @property
    def error(self) -> float:
        """Monte-Carlo standard error."""
        return float(np.sqrt(self.share * (1 - self.share) / max(1, self.studies)))


Runs = list[tuple[Floats, Flags]]  # of each arm: steps [study, seed] (the budget where censored), and which generalise
Bounds = tuple[
    Floats, Floats, Flags
]  # lower and upper ends [study] (-inf, inf: unbounded), and where there is an interval


@dataclass(frozen=True)
class Interval:
    """An interval, all studies at once: the arms that it is about, what it shall contain, and its ends."""

    arms: Callable[[Scenario], list[Arm]]
    truth: Callable[[list[Arm], float], float]  # of arms and correlation
    bounds: Callable[[Runs, list[Arm]], Bounds]


def success_rate(done: Flags) -> Bounds:
    """Ends of `survival.success_rate`, always printed."""
    n = done.shape[1]
    table = [survival.success_rate(np.arange(n) < events) for events in range(n + 1)]
    low, high = (np.array([getattr(one, end) for one in table])[done.sum(axis=1)] for end in ("low", "high"))
    return low, high, np.ones(len(done), bool)


def median_steps(steps: Floats, done: Flags) -> Bounds:
    """Ends of `survival.median_steps`, where the median is reached and one of them exists."""
    n = done.shape[1]
    curve = survival.kaplan_meier(np.arange(1, n + 1), np.ones(n, bool))  # nothing is censored before the budget
    events = (done[:, None] & (steps[:, None] <= steps[:, :, None])).sum(axis=2)  # by each run's step

    def first(level: Floats) -> Floats:
        reached = level[events] <= 0.5 + 1e-9
        return np.where(reached, steps, np.inf).min(axis=1)

    middle, low, high = (first(level) for level in (curve.survival, curve.low, curve.high))
    told = np.isfinite(middle) & (np.isfinite(low) | np.isfinite(high))
    return np.where(np.isfinite(low), low, -np.inf), high, told


def restricted_mean(steps: Floats, done: Flags, horizon: float) -> Bounds:
    """Ends of `survival.restricted_mean`, where a run generalises."""
    mean, half = steps.mean(axis=1), _half_widths(steps)
    with np.errstate(divide="ignore", invalid="ignore"):  # all at the budget: nan, which contains nothing
        odds, factor = mean / (horizon - mean), np.exp(half * horizon / (mean * (horizon - mean)))
        return (
            horizon * odds / (odds + factor),
            horizon * odds * factor / (1 + odds * factor),
            np.asarray(done.any(axis=1)),
        )


def stratified_ratio(runs: Runs) -> Bounds:
    """Ends of `survival.stratified_ratio` of pairs of arms, where a run of each arm generalises."""
    logs, z = np.zeros(len(runs[0][0])), np.zeros(runs[0][0].shape)
    for at, (steps, _) in enumerate(runs):
        sign, means = 1 - 2 * (at % 2), steps.mean(axis=1)
        logs, z = logs + sign * np.log(means), z + sign * steps / means[:, None]
    strata = len(runs) // 2
    ratio, half = np.exp(logs / strata), _half_widths(z / strata)
    told: Flags = np.all([done.any(axis=1) for _, done in runs], axis=0)
    return ratio * np.exp(-half), ratio * np.exp(half), told


def probability_earlier(runs: Runs) -> Bounds:
    """Ends of `survival.probability_earlier`, where a run of each arm generalises and not all pairs tie."""
    (a, a_done), (b, b_done) = runs
    n, tied = a.shape[1], (a == b).mean(axis=1)
    share, c = (a < b).mean(axis=1) + tied / 2, stats.norm.ppf((1 + CONFIDENCE) / 2) ** 2 / n
    root = np.sqrt(np.maximum(0, (2 * share + c) ** 2 - 4 * (1 + c) * (share**2 + c * tied * n / (n + 4) / 4)))
    low, high = ((2 * share + c + sign * root) / (2 * (1 + c)) for sign in (-1, 1))
    low, high = np.minimum(low, near_certain(n * share) / n), np.maximum(high, 1 - near_certain(n * (1 - share)) / n)
    told = np.asarray(a_done.any(axis=1) & b_done.any(axis=1) & (tied < 1))
    return np.maximum(0, low), np.minimum(1, high), told


def percentile_bootstrap(steps: Floats, done: Flags) -> Bounds:
    """The percentile bootstrap of the restricted mean with 1,000 resamples: what is often used."""
    n = steps.shape[1]
    weights = stream(0, "bootstrap", n).multinomial(n, np.full(n, 1 / n), 1000) / n  # [resample, run]
    low, high = np.quantile(weights @ steps.T, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return low, high, np.asarray(done.any(axis=1))


def mean_of_survivors(steps: Floats, done: Flags) -> Bounds:
    """Student's interval for the mean of the runs that generalise, the others dropped: what is often done."""
    n = done.sum(axis=1)
    told, n = np.asarray(n > 1), np.maximum(n, 2)
    mean = np.where(done, steps, 0).sum(axis=1) / n
    sd = np.sqrt(np.where(done, (steps - mean[:, None]) ** 2, 0).sum(axis=1) / (n - 1))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * sd / np.sqrt(n)
    return mean - half, mean + half, told


def _half_widths(values: Floats) -> Floats:
    n = values.shape[1]
    return stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(axis=1, ddof=1) / np.sqrt(n)


def _slower(scenario: Scenario) -> list[Arm]:
    return [pair(RATIO, scenario.sigma, scenario.censored)[0]]


def _both(scenario: Scenario) -> list[Arm]:
    return list(pair(RATIO, scenario.sigma, scenario.censored))


def _near(scenario: Scenario) -> list[Arm]:
    """Half a standard deviation of their log ratio apart: the second is earlier in about 7 of 10 seeds."""
    ratio = float(np.exp(0.5 * scenario.sigma * np.sqrt(2 * (1 - scenario.correlation))))
    return list(pair(ratio, scenario.sigma, scenario.censored))


def _in_tasks(scenario: Scenario) -> list[Arm]:
    """The pair in each of seven tasks; a seed's effect is the same in all of them."""
    return [arm for median in TASKS for arm in pair(RATIO, scenario.sigma, scenario.censored, median)]


def _ratio(arms: list[Arm], correlation: float) -> float:
    logs = [np.log(arm.restricted_mean()) for arm in arms]
    return float(np.exp(np.mean(np.subtract(logs[::2], logs[1::2]))))


def _earlier(arms: list[Arm], correlation: float) -> float:
    return simulation.probability_earlier(arms[0], arms[1], correlation)


def _mean(arms: list[Arm], correlation: float) -> float:
    return arms[0].restricted_mean()


INTERVALS: dict[str, Interval] = {
    "success rate": Interval(_slower, lambda arms, _: arms[0].rate(), lambda runs, _: success_rate(runs[0][1])),
    "median": Interval(_slower, lambda arms, _: arms[0].median_seen(), lambda runs, _: median_steps(*runs[0])),
    "mean": Interval(_slower, _mean, lambda runs, arms: restricted_mean(*runs[0], arms[0].budget)),
    "ratio": Interval(_both, _ratio, lambda runs, _: stratified_ratio(runs)),
    "ratio over 7 tasks": Interval(_in_tasks, _ratio, lambda runs, _: stratified_ratio(runs)),
    "earlier": Interval(_near, _earlier, lambda runs, _: probability_earlier(runs)),
    "earlier, ratio 1.5": Interval(_both, _earlier, lambda runs, _: probability_earlier(runs)),
}
OTHERS: dict[str, Interval] = {  # what others do, for comparison
    "mean, percentile bootstrap": Interval(_slower, _mean, lambda runs, _: percentile_bootstrap(*runs[0])),
    "mean, censored runs dropped": Interval(_slower, _mean, lambda runs, _: mean_of_survivors(*runs[0])),
}
OF_AN_ARM = ("success rate", "median", "mean", *OTHERS)  # no correlation enters


def coverage(interval: str, scenario: Scenario, studies: int = STUDIES) -> Share:
    """In how many simulated studies this interval (see INTERVALS, OTHERS) contains the truth; the same whenever it is asked."""
    asked = {**INTERVALS, **OTHERS}[interval]
    arms, draws = asked.arms(scenario), _draws(interval, scenario)
    runs = draw(arms, scenario.correlation, draws.standard_normal((studies, scenario.n)), draws)
    low, high, told = asked.bounds(runs, arms)
    truth = asked.truth(arms, scenario.correlation)
    covers = (low <= truth) & (truth <= high)
    return Share(float(covers[told].mean()) if told.any() else np.nan, int(told.sum()), float(told.mean()))


def _draws(name: str, scenario: Scenario) -> np.random.Generator:
    return stream(0, "coverage", name, *(repr(value) for value in vars(scenario).values()))


def scenarios(n: int, correlations: tuple[float, ...] = CORRELATIONS) -> list[Scenario]:
    """All that are tabulated at n seeds."""
    return [Scenario(n, *rest) for rest in product(SIGMAS, CENSORED, correlations)]


def of_interval(interval: str, n: int) -> list[Scenario]:
    """Those of this interval: an arm alone has no correlation, and of a rate of 1 nothing can be missed."""
    asked = scenarios(n, (0.0,) if interval in OF_AN_ARM else CORRELATIONS)
    return [one for one in asked if one.censored or interval != "success rate"]


@cache
def shortfall(interval: str, n: int) -> str:
    """`91–95 %`: how often the interval contains the truth with n seeds, least and most over its scenarios."""
    found = [coverage(interval, scenario).share for scenario in of_interval(interval, n)]
    low, high = (round(100 * share) for share in (np.nanmin(found), np.nanmax(found)))
    return f"{low} %" if low == high else f"{low}–{high} %"


def beside(interval: str, n: int) -> str:
    """` (covers 91–95 % at n = 10, simulated)`: what stands beside an interval in a caption; nothing from 30 seeds on or of one."""
    return "" if n >= 30 or n < 2 else f" (covers {shortfall(interval, n)} at n = {n}, simulated)"


def sign_flip_p_values(differences: Floats) -> NDArray[np.float64]:
    """p-values [study] of `survival.paired_permutation_test`, for differences of logs [study, pair], all studies at once.

    The same flips for all studies: all of them up to 13 pairs, above that 10,000 drawn, as there.
    """
    n = differences.shape[1]
    if enumerated := 2**n <= RESAMPLES:
        flips = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        flips = stream(0, "sign flips", n).choice([-1.0, 1.0], (RESAMPLES, n))
    p_values = []
    for block in np.array_split(differences, max(1, len(differences) // 250)):  # 20 MB of sums each
        sums, null = block.sum(axis=1), flips @ block.T
        slack = 1e-12 * np.abs(block).sum(axis=1)  # sums that are equal but for rounding
        least = np.minimum((null >= sums - slack).sum(axis=0), (null <= sums + slack).sum(axis=0))
        p_values.append(2 * (least + (not enumerated)) / (len(flips) + (not enumerated)))
    return np.minimum(1.0, np.concatenate(p_values))


def false_alarms(scenario: Scenario, studies: int = STUDIES) -> Share:
    """How often the sign-flip test rejects at 5 % where both arms are alike."""
    arm = pair(RATIO, scenario.sigma, scenario.censored)[0]
    draws = _draws("sign flip", scenario)
    (a, _), (b, _) = draw([arm, arm], scenario.correlation, draws.standard_normal((studies, scenario.n)), draws)
    return Share(float(np.mean(sign_flip_p_values(np.log(a) - np.log(b)) <= ALPHA)), studies, 1.0)


def family_false_alarms(scenario: Scenario, studies: int = STUDIES) -> Share:
    """How often Holm rejects anything at 5 % where seven arms are like the eighth, which each is compared with."""
    arm = pair(RATIO, scenario.sigma, scenario.censored)[0]
    draws = _draws("Holm", scenario)
    runs = draw([arm] * 8, scenario.correlation, draws.standard_normal((studies, scenario.n)), draws)
    p = np.stack([sign_flip_p_values(np.log(steps) - np.log(runs[0][0])) for steps, _ in runs[1:]], axis=1)
    return Share(float(np.mean([survival.holm(own).min() <= ALPHA for own in p])), studies, 1.0)


# An arm of which every run is seen, and one whose runs lie so far apart that a third take longer than the budget: where
# they are seen they are sooner, but 2,000 steps of it buy less. (Restricted means 1,045 and 1,291 steps.)
STEADY, ERRATIC = Arm(1000, 0.2, 2000), Arm(1300, 1.0, 2000)


def prefers_the_wrong_arm(n: int, dropped: bool, studies: int = STUDIES) -> Share:
    """How often the erratic arm has the smaller mean, restricted to the budget or with its censored runs dropped."""
    draws = stream(0, "wrong arm", n)
    (steady, seen), (erratic, done) = draw([STEADY, ERRATIC], 0.0, draws.standard_normal((studies, n)), draws)
    if dropped:
        told = done.any(axis=1) & seen.any(axis=1)
        means = [
            np.where(flags, steps, 0).sum(axis=1)[told] / flags.sum(axis=1)[told]
            for steps, flags in ((steady, seen), (erratic, done))
        ]
    else:
        told = np.ones(studies, bool)
        means = [steady.mean(axis=1), erratic.mean(axis=1)]
    return Share(float(np.mean(means[1] < means[0])), int(told.sum()), float(told.mean()))


TESTS: dict[str, Callable[[Scenario, int], Share]] = {"sign flip": false_alarms, "Holm, 7 tests": family_false_alarms}
