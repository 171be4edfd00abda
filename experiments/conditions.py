"""Why does a run not grok? One thing at a time is taken away from a setting that does.

Claim      The data fraction, the weight decay, the learning rate and the budget each decide whether a run generalises
           (Power et al. 2022, figures 1 and 2; Nanda et al. 2023, appendix D).
Here       AdamW at its defaults on x + y (mod 59), and the same with one setting changed.
Definition As everywhere: first evaluation with validation accuracy >= 0.95 within the budget, else censored.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from five_optimizers import REAL
from matplotlib.figure import Figure

from grokking.comparison import observed
from grokking.plotting import Drawing, caption, run_lines, steps_axis, style
from grokking.publish import interval, markdown_table
from grokking.registry import Settings
from grokking.runs import run_spec
from grokking.store import Results
from grokking.study import Study
from grokking.survival import median_steps

CONDITIONS: dict[str, Settings] = {
    "the default (AdamW)": {},
    "less data: train_fraction = 0.3": {"train_fraction": 0.3},
    "less data: train_fraction = 0.2": {"train_fraction": 0.2},
    "more data: train_fraction = 0.6": {"train_fraction": 0.6},
    "less decay: optimizer.weight_decay = 0.1": {"optimizer.weight_decay": 0.1},
    "no decay: optimizer.weight_decay = 0": {"optimizer.weight_decay": 0.0},
    "slower: optimizer.lr = 0.0003": {"optimizer.lr": 3e-4},
    "faster: optimizer.lr = 0.03": {"optimizer.lr": 3e-2},
}
STUDIES = {
    "laptop": [Study(REAL, list(CONDITIONS.values()), range(3))],
}
RUN_STEPS = {"laptop": 48_000}  # at most: the sum of all budgets


def draw(results: Results) -> Sequence[Drawing]:
    """Validation accuracy against steps, a panel per condition."""
    labels = {_key(settings): label for label, settings in CONDITIONS.items()}
    complete = run_spec({}, 0).row()
    default = {name: complete[name] for settings in CONDITIONS.values() for name in settings}
    runs = results.runs.assign(condition=[labels[_changed(row, default)] for row in results.runs.to_dict("records")])
    order = [label for label in CONDITIONS if label in set(runs["condition"])]
    table, n = _table(runs, order), int(runs.groupby("condition")["seed"].nunique().min())
    with style():
        figure = Figure(figsize=(10.5, 4.6), layout="constrained")
        panels = figure.subplots(2, 4, sharex=True, sharey=True).ravel()
        for axes, label in zip(panels, order, strict=False):
            here = runs[runs["condition"] == label]
            curves = results.curves[results.curves["run_id"].isin(here["run_id"])]
            run_lines(axes, curves, "train_accuracy", "#0072B2", "training", ls=":")
            run_lines(axes, curves, "validation_accuracy", "#0072B2", "validation", ls="-")
            axes.set_title(label, fontsize=8.5)
        for axes in panels[4:]:
            steps_axis(axes)
        for axes in panels[::4]:
            axes.set_ylabel("accuracy")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        first = runs.iloc[0]
        caption(
            figure,
            f"AdamW on {first['task.name']} (p = {first['task.p']}); one setting changed at a time. n = {n} seeds, each a line, "
            f"budget {first['steps']:,} steps. Trained on: {'; '.join(results.machines)}.",
        )
    return [
        Drawing("conditions", figure, {"": results.curves, "summary": table, "runs": results.runs}, n, None, markdown)
    ]


def _key(settings: Settings) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(settings.items()))


def _changed(row: Mapping[str, object], default: Mapping[str, object]) -> tuple[tuple[str, object], ...]:
    return _key({name: row[name] for name, value in default.items() if row[name] != value})  # type: ignore[misc]


def _table(runs: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    lines = []
    for label in order:
        group = runs[runs["condition"] == label]
        memorized = median_steps(group["steps_to_memorize"].fillna(group["steps"]), group["memorized"].to_numpy(bool))
        generalized = median_steps(*observed(group))
        lines.append(
            {
                "condition": label,
                "n": len(group),
                "memorized": int(group["memorized"].sum()),
                "generalized": int((group["status"] == "generalized").sum()),
                "memorized_after": memorized.value,
                "median_steps": generalized.value,
                "median_steps_low": generalized.low,
                "median_steps_high": generalized.high,
                "final_validation_accuracy": group["final_validation_accuracy"].median(),
            }
        )
    return pd.DataFrame(lines)


HEAD = (
    "condition",
    "memorise",
    "median steps to memorise",
    "generalise",
    "median steps to generalise",
    "final validation accuracy",
)


def markdown(table: pd.DataFrame) -> str:
    """The table as it stands in the README."""
    rows = [
        (
            row["condition"],
            f"{row['memorized']} of {row['n']}",
            "–" if pd.isna(row["memorized_after"]) else f"{row['memorized_after']:,.0f}",
            f"{row['generalized']} of {row['n']}",
            interval(row, "median_steps"),
            f"{row['final_validation_accuracy']:.2f}",
        )
        for row in table.to_dict("records")
    ]
    return markdown_table(HEAD, rows)
