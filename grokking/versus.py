"""Two arms over several tasks, seed by seed: which generalises sooner, by each of the measures that people use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from grokking.comparison import Event, bare, columns, observed, scaled
from grokking.errors import BadInput
from grokking.survival import (
    Estimate,
    holm,
    median_steps,
    paired_permutation_test,
    probability_earlier,
    restricted_mean,
    restricted_times,
    stratified_ratio,
    success_rate,
)


def versus(
    runs: pd.DataFrame, arm: str, first: str, second: str, stratum: str, event: Event = "generalize"
) -> pd.DataFrame:
    """One line per value of the column `stratum` (a task), in order of appearance, and a last one, "all", over them together.

    `runs` has the columns of the runs table, one budget in each stratum. `event` is the first crossing ("generalize") or the
    one that stays ("sustain"); the latter is known only of crossings up to budget / (1 + linger), which is the horizon then.
    Both arms are compared over the seeds that both have, n of them. Columns, with `_low` and `_high` of 95 % intervals:
    for each arm (`first_…`, `second_…`) events, success (share, Wilson), median_steps (Kaplan–Meier), mean_steps (restricted to the
    horizon) and mean_epochs (the same in passes over the training set); ratio (first's restricted mean over second's),
    earlier (probability that second is earlier, ties half), p (two-sided sign flips of paired log times), smallest_p and p_holm
    (over the strata). Where neither arm has an event, there is no ratio; where one has none, its mean and the ratio are bounds,
    without an interval, and `bound` says of which side ("≥" or "≤"). In the last line, over the seeds that all strata have,
    the ratio is the geometric mean over the strata and p its own sign-flip test, a seed being one observation of all strata;
    a stratum in which neither arm has an event counts as 1, and `bound` holds the sides of all that are bounds, of which the
    mean is one, too: it has no interval then, and says nothing where there are both. `earlier` is there the mean over the strata,
    without an interval: the pairs of one seed are not independent.
    """
    lines: list[dict[str, Any]] = []
    pairs: list[tuple[pd.Series, pd.Series]] = []
    events: list[tuple[pd.Series, pd.Series]] = []
    for name, own in runs.groupby(stratum, sort=False):
        horizon = _horizon(own, event)
        arms = [own[own[arm] == which].sort_values("seed").set_index("seed") for which in (first, second)]
        both = arms[0].index.intersection(arms[1].index)
        if both.empty:
            continue
        found = [observed(one.loc[both], event, horizon) for one in arms]
        a, b = (pd.Series(restricted_times(steps, done, horizon), both) for steps, done in found)
        line: dict[str, Any] = {stratum: name, "n": len(both), "horizon": horizon}
        for side, (steps, done) in zip(("first", "second"), found, strict=True):
            mean = restricted_mean(steps, done, horizon)
            line |= {f"{side}_events": int(done.sum())}
            line |= columns(f"{side}_success", success_rate(done))
            line |= columns(f"{side}_median_steps", median_steps(steps, done))
            mean = mean if done.any() else bare(mean)
            line |= columns(f"{side}_mean_steps", mean)
            line |= columns(f"{side}_mean_epochs", scaled(mean, 1 / float(own["steps_per_epoch"].iloc[0])))
        happened = [done.any() for _, done in found]
        line["bound"] = "" if happened[0] == happened[1] else "≥" if happened[1] else "≤"
        ratio = stratified_ratio([(a, b)])
        line |= columns(
            "ratio", ratio if all(happened) else bare(ratio) if any(happened) else Estimate(None, None, None, len(both))
        )
        test = paired_permutation_test(a, b)
        line |= columns("earlier", probability_earlier(b, a)) | {"p": test.p_value, "smallest_p": test.smallest_p}
        lines.append(line)
        pairs.append((a, b))
        events.append((pd.Series(found[0][1], both), pd.Series(found[1][1], both)))
    if not lines:
        raise BadInput(f"no seed has runs of both {first!r} and {second!r}")
    table = pd.DataFrame(lines)
    table["p_holm"] = holm(table["p"].to_numpy(float))
    return pd.concat([table, pd.DataFrame([_together(table, pairs, events, stratum)])], ignore_index=True)


def _together(
    table: pd.DataFrame,
    pairs: Sequence[tuple[pd.Series, pd.Series]],
    events: Sequence[tuple[pd.Series, pd.Series]],
    stratum: str,
) -> dict[str, Any]:
    """The line over all strata, of which `pairs` holds both arms' restricted times by seed, and `events` which happened."""
    common = sorted(set.intersection(*(set(a.index) for a, _ in pairs)))
    if not common:
        raise BadInput("the strata have no seed in common")
    inner = [(a[common].to_numpy(float), b[common].to_numpy(float)) for a, b in pairs]
    of_seed = [np.exp(np.mean([np.log(pair[side]) for pair in inner], axis=0)) for side in (0, 1)]
    test = paired_permutation_test(*of_seed)
    line: dict[str, Any] = {stratum: "all", "n": len(common), "bound": "".join(sorted(set(table["bound"]) - {""}))}
    for side, name in enumerate(("first", "second")):
        line[f"{name}_events"] = sum(int(done[side][common].sum()) for done in events)
    happened = line["first_events"] + line["second_events"]
    ratio = stratified_ratio(inner)
    line |= columns(
        "ratio",
        Estimate(None, None, None, len(common)) if not happened else bare(ratio) if line["bound"] else ratio,
    )
    earlier = float(np.mean([probability_earlier(b, a).value for a, b in inner]))
    line |= columns("earlier", Estimate(earlier, None, None, len(common)))
    return line | {"p": test.p_value, "smallest_p": test.smallest_p, "p_holm": np.nan}


