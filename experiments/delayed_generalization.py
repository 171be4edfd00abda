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

from grokking.comparison import compare, observed
from grokking.plotting import (
    COLORS,
    GREY,
    TITLES,
    Drawing,
    Verdict,
    caption,
    epochs_axis,
    mark_censored,
    run_lines,
    steps_axis,
    style,
)
from grokking.publish import comparison_table
from grokking.store import Results
from grokking.study import Study
from grokking.survival import Estimate, median_steps

ARMS = [*five_optimizers.DEFAULTS, *five_optimizers.DEFAULTS_UNDECAYED]
STUDIES = {
    "smoke": [Study(SMALL, ARMS, range(1))],
    "laptop": [Study(REAL, ARMS, range(3))],
    "paper": [Study(REAL, ARMS, range(5))],
}
RUN_STEPS = {"smoke": 10_000, "laptop": 60_000, "paper": 100_000}  # at most: the sum of all budgets
COMPILE = ("laptop", "paper")


def draw(results: Results) -> Sequence[Drawing]:
    """Accuracy and loss against steps, a column per optimizer."""
    runs = results.runs.assign(decayed=results.runs["optimizer.weight_decay"] > 0)
    curves = results.curves.merge(runs[["run_id", "optimizer.name", "decayed", "seed", "status"]], on="run_id")
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
    tables = {"": table, "summary": _table(runs[runs["decayed"]]), "runs": results.runs}
    return [Drawing("delayed_generalization", figure, tables, n, _verdict(runs), comparison_table)]


def _table(runs: pd.DataFrame) -> pd.DataFrame:
    """The defaults compared with each other."""
    table = compare(runs.assign(arm=runs["optimizer.name"]), "arm", reference="adamw")
    first = runs.groupby("optimizer.name", sort=False)[["optimizer.lr", "optimizer.weight_decay"]].first()
    return table.assign(lr=first["optimizer.lr"].to_numpy(), weight_decay=first["optimizer.weight_decay"].to_numpy())


def _panel(axes: Axes, own: pd.DataFrame, metric: str, color: str) -> None:
    decayed, undecayed = own[own["decayed"]], own[~own["decayed"]]
    run_lines(axes, undecayed, f"validation_{metric}", GREY, "validation, no weight decay", ls="-")
    run_lines(axes, decayed, f"train_{metric}", color, "training", ls=":")
    run_lines(axes, decayed, f"validation_{metric}", color, "validation", ls="-")
    for group, shade, label in ((undecayed, GREY, "censored: budget spent"), (decayed, color, None)):
        mark_censored(axes, group[group["status"] == "censored"], f"validation_{metric}", shade, label)


def _summary(runs: pd.DataFrame) -> str:
    decayed, undecayed = runs[runs["decayed"]], runs[~runs["decayed"]]
    memorized = median_steps(decayed["steps_to_memorize"].fillna(decayed["steps"]), decayed["memorized"].to_numpy(bool))
    generalized = median_steps(*observed(decayed))
    before, after = ("not reached" if m.value is None else f"{m.value:,.0f}" for m in (memorized, generalized))
    text = (
        f"{(decayed['status'] == 'generalized').sum()} of {len(decayed)} generalise, {decayed['sustained'].sum()} stay"
    )
    text += f"\nmemorise → generalise: {before} → {after}"
    return text + f"\nno decay: {(undecayed['status'] == 'generalized').sum()} of {len(undecayed)}"


def _delay_ratio(runs: pd.DataFrame) -> Estimate:
    """Geometric mean over all runs of generalised / memorised steps, with a t interval on the logs.

    A run that never generalised counts with its budget, which makes the mean a lower bound: no upper end then.
    """
    steps, generalized = observed(runs)
    logs = np.log(steps / runs["steps_to_memorize"].fillna(runs["steps"]).to_numpy(float))
    mean, n = logs.mean(), len(logs)
    half = stats.t.ppf(0.975, n - 1) * stats.sem(logs) if n > 1 else np.inf
    return Estimate(np.exp(mean), np.exp(mean - half), np.exp(mean + half) if generalized.all() else None, n)


def _verdict(runs: pd.DataFrame) -> Verdict:
    parts, answers = [], []
    for name in OPTIMIZERS:
        ratio = _delay_ratio(runs[(runs["optimizer.name"] == name) & runs["decayed"]])
        high = "–" if ratio.high is None or np.isinf(ratio.high) else f"{ratio.high:.0f}"
        sign = "≥ " if ratio.high is None else ""
        parts.append(f"{TITLES[name]} {sign}{ratio.value:.0f}× [{ratio.low:.0f}, {high}] (n = {ratio.n})")
        answers.append(_answer(ratio))
    # The claim is about all of them; an optimizer that does not generalise in time leaves it open.
    answer = "consistent" if set(answers) == {"consistent"} else "undecided"
    answer = "not consistent" if "not consistent" in answers else answer
    agree = [TITLES[name] for name, each in zip(OPTIMIZERS, answers, strict=True) if each == "consistent"]
    return Verdict(
        "validation reaches 95 % at more than ten times the steps that training needs for 99 % (Power et al. 2022: about "
        "10³ against 10⁵ to 10⁶)",
        ", ".join(parts),
        f"{answer} (alone consistent: {', '.join(agree) or 'none'})" if answer != "consistent" else answer,
    )


def _answer(ratio: Estimate) -> str:
    assert ratio.low is not None
    if ratio.high is not None and ratio.high <= 10:
        return "not consistent"
    return "consistent" if ratio.high is not None and ratio.low > 10 else "undecided"


def _caption(runs: pd.DataFrame, n: int, machines: Sequence[str]) -> str:
    first = runs.iloc[0]
    return (
        f"{first['task.name']} (p = {first['task.p']}), {first['train_fraction']:.0%} of the examples for training, "
        f"{first['model.depth']}-layer transformer of width {first['model.width']}, batch {first['batch_size']}, "
        f"budget {first['steps']:,} steps. n = {n} seeds per optimizer, each a line. A run that generalises is trained until "
        f"validation accuracy has stayed ≥ {first['threshold']:.0%} from some step to {1 + first['linger']:g} times that step. "
        f"Evaluations lie {first['evaluation.every']} steps or {first['evaluation.growth']:.0%} apart, whichever is more. "
        f"Above: median steps (Kaplan–Meier); a crossing after 2/3 of the budget cannot be known to stay. Trained on: {'; '.join(machines)}."
    )
