"""What in Muon makes it fast? One part changed at a time, each with learning rates of its own.

Claim      Wang 2026 (arXiv 2607.20512), five seeds each: 1,856 ± 118 steps for Muon, 1,744 ± 113 without the scale, 3,088 ± 1,107
           without Newton–Schulz steps, 2,372 ± 360 for AdamW. So the orthogonal direction matters, not the scale.
Here       x + y (mod 59), 40 % of the examples for training. From Muon at its best cell (experiments/sensitivity.py): another
           orthogonalization, number of Newton–Schulz steps, scale, momentum, or choice of matrices.
Definition Steps to the first evaluation with validation accuracy >= 0.95; runs that do not get there count at the budget of
           2,000. Every variant has four learning rates a factor of about three apart, moved by what the change does to the size
           of a step, and a weight decay that keeps the decay per step (lr × weight decay) at the best cell's 0.06; three tuning
           seeds choose the rate at which runs reach and keep 95 % soonest, ten others report. Decay per step of what AdamW has
           is 0.001, so "matrices" changes it with the rule.
Shows      (Steps over Muon's, ten seeds.) Orthogonality is what makes it fast, though not exact orthogonality: without it 4.66
           [4.14, 5.24] (over the spectral norm) and 6.25 [4.66, 8.39] (over Frobenius'); by one, two, three, five, ten of Jordan's
           steps 3.00, 1.77, 1.03, 1, 1.30; and every way that comes nearer to UVᵀ than his five is slower, the exact one by 1.19
           [1.11, 1.27]. The scale hardly matters once the rate is tuned (0.89 to 1.03), as claimed; the momentum does: 0.8 in
           place of 0.95 takes 0.69 [0.66, 0.73], 0.99 or none twice as long. With the head among its matrices Muon takes 0.67
           [0.63, 0.70], with the embeddings 0.82 [0.77, 0.87], with both 0.72. Ten steps, momentum 0.99 and none, and the
           embeddings are best at the lowest of their rates, and might do better below.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from five_optimizers import REAL, SMALL
from matplotlib.figure import Figure
from sensitivity import CHOSEN, SEEDS

from grokking.comparison import compare, observed
from grokking.coverage import beside
from grokking.optim import optimizers
from grokking.plotting import COLORS, Drawing, Verdict, caption, rates_axis, seed_dots, step_ticks, style
from grokking.publish import counted, interval, markdown_table
from grokking.registry import Scalar, Settings
from grokking.selection import split
from grokking.store import Results
from grokking.study import Study
from grokking.survival import restricted_mean

LR, DECAY = CHOSEN["muon"]
PER_STEP = LR * DECAY
VARIANTS: dict[str, dict[str, dict[str, Scalar]]] = {  # panel → variant → what is changed
    "orthogonalization": {
        "Jordan, 5 steps": {},
        "You, 5 steps": {"orthogonalize": "you5"},
        "You, 6 steps": {"orthogonalize": "you6"},
        "Polar Express, 8 steps": {"orthogonalize": "polar_express"},
        "exact (SVD)": {"orthogonalize": "svd"},
        "none, over its spectral norm": {"orthogonalize": "spectral_norm"},
        "none, over its Frobenius norm": {"orthogonalize": "frobenius_norm"},
    },
    "Newton–Schulz steps": {
        "5": {},
        "10": {"ns_steps": 10},
        "3": {"ns_steps": 3},
        "2": {"ns_steps": 2},
        "1": {"ns_steps": 1},
        "0": {"orthogonalize": "frobenius_norm"},
    },
    "scale": {
        "√max(1, out/in)": {},
        "√(out/in)": {"scale": "spectral"},
        "0.2 √max(out, in)": {"scale": "match_rms_adamw"},
        "none": {"scale": "none"},
    },
    "momentum": {
        "0.95, Nesterov": {},
        "0.95": {"nesterov": False},
        "0.99, Nesterov": {"momentum": 0.99},
        "0.8, Nesterov": {"momentum": 0.8},
        "none": {"momentum": 0.0},
    },
    "matrices": {
        "hidden": {},
        "hidden, head": {"matrices": "hidden+head"},
        "hidden, embeddings": {"matrices": "hidden+embedding"},
        "all": {"matrices": "all"},
    },
}
BASES = ("Jordan, 5 steps", "5", "√max(1, out/in)", "0.95, Nesterov", "hidden")  # Muon as it is, in each panel
PUBLISHED = {  # steps over Muon's
    ("scale", "none"): ("without the scale", 1744 / 1856),
    ("Newton–Schulz steps", "0"): ("without Newton–Schulz steps", 3088 / 1856),
}
RATES = (0.02, 0.06, 0.2, 0.6)
FACTORS: dict[tuple[str, Scalar], float] = {  # of the rates, where a step is smaller or larger by about so much
    ("orthogonalize", "frobenius_norm"): 10.0,  # ‖U Vᵀ‖_F = √128 = 11
    ("orthogonalize", "spectral_norm"): 3.0,
    ("ns_steps", 1): 3.0,  # a singular value of 1 / √128 ends at 0.3, after five steps at 0.7
    ("scale", "match_rms_adamw"): 1 / 3,  # 0.2 √128 = 2.3, 0.2 √512 = 4.5
}


def arms(change: dict[str, Scalar]) -> dict[float, Settings]:
    """A variant at its learning rates."""
    factor = next((FACTORS[option] for option in change.items() if option in FACTORS), 1.0)
    own = {"optimizer.name": "muon", **{f"optimizer.{name}": value for name, value in change.items()}}
    rates = [float(f"{rate * factor:.1g}") for rate in RATES]
    return {lr: {**own, "optimizer.lr": lr, "optimizer.weight_decay": PER_STEP / lr} for lr in rates}


ALL = [arm for variants in VARIANTS.values() for change in variants.values() for arm in arms(change).values()]
CHOSEN_RATES: dict[tuple[str, str], float] = {  # (part, variant) → the rate that the tuning seeds chose
    ("orthogonalization", "Jordan, 5 steps"): 0.06,
    ("orthogonalization", "You, 5 steps"): 0.06,
    ("orthogonalization", "You, 6 steps"): 0.06,
    ("orthogonalization", "Polar Express, 8 steps"): 0.06,
    ("orthogonalization", "exact (SVD)"): 0.06,
    ("orthogonalization", "none, over its spectral norm"): 0.2,
    ("orthogonalization", "none, over its Frobenius norm"): 0.6,
    ("Newton–Schulz steps", "5"): 0.06,
    ("Newton–Schulz steps", "10"): 0.02,
    ("Newton–Schulz steps", "3"): 0.06,
    ("Newton–Schulz steps", "2"): 0.06,
    ("Newton–Schulz steps", "1"): 0.06,
    ("Newton–Schulz steps", "0"): 0.6,
    ("scale", "√max(1, out/in)"): 0.06,
    ("scale", "√(out/in)"): 0.06,
    ("scale", "0.2 √max(out, in)"): 0.02,
    ("scale", "none"): 0.06,
    ("momentum", "0.95, Nesterov"): 0.06,
    ("momentum", "0.95"): 0.06,
    ("momentum", "0.99, Nesterov"): 0.02,
    ("momentum", "0.8, Nesterov"): 0.06,
    ("momentum", "none"): 0.02,
    ("matrices", "hidden"): 0.06,
    ("matrices", "hidden, head"): 0.06,
    ("matrices", "hidden, embeddings"): 0.02,
    ("matrices", "all"): 0.06,
}
BEST = [arms(VARIANTS[part][variant])[lr] for (part, variant), lr in CHOSEN_RATES.items()]
FINE: Settings = {"evaluation.every": 5}  # the best cell takes about a hundred steps
STUDIES = {
    "smoke": [Study({**SMALL, "steps": 300}, ALL[::9], range(1000, 1001))],
    "laptop": [Study({**REAL, **FINE}, ALL, SEEDS), Study({**REAL, **FINE}, BEST, range(10))],
}
RUN_STEPS = {"smoke": 3_300, "laptop": 924_000}  # at most: the sum of all budgets
COMPILE = ("laptop",)


def draw(results: Results) -> Sequence[Drawing]:
    """Time to generalise against the learning rate, a panel for each part."""
    runs, fresh = split(results.runs)
    table = _table(runs, float(runs["steps"].max()))
    colors = ["black", *(COLORS[name] for name in ("muon", "adamw", "adam", "lion", "rmsprop", "sgd"))]
    with style():
        figure = Figure(figsize=(15, 4.1), layout="constrained")
        for axes, (panel, variants) in zip(
            figure.subplots(1, len(VARIANTS), sharey=True), VARIANTS.items(), strict=True
        ):
            for at, variant in enumerate(variants):
                own = table[(table["part"] == panel) & (table["variant"] == variant)].sort_values("lr")
                if len(own):
                    axes.plot(own["lr"], own["mean_steps"], "o-", ms=3.5, lw=1.4, color=colors[at], label=variant)
            axes.set_title(panel)
            axes.set_yscale("log")
            rates_axis(axes)
            step_ticks(axes.yaxis)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=7.5)
        figure.axes[0].set_ylabel("mean steps to generalise (log)")
        caption(figure, _caption(runs, table, results.machines))
    n = int(table["n"].min())
    drawings = [Drawing("ablation_muon_rates", figure, {"": table, "runs": runs}, n)]
    if len(fresh):
        drawings.append(_best(fresh, results.machines))
    return drawings


def _table(runs: pd.DataFrame, budget: float) -> pd.DataFrame:
    """One line per part, variant and learning rate."""
    lines = []
    for panel, variants in VARIANTS.items():
        for variant, change in variants.items():
            for settings in arms(change).values():
                own = _of(runs, settings)
                if len(own):
                    steps, done = observed(own)
                    mean = restricted_mean(steps, done, budget)
                    line = {"part": panel, "variant": variant, "lr": settings["optimizer.lr"], "n": len(own)}
                    counts = {"generalized": int(done.sum()), "sustained": int(own["sustained"].sum())}
                    kept = own["steps_to_sustain"].fillna(own["steps"]).astype(float).mean()
                    lines.append(
                        {
                            **line,
                            **counts,
                            "mean_steps": mean.value,
                            "mean_steps_low": mean.low,
                            "mean_steps_high": mean.high,
                            "mean_steps_to_sustain": kept,
                        }
                    )
    return pd.DataFrame(lines)


def _of(runs: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The runs with these settings, and Muon's defaults elsewhere."""
    defaults = {f"optimizer.{name}": value for name, value in optimizers["muon"].defaults.items()}
    own = {**defaults, **settings}
    return runs[np.logical_and.reduce([runs[name].astype(str) == str(value) for name, value in own.items()])]


