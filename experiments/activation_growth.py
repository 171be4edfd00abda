"""How large do activations and weights grow in training, with and without constraints?

Claim      Newhouse et al. 2025 (arXiv 2507.13338): a transformer of 145 million parameters whose matrices are kept within norms has
           activations near 100 at most, where ordinary ones reach 10⁵.
Here       x + y (mod 59), 50 % of the examples for training, 1,500 steps, far beyond generalising. Ordinary: two layers with RMSNorm, by
           AdamW and Muon with decay and without. Constrained: the Lipschitz transformer (no norms, convex sums, attention of a third) with
           every matrix capped at norm 1 after every step, and rows of embeddings at root mean square 1; scores are multiplied by 32.
Definition The largest absolute number that any part of the network gives out on any example, scores included; the largest norm of a
           hidden matrix or of the head, as a map between root mean squares; at every evaluation.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from grokking.plotting import Drawing, caption, steps_axis, style
from grokking.publish import markdown_table
from grokking.registry import Settings
from grokking.store import Results
from grokking.study import Study

BASE: Settings = {
    **{"task.name": "mod_add", "task.p": 59, "train_fraction": 0.5, "steps": 1_500},
    **{"threshold": 1.0, "linger": 1e6, "measures": "largest_entry,largest_norm"},  # to the end
}
ORDINARY: Settings = {"model.name": "transformer", "model.depth": 2, "model.norm": "rmsnorm"}
CAPPED: Settings = {
    **{"model.name": "lipschitz_transformer", "model.logit_scale": 32.0, "init.name": "orthogonal"},
    **{"transforms": "spectral_cap,rms_cap", "transform.spectral_cap.on": "hidden+head"},
}
ADAMW: Settings = {"optimizer.name": "adamw", "optimizer.lr": 1e-3}
MUON: Settings = {"optimizer.name": "muon", "optimizer.lr": 0.02, "optimizer.matrices": "hidden+head"}
ARMS: dict[str, Settings] = {
    "AdamW, no decay": {**ORDINARY, **ADAMW, "optimizer.weight_decay": 0.0},
    "AdamW, decay 1": {**ORDINARY, **ADAMW, "optimizer.weight_decay": 1.0},
    "Muon, no decay": {**ORDINARY, **MUON, "optimizer.weight_decay": 0.0, "optimizer.adamw_weight_decay": 0.0},
    "Muon, decay 0.1": {**ORDINARY, **MUON, "optimizer.weight_decay": 0.1, "optimizer.adamw_weight_decay": 0.1},
    "AdamW, capped": {**CAPPED, **ADAMW, "optimizer.weight_decay": 0.0},
    "Muon, capped": {**CAPPED, **MUON, "optimizer.weight_decay": 0.0, "optimizer.adamw_weight_decay": 0.0}
    | {"optimizer.scale": "spectral"},
}
LOOKS = {  # colour, dash
    **{"AdamW, no decay": ("#0072B2", ":"), "AdamW, decay 1": ("#0072B2", "--"), "AdamW, capped": ("#0072B2", "-")},
    **{"Muon, no decay": ("#D55E00", ":"), "Muon, decay 0.1": ("#D55E00", "--"), "Muon, capped": ("#D55E00", "-")},
}
STUDIES = {
    "smoke": [Study({**BASE, "task.p": 11, "model.width": 16, "steps": 40}, [*ARMS.values()][::2], range(2))],
    "laptop": [Study(BASE, [*ARMS.values()], range(3))],
}
RUN_STEPS = {"smoke": 240, "laptop": 27_000}  # at most: the sum of all budgets
PANELS = {"largest_entry": "largest activation (log)", "largest_norm": "largest norm of a matrix (log)"}


def draw(results: Results) -> Sequence[Drawing]:
    """Both measures and validation accuracy over the steps, a line a seed."""
    arm_of: dict[str, str] = {}
    for arm, settings in ARMS.items():
        for small in ({}, {"task.p": 11, "model.width": 16, "steps": 40}):
            arm_of |= {spec.run_id: arm for spec in Study({**BASE, **small}, [settings], range(3)).specs()}
    runs = results.runs.assign(arm=results.runs["run_id"].map(arm_of))
    curves = results.curves.assign(arm=results.curves["run_id"].map(arm_of))
    table = summary(runs, curves)
    with style():
        figure = Figure(figsize=(11, 3.8), layout="constrained")
        panels = figure.subplots(1, len(PANELS) + 1, sharex=True)
        for axes, (column, text) in zip(
            panels, {**PANELS, "validation_accuracy": "validation accuracy"}.items(), strict=True
        ):
            for arm in table["arm"]:
                color, dash = LOOKS[arm]
                for _, own in curves[curves["arm"] == arm].groupby("run_id"):
                    axes.plot(own["step"], own[column], color=color, ls=dash, lw=1, label=arm)
            axes.set_ylabel(text)
            if column in PANELS:
                axes.set_yscale("log")
            steps_axis(axes)
        handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
        first, n = runs.iloc[0], int(table["n"].min())
        caption(
            figure,
            f"x + y (mod {first['task.p']}), {first['train_fraction']:.0%} for training, n = {n} seeds, each a line. Capped: the Lipschitz transformer with every "
            "matrix at norm 1 at most; the others: two layers with RMSNorm. Largest activation: of any part on any example, scores included. "
            f"Trained on: {'; '.join(results.machines)}.",
        )
    return [Drawing("activation_growth", figure, {"": table, "runs": runs.drop(columns="arm")}, n, None, markdown)]


def summary(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """One line an arm: of the largest entry and norm, the most at any time and what it is at the end (largest of the seeds)."""
    lines = []
    for arm in [arm for arm in ARMS if arm in set(runs["arm"])]:
        own, course = runs[runs["arm"] == arm], curves[curves["arm"] == arm]
        line = {"arm": arm, "n": len(own), "accuracy": own["final_validation_accuracy"].mean()}
        for column in PANELS:
            line |= {column: course[column].max(), f"final_{column}": own[f"final_{column}"].max()}
        lines.append(line)
    return pd.DataFrame(lines)


def markdown(table: pd.DataFrame) -> str:
    """The table as it stands in a document."""
    head = (
        "arm",
        "n",
        "largest activation, ever",
        "at the end",
        "largest norm, ever",
        "at the end",
        "validation accuracy",
    )
    rows = [
        (
            *(line["arm"], str(line["n"])),
            *(_short(line[f"{prefix}{column}"]) for column in PANELS for prefix in ("", "final_")),
            f"{line['accuracy']:.3f}",
        )
        for line in table.to_dict("records")
    ]
    return markdown_table(head, rows)


def _short(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
