"""What does a certified bound cost? Steps to generalise, and accuracy, against the slope that is certified, constraint by constraint.

Claim      Newhouse et al. 2025 (arXiv 2507.13338): weight constraints give a bound on how fast scores change, Muon makes more of one than
           AdamW, and bounds that are small enough to mean something cost accuracy.
Here       x + y (mod 59), 60 % of the examples for training, full batch; a perceptron on embeddings of 64 side by side, two hidden layers
           of 128, GELU with slopes up to 1. Every row of the embeddings is kept at a root mean square of 1, so that slopes mean the
           same for all. Scores are multiplied by 1 to 64, which is what is certified where every norm is at most 1. Each constraint acts
           on both hidden matrices and the head, after every step of Muon (on these; AdamW on embeddings) or AdamW; all with rates of
           their own, chosen on two tuning seeds, which fall to 0 over 240 steps. A run ends before that, once it has stayed above 95 % for half as
           long again: what is said of its end is of then.
Definition Steps to the first evaluation with validation accuracy >= 0.95. Certified: the upper bound of grokking.lipschitz.certificate
           from the last weights. Attacked: the steepest slope that power iteration finds at some 32 examples, a lower bound on the same.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from chosen_rates import best_rates, trials
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from grokking.plotting import Drawing, caption, label, step_ticks, style
from grokking.publish import markdown_table, number
from grokking.registry import Settings
from grokking.selection import split
from grokking.store import Results
from grokking.study import Study

BASE: Settings = {
    **{"task.name": "mod_add", "task.p": 59, "train_fraction": 0.6, "batch_size": 0, "steps": 240},
    **{"model.name": "mlp", "model.inputs": "concatenated", "model.embedding": 64, "model.width": 128},
    **{"model.depth": 2, "model.activation": "gelu_1", "init.name": "orthogonal"},
    **{"schedule.name": "linear_decay", "schedule.warmup": 0},
    **{"transforms": "oblique", "transform.oblique.embedding": "rows", "transform.oblique.head": "none"},
}
MEASURED: Settings = {"measures": "certified_slope,steepest_slope"}
SCALES = (1.0, 4.0, 16.0, 64.0)
RATES = {"muon": (0.25, 0.5, 1.0, 2.0, 4.0), "adamw": tuple(0.025 * 2**k for k in range(10))}
OPTIMIZERS: dict[str, Settings] = {
    "muon": {"optimizer.name": "muon", "optimizer.scale": "spectral", "optimizer.matrices": "hidden+head"}
    | {"optimizer.momentum": 0.6, "optimizer.adamw_lr": 0.1, "optimizer.adamw_weight_decay": 0.0},
    "adamw": {"optimizer.name": "adamw"},
}


def on_all(name: str) -> Settings:
    """A constraint with norm 1 on hidden matrices and the head, without decay beside it."""
    return {"transforms": f"{name},oblique", f"transform.{name}.on": "hidden+head", "optimizer.weight_decay": 0.0}


CONSTRAINTS: dict[str, Settings] = {
    "none": {"optimizer.weight_decay": 0.0},
    "weight decay": {"optimizer.weight_decay": 1.0},
    "cap": on_all("spectral_cap"),
    "normalize": on_all("spectral_normalize"),
    "hammer": on_all("spectral_hammer"),
    "Stiefel": on_all("stiefel"),
}
COLOR = dict(zip(CONSTRAINTS, ("#8A8A8A", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#0072B2"), strict=True))
FLAT = 1_000  # certified over attacked, from which on an attack finds nothing to speak of
KEYS = ["optimizer", "constraint", "scale"]


def arm(optimizer: str, constraint: str, scale: float, rate: float) -> Settings:
    """One trial."""
    own = {**OPTIMIZERS[optimizer], **CONSTRAINTS[constraint]}
    return {**own, "model.logit_scale": scale, "optimizer.lr": rate}


CELLS = [(optimizer, constraint, scale) for optimizer in OPTIMIZERS for constraint in CONSTRAINTS for scale in SCALES]
GRID = [arm(*cell, rate) for cell in CELLS for rate in RATES[cell[0]]]


def chosen() -> dict[tuple[str, str, float], float]:
    """Cell → its best rate among the published trials; until there are any, a rate from the middle."""
    return best_rates("lipschitz_frontier_tuning", KEYS) or {cell: RATES[cell[0]][1] for cell in CELLS}


QUICK: Settings = {"task.p": 11, "model.width": 16, "model.embedding": 8, "steps": 40}
STUDIES = {
    "smoke": [Study({**BASE, **QUICK, **MEASURED}, [arm(*cell, 0.02) for cell in CELLS[::7]], range(2))],
    "tuning": [Study(BASE, GRID, range(1000, 1002))],
    "laptop": [Study({**BASE, **MEASURED}, [arm(*cell, rate) for cell, rate in chosen().items()], range(3))],
}
RUN_STEPS = {"smoke": 560, "tuning": 172_800, "laptop": 34_560}  # at most: the sum of all budgets


def draw(results: Results) -> Sequence[Drawing]:
    """The trials; or steps and accuracy against the slope that is certified, with what an attack finds."""
    tuned, fresh = split(named(results.runs))
    drawings = []
    if len(tuned):
        drawings.append(_trials(tuned, results.machines))
    if len(fresh):
        drawings.append(_frontier(fresh, results.machines))
    return drawings


def named(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the name of their constraint, and what else tells cells apart."""
    told = runs["transforms"].map({own["transforms"]: name for name, own in CONSTRAINTS.items() if "transforms" in own})
    free = runs["optimizer.weight_decay"].map({0.0: "none", 1.0: "weight decay"})
    names = {"optimizer.name": "optimizer", "model.logit_scale": "scale", "optimizer.lr": "rate"}
    return runs.assign(constraint=told.fillna(free), **{new: runs[old] for old, new in names.items()})


