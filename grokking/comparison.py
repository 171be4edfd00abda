"""The table that compares arms: how many runs generalise, after how many steps, and how sure that is."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from grokking.errors import BadInput
from grokking.survival import (
    Estimate,
    PermutationTest,
    holm,
    median_steps,
    paired_permutation_test,
    restricted_mean,
    restricted_mean_ratio,
    restricted_times,
    success_rate,
)

UNDOTTED = (  # settings without a dot; runs.py imports torch, so they stand here
    *("train_fraction", "batch_size", "steps", "threshold", "linger"),
    *("precision", "transforms", "measures", "prompt", "label_noise"),
)


def settings_in(runs: pd.DataFrame) -> list[str]:
    """The columns of a runs table that say what a run is, but for its seed."""
    return [name for name in runs if "." in name or name in UNDOTTED]


def compare(runs: pd.DataFrame, arm: str, reference: str) -> pd.DataFrame:
    """One line per value of the column `arm`, in order of appearance; every run counts, censored ones at the budget.

    `runs` has the columns of the runs table, one task and one budget. Columns of the result: n, generalized, sustained;
    success (share generalised, Wilson interval); median_steps (Kaplan–Meier, log-log interval, empty: not reached);
    mean_steps and mean_epochs (restricted to the budget, t interval on its logit); ratio (of the restricted mean to that of the
    arm `reference`, paired by seed), p (two-sided sign-flip test of the paired log times), p_holm (Holm over the arms
    of this table) and smallest_p (that n pairs can give at all). Where no run of an arm generalises, its mean and ratio
    are lower bounds without an interval, and `is_bound` says so.
    """
    if runs["steps"].nunique() != 1:
        raise BadInput(f"arms are compared at one budget, but these runs have {sorted(runs['steps'].unique())}")
    groups = dict(list(runs.groupby(arm, sort=False)))
    if reference not in groups:
        raise BadInput(f"no run of {reference!r}, which the others are compared with; there are: {', '.join(groups)}")
    horizon = float(runs["steps"].iloc[0])
    times = {name: _times(group, horizon) for name, group in groups.items()}
    lines = []
    for name, group in groups.items():
        steps, events = observed(group)
        mean = restricted_mean(steps, events, horizon)
        ratio, test = _against(times[name], times[reference], name == reference)
        if not events.any():
            mean, ratio = bare(mean), bare(ratio)
            if name != reference and not observed(groups[reference])[1].any():
                ratio = Estimate(None, None, None, ratio.n)  # of two bounds nothing follows
        line: dict[str, Any] = {
            arm: name,
            "n": len(group),
            "generalized": int(events.sum()),
            "sustained": int(group["sustained"].sum()),
            "is_bound": not events.any(),
        }
        line |= columns("success", success_rate(events)) | columns("median_steps", median_steps(steps, events))
        line |= columns("mean_steps", mean)
        line |= columns("mean_epochs", scaled(mean, 1 / float(group["steps_per_epoch"].iloc[0])))
        line |= columns("ratio", ratio)
        lines.append(line | {"p": test and test.p_value, "smallest_p": test and test.smallest_p})
    table = pd.DataFrame(lines)
    table["p_holm"] = np.nan
    tested = table["p"].notna()
    if tested.any():
        table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].to_numpy(float))
    return table


def cells(runs: pd.DataFrame, keys: list[str], group: list[str]) -> pd.DataFrame:
    """One line per setting of a tuning grid (the columns `keys`), and which is the `best` of its `group` of columns.

    Columns: n, generalized, sustained, and the means restricted to the budget mean_steps (to generalise) and
    mean_steps_to_sustain. The best has the smallest mean of steps-to-sustain: the first crossing alone would choose
    settings that cross early and fall back. Ties (no run sustained) go to the smaller mean of steps-to-generalize.
    """
    table = (
        runs.assign(
            first=runs["steps_to_generalize"].fillna(runs["steps"]).astype(float),
            kept=runs["steps_to_sustain"].fillna(runs["steps"]).astype(float),
            crossed=runs["status"] == "generalized",
        )
        .groupby(keys, sort=False)
        .agg(
            n=("seed", "size"),
            generalized=("crossed", "sum"),
            sustained=("sustained", "sum"),
            mean_steps=("first", "mean"),
            mean_steps_to_sustain=("kept", "mean"),
        )
        .reset_index()
    )
    ranked = table.sort_values(["mean_steps_to_sustain", "mean_steps"], kind="stable")
    table["best"] = table.index.isin(ranked.groupby(group).head(1).index)
    return table


def paired_ratio(runs: pd.DataFrame, arm: str, numerator: object, denominator: object) -> Estimate:
    """Ratio of the restricted means of two arms (values of the column `arm`), over the seeds that both have."""
    horizon = float(runs["steps"].iloc[0])
    above, below = (_times(runs[runs[arm] == name], horizon) for name in (numerator, denominator))
    both = above.index.intersection(below.index)
    return restricted_mean_ratio(above[both].to_numpy(), below[both].to_numpy())


@dataclass(frozen=True)
class Agreement:
    """The same runs trained twice, elsewhere or otherwise: do they take as long?"""

    ratio: Estimate  # of the restricted means, paired by run
    p: float  # two-sided sign-flip test of the paired log times
    equal: int  # pairs with the very same steps


def agreement(runs: pd.DataFrame, others: pd.DataFrame) -> Agreement | None:
    """How the runs compare with those of the same run_id among `others`; None where fewer than two of them can tell.

    Pairs in which neither run generalised are left out: they would agree by their budget alone.
    """
    both = runs.merge(others, on="run_id", suffixes=("", "_there"))
    both = both[(both["status"] == "generalized") | (both["status_there"] == "generalized")]
    if len(both) < 2:
        return None
    here, there = (both[f"steps_to_generalize{end}"].fillna(both["steps"]).to_numpy(float) for end in ("", "_there"))
    test = paired_permutation_test(here, there)
    return Agreement(restricted_mean_ratio(here, there), test.p_value, int((here == there).sum()))


def _against(own: pd.Series, reference: pd.Series, itself: bool) -> tuple[Estimate, PermutationTest | None]:
    """Ratio to the reference and the paired test, over the seeds that both have."""
    both = own.index.intersection(reference.index)
    if itself or len(both) < 2:
        return Estimate(1.0 if itself else None, None, None, len(both)), None
    a, b = own[both].to_numpy(), reference[both].to_numpy()
    return restricted_mean_ratio(a, b), paired_permutation_test(a, b)


def bare(estimate: Estimate) -> Estimate:
    """The value alone: what an interval would say is not known."""
    return Estimate(estimate.value, None, None, estimate.n)


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """The estimate in another unit."""
    value, low, high = (None if x is None else x * factor for x in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high, estimate.n)


Event = Literal["generalize", "sustain"]


def observed(
    group: pd.DataFrame, event: Event = "generalize", horizon: float | None = None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Steps to the event and whether it happened by the horizon (None: each run's budget), as arrays [run].

    Where it did not, the steps are the horizon's.
    """
    until = group["steps"].to_numpy(float) if horizon is None else np.full(len(group), horizon)
    steps = group[f"steps_to_{event}"].to_numpy(float)
    done = np.isfinite(steps) & (steps <= until)
    return np.where(done, steps, until), done


def _times(group: pd.DataFrame, horizon: float) -> "pd.Series":
    """Restricted steps-to-generalize by seed."""
    return pd.Series(restricted_times(*observed(group), horizon), index=group["seed"].to_numpy())


def columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    """An estimate as three columns."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
