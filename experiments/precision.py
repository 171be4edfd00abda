"""Does bfloat16 change how long a network takes to generalise?

Claim      None that we know of: grokking papers train in float32 (or float64: Prieto et al. 2025, arXiv 2501.04697, hold
           that float32's softmax already delays it), speed records in bfloat16.
Here       AdamW and Muon at their tuned settings on x + y (mod 59), with weights, optimizer state and loss in float32 and
           all activations in bfloat16, against float32 throughout; the same seeds, splits, initial weights and batches.
Definition Steps to the first evaluation with validation accuracy >= 0.95, evaluated in float32 for both.
"""

from collections.abc import Sequence

import pandas as pd
from five_optimizers import BEST, REAL, SMALL
from matplotlib.figure import Figure

from grokking.comparison import compare, observed
from grokking.plotting import COLORS, GREY, TITLES, Drawing, Verdict, caption, steps_axis, style, survival_curve
from grokking.publish import interval
from grokking.store import Results
from grokking.study import Study
from grokking.survival import kaplan_meier

OPTIMIZERS = ("adamw", "muon")
ARMS = [
    {**settings, "precision": precision}
    for settings in BEST
    if settings["optimizer.name"] in OPTIMIZERS
    for precision in ("fp32", "bf16")
]
STUDIES = {
    "smoke": [Study(SMALL, ARMS, range(1))],
    "laptop": [Study(REAL, ARMS, range(10))],
}


def draw(results: Results) -> Sequence[Drawing]:
    """Time to generalise in both precisions, a panel per optimizer; and each seed's pair."""
    runs = results.runs
    tables = {name: _compared(runs[runs["optimizer.name"] == name], name) for name in OPTIMIZERS}
    table, n = pd.concat(tables.values(), ignore_index=True), int(runs["seed"].nunique())
    budget = float(runs["steps"].max())
    with style():
        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        panels = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
        for axes, name in zip(panels, OPTIMIZERS, strict=False):
            for precision, color in (("fp32", GREY), ("bf16", COLORS[name])):
                arm = runs[(runs["optimizer.name"] == name) & (runs["precision"] == precision)]
                survival_curve(axes, kaplan_meier(*observed(arm)), budget, color, precision, n > 2)
            axes.set(
                ylim=(0, 1.02), xlim=(50, budget), ylabel="share of runs that have generalised", title=TITLES[name]
            )
            steps_axis(axes)
            axes.legend(loc="upper left")
        _pairs(panels[2], runs)
        first = runs.iloc[0]
        caption(
            figure,
            f"x + y (mod {first['task.p']}), {first['train_fraction']:.0%} for training, n = {n} seeds in both precisions; bands: "
            f"95 % log-log intervals. Right: the same seed in both; on the line they take equally long. Weights, optimizer state, "
            f"loss and evaluation are float32 in either case. Trained on: {'; '.join(results.machines)}.",
        )
    return [Drawing("precision", figure, {"": table, "runs": runs}, n, _verdict(table), markdown)]


def _compared(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    return compare(runs, "precision", "fp32").assign(optimizer=name)


def _pairs(axes, runs: pd.DataFrame) -> None:  # type: ignore[no-untyped-def]
    for name in OPTIMIZERS:
        own = runs[(runs["optimizer.name"] == name) & (runs["status"] == "generalized")]
        pairs = own.pivot(index="seed", columns="precision", values="steps_to_generalize").dropna()
        if {"fp32", "bf16"} <= set(pairs.columns):
            axes.plot(pairs["fp32"], pairs["bf16"], "o", ms=4, color=COLORS[name], label=TITLES[name])
    ends = [50, float(runs["steps"].max())]
    axes.plot(ends, ends, color="#444444", lw=0.8)
    axes.set(yscale="log", xlim=ends, ylim=ends, xlabel="", ylabel="steps to generalise, bf16", title="Seed by seed")
    steps_axis(axes)
    axes.set_xlabel("steps to generalise, fp32")
    axes.legend()


def _verdict(table: pd.DataFrame) -> Verdict:
    """Undecided where the interval holds both 1 and a change by a fifth."""
    lines = table[table["precision"] == "bf16"].to_dict("records")
    told = "; ".join(f"{TITLES[row['optimizer']]} {interval(row, 'ratio', 2)}, p = {row['p']:.2g}" for row in lines)
    same = [row["ratio_low"] <= 1 <= row["ratio_high"] for row in lines if not pd.isna(row["ratio_low"])]
    narrow = [row["ratio_low"] >= 0.8 and row["ratio_high"] <= 1.25 for row in lines if not pd.isna(row["ratio_low"])]
    answer = "not consistent" if not all(same) else "consistent" if same and all(narrow) else "undecided"
    return Verdict("bfloat16 activations change nothing (our null hypothesis)", f"bf16 / fp32 {told}", answer)


def markdown(table: pd.DataFrame) -> str:
    """The comparison as it stands in a document."""
    lines = [
        "| optimizer, precision | generalise | median steps | mean steps | bf16 / fp32, paired | p |",
        "|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        p = "–" if pd.isna(row["p"]) else f"{row['p']:.2g}"
        lines.append(
            f"| {TITLES[row['optimizer']]}, {row['precision']} | {row['generalized']} of {row['n']} "
            f"| {interval(row, 'median_steps')} | {interval(row, 'mean_steps')} | {interval(row, 'ratio', 2)} | {p} |"
        )
    return "\n".join(lines)
