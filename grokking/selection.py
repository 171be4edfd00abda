"""Choosing an optimizer's numbers on tuning seeds, for an equal budget, and reporting them on other seeds."""

from collections.abc import Sequence

import pandas as pd

from grokking.comparison import cells
from grokking.errors import BadInput

FIRST_TUNING_SEED = 1000  # seeds from here on choose, those below report


def split(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs that choose and the runs that report, told apart by their seeds: no run is both."""
    tuning = runs["seed"] >= FIRST_TUNING_SEED
    return runs[tuning], runs[~tuning]


def searched(runs: pd.DataFrame, group: Sequence[str], arm: str, keys: Sequence[str]) -> pd.DataFrame:
    """One line per configuration that was tried, what it took, and which is the best within an equal budget.

    `runs` are tuning runs; configurations (the columns `keys`) stand in the order in which a search tried them, within each
    value of `arm` (an optimizer) and of the columns `group` (a task). Columns: those of `comparison.cells`; run_steps, what all
    its runs trained; spent, the sum of run_steps of this arm so far; budget, the same for all arms of a group: what the arm
    that spent least spent; within, whether spent is no more than that; and best, of those within.
    """
    if (runs["seed"] < FIRST_TUNING_SEED).any():
        raise BadInput(f"seed {runs['seed'].min()} chooses nothing; allowed: tuning seeds, from {FIRST_TUNING_SEED} on")
    all_keys = [*group, arm, *keys]
    filled = runs.assign(**{key: runs[key].fillna("–") for key in keys})  # another optimizer's number
    table = cells(filled, all_keys, [*group, arm]).drop(columns="best")
    cost = filled.groupby(all_keys, sort=False)["steps_trained"].sum().reset_index(name="run_steps")
    table = table.merge(cost, on=all_keys)
    table["spent"] = table.groupby([*group, arm], sort=False)["run_steps"].cumsum()
    whole = table.groupby([*group, arm], sort=False)["run_steps"].sum().groupby(list(group), sort=False).min()
    table["budget"] = table[list(group)].merge(whole.reset_index(name="budget"), on=list(group))["budget"].to_numpy()
    table["within"] = table["spent"] <= table["budget"]
    ranked = table[table["within"]].sort_values(["mean_steps_to_sustain", "mean_steps"], kind="stable")
    table["best"] = table.index.isin(ranked.groupby([*group, arm]).head(1).index)
    return table
