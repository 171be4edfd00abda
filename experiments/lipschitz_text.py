"""The Lipschitz transformer on text: validation accuracy against the slope that is certified.

Claim      Newhouse et al. 2025 (arXiv 2507.13338): a 2-Lipschitz transformer reaches 60 % on Shakespeare's characters; with 145 million
           parameters 39.4 % of words with activations near 100, at a bound of 10^264, and 21 % at a bound of 10.
Here       The next character after 16 of Python's language reference (8,000 windows, 80 % for training), far smaller than theirs: the
           Lipschitz transformer with two layers of width 64, every matrix capped at norm 1 and rows of embeddings at root mean square 1,
           by Muon and by AdamW, scores multiplied by 2 to 128; beside it an ordinary transformer with RMSNorm and the optimizers' default
           decays (AdamW 1, Muon 0.1). Rates fall to 0; each with the best of four, by validation accuracy on one tuning seed.
Definition Validation accuracy after 800 steps. Certified: the bound of grokking.lipschitz.certificate on the
           slope, from the last weights, over embedded inputs as large as the examples'; attacked: the steepest slope found at some 32 examples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from chosen_rates import best_rates, trials
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from grokking.plotting import COLORS, Drawing, caption, label, style
from grokking.publish import markdown_table, number
from grokking.registry import Settings
from grokking.selection import split
from grokking.store import Results
from grokking.study import Study

BASE: Settings = {
    **{"task.name": "text", "train_fraction": 0.8, "batch_size": 64, "steps": 800},
    **{"model.depth": 2, "model.width": 64, "model.heads": 4, "evaluation.every": 100},
    **{"schedule.name": "linear_decay", "schedule.warmup": 0},
}
MEASURED: Settings = {"measures": "certified_slope,steepest_slope,largest_entry"}
CAPPED: Settings = {
    **{"model.name": "lipschitz_transformer", "init.name": "orthogonal", "optimizer.weight_decay": 0.0},
    **{"transforms": "spectral_cap,rms_cap", "transform.spectral_cap.on": "hidden+head"},
}
ORDINARY: Settings = {"model.name": "transformer", "model.norm": "rmsnorm", "model.positions": "rope"}
MODELS: dict[str, Settings] = {
    "ordinary": ORDINARY,
    **{f"capped, scores × {scale:g}": {**CAPPED, "model.logit_scale": scale} for scale in (2.0, 16.0, 128.0)},
}
OPTIMIZERS: dict[str, Settings] = {
    "muon": {"optimizer.name": "muon", "optimizer.scale": "spectral", "optimizer.matrices": "hidden+head"}
    | {"optimizer.adamw_lr": 0.003, "optimizer.adamw_weight_decay": 0.0},
    "adamw": {"optimizer.name": "adamw"},
}
RATES = {"muon": (0.003, 0.01, 0.03, 0.1), "adamw": (0.0003, 0.001, 0.003, 0.01)}
KEYS = ["optimizer", "model"]
CELLS = [(optimizer, model) for optimizer in OPTIMIZERS for model in MODELS]


def arm(optimizer: str, model: str, rate: float) -> Settings:
    """One trial."""
    return {**OPTIMIZERS[optimizer], **MODELS[model], "optimizer.lr": rate}


def chosen() -> dict[tuple[str, str], float]:
    """Cell → its best rate among the published trials; until there are any, the middle one."""
    return best_rates("lipschitz_text_tuning", KEYS) or {cell: RATES[cell[0]][1] for cell in CELLS}


GRID = [arm(*cell, rate) for cell in CELLS for rate in RATES[cell[0]]]
QUICK: Settings = {"task.examples": 300, "task.context": 5, "model.width": 16, "steps": 20, "evaluation.every": 10}
STUDIES = {
    "smoke": [Study({**BASE, **QUICK, **MEASURED}, [arm(*cell, 0.01) for cell in CELLS[::2]], range(2))],
    "tuning": [Study(BASE, GRID, range(1000, 1001))],
    "laptop": [Study({**BASE, **MEASURED}, [arm(*cell, rate) for cell, rate in chosen().items()], range(3))],
}
RUN_STEPS = {"smoke": 160, "tuning": 25_600, "laptop": 19_200}  # at most: the sum of all budgets


def named(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with what tells cells apart."""
    capped = runs["model.name"] == "lipschitz_transformer"
    scales = runs.get("model.logit_scale", pd.Series(1.0, index=runs.index))
    names = [f"capped, scores × {scale:g}" if own else "ordinary" for own, scale in zip(capped, scales, strict=True)]
    return runs.assign(model=names, optimizer=runs["optimizer.name"], rate=runs["optimizer.lr"])


