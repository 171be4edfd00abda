"""Which optimizer generalises soonest, each at its best setting; and which without weight decay?

Claim      Tveit et al. 2025 (arXiv 2504.16041): Muon brings the mean epoch of generalization from AdamW's 153.09 to
           102.89, a ratio AdamW / Muon of 1.49 (six tasks pooled, tuning and number of seeds not stated).
Here       x + y (mod 59), 40 % of the examples for training. Every optimizer got the same small grid, three learning
           rates × three weight decays × two tuning seeds (part of the `paper` scale), and runs here at the setting
           with the smallest restricted mean of steps-to-sustain; and once without decay.
Definition Steps to the first evaluation with validation accuracy >= 0.95, on seeds disjoint from the tuning seeds.
           Runs that never get there count as censored at the budget in every estimate.
"""

from collections.abc import Sequence

import five_optimizers
import numpy as np
import pandas as pd
from five_optimizers import OPTIMIZERS, REAL, SMALL
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from grokking.comparison import cells, compare, observed, paired_ratio
from grokking.coverage import beside
from grokking.plotting import (
    COLORS,
    TITLES,
    Drawing,
    Verdict,
    caption,
    epochs_axis,
    heat_map,
    label,
    steps_axis,
    style,
    survival_curve,
)
from grokking.publish import comparison_table
from grokking.selection import split
from grokking.store import Results
from grokking.study import Study, grid
from grokking.survival import kaplan_meier

PUBLISHED = 153.09 / 102.89
TUNING_SEEDS = (1000, 1001)
GRIDS = {  # learning rates, weight decays: each a factor of about three apart
    "sgd": ((0.01, 0.03, 0.1), (1e-3, 3e-3, 1e-2)),
    "rmsprop": ((3e-4, 1e-3, 3e-3), (3e-4, 1e-3, 3e-3)),
    "adam": ((1e-3, 3e-3, 1e-2), (3e-4, 1e-3, 3e-3)),
    "adamw": ((1e-3, 3e-3, 1e-2), (0.3, 1.0, 3.0)),
    "muon": ((0.006, 0.02, 0.06), (0.1, 0.3, 1.0)),
}
TUNING = [
    Study(
        {**five_optimizers.arm(name), **REAL},
        grid(optimizer__lr=lrs, optimizer__weight_decay=decays),
        TUNING_SEEDS,
    )
    for name, (lrs, decays) in GRIDS.items()
]
ARMS = [*five_optimizers.BEST, *five_optimizers.BEST_UNDECAYED]
STUDIES = {
    "smoke": [Study(SMALL, ARMS, range(1))],
    "laptop": [Study(REAL, five_optimizers.BEST, range(5)), Study(REAL, five_optimizers.BEST_UNDECAYED, range(3))],
    "paper": [
        Study(REAL, five_optimizers.BEST, range(10)),
        Study(REAL, five_optimizers.BEST_UNDECAYED, range(5)),
        *TUNING,
    ],
}
RUN_STEPS = {"smoke": 10_000, "laptop": 80_000, "paper": 330_000}  # at most: the sum of all budgets
COMPILE = ("laptop", "paper")


def draw(results: Results) -> Sequence[Drawing]:
    """Time to generalise per optimizer with its estimates; and the grid behind the settings, where it was run."""
    tuning, fresh = split(results.runs)
    drawings = [_comparison(fresh.assign(arm=_arm), results.machines)]
    if len(tuning):
        drawings.append(_grid(tuning, results.machines))
    return drawings


def _arm(runs: pd.DataFrame) -> pd.Series:
    return runs["optimizer.name"] + np.where(runs["optimizer.weight_decay"] > 0, "", ", no decay")


