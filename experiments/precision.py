"""Does bfloat16 change how long a network takes to generalise?

Claim      None that we know of: grokking papers train in float32 (or float64: Prieto et al. 2025, arXiv 2501.04697, hold
           that float32's softmax already delays it), speed records in bfloat16.
Here       AdamW and Muon on x + y (mod 59), at the defaults (long delay) and at their tuned settings (short delay), with
           weights, optimizer state and loss in float32 and all activations in bfloat16, against float32 throughout; the
           same seeds, splits, initial weights and batches. The forward and backward pass see weights rounded to bfloat16.
           Both precisions in compiled steps from scale `laptop` on.
Definition Steps to the first evaluation with validation accuracy >= 0.95, evaluated in float32 for both.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from five_optimizers import BEST, DEFAULTS, REAL, SMALL
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from grokking.comparison import compare, observed
from grokking.plotting import COLORS, GREY, TITLES, Drawing, Verdict, caption, steps_axis, style, survival_curve
from grokking.publish import counted, interval, markdown_table
from grokking.registry import Settings
from grokking.runs import run_spec
from grokking.store import Results
from grokking.study import Study
from grokking.survival import holm, kaplan_meier

OPTIMIZERS = ("adamw", "muon")
SETTINGS: dict[str, list[Settings]] = {
    words: [settings for settings in arms if settings["optimizer.name"] in OPTIMIZERS]
    for words, arms in (("defaults", DEFAULTS), ("tuned", BEST))
}
ARMS = [
    {**settings, "precision": precision}
    for arms in SETTINGS.values()
    for settings in arms
    for precision in ("fp32", "bf16")
]
STUDIES = {
    "smoke": [Study(SMALL, ARMS, range(1))],
    "laptop": [Study(REAL, ARMS, range(10))],
    "paper": [Study(REAL, ARMS, range(30))],
}
RUN_STEPS = {"smoke": 8_000, "laptop": 160_000, "paper": 480_000}  # at most: the sum of all budgets
COMPILE = ("laptop", "paper")
EQUAL = (0.8, 1.25)  # a ratio of steps within these is called equal; the interval decides, not p


def draw(results: Results) -> Sequence[Drawing]:
    """Time to generalise in both precisions, a panel per optimizer; and each seed's pair."""
    runs = results.runs.assign(setting=_setting)
    table = pd.concat([_compared(arm, *names) for names, arm in _arms(runs) if len(arm)], ignore_index=True)
    if (tested := table["p"].notna()).any():
        table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].to_numpy(float))
    n, budget = int(runs["seed"].nunique()), float(runs["steps"].max())
    with style():
        figure = Figure(figsize=(10.5, 3.6), layout="constrained")
        *panels, pairs = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
        for axes, name in zip(panels, OPTIMIZERS, strict=True):
            _shares(axes, runs[runs["optimizer.name"] == name], name, budget)
        _pairs(pairs, runs)
        first = runs.iloc[0]
        caption(
            figure,
            f"x + y (mod {first['task.p']}), {first['train_fraction']:.0%} for training, n = {n} seeds for each setting, the same "
            "in both precisions; bands: 95 % log-log intervals. Right: each seed in both precisions; on the line they take equally "
            "long; filled: defaults, hollow: tuned; runs that do not generalise stand at the budget. Weights, optimizer state, loss "
            f"and evaluation are float32 in either case. Trained on: {'; '.join(results.machines)}.",
        )
    return [Drawing("precision", figure, {"": table, "runs": results.runs}, n, _verdict(table), markdown)]


def _setting(runs: pd.DataFrame) -> list[str]:
    """ "defaults" or "tuned" for each run."""
    found = {}
    for words, arms in SETTINGS.items():
        for settings in arms:
            hyper = run_spec(settings, 0).row()
            found[hyper["optimizer.name"], hyper["optimizer.weight_decay"]] = words
    keys = zip(runs["optimizer.name"], runs["optimizer.weight_decay"], strict=True)
    return [found[key] for key in keys]


