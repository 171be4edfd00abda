"""Which of AdamW's own numbers matter? β₁, β₂, ε and the bias correction, one at a time.

Claim      Thilak et al. 2022 (arXiv 2206.04817): without weight decay, training with Adam is cyclic: long after it has memorised, a
           network falls back and recovers ("slingshots"), and ε governs it: a large one ends them.
Here       x + y (mod 59), 40 % of the examples for training. First AdamW at its best cell (experiments/sensitivity.py), one number
           changed at a time and the learning rate not tuned again. Then Adam without decay, carried on for 3,000 steps whatever it does, over ε.
Definition Steps to the first evaluation with validation accuracy >= 0.95; runs that do not get there count at the budget. A
           slingshot: after memorising (training accuracy >= 0.99), an evaluation with training accuracy below 0.9; a stretch of
           such evaluations counts once, and one between two evaluations (20 steps) is not seen.
Shows      β₁ hardly matters from 0.5 to 0.9 (0.8: 0.90 [0.86, 0.95] of the default's steps), costs a quarter at 0.95 and a factor of
           six at 0.99, where 2 of 5 generalise; without momentum none of 5 does. β₂ is within a tenth from 0.95 on, 1.30 [1.26, 1.35]
           at 0.9, and at 0.5 1 of 5 generalises. ε changes nothing up to 1e-4 (all within 0.96 and 1.05); at 1e-3 3 of 5 do. Bias
           correction does not matter (off: 1.06 [0.98, 1.14]). Without decay there are 4 slingshots in 9 runs at ε = 1e-8 and less,
           all of one seed, and none in 9 at 1e-6 and more, as claimed; each leaves validation accuracy higher than it was, but
           no run is beyond 0.39 after 3,000 steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from five_optimizers import REAL, SMALL
from matplotlib.figure import Figure
from sensitivity import CHOSEN

from grokking.comparison import compare
from grokking.coverage import beside
from grokking.plotting import COLORS, GREY, Drawing, caption, run_lines, seed_dots, step_ticks, style
from grokking.publish import counted, interval, markdown_table
from grokking.registry import Settings
from grokking.store import Results
from grokking.study import Study, grid

LR, DECAY = CHOSEN["adamw"]
BASE: Settings = {"optimizer.name": "adamw", "optimizer.lr": LR, "optimizer.weight_decay": DECAY}
VALUES: dict[str, tuple[float, ...]] = {
    "beta1": (0.0, 0.5, 0.8, 0.9, 0.95, 0.99),
    "beta2": (0.5, 0.9, 0.95, 0.98, 0.99, 0.999),
    "eps": (1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-3),
}
DEFAULT = "the default"
DEFAULTS = {"beta1": 0.9, "beta2": 0.98, "eps": 1e-8}
SYMBOLS = {"beta1": "β₁", "beta2": "β₂", "eps": "ε"}
MEMORIZED, FALLEN = 0.99, 0.9  # training accuracy
ONE_AT_A_TIME: Sequence[Settings] = [
    {**BASE, f"optimizer.{name}": value} for name, values in VALUES.items() for value in values
] + [{**BASE, "optimizer.bias_correction": False}]
UNDECAYED: Settings = {
    **{"optimizer.name": "adamw", "optimizer.weight_decay": 0.0, "optimizer.lr": 3e-3},
    **{"steps": 3_000, "linger": 1e6, "evaluation.every": 20, "evaluation.growth": 0.0},
}
EPSILONS = grid(optimizer__eps=(1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2))
STUDIES = {
    "smoke": [
        Study(SMALL, [BASE, *ONE_AT_A_TIME[::4]], range(1)),
        Study({**SMALL, **UNDECAYED, "steps": 500}, EPSILONS[:2], range(1)),
    ],
    "laptop": [Study(REAL, ONE_AT_A_TIME, range(5)), Study(UNDECAYED, EPSILONS, range(3))],
}
RUN_STEPS = {"smoke": 7_000, "laptop": 224_000}  # at most: the sum of all budgets
COMPILE = ("laptop",)


def draw(results: Results) -> Sequence[Drawing]:
    """Time to generalise over each number, and training accuracy without decay over ε."""
    runs = results.runs
    decayed = runs["optimizer.weight_decay"] > 0
    drawings = []
    if decayed.any():
        drawings.append(_one_at_a_time(runs[decayed], results.machines))
    if (~decayed).any():
        drawings.append(_slingshots(runs[~decayed], results.curves, results.machines))
    return drawings


def _one_at_a_time(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    runs = runs.assign(arm=[_arm(row) for row in runs.to_dict("records")])
    table = compare(runs, "arm", reference=DEFAULT)
    groups = {name: runs[runs["arm"] == name] for name in table["arm"]}
    n = int(runs.groupby("arm")["seed"].nunique().min())
    panels = {
        symbol: {f"{value:g}": groups.get(f"{name} = {value:g}", groups[DEFAULT]) for value in VALUES[name]}
        for name, symbol in SYMBOLS.items()
    }
    panels["bias correction"] = {"on": groups[DEFAULT], "off": groups.get("bias correction off", groups[DEFAULT])}
    with style():
        figure = Figure(figsize=(12.5, 3.4), layout="constrained")
        for axes, (symbol, own) in zip(
            figure.subplots(1, 4, sharey=True, width_ratios=(6, 6, 6, 2.4)), panels.items(), strict=True
        ):
            seed_dots(axes, own, COLORS["adamw"])
            axes.set_xlabel(symbol)
            step_ticks(axes.yaxis)
        figure.axes[0].set(ylabel="steps to generalise (log)", ylim=(150, 2_500))  # a whisker may end below
        caption(
            figure,
            f"AdamW (lr {LR:g}, weight decay {DECAY:g}, β₁ 0.9, β₂ 0.98, ε 1e-8), one number changed at a time; n = {n} seeds, each a "
            f"dot; triangles: censored at the budget of {runs['steps'].max():,} steps; bar and whiskers: mean restricted to the "
            f"budget and its 95 % t interval{beside('mean', n)}. Trained on: {'; '.join(machines)}.",
        )
    return Drawing("betas", figure, {"": table, "runs": runs.drop(columns="arm")}, n, None, markdown)


def _arm(row: Mapping[str, Any]) -> str:
    if str(row["optimizer.bias_correction"]) == "False":
        return "bias correction off"
    changed = [
        f"{name} = {row[f'optimizer.{name}']:g}" for name in VALUES if row[f"optimizer.{name}"] != DEFAULTS[name]
    ]
    return changed[0] if changed else DEFAULT


def _slingshots(runs: pd.DataFrame, curves: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    table = slingshots(runs, curves)
    epsilons = sorted(runs["optimizer.eps"].unique())
    with style():
        figure = Figure(figsize=(12.5, 2.7), layout="constrained")
        for axes, eps in zip(
            figure.subplots(1, len(epsilons), sharex=True, sharey=True, squeeze=False)[0], epsilons, strict=True
        ):
            own = runs[runs["optimizer.eps"] == eps]
            here = curves[curves["run_id"].isin(own["run_id"])]
            run_lines(axes, here, "train_accuracy", COLORS["adamw"], "training", ls="-")
            run_lines(axes, here, "validation_accuracy", GREY, "validation", ls="-")
            count = int(table.loc[table["eps"] == eps, "slingshots"].sum())
            axes.set_title(f"ε = {eps:g}: {count} in {len(own)} runs", fontsize=8.5)
            axes.set(xlabel="steps", ylim=(-0.03, 1.05))
        figure.axes[0].set_ylabel("accuracy")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        caption(
            figure,
            f"Adam without weight decay (lr {UNDECAYED['optimizer.lr']:g}), {runs['steps'].max():,} steps whatever happens. Slingshots: stretches of evaluations "
            "(20 steps apart) with training accuracy below 0.9 after the training set was memorised. Each line a seed, n = "
            f"{runs.groupby('optimizer.eps')['seed'].nunique().min()}. Trained on: {'; '.join(machines)}.",
        )
    n = int(runs.groupby("optimizer.eps")["seed"].nunique().min())
    return Drawing(
        "slingshots", figure, {"": curves[curves["run_id"].isin(runs["run_id"])], "summary": table, "runs": runs}, n
    )


def slingshots(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Of each run: how many slingshots, and whether it generalised."""
    lines = []
    by_run = dict(list(curves.groupby("run_id")))
    for row in runs.to_dict("records"):
        accuracy = by_run[row["run_id"]]["train_accuracy"].to_numpy(float)
        memorized = np.flatnonzero(accuracy >= MEMORIZED)
        below = accuracy[memorized[0] :] < FALLEN if len(memorized) else np.zeros(0, bool)
        begins = int((below[1:] & ~below[:-1]).sum())
        generalized = row["status"] == "generalized"
        lines.append(
            {"eps": row["optimizer.eps"], "seed": row["seed"], "slingshots": begins, "generalized": generalized}
        )
    return pd.DataFrame(lines)


def markdown(table: pd.DataFrame) -> str:
    """The comparison as it stands in a document."""
    head = ("changed", "generalise (and stay)", "mean steps", "over the default")
    rows = [
        (row["arm"], counted(row), interval(row, "mean_steps"), interval(row, "ratio", 2))
        for row in table.to_dict("records")
    ]
    return markdown_table(head, rows)
