"""How large do activations and weights grow in training, with and without constraints?

Claim      Newhouse et al. 2025 (arXiv 2507.13338): a transformer of 145 million parameters whose matrices are kept within norms has
           activations near 100 at most, where ordinary ones reach 10⁵.
Here       x + y (mod 59), 50 % of the examples for training, 1,500 steps, generalised or not, each by AdamW and by Muon. Ordinary: two
           layers with RMSNorm, with weight decay and without. Lipschitz: the transformer of that paper (no norms, convex sums, attention
           of a third, scores times 32) as it is, and with caps: every matrix of norm 1 at most after every step, and rows of embeddings
           at a root mean square of 1 at most. With caps and without differ in nothing else; ordinary and Lipschitz differ in initial
           weights, in what scores are multiplied by and, with Muon, in the size of a step, too. Rates are not tuned.
Definition The largest absolute number that any part of the network gives out on any example, scores included; the largest norm of a
           hidden matrix or of the head, as a map between root mean squares; how fast scores may change with embedded inputs, as
           certified from above and as an attack at some 32 examples finds it; at every evaluation.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from grokking.plotting import COLORS, Drawing, caption, steps_axis, style
from grokking.publish import markdown_table, number
from grokking.registry import Settings
from grokking.store import Results
from grokking.study import Study, names_of_runs

BASE: Settings = {
    **{"task.name": "mod_add", "task.p": 59, "train_fraction": 0.5, "steps": 1_500},
    **{"threshold": 1.0, "linger": 1e6},  # to the end
    "measures": "largest_entry,largest_norm,certified_slope,steepest_slope",
}
ORDINARY: Settings = {"model.name": "transformer", "model.depth": 2, "model.norm": "rmsnorm"}
LIPSCHITZ: Settings = {"model.name": "lipschitz_transformer", "model.logit_scale": 32.0, "init.name": "orthogonal"}
CAPS: Settings = {"transforms": "spectral_cap,rms_cap", "transform.spectral_cap.on": "hidden+head"}
ADAMW: Settings = {"optimizer.name": "adamw", "optimizer.lr": 1e-3, "optimizer.weight_decay": 0.0}
MUON: Settings = {
    **{"optimizer.name": "muon", "optimizer.lr": 0.02, "optimizer.matrices": "hidden+head"},
    **{"optimizer.weight_decay": 0.0, "optimizer.adamw_weight_decay": 0.0},
}
SPECTRAL: Settings = {**MUON, "optimizer.scale": "spectral"}  # a step has the norm that the cap is of
ARMS: dict[str, Settings] = {
    "AdamW, ordinary": {**ORDINARY, **ADAMW},
    "AdamW, ordinary, decay 1": {**ORDINARY, **ADAMW, "optimizer.weight_decay": 1.0},
    "AdamW, Lipschitz, no caps": {**LIPSCHITZ, **ADAMW},
    "AdamW, Lipschitz, capped": {**LIPSCHITZ, **ADAMW, **CAPS},
    "Muon, ordinary": {**ORDINARY, **MUON},
    "Muon, ordinary, decay 0.1": {
        **{**ORDINARY, **MUON},
        **{"optimizer.weight_decay": 0.1, "optimizer.adamw_weight_decay": 0.1},
    },
    "Muon, Lipschitz, no caps": {**LIPSCHITZ, **SPECTRAL},
    "Muon, Lipschitz, capped": {**LIPSCHITZ, **SPECTRAL, **CAPS},
}
LOOKS = dict(
    zip(ARMS, [(COLORS[name], dash) for name in ("adamw", "muon") for dash in (":", "--", "-.", "-")], strict=True)
)
SMALL: Settings = {"task.p": 11, "model.width": 16, "steps": 40}
STUDIES = {
    "smoke": [Study({**BASE, **SMALL}, [*ARMS.values()][::2], range(2))],
    "laptop": [Study(BASE, [*ARMS.values()], range(3))],
}
RUN_STEPS = {"smoke": 320, "laptop": 36_000}  # at most: the sum of all budgets
PANELS = {
    "largest_entry": "largest activation (log)",
    "largest_norm": "largest norm of a matrix (log)",
    "certified_slope": "certified slope of the scores (log)",
    "validation_accuracy": "validation accuracy",
}


def draw(results: Results) -> Sequence[Drawing]:
    """What is measured and validation accuracy over the steps, a line a seed."""
    arm_of = names_of_runs(
        (arm, Study({**BASE, **small}, [settings], range(3))) for arm, settings in ARMS.items() for small in ({}, SMALL)
    )
    runs = results.runs.assign(arm=results.runs["run_id"].map(arm_of))
    curves = results.curves.assign(arm=results.curves["run_id"].map(arm_of))
    table = summary(runs, curves)
    with style():
        figure = Figure(figsize=(13, 4), layout="constrained")
        panels = figure.subplots(1, len(PANELS), sharex=True)
        for axes, (column, text) in zip(panels, PANELS.items(), strict=True):
            for arm in table["arm"]:
                color, dash = LOOKS[arm]
                for _, own in curves[curves["arm"] == arm].groupby("run_id"):
                    axes.plot(own["step"], own[column], color=color, ls=dash, lw=1, label=arm)
            axes.set_ylabel(text)
            if "(log)" in text:
                axes.set_yscale("log")
            steps_axis(axes)
        handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
        first, n = runs.iloc[0], int(table["n"].min())
        caption(
            figure,
            f"x + y (mod {first['task.p']}), {first['train_fraction']:.0%} for training, n = {n} seeds, each a line. Ordinary: two layers with RMSNorm. Lipschitz: without "
            "norms, with convex sums; capped: every matrix at norm 1 at most. Largest activation: of any part on any example, scores included. "
            f"Trained on: {'; '.join(results.machines)}.",
        )
    return [Drawing("activation_growth", figure, {"": table, "runs": runs.drop(columns="arm")}, n, None, markdown)]


def summary(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """One line an arm: the largest entry and norm of its seeds, ever and at the end; the means of its slopes and of its accuracy at the end.

    `tightest` is the least of certified over attacked slope, of all evaluations.
    """
    lines = []
    for arm in [arm for arm in ARMS if arm in set(runs["arm"])]:
        own, course = runs[runs["arm"] == arm], curves[curves["arm"] == arm]
        line = {"arm": arm, "n": len(own), "accuracy": own["final_validation_accuracy"].mean()}
        for column in ("largest_entry", "largest_norm"):
            line |= {column: course[column].max(), f"final_{column}": own[f"final_{column}"].max()}
        for column in ("certified_slope", "steepest_slope"):
            line[column] = np.exp(np.log(own[f"final_{column}"]).mean())
        lines.append({**line, "tightest": (course["certified_slope"] / course["steepest_slope"]).min()})
    return pd.DataFrame(lines)


def markdown(table: pd.DataFrame) -> str:
    """The table as it stands in a document."""
    head = (
        *("arm", "largest activation, ever", "at the end", "largest norm, ever", "at the end"),
        *("slope at the end: attacked", "certified", "validation accuracy"),
    )
    columns = (
        "largest_entry",
        "final_largest_entry",
        "largest_norm",
        "final_largest_norm",
        "steepest_slope",
        "certified_slope",
    )
    rows = [
        (line["arm"], *(number(line[column]) for column in columns), f"{line['accuracy']:.3f}")
        for line in table.to_dict("records")
    ]
    return markdown_table(head, rows)