def _trials(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    table = trials(runs, KEYS)
    with style():
        figure = Figure(figsize=(10, 5), layout="constrained")
        panels = figure.subplots(len(OPTIMIZERS), len(SCALES), sharey=True, sharex="row")
        for row, optimizer in zip(panels, OPTIMIZERS, strict=True):
            for axes, scale in zip(row, SCALES, strict=True):
                for constraint, color in COLOR.items():
                    own = table[(table[KEYS] == [optimizer, constraint, scale]).all(axis=1)]
                    axes.plot(own["rate"], own["accuracy"], "o-", ms=3, lw=1, color=color, label=constraint)
                axes.set(xscale="log")
                ticks = RATES[optimizer][:: 1 if len(RATES[optimizer]) < 6 else 3]
                axes.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
                axes.xaxis.minorticks_off()
                if optimizer == next(iter(OPTIMIZERS)):
                    axes.set_title(f"scores × {scale:g}")
            row[0].set_ylabel(f"{label(optimizer)}: validation accuracy")
        for axes in panels[-1]:
            axes.set_xlabel("learning rate (log)")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(COLOR))
        n = runs["seed"].nunique()
        caption(
            figure,
            f"Mean validation accuracy at the end, of n = {n} tuning seeds. Trained on: {'; '.join(machines)}.",
        )
    return Drawing("lipschitz_frontier_tuning", figure, {"": table, "runs": _plain(runs)}, n)