def _arms(runs: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """(optimizer, setting) and its runs in both precisions."""
    for name in OPTIMIZERS:
        for words in SETTINGS:
            yield (name, words), runs[(runs["optimizer.name"] == name) & (runs["setting"] == words)]


def _compared(runs: pd.DataFrame, name: str, words: str) -> pd.DataFrame:
    """p-values are adjusted (Holm) over the four comparisons, not within each."""
    table = compare(runs, "precision", "fp32")
    table.insert(0, "optimizer", name)
    table.insert(1, "setting", words)
    return table


def _shares(axes: Axes, runs: pd.DataFrame, name: str, budget: float) -> None:
    for words, dash in (("defaults", "-"), ("tuned", "--")):
        for precision, color in (("fp32", GREY), ("bf16", COLORS[name])):
            arm = runs[(runs["setting"] == words) & (runs["precision"] == precision)]
            if len(arm):
                estimate = kaplan_meier(*observed(arm))
                survival_curve(axes, estimate, budget, color, f"{precision}, {words}", band=len(arm) > 2, ls=dash)
    axes.set(ylim=(0, 1.02), xlim=(50, budget), ylabel="share of runs that have generalised", title=TITLES[name])
    steps_axis(axes)
    axes.legend(loc="best")


def _pairs(axes: Axes, runs: pd.DataFrame) -> None:
    for (name, words), arm in _arms(runs):
        steps = arm["steps_to_generalize"].fillna(arm["steps"]).astype(float)
        pairs = arm.assign(taken=steps).pivot(index="seed", columns="precision", values="taken")
        pairs = pairs.reindex(columns=["fp32", "bf16"]).dropna()
        fill = COLORS[name] if words == "defaults" else "none"
        axes.plot(pairs["fp32"], pairs["bf16"], "o", ms=4, mec=COLORS[name], mfc=fill, label=f"{TITLES[name]}, {words}")
    ends = (min(50.0, runs["steps_to_generalize"].fillna(runs["steps"]).min()), float(runs["steps"].max()))
    axes.plot(ends, ends, color="#444444", lw=0.8)
    axes.set(yscale="log", xlim=ends, ylim=ends, ylabel="steps to generalise, bf16", title="Seed by seed")
    steps_axis(axes)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(axes.xaxis.get_major_formatter())
    axes.set_xlabel("steps to generalise, fp32 (log)")
    axes.legend(loc="upper left")


def _verdict(table: pd.DataFrame) -> Verdict:
    """Consistent where every interval of the ratio lies within `EQUAL`, not where one lies outside."""
    lines = table[table["precision"] == "bf16"].to_dict("records")
    told = "; ".join(f"{TITLES[row['optimizer']]}, {row['setting']} {_ratio(row)} (p {_p(row)})" for row in lines)
    ends = [(row["ratio_low"] or np.nan, row["ratio_high"] or np.nan) for row in lines]
    if any(low > EQUAL[1] or high < EQUAL[0] for low, high in ends):
        answer = "not consistent"
    elif all(EQUAL[0] <= low and high <= EQUAL[1] for low, high in ends):
        answer = "consistent"
    else:
        answer = "undecided"
    claim = (
        f"with bfloat16 activations generalising takes {EQUAL[0]} to {EQUAL[1]} times as many steps (our hypothesis)"
    )
    return Verdict(claim, f"bf16 / fp32: {told}", answer)


def _ratio(row: Mapping[Hashable, Any]) -> str:
    return "–" if pd.isna(row["ratio"]) else interval(row, "ratio", 2)


def _p(row: Mapping[Hashable, Any]) -> str:
    return "–" if pd.isna(row["p"]) else f"{row['p']:.2g}, Holm {row['p_holm']:.2g}"


def markdown(table: pd.DataFrame) -> str:
    """The comparison as it stands in a document."""
    head = "optimizer, setting | precision | generalise (and stay) | median steps | mean steps | bf16 / fp32, paired | p (Holm)"
    rows = [
        (
            f"{TITLES[row['optimizer']]}, {row['setting']}",
            row["precision"],
            counted(row),
            interval(row, "median_steps"),
            interval(row, "mean_steps"),
            "1" if row["precision"] == "fp32" else _ratio(row),
            _p(row),
        )
        for row in table.to_dict("records")
    ]
    return markdown_table(head.split(" | "), rows)
