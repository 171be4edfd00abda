"""The best learning rate of each cell, from trials on tuning seeds that are published as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

PUBLISHED = Path(__file__).parents[1] / "figures" / "published"


def trials(runs: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """One line a cell (`keys`) and `rate`: its mean steps, runs that do not generalise at the budget, and whether it is the cell's `best`.

    Of rates with which none generalises, the best has the highest validation accuracy at the end.
    """
    steps = runs["steps_to_generalize"].astype(float).fillna(runs["steps"].astype(float))
    table = (
        runs.assign(mean_steps=steps, accuracy=runs["final_validation_accuracy"])
        .groupby([*keys, "rate"], sort=False)[["mean_steps", "accuracy"]]
        .mean()
        .reset_index()
    )
    ranked = table.sort_values(["mean_steps", "accuracy"], ascending=[True, False])
    return table.assign(best=table.index.isin(ranked.groupby(list(keys)).head(1).index))


def best_rates(name: str, keys: Sequence[str]) -> dict[Any, float]:
    """Cell → its best rate in the published table of this name; empty where there is none."""
    path = PUBLISHED / f"{name}.csv"
    if not path.exists():
        return {}
    best = pd.read_csv(path).query("best")
    return dict(zip(best[list(keys)].itertuples(index=False, name=None), best["rate"], strict=True))