def _plain(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.drop(columns=["constraint", "optimizer", "scale", "rate"])


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """One line a cell: how many generalise, mean steps, accuracy at the end, the slope certified and attacked, and the tightest ratio of both."""
    lines = []
    for cell, own in runs.groupby(KEYS, sort=False):
        steps = own["steps_to_generalize"].astype(float)
        certified, attacked = own["final_certified_slope"], own["final_steepest_slope"]
        line: dict[str, Any] = {**dict(zip(KEYS, cell, strict=True)), "n": len(own), "rate": own["rate"].iloc[0]}
        line |= {"generalized": int(steps.notna().sum()), "mean_steps": steps.fillna(own["steps"].astype(float)).mean()}
        line |= {"accuracy": own["final_validation_accuracy"].mean()}
        line |= {"certified": np.exp(np.log(certified).mean()), "attacked": np.exp(np.log(attacked).mean())}
        line |= {"loosest": (certified / attacked).max(), "tightest": (certified / attacked).min()}
        lines.append(line)
    return pd.DataFrame(lines)


def _frontier(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    table = summary(runs)
    n = int(table["n"].min())
    with style():
        figure = Figure(figsize=(10, 6.5), layout="constrained")
        panels = figure.subplots(2, len(OPTIMIZERS), sharex=True, sharey="row")
        for column, optimizer in enumerate(OPTIMIZERS):
            own = table[table["optimizer"] == optimizer]
            for axes, value in zip(panels[:, column], ("mean_steps", "accuracy"), strict=True):
                _points(axes, own, value)
            panels[0, column].set(title=label(optimizer), xscale="log", yscale="log")
            panels[1, column].set_xlabel("slope of the scores (log)")
        step_ticks(panels[0, 0].yaxis)
        panels[0, 0].set_ylabel("mean steps to generalise (log)")
        panels[1, 0].set_ylabel("validation accuracy at the end")
        keys = [Line2D([], [], color=color, marker="o", ls="", label=name) for name, color in COLOR.items()]
        figure.legend(handles=keys, loc="outside upper center", ncols=len(keys))
        first = runs.iloc[0]
        caption(
            figure,
            f"x + y (mod {first['task.p']}), {first['train_fraction']:.0%} for training, n = {n} seeds, each cell at the rate that other seeds chose. Each point a "
            f"constraint and a factor before the scores ({SCALES[0]:g} to {SCALES[-1]:g}): dot, the slope that is certified; tick to its left, the steepest that an attack finds "
            "(geometric means). Hollow: not all seeds generalise within the budget, at which the others count. "
            f"Trained on: {'; '.join(machines)}.",
        )
    return Drawing("lipschitz_frontier", figure, {"": table, "runs": _plain(runs)}, n, None, markdown)


def _points(axes: Axes, own: pd.DataFrame, value: str) -> None:
    for constraint, color in COLOR.items():
        for line in own[own["constraint"] == constraint].to_dict("records"):
            full = line["generalized"] == line["n"]
            if line["certified"] < FLAT * line["attacked"]:
                axes.plot([line["attacked"], line["certified"]], [line[value]] * 2, color=color, lw=0.8, alpha=0.6)
                axes.plot([line["attacked"]], [line[value]], "|", color=color, ms=6)
            axes.plot([line["certified"]], [line[value]], "o", ms=5, color=color, mfc=color if full else "none")


def markdown(table: pd.DataFrame) -> str:
    """A line a constraint and optimizer: the least certified slope with which all seeds generalise."""
    rows = []
    for (optimizer, constraint), own in table.groupby(["optimizer", "constraint"], sort=False):
        good = own[own["generalized"] == own["n"]]
        loosest = own[
            "loosest"
        ].max()  # of networks that hardly say anything else at any example an attack finds no slope
        spread = f"{own['tightest'].min():.1f} to " + (f"{loosest:,.1f}" if loosest < FLAT else f"over {FLAT:,}")
        if good.empty:
            rows.append((label(str(optimizer)), str(constraint), "none does", "–", "–", spread))
            continue
        least, soonest = good.loc[good["certified"].idxmin()], good.loc[good["mean_steps"].idxmin()]
        rows.append(
            (
                *(label(str(optimizer)), str(constraint)),
                f"{number(least['certified'])} ({number(least['attacked'])})",
                f"{least['mean_steps']:,.0f}",
                f"{soonest['mean_steps']:,.0f} ({number(soonest['certified'])})",
                spread,
            )
        )
    head = (
        *("optimizer", "constraint", "least slope with which all generalise: certified (attacked)", "its steps"),
        *("fewest steps (certified)", "certified over attacked"),
    )
    return markdown_table(head, rows)
