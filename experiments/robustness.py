"""How far may an embedded input move before the answer changes? What is certified from below, and attacked from above.

Claim      Newhouse et al. 2025 (arXiv 2507.13338): networks within a certified bound keep more of their accuracy under perturbations.
Here       x + y (mod 59), perceptrons as in lipschitz_frontier.py (two hidden layers of 128 on embeddings of 64 side by side, whose rows
           have a root mean square of 1), scores multiplied by 64, each with its best rate there: by Muon and AdamW without a bound,
           with weight decay, and capped at norm 1.
           A run ends at the first of its evaluations, 50 steps apart, at which all of the validation set is right, or after 240 steps: arms are
           not compared after as many steps.
Definition Some 256 examples, spread over all, those of training among them. Certified at a radius: right, and the margin over every other class is more than √2 · √classes ·
           slope · radius / √width, which is what any step of that Euclidean length can take from it. Attacked: still right after 20
           steps of projected gradient ascent on the margin within the radius. The truth lies between the two.
"""

from collections.abc import Sequence

import pandas as pd
from lipschitz_frontier import BASE, CONSTRAINTS, OPTIMIZERS, QUICK, chosen
from matplotlib.figure import Figure
from robust_shares import EXAMPLES, NAMES, RADII

from grokking.plotting import COLORS, Drawing, caption, label, style
from grokking.publish import markdown_table, number
from grokking.registry import Settings
from grokking.store import Results
from grokking.study import Study, names_of_runs

SCALE = 64.0  # what scores are multiplied by
ARMS = [(optimizer, constraint) for optimizer in OPTIMIZERS for constraint in ("none", "weight decay", "cap")]


def arm(optimizer: str, constraint: str) -> Settings:
    """With its best rate in lipschitz_frontier.py."""
    return {**OPTIMIZERS[optimizer], **CONSTRAINTS[constraint], "optimizer.lr": chosen()[optimizer, constraint, SCALE]}


MEASURED: Settings = {
    **{"measures": ",".join([*NAMES.values(), "certified_slope", "steepest_slope"]), "model.logit_scale": SCALE},
    **{"threshold": 1.0, "linger": 0.0, "evaluation.every": 50, "evaluation.growth": 0.0},
}
STUDIES = {
    "smoke": [Study({**BASE, **QUICK, **MEASURED}, [arm(*ARMS[0]), arm(*ARMS[-1])], range(2))],
    "laptop": [Study({**BASE, **MEASURED}, [arm(*own) for own in ARMS], range(3))],
}
RUN_STEPS = {"smoke": 160, "laptop": 4_320}  # at most: the sum of all budgets


def draw(results: Results) -> Sequence[Drawing]:
    """Share of right answers against the radius, certified and attacked, a panel for each optimizer."""
    arm_of = names_of_runs(
        (own, Study({**BASE, **small, **MEASURED}, [arm(*own)], range(3))) for own in ARMS for small in ({}, QUICK)
    )
    runs = results.runs
    table = summary(
        runs.assign(optimizer=[arm_of[i][0] for i in runs["run_id"]], constraint=[arm_of[i][1] for i in runs["run_id"]])
    )
    n = int(table["n"].min())
    with style():
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        panels = figure.subplots(1, len(OPTIMIZERS), sharey=True, squeeze=False)[0]
        for axes, optimizer in zip(panels, OPTIMIZERS, strict=True):
            for constraint, color in zip(("none", "weight decay", "cap"), ("adam", "adamw", "muon"), strict=True):
                own = table[(table["optimizer"] == optimizer) & (table["constraint"] == constraint)]
                for kind, dash in (("attacked", "-"), ("certified", "--")):
                    axes.plot(
                        own["radius"], own[kind], f"o{dash}", ms=3, color=COLORS[color], label=f"{constraint}, {kind}"
                    )
            axes.set(
                title=label(optimizer), xscale="log", xlabel="Euclidean length of the step (log)", ylim=(-0.02, 1.02)
            )
            axes.set_xticks(RADII, [f"{radius:g}" for radius in RADII])
            axes.minorticks_off()
        panels[0].set_ylabel("share of right answers")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        first = runs.iloc[0]
        caption(
            figure,
            f"x + y (mod {first['task.p']}), perceptrons on embeddings whose root mean square is 1, n = {n} seeds (means), some {EXAMPLES} examples. Solid: still "
            "right after an attack on the embedded input; dashed: proved to stay right by the certificate; the truth lies between. "
            f"Trained on: {'; '.join(results.machines)}.",
        )
    return [Drawing("robustness", figure, {"": table, "runs": runs}, n, None, markdown)]


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """One line an arm and radius: mean shares, and what is certified and attacked of the slope."""
    lines = []
    for (optimizer, constraint), own in runs.groupby(["optimizer", "constraint"], sort=False):
        slopes = {name: own[f"final_{name}_slope"].mean() for name in ("certified", "steepest")}
        for radius in RADII:
            shares = {kind: own[f"final_{NAMES[kind, radius]}"].mean() for kind in ("certified", "attacked")}
            line = {"optimizer": optimizer, "constraint": constraint, "n": len(own), "radius": radius, **shares}
            lines.append({**line, **{f"{name}_slope": value for name, value in slopes.items()}})
    return pd.DataFrame(lines)


def markdown(table: pd.DataFrame) -> str:
    """A line an arm: certified to attacked share at each radius."""
    head = ("optimizer", "constraint", "slope: attacked to certified", *(f"radius {radius:g}" for radius in RADII))
    rows = []
    for (optimizer, constraint), own in table.groupby(["optimizer", "constraint"], sort=False):
        shares = [f"{line['certified']:.2f} to {line['attacked']:.2f}" for line in own.to_dict("records")]
        first = own.iloc[0]
        slopes = f"{number(first['steepest_slope'])} to {number(first['certified_slope'])}"
        rows.append((label(str(optimizer)), str(constraint), slopes, *shares))
    return markdown_table(head, rows)
