"""The figure of an experiment that draws none of its own: every arm's runs, and each arm against the first."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from grokking.comparison import compare, settings_in
from grokking.coverage import beside
from grokking.plotting import COLORS, Drawing, caption, label, seed_dots, step_ticks, style
from grokking.publish import counted, interval, markdown_table, p_value
from grokking.store import Results


def draw(path: str, results: Results) -> Sequence[Drawing]:
    """One picture of all arms, each told by the settings in which it differs from others; the first is the reference."""
    runs = results.runs.assign(arm=arms(results.runs))
    groups = dict(list(runs.groupby("arm", sort=False)))
    table = compare(runs, "arm", reference=next(iter(groups)))
    n = int(table["n"].min())
    with style():
        figure = Figure(figsize=(max(4.8, 1.1 * len(groups)), 3.8), layout="constrained")
        axes = figure.subplots()
        seed_dots(axes, groups, COLORS["adamw"])
        axes.set_xticks(range(len(groups)), list(groups), rotation=20, ha="right", fontsize=8)
        axes.set_ylabel("steps to generalise (log)")
        step_ticks(axes.yaxis)
        first = runs.iloc[0]
        caption(
            figure,
            f"{first['task.name']}, {first['train_fraction']:.0%} of the examples for training, budget {first['steps']:,} steps, n = {n} "
            "seeds an arm, each a dot; triangles: censored at the budget; bar and whiskers: mean restricted to the budget "
            f"and its 95 % t interval{beside('mean', n)}. Trained on: {'; '.join(results.machines)}.",
        )
    tables = {"": table, "runs": runs.drop(columns="arm")}
    return [Drawing(Path(path).stem, figure, tables, n, None, markdown)]


def arms(runs: pd.DataFrame) -> list[str]:
    """What to call the arm of each run: the settings in which runs differ, and no more.

    An option of an optimizer, a task or the like counts only where it differs between runs of the same one.
    """
    settings = [name for name in settings_in(runs) if name != "steps"]  # the budget, which is one for all arms
    differing = [name for name in settings if _differs(runs, name)]
    return [_words(row, differing) for row in runs.to_dict("records")]


def _differs(runs: pd.DataFrame, name: str) -> bool:
    kind = f"{name.split('.')[0]}.name"
    groups = [runs] if name == kind or kind not in runs else [own for _, own in runs.groupby(kind)]
    return any(own[name].dropna().astype(str).nunique() > 1 for own in groups)


def _words(row: Mapping[Hashable, Any], differing: Sequence[str]) -> str:
    parts = []
    for name in ("optimizer.name", *(name for name in differing if name != "optimizer.name")):
        value = row[name]
        if name == "optimizer.name":
            parts += [label(str(value))] * (name in differing or len(differing) == 0)
        elif not pd.isna(value):
            short = name.removeprefix("optimizer.").removesuffix(".name")
            parts.append(f"{short} {value:g}" if isinstance(value, float) else f"{short} {value}")
    return ", ".join(parts) or label(str(row["optimizer.name"]))


def markdown(table: pd.DataFrame) -> str:
    """The comparison as it stands in a document, and in a terminal."""
    head = (
        "arm",
        "generalise (and stay)",
        "median steps",
        "mean steps",
        "mean / the first's",
        "p (Holm; smallest possible)",
    )
    rows = [
        (
            row["arm"],
            counted(row),
            interval(row, "median_steps"),
            interval(row, "mean_steps"),
            "–" if pd.isna(row["ratio"]) else interval(row, "ratio", 2),
            p_value(row, smallest=True),
        )
        for row in table.to_dict("records")
    ]
    return markdown_table(head, rows)