def _best(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    """Each variant at the rate that the tuning seeds chose, and its ratio to Muon's, paired by seed."""
    own = {
        (part, variant): _of(runs, arms(VARIANTS[part][variant])[lr]).assign(arm=f"{part}: {variant}")
        for (part, variant), lr in CHOSEN_RATES.items()
    }
    muon = own["orthogonalization", BASES[0]]
    lines = []
    for (part, variant), runs_of in own.items():
        lines.append(compare(pd.concat([muon.assign(arm="Muon"), runs_of]), "arm", "Muon").iloc[[-1]])
        lines[-1] = lines[-1].assign(part=part, variant=variant, lr=CHOSEN_RATES[part, variant])
    table = pd.concat(lines, ignore_index=True).drop(columns=["p", "smallest_p", "p_holm", "arm"])
    with style():
        figure = Figure(figsize=(14, 3.9), layout="constrained")
        widths = [len(variants) for variants in VARIANTS.values()]
        for axes, (part, variants) in zip(
            figure.subplots(1, len(VARIANTS), sharey=True, width_ratios=widths), VARIANTS.items(), strict=True
        ):
            seed_dots(axes, {variant: own[part, variant] for variant in variants}, COLORS["muon"])
            axes.set_title(part)
            axes.set_xticks(range(len(variants)), list(variants), rotation=35, ha="right", fontsize=7.5)
            step_ticks(axes.yaxis)
        figure.axes[0].set_ylabel("steps to generalise (log)")
        n = int(table["n"].min())
        caption(
            figure,
            f"Muon on {runs['task.name'].iloc[0]} (p = {runs['task.p'].iloc[0]}), one part changed at a time, each variant at the best of "
            f"four learning rates on {len(SEEDS)} tuning seeds, here on n = {n} others, each a dot; first in each panel: Muon as "
            f"it is; triangles: censored at the budget; bar and whiskers: restricted mean and its 95 % t interval{beside('mean', n)}. Trained on: "
            f"{'; '.join(machines)}.",
        )
    return Drawing("ablation_muon", figure, {"": table, "runs": runs}, n, _verdict(table), markdown)


def _verdict(summary: pd.DataFrame) -> Verdict | None:
    """Wang's two ablations, as ratios to Muon."""
    words, inside = [], []
    for (part, variant), (name, published) in PUBLISHED.items():
        row = summary[(summary["part"] == part) & (summary["variant"] == variant)].squeeze()
        if row.empty or pd.isna(row["ratio_low"]):
            return None
        words.append(f"{name} {row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]")
        inside.append(row["ratio_low"] <= published <= row["ratio_high"])
    answer = "consistent" if all(inside) else "in part" if any(inside) else "not consistent"
    return Verdict(
        "steps over Muon's: without the scale 0.94, without Newton–Schulz steps 1.66 (Wang 2026)",
        f"{'; '.join(words)} (n = {int(summary['n'].min())} seed pairs, each at the rate that other seeds chose)",
        answer,
    )


def _caption(runs: pd.DataFrame, table: pd.DataFrame, machines: Sequence[str]) -> str:
    first = runs.iloc[0]
    return (
        f"Muon on {first['task.name']} (p = {first['task.p']}), {first['train_fraction']:.0%} of the examples for training. Black: "
        f"Muon as it is. Mean steps until validation accuracy reaches 95 %, restricted to the budget of {first['steps']:,}, n = "
        f"{table['n'].min()} tuning seeds; lr × weight decay is {PER_STEP:g} everywhere (decoupled). Trained on: {'; '.join(machines)}."
    )


def markdown(table: pd.DataFrame) -> str:
    """Each variant at its best learning rate, as it stands in a document."""
    head = ("part", "variant", "best lr", "generalise (and stay)", "mean steps", "over Muon's")
    rows = [
        (
            row["part"],
            row["variant"],
            f"{row['lr']:g}",
            counted(row),
            interval(row, "mean_steps"),
            interval(row, "ratio", 2),
        )
        for row in table.to_dict("records")
    ]
    return markdown_table(head, rows)
