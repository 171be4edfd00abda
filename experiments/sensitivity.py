"""Where does each optimizer work? Steps to generalise over learning rate and weight decay.

Claim      Whether, and when, a network generalises depends on learning rate and weight decay as much as on the rule (Power et
           al. 2022, arXiv 2201.02177, figure 2, for AdamW).
Here       x + y (mod 59), 40 % of the examples for training; ten optimizers, each with five learning rates × four weight
           decays a factor of about three apart, and three tuning seeds.
Definition Steps to the first evaluation with validation accuracy >= 0.95. Runs that do not get there within the budget of
           2,000 steps count at the budget in every mean. A cell works where all of its three runs generalise, and keeps where all
           stay.
Shows      Muon works in 13 of 20 cells (and keeps in 12), SOAP in 11 (9), AdamW and Adam in 10 (3 and 5), NAdam and sign SGD in 7
           (2 and 4), RMSprop in 5 (2), Lion in 3 (1), Adagrad in 2 (0), SGD with momentum in none; how many depends on where a
           grid lies, too, and a crossing after 1,333 steps cannot be known to stay. What decides is less the learning rate than
           what a step takes away: where lr × decay is about 0.003, all 36 runs of AdamW, NAdam and SOAP generalise, at 0.001 and
           less none of 54, at 0.09 and more none of 27; Muon, whose decay acts on hidden matrices alone (all else keeps AdamW's
           0.001), still does at 0.18 and 0.2 (6 of 6). Best cells: SOAP 107 steps, Muon 110, AdamW 259, Adam 288, NAdam 288 (473
           to stay), sign SGD 397, RMSprop 648, Lion 761; most have the largest decay of their grid, and might do better beyond.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd
from five_optimizers import REAL, SMALL
from matplotlib.figure import Figure

from grokking.comparison import cells, compare
from grokking.coverage import beside
from grokking.plotting import Drawing, caption, heat_map, label, seed_dots, step_ticks, style
from grokking.publish import comparison_table, markdown_table
from grokking.registry import Settings
from grokking.selection import split
from grokking.store import Results
from grokking.study import Study, grid

SEEDS = range(1000, 1003)
THIRDS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
COUPLED, DECOUPLED = (3e-4, 1e-3, 3e-3, 1e-2), (0.3, 1.0, 3.0, 10.0)
GRIDS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # learning rates, weight decays
    "sgd": ((0.01, 0.03, 0.1, 0.3, 1.0), COUPLED),
    "adagrad": ((0.003, 0.01, 0.03, 0.1, 0.3), COUPLED),
    "rmsprop": (THIRDS, COUPLED),
    "adam": (THIRDS, COUPLED),
    "adamw": (THIRDS, DECOUPLED),
    "nadam": (THIRDS, DECOUPLED),
    "soap": (THIRDS, DECOUPLED),
    "sign_sgd": ((3e-5, 1e-4, 3e-4, 1e-3, 3e-3), (1.0, 3.0, 10.0, 30.0)),
    "lion": ((3e-5, 1e-4, 3e-4, 1e-3, 3e-3), (1.0, 3.0, 10.0, 30.0)),
    "muon": ((0.002, 0.006, 0.02, 0.06, 0.2), (0.1, 0.3, 1.0, 3.0)),
}


def arm(name: str) -> Settings:
    """The optimizer at its default numbers; SGD with momentum."""
    return {"optimizer.name": name} | ({"optimizer.momentum": 0.9} if name == "sgd" else {})


def grid_of(name: str) -> list[Settings]:
    """All settings of an optimizer's grid."""
    lrs, decays = GRIDS[name]
    return [{**arm(name), **cell} for cell in grid(optimizer__lr=lrs, optimizer__weight_decay=decays)]


CHOSEN: dict[str, tuple[float, float]] = {  # optimizer: (learning rate, weight decay), the framed cells
    "sgd": (0.3, 0.003),
    "adagrad": (0.03, 0.01),
    "rmsprop": (0.001, 0.01),
    "adam": (0.003, 0.01),
    "adamw": (0.001, 10),
    "nadam": (0.001, 10),
    "soap": (0.01, 3),
    "sign_sgd": (0.0003, 30),
    "lion": (0.0003, 30),
    "muon": (0.06, 1),
}
BEST: list[Settings] = [
    {**arm(name), "optimizer.lr": lr, "optimizer.weight_decay": decay} for name, (lr, decay) in CHOSEN.items()
]
STUDIES = {
    "smoke": [Study({**SMALL, "steps": 300}, [cell for name in GRIDS for cell in grid_of(name)[::7]], SEEDS[:1])],
    "laptop": [*(Study(REAL, grid_of(name), SEEDS) for name in GRIDS), Study(REAL, BEST, range(10))],
}
RUN_STEPS = {"smoke": 9_000, "laptop": 1_400_000}  # at most: the sum of all budgets
COMPILE = ("laptop",)


def draw(results: Results) -> Sequence[Drawing]:
    """A heat map per optimizer; and every optimizer at its best cell, on seeds that did not choose it."""
    tuning, fresh = split(results.runs)
    drawings = [_maps(tuning, results.machines)]
    if (fresh["optimizer.name"] == "adamw").any():  # which the others are compared with
        drawings.append(_best_cells(fresh, results.machines))
    return drawings