def _comparison(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    decayed = runs["optimizer.weight_decay"] > 0
    first = runs.iloc[0]
    n, n_undecayed = (int(runs[pick].groupby("arm")["seed"].nunique().min()) for pick in (decayed, ~decayed))
    settings = (
        runs.groupby("arm", sort=False)[["optimizer.lr", "optimizer.weight_decay"]].first().reset_index(drop=True)
    )
    table = compare(runs, "arm", reference="adamw")
    table.insert(1, "lr", settings["optimizer.lr"])
    table.insert(2, "weight_decay", settings["optimizer.weight_decay"])
    ratio = paired_ratio(runs, "arm", "adamw", "muon")
    per_epoch = float(first["steps_per_epoch"])
    with style():
        figure = Figure(figsize=(10.5, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        _survival(left, runs)
        _strip(right, runs, table)
        for axes in (left, right):
            steps_axis(axes)
            epochs_axis(axes, per_epoch)
        figure.legend(handles=_legend(), loc="outside upper center", ncols=7)
        caption(
            figure,
            f"{first['task.name']} (p = {first['task.p']}), {first['train_fraction']:.0%} of the examples for training. "
            f"n = {n} seeds per optimizer with weight decay and {n_undecayed} without, the same seeds, splits and initial weights for all. Left: share of runs that have "
            "reached 95 % validation accuracy (1 − Kaplan–Meier; bands: 95 % log-log intervals, where some but not all "
            "runs have generalised). Right: each seed a dot; triangles: censored at the budget of "
            f"{first['steps']:,} steps; bar and whiskers: mean restricted to the budget and its 95 % t interval{beside('mean', n)}; number: "
            f"runs that generalised. Trained on: {'; '.join(machines)}.",
        )
    everywhere = table.set_index("arm").loc[["adamw", "muon"], "generalized"].gt(0).all()
    low, high = (np.nan if end is None or not everywhere else end for end in (ratio.low, ratio.high))
    answer = "consistent" if low <= PUBLISHED <= high else "undecided" if np.isnan(low) else "not consistent"
    verdict = Verdict(
        "AdamW needs 1.49 times the epochs of Muon (153.09 / 102.89, Tveit et al. 2025)",
        f"{ratio.value:.2f} [{_end(low)}, {_end(high)}] (n = {ratio.n} seed pairs, {first['task.name']}, p = {first['task.p']})",
        f"{answer} at these settings",
    )
    return Drawing("optimizers", figure, {"": table, "runs": runs.drop(columns="arm")}, n, verdict, comparison_table)


def _end(bound: float) -> str:
    return "–" if np.isnan(bound) else f"{bound:.2f}"


def _survival(axes: Axes, runs: pd.DataFrame) -> None:
    budget = float(runs["steps"].iloc[0])
    for name in OPTIMIZERS:
        for arm, dash in ((name, "-"), (f"{name}, no decay", (0, (1, 1.5)))):
            group = runs[runs["arm"] == arm]
            if len(group):
                survival_curve(
                    axes, kaplan_meier(*observed(group)), budget, COLORS[name], TITLES[name], band=dash == "-", ls=dash
                )
    axes.set(ylabel="share of runs that generalise", ylim=(-0.03, 1.05))
    first = runs["steps_to_generalize"].min()
    axes.set_xlim(0.7 * float(budget if pd.isna(first) else first), 1.06 * budget)


def _legend() -> list[Line2D]:
    lines = [Line2D([], [], color=COLORS[name], label=TITLES[name]) for name in OPTIMIZERS]
    ends = (("-", "weight decay"), (":", "no decay (left)"))
    return lines + [Line2D([], [], color="black", ls=dash, label=label) for dash, label in ends]


def _strip(axes: Axes, runs: pd.DataFrame, table: pd.DataFrame) -> None:
    arms = list(table["arm"])
    for row, line in enumerate(table.to_dict("records")):
        name = line["arm"].split(",")[0]
        group = runs[runs["arm"] == line["arm"]].sort_values("seed")
        y = row + np.linspace(-0.22, 0.22, len(group))
        done = (group["status"] == "generalized").to_numpy()
        axes.plot(
            group["steps_to_generalize"][done].astype(float),
            y[done],
            "o",
            ms=4.5,
            color=COLORS[name],
            alpha=0.75,
            mew=0,
        )
        axes.plot(group["steps"][~done], y[~done], ">", ms=5, color=COLORS[name], mfc="none")
        if done.any():
            if not pd.isna(line["mean_steps_high"]):
                axes.plot([line["mean_steps_low"], line["mean_steps_high"]], [row, row], color="black", lw=1)
            axes.plot([line["mean_steps"]], [row], "|", color="black", ms=14, mew=1.6)
        axes.annotate(
            f"{line['generalized']}/{line['n']}",
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
        )
    first = runs["steps_to_generalize"].min()
    axes.set_xlim(0.7 * float(runs["steps"].max() if pd.isna(first) else first), 1.12 * float(runs["steps"].max()))
    axes.set_yticks(range(len(arms)), [label(arm) for arm in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _grid(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    """Restricted means over the tuning seeds for every setting of the grid."""
    keys = ["optimizer.name", "optimizer.lr", "optimizer.weight_decay"]
    table = cells(runs, keys, keys[:1])
    words = [
        f"{r['mean_steps_to_sustain']:,.0f}\n{r['sustained']} ({r['generalized']})" for r in table.to_dict("records")
    ]
    with style():
        figure = Figure(figsize=(11.5, 3.1), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(GRIDS)), GRIDS, strict=True):
            own = table.assign(word=words)[table["optimizer.name"] == name]
            heat_map(axes, own, "mean_steps_to_sustain", float(runs["steps"].max()))
            axes.set_title(TITLES[name])
        caption(
            figure,
            f"Steps until validation accuracy reaches 95 % and stays there (mean of {len(TUNING_SEEDS)} tuning seeds, runs "
            f"that do not within the budget of {runs['steps'].max():,} steps at the budget); below it, how many did, of "
            f"{len(TUNING_SEEDS)}, and how many crossed 95 % at all, in brackets. Darker is sooner; the frame marks the best "
            f"setting (of equals, the one that crosses soonest). Trained on: {'; '.join(machines)}.",
        )
    return Drawing("optimizers_grid", figure, {"": table, "runs": runs}, len(TUNING_SEEDS))
