"""Delayed generalization: long after the training set is memorised, validation accuracy rises.

Claim      Power et al. 2022 (arXiv 2201.02177): a small transformer on modular arithmetic reaches perfect training
           accuracy early, and generalises orders of magnitude of steps later.
Here       x + y (mod 59), 40 % of the examples for training, five optimizers at their defaults, every seed a line;
           and the same without weight decay.
Definition Memorised: first evaluation with training accuracy >= 0.99. Generalised: first with validation accuracy
           >= 0.95. Runs that do not get there within the budget are censored and shown, never dropped.
"""

from collections.abc import Sequence

import five_optimizers
import numpy as np
import pandas as pd
from five_optimizers import OPTIMIZERS, REAL, SMALL
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from grokking.plotting import (
    COLORS,
    GREY,
    TITLES,
    Drawing,
    Verdict,
    caption,
    ends,
    epochs_axis,
    seeds,
    steps_axis,
    style,
)
from grokking.runs import Study
from grokking.store import Results

ARMS = [*five_optimizers.DEFAULTS, *five_optimizers.UNDECAYED]
STUDIES = {
    "smoke": [Study(SMALL, ARMS, range(1))],
    "laptop": [Study(REAL, ARMS, range(3))],
    "paper": [Study(REAL, ARMS, range(5))],
}


def draw(results: Results) -> Sequence[Drawing]:
    """Accuracy and loss against steps, a column per optimizer."""
    runs = results.runs.assign(decayed=results.runs["optimizer.weight_decay"] > 0)
    curves = results.curves.merge(runs[["run_id", "optimizer.name", "decayed", "seed"]], on="run_id")
    n = int(runs.groupby(["optimizer.name", "decayed"])["seed"].nunique().min())
    shown = [name for name in OPTIMIZERS if name in set(runs["optimizer.name"])]
    with style():
        figure = Figure(figsize=(2.75 * len(shown) + 0.6, 5.4), layout="constrained")
        panels = figure.subplots(2, len(shown), sharex=True, sharey="row", squeeze=False)
        for column, name in enumerate(shown):
            own, here = curves[curves["optimizer.name"] == name], runs[runs["optimizer.name"] == name]
            for row, metric in enumerate(("accuracy", "loss")):
                _panel(panels[row, column], own, metric, COLORS[name])
            panels[0, column].set_title(f"{TITLES[name]}\n{_summary(here)}", fontsize=8.5, pad=6)
            panels[1, column].set_yscale("log")
            steps_axis(panels[1, column])
            epochs_axis(panels[0, column], float(here["steps_per_epoch"].iloc[0]))
        panels[0, 0].set_ylabel("accuracy")
        panels[1, 0].set_ylabel("loss (cross-entropy, log)")
        figure.legend(*panels[0, -1].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        caption(figure, _caption(runs, n, results.machines))
    table = curves.assign(epoch=curves["step"] / curves["run_id"].map(runs.set_index("run_id")["steps_per_epoch"]))
    return [Drawing("delayed_generalization", figure, {"": table, "runs": results.runs}, n, _verdict(runs))]


def _panel(axes: Axes, own: pd.DataFrame, metric: str, color: str) -> None:
    decayed, undecayed = own[own["decayed"]], own[~own["decayed"]]
    seeds(axes, undecayed, f"validation_{metric}", GREY, "validation, no weight decay", ls="-")
    ends(axes, undecayed, f"validation_{metric}", GREY, "censored: budget spent, no weight decay")
    seeds(axes, decayed, f"train_{metric}", color, "training", ls=":")
    seeds(axes, decayed, f"validation_{metric}", color, "validation", ls="-")


def _summary(runs: pd.DataFrame) -> str:
    decayed, undecayed = runs[runs["decayed"]], runs[~runs["decayed"]]
    grokked = decayed["status"] == "generalized"
    text = f"{grokked.sum()} of {len(decayed)} generalise"
    if grokked.any():
        text += f"\nmedians: {decayed['steps_to_memorize'].median():,.0f} → {decayed['steps_to_generalize'].median():,.0f} steps"
    if len(undecayed):
        text += f"\nno decay: {(undecayed['status'] == 'generalized').sum()} of {len(undecayed)}"
    return text


def _delay_ratio(runs: pd.DataFrame) -> tuple[float, float, float, int]:
    """Geometric mean of generalised / memorised steps with a t interval; runs with both, and their number."""
    both = runs[runs["decayed"] & (runs["status"] == "generalized") & runs["memorized"]]
    logs = np.log((both["steps_to_generalize"] / both["steps_to_memorize"]).astype(float))
    half = stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs) if len(logs) > 1 else np.nan
    return float(np.exp(logs.mean())), float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half)), len(logs)


def _verdict(runs: pd.DataFrame) -> Verdict:
    parts, lows = [], []
    for name in OPTIMIZERS:
        here = runs[(runs["optimizer.name"] == name) & runs["decayed"]]
        ratio, low, high, n = _delay_ratio(here)
        parts.append(f"{TITLES[name]} {ratio:.0f}× [{low:.0f}, {high:.0f}] (n = {n} of {len(here)})")
        lows.append(low)
    answer = "consistent" if min(lows) > 10 else "undecided" if max(lows) > 10 else "not consistent"
    return Verdict(
        "validation reaches 95 % at more than ten times the steps that training needs for 99 % (Power et al. 2022)",
        ", ".join(parts),
        answer,
    )


def _caption(runs: pd.DataFrame, n: int, machines: Sequence[str]) -> str:
    first = runs.iloc[0]
    return (
        f"{first['task.name']} (p = {first['task.p']}), {first['train_fraction']:.0%} of the examples for training, "
        f"{first['model.depth']}-layer transformer of width {first['model.width']}, batch {first['batch_size']}, "
        f"budget {first['steps']:,} steps. n = {n} seeds per optimizer, each a line; solid coloured lines end once "
        f"validation accuracy has stayed ≥ {first['threshold']:.0%} until {1 + first['linger']:g} times its first crossing. "
        f"Times are known to within the spacing of the evaluations (5 %). Trained on: {'; '.join(machines)}."
    )
