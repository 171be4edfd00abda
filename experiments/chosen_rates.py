"""The best learning rate of each cell, from trials on tuning seeds that are published as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from grokking.comparison import cells

PUBLISHED = Path(__file__).parents[1] / "figures" / "published"


def trials(runs: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """`grokking.comparison.cells` of the cells (`keys`) and their rates (`rate`), with validation `accuracy` at the end.

    It decides where `cells` has a tie: of rates with which no run generalises the best is the most accurate.
    """
    table = cells(runs, [*keys, "rate"], list(keys))
    accuracy = runs.groupby([*keys, "rate"])["final_validation_accuracy"].mean().rename("accuracy")
    table = table.join(accuracy, on=[*keys, "rate"])
    ranked = table.sort_values(["mean_steps_to_sustain", "mean_steps", "accuracy"], ascending=[True, True, False])
    return table.assign(best=table.index.isin(ranked.groupby(list(keys)).head(1).index))


def best_rates(name: str, keys: Sequence[str]) -> dict[Any, float]:
    """Cell → its best rate in the published table of this name; empty where there is none."""
    path = PUBLISHED / f"{name}.csv"
    if not path.exists():
        return {}
    best = pd.read_csv(path).query("best")
    return dict(zip(best[list(keys)].itertuples(index=False, name=None), best["rate"], strict=True))