def draw(results: Results) -> Sequence[Drawing]:
    """The trials; or accuracy against the certified slope, with what an attack finds, and the largest activation."""
    tuned, fresh = split(named(results.runs))
    drawings = []
    if len(tuned):
        drawings.append(_trials(tuned, results.machines))
    if len(fresh):
        drawings.append(_frontier(fresh, results.machines))
    return drawings


def _trials(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    table, n = trials(runs, KEYS), runs["seed"].nunique()
    with style():
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        panels = figure.subplots(1, len(OPTIMIZERS), sharey=True, squeeze=False)[0]
        for axes, optimizer in zip(panels, OPTIMIZERS, strict=True):
            for model, color in zip(MODELS, COLORS.values(), strict=False):
                own = table[(table["optimizer"] == optimizer) & (table["model"] == model)]
                axes.plot(own["rate"], own["accuracy"], "o-", ms=3, color=color, label=model)
            axes.set(xscale="log", title=label(optimizer), xlabel="learning rate (log)")
            axes.set_xticks(RATES[optimizer], [f"{rate:g}" for rate in RATES[optimizer]])
            axes.xaxis.minorticks_off()
        panels[0].set_ylabel("validation accuracy")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(MODELS))
        caption(
            figure, f"Mean validation accuracy at the end, of n = {n} tuning seeds. Trained on: {'; '.join(machines)}."
        )
    return Drawing("lipschitz_text_tuning", figure, {"": table, "runs": _plain(runs)}, n)


def _plain(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.drop(columns=["model", "optimizer", "rate"])


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """One line a cell: accuracies, the slope certified and attacked, the tightest ratio of both, and the largest activation."""
    lines = []
    for cell, own in runs.groupby(KEYS, sort=False):
        certified, attacked = own["final_certified_slope"], own["final_steepest_slope"]
        line: dict[str, Any] = {**dict(zip(KEYS, cell, strict=True)), "n": len(own), "rate": own["rate"].iloc[0]}
        line |= {"accuracy": own["final_validation_accuracy"].mean(), "training": own["final_train_accuracy"].mean()}
        line |= {"certified": np.exp(np.log(certified).mean()), "attacked": np.exp(np.log(attacked).mean())}
        line |= {"tightest": (certified / attacked).min(), "largest_entry": own["final_largest_entry"].max()}
        lines.append(line)
    return pd.DataFrame(lines)


def _frontier(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    table = summary(runs)
    n = int(table["n"].min())
    with style():
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for line in table.to_dict("records"):
            color, fill = (
                COLORS[line["optimizer"]],
                "none" if line["model"] == "ordinary" else COLORS[line["optimizer"]],
            )
            left.plot([line["attacked"], line["certified"]], [line["accuracy"]] * 2, color=color, lw=0.8)
            left.plot([line["attacked"]], [line["accuracy"]], "|", color=color, ms=7)
            left.plot([line["certified"]], [line["accuracy"]], "o", color=color, mfc=fill, ms=5)
            right.plot([line["largest_entry"]], [line["accuracy"]], "o", color=color, mfc=fill, ms=5)
        left.set(xscale="log", xlabel="slope of the scores (log)", ylabel="validation accuracy")
        right.set(xscale="log", xlabel="largest activation (log)")
        keys = [Line2D([], [], color=COLORS[name], marker="o", ls="", label=label(name)) for name in OPTIMIZERS]
        keys.append(Line2D([], [], color="black", marker="o", mfc="none", ls="", label="ordinary transformer"))
        figure.legend(handles=keys, loc="outside upper center", ncols=len(keys))
        caption(
            figure,
            f"Next character of Python's language reference, n = {n} seeds, each cell at the rate that other seeds chose. Dot: the slope that is certified; tick: "
            f"the steepest that an attack finds. Trained on: {'; '.join(machines)}.",
        )
    return Drawing("lipschitz_text", figure, {"": table, "runs": _plain(runs)}, n, None, markdown)


def markdown(table: pd.DataFrame) -> str:
    """A line a cell."""
    head = (
        "optimizer",
        "model",
        "validation accuracy",
        "in training",
        "slope: attacked",
        "certified",
        "largest activation",
    )
    rows = [
        (
            *(label(line["optimizer"]), line["model"], f"{line['accuracy']:.3f}", f"{line['training']:.3f}"),
            *(number(line[name]) for name in ("attacked", "certified", "largest_entry")),
        )
        for line in table.to_dict("records")
    ]
    return markdown_table(head, rows)