def _horizon(runs: pd.DataFrame, event: Event) -> float:
    """Up to where the event is known of every run."""
    if runs["steps"].nunique() != 1 or runs["linger"].nunique() != 1:
        raise BadInput(f"arms are compared at one budget, but these runs have {sorted(runs['steps'].unique())}")
    budget, linger = float(runs["steps"].iloc[0]), float(runs["linger"].iloc[0])
    return budget if event == "generalize" else budget / (1 + linger)


@dataclass(frozen=True)
class PooledTest:
    """A two-sample t-test as papers pool it: all tasks in one sample, without the runs that never generalised."""

    first: float  # mean epochs of the first arm's runs that generalised
    second: float
    t: float  # Student's, equal variances
    p: float
    n: int  # runs in it, of both arms
    dropped: int  # runs that never generalised, and so are not in it


def pooled_t_test(runs: pd.DataFrame, arm: str, first: str, second: str) -> PooledTest:
    """What the pooled test of Tveit et al. 2025 (arXiv 2504.16041) says of these runs; none of our conclusions rests on it."""
    both = runs[runs[arm].isin([first, second])]
    epochs = [both.loc[both[arm] == name, "epochs_to_generalize"].dropna().to_numpy(float) for name in (first, second)]
    if min(map(len, epochs)) < 2:
        raise BadInput(f"a t-test needs two runs of {first!r} and of {second!r} that generalise")
    test = stats.ttest_ind(*epochs)
    kept = sum(map(len, epochs))
    means = [float(values.mean()) for values in epochs]
    return PooledTest(means[0], means[1], float(test.statistic), float(test.pvalue), kept, len(both) - kept)


def at_threshold(runs: pd.DataFrame, curves: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The runs table with steps_to_generalize at another threshold, from their curves (column validation_accuracy).

    Exact where a run's curve goes on until it crosses this threshold, or to its budget: so for thresholds up to the run's own.
    """
    own = runs["threshold"].min()
    if threshold > own:
        raise BadInput(f"threshold = {threshold:g}; allowed: up to {own:g}, at which these runs ended")
    above = curves[curves["validation_accuracy"] >= threshold]
    steps = above.groupby("run_id", sort=False)["step"].min().reindex(runs["run_id"]).to_numpy(float)
    crossed = np.isfinite(steps)
    status = np.where(crossed, "generalized", np.where(runs["status"] == "diverged", "diverged", "censored"))
    return runs.assign(
        steps_to_generalize=steps,
        epochs_to_generalize=steps / runs["steps_per_epoch"].to_numpy(float),
        status=status,
        threshold=threshold,
    )