def _maps(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    keys = ["optimizer.name", "optimizer.lr", "optimizer.weight_decay"]
    table = cells(runs, keys, keys[:1])
    words = [_cell(line) for line in table.to_dict("records")]
    shown = [name for name in GRIDS if name in set(table["optimizer.name"])]
    rows = -(-len(shown) // 5)
    with style():
        figure = Figure(figsize=(14.5, 3.6 * rows), layout="constrained")
        panels = figure.subplots(rows, 5, squeeze=False).ravel()
        for axes, name in zip(panels, shown, strict=False):
            own = table.assign(word=words)[table["optimizer.name"] == name]
            heat_map(axes, own, "mean_steps", float(runs["steps"].max()))
            axes.set_title(label(name))
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        caption(figure, _caption(runs, table, machines))
    return Drawing(
        "sensitivity", figure, {"": table, "summary": summary(table), "runs": runs}, len(SEEDS), None, markdown
    )


def _cell(line: Mapping[Hashable, Any]) -> str:
    """Mean steps to generalise → to stay, and how many runs do."""
    first, kept = (round(line[name]) for name in ("mean_steps", "mean_steps_to_sustain"))
    steps = f"{first:,}" if first == kept else f"{first:,}\n→{kept:,}"
    return f"{steps}\n{line['generalized']}/{line['n']} ({line['sustained']})"


def _best_cells(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    """Every optimizer at its best cell."""
    table = compare(runs.assign(arm=runs["optimizer.name"]), "arm", reference="adamw")
    settings = runs.groupby("optimizer.name", sort=False)[["optimizer.lr", "optimizer.weight_decay"]].first()
    table.insert(1, "lr", settings["optimizer.lr"].to_numpy())
    table.insert(2, "weight_decay", settings["optimizer.weight_decay"].to_numpy())
    order = table.sort_values(["mean_steps", "arm"])["arm"]
    n = int(table["n"].min())
    with style():
        figure = Figure(figsize=(8.5, 3.8), layout="constrained")
        axes = figure.subplots()
        seed_dots(axes, {label(name): runs[runs["optimizer.name"] == name] for name in order}, "#0072B2")
        axes.set_ylabel("steps to generalise (log)")
        step_ticks(axes.yaxis)
        first = runs.iloc[0]
        caption(
            figure,
            f"{first['task.name']} (p = {first['task.p']}), {first['train_fraction']:.0%} of the examples for training; every "
            f"optimizer at the framed cell of its heat map, on n = {n} seeds that did not choose it, each a dot; triangles: "
            f"censored at {first['steps']:,} steps; bar and whiskers: mean restricted to the budget and its 95 % t interval{beside('mean', n)}. "
            f"Trained on: {'; '.join(machines)}.",
        )
    return Drawing("sensitivity_best", figure, {"": table, "runs": runs}, n, None, comparison_table)


def _caption(runs: pd.DataFrame, table: pd.DataFrame, machines: Sequence[str]) -> str:
    first = runs.iloc[0]
    return (
        f"{first['task.name']} (p = {first['task.p']}), {first['train_fraction']:.0%} of the examples for training, n = "
        f"{table['n'].min()} seeds a cell. In each cell: mean steps until validation accuracy reaches 95 % (runs that do not "
        f"within {first['steps']:,} steps count there) → until it stays there, if later; how many did, and in brackets how many "
        "stayed. Darker is sooner to generalise; the frame marks where runs stay soonest (of equals, generalise). Weight decay is L2 "
        "in the loss for SGD, Adagrad, RMSprop and Adam, and decoupled for the others; lr × decay is what a step takes away. "
        f"SGD has momentum 0.9. Trained on: {'; '.join(machines)}."
    )


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One line per optimizer: in how many cells all runs generalise, and stay; and its best cell."""
    lines = []
    for name, own in table.groupby("optimizer.name", sort=False):
        best = own[own["best"]].iloc[0]
        whole, kept = (own[own[column] == own["n"]] for column in ("generalized", "sustained"))
        per_step = whole["optimizer.lr"] * whole["optimizer.weight_decay"]
        lines.append(
            {
                "optimizer": name,
                "cells": len(own),
                "all_generalize": len(whole),
                "all_stay": len(kept),
                "per_step_low": per_step.min(),
                "per_step_high": per_step.max(),
                "lr": best["optimizer.lr"],
                "weight_decay": best["optimizer.weight_decay"],
                "n": best["n"],
                "sustained": best["sustained"],
                "mean_steps": best["mean_steps"],
                "mean_steps_to_sustain": best["mean_steps_to_sustain"],
            }
        )
    return pd.DataFrame(lines)


def markdown(table: pd.DataFrame) -> str:
    """The summary as it stands in a document."""
    head = (
        "optimizer | cells where all generalise | and stay | lr × decay of the former | best cell (lr, weight decay) | "
        "mean steps there | to stay"
    )
    rows = [
        (
            label(row["optimizer"]),
            f"{row['all_generalize']} of {row['cells']}",
            str(row["all_stay"]),
            "–" if pd.isna(row["per_step_low"]) else f"{row['per_step_low']:.2g} to {row['per_step_high']:.2g}",
            f"{row['lr']:g}, {row['weight_decay']:g}",
            f"{row['mean_steps']:,.0f}",
            f"{row['mean_steps_to_sustain']:,.0f} ({row['sustained']} of {row['n']})",
        )
        for row in table.to_dict("records")
    ]
    return markdown_table(head.split(" | "), rows)
