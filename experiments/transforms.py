"""Do Grokfast and ⊥Grad help, once AdamW is tuned as well as they are?

Claim      Lee et al. 2024 (arXiv 2405.20233): Grokfast generalises up to 50 times sooner (39,890 against 790 and 910 steps, one seed;
           the baseline is Adam without weight decay, their own rows have some). Prieto et al. 2025 (arXiv 2501.04697): ⊥Grad
           generalises without weight decay and without delay.
Here       x + y (mod 59), 40 % of the examples for training; AdamW alone, with Grokfast's moving average, with ⊥Grad, and with
           decay towards the initial weights in place of zero (Power et al. 2022). Each had the same budget: twelve settings ×
           three tuning seeds, and runs here at the setting that reaches and keeps 95 % soonest, on seeds that tuning did not see.
Definition Steps to the first evaluation with validation accuracy >= 0.95. Runs that do not get there within 2,000 steps count at
           the budget in every mean.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from five_optimizers import REAL, SMALL
from matplotlib.figure import Figure

from grokking.comparison import cells, compare
from grokking.plotting import COLORS, Drawing, Verdict, caption, seed_dots, step_ticks, style
from grokking.publish import counted, interval, markdown_table, p_value
from grokking.runs import Settings
from grokking.store import Results
from grokking.study import Study, grid

TUNING_SEEDS = range(1000, 1003)
ADAMW: Settings = {"optimizer.name": "adamw"}
RATES = (1e-3, 3e-3, 1e-2)
GRIDS: dict[str, list[Settings]] = {  # method → twelve settings
    "AdamW": [{**ADAMW, **cell} for cell in grid(optimizer__lr=RATES, optimizer__weight_decay=(0.3, 1.0, 3.0, 10.0))],
    "Grokfast": [
        {**ADAMW, "transforms": "grokfast_ema", **cell}
        for cell in grid(
            optimizer__lr=(1e-3, 3e-3),
            optimizer__weight_decay=(1.0, 3.0),
            transform__grokfast_ema__lamb=(0.5, 2.0, 5.0),
        )
    ],
    "⊥Grad": [
        {**ADAMW, "transforms": "orthograd", **cell}
        for cell in grid(optimizer__lr=RATES, optimizer__weight_decay=(0.0, 0.3, 1.0, 3.0))
    ],
    "decay to the start": [
        {**ADAMW, "optimizer.weight_decay": 0.0, "transforms": "decay_to_start", **cell}
        for cell in grid(optimizer__lr=RATES, transform__decay_to_start__decay=(0.3, 1.0, 3.0, 10.0))
    ],
}
TUNING = [Study(REAL, own, TUNING_SEEDS) for own in GRIDS.values()]
CHOSEN: dict[str, Settings] = {}
STUDIES = {
    "smoke": [Study({**SMALL, "steps": 300}, [own[0] for own in GRIDS.values()], range(1))],
    "laptop": [*TUNING, Study(REAL, list(CHOSEN.values()), range(10))],
}
COMPILE = ("laptop",)
NUMBERS = (  # that tell the settings apart
    "optimizer.lr",
    "optimizer.weight_decay",
    "transform.grokfast_ema.lamb",
    "transform.decay_to_start.decay",
)


def draw(results: Results) -> Sequence[Drawing]:
    """Time to generalise of every method at its chosen setting, beside the tuning that chose it."""
    runs = results.runs.assign(method=[_method(row) for row in results.runs.to_dict("records")])
    for name in NUMBERS:
        runs[name] = runs.get(name, np.nan)
    tuning = runs[runs["seed"].isin(TUNING_SEEDS)]
    fresh = runs[~runs["seed"].isin(TUNING_SEEDS)]
    drawings = [_comparison(fresh, results.machines)] if len(fresh) else []
    return [*drawings, _tuning(tuning, results.machines)] if len(tuning) else drawings


def _method(row: Mapping[str, Any]) -> str:
    return {"none": "AdamW", "grokfast_ema": "Grokfast", "orthograd": "⊥Grad", "decay_to_start": "decay to the start"}[
        row["transforms"]
    ]


def _comparison(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    table = compare(runs, "method", reference="AdamW")
    table.insert(1, "setting", [_words(runs[runs["method"] == method].iloc[0].to_dict()) for method in table["method"]])
    n = int(table["n"].min())
    with style():
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        groups = {
            f"{row['method']}\n{row['setting']}": runs[runs["method"] == row["method"]]
            for row in table.to_dict("records")
        }
        seed_dots(axes, groups, COLORS["adamw"])
        axes.set_ylabel("steps to generalise (log)")
        axes.tick_params(axis="x", labelsize=7.5)
        step_ticks(axes.yaxis)
        first = runs.iloc[0]
        caption(
            figure,
            f"{first['task.name']} (p = {first['task.p']}), each method at the best of twelve settings on {len(TUNING_SEEDS)} tuning seeds, "
            f"here on n = {n} others, each a dot; triangles: censored at {first['steps']:,} steps; bar and whiskers: restricted mean, "
            f"95 % t interval. Trained on: {'; '.join(machines)}.",
        )
    return Drawing("transforms", figure, {"": table, "runs": runs.drop(columns="method")}, n, _verdict(table), markdown)


def _words(row: Mapping[Any, Any]) -> str:
    shown = [
        ("lr", "optimizer.lr"),
        ("decay", "optimizer.weight_decay"),
        ("λ", NUMBERS[2]),
        ("decay to start", NUMBERS[3]),
    ]
    return ", ".join(
        f"{word} {row[name]:g}" for word, name in shown if not pd.isna(row[name]) and (row[name] or name == NUMBERS[1])
    )


def _verdict(table: pd.DataFrame) -> Verdict | None:
    row = table[table["method"] == "Grokfast"].iloc[0]
    if pd.isna(row["ratio_low"]):
        return None
    here = f"{1 / row['ratio']:.2f} [{1 / row['ratio_high']:.2f}, {1 / row['ratio_low']:.2f}] times sooner than tuned AdamW"
    return Verdict(
        "with Grokfast 43 to 50 times sooner than Adam without weight decay (Lee et al. 2024, one seed)",
        f"{here} (n = {int(row['n'])} seed pairs)",
        "consistent" if 1 / row["ratio_high"] <= 43.84 <= 1 / row["ratio_low"] else "not against a tuned baseline",
    )


def _tuning(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    """How soon each of a method's twelve settings generalises, best first."""
    table = cells(runs.fillna(dict.fromkeys(NUMBERS, -1.0)), ["method", *NUMBERS], ["method"]).replace(-1.0, np.nan)
    table = table.sort_values(["method", "mean_steps_to_sustain", "mean_steps"], kind="stable").reset_index(drop=True)
    table["rank"] = table.groupby("method").cumcount() + 1
    with style():
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.subplots()
        for method, name in zip(GRIDS, ("adamw", "muon", "adam", "lion"), strict=True):
            own = table[table["method"] == method]
            axes.plot(own["rank"], own["mean_steps_to_sustain"], "o-", ms=4, color=COLORS[name], label=method)
        axes.set(xlabel="setting, by rank", ylabel="mean steps until it stays (log)", yscale="log")
        step_ticks(axes.yaxis)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
        caption(
            figure,
            f"Every method's twelve settings in their order, mean of {len(TUNING_SEEDS)} tuning seeds of the steps until validation accuracy "
            f"reaches 95 % and stays there (the budget of {runs['steps'].max():,} where it does not): how much a method asks of "
            f"its tuning. Trained on: {'; '.join(machines)}.",
        )
    n = int(table["n"].min())
    return Drawing("transforms_tuning", figure, {"": table, "runs": runs.drop(columns="method")}, n)


def markdown(table: pd.DataFrame) -> str:
    """The comparison as it stands in a document."""
    head = ("method", "setting", "generalise (and stay)", "mean steps", "over AdamW's", "p (Holm)")
    rows = [
        (
            row["method"],
            row["setting"],
            counted(row),
            interval(row, "mean_steps"),
            interval(row, "ratio", 2),
            p_value(row),
        )
        for row in table.to_dict("records")
    ]
    return markdown_table(head, rows)
