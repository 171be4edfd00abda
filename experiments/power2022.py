"""The classic picture: long after memorising comes generalising, ever later with less data, and weight decay helps most.

Claim      Power et al. 2022 (arXiv 2201.02177). Figure 1, left: x / y mod 97 with half of the data, Adam without weight decay:
           training accuracy near 1 before 10³ steps, validation accuracy begins to rise at 10⁵ and is near 1 at 10⁶; centre: time to
           99 % rises quickly as data shrink, by 40 to 50 % for each percent of data taken away at 25 to 30 %. Figure 2, left: on
           products in S5, of all interventions weight decay helps most (it more than halves the data needed), decay towards the
           initial weights helps less, noise and dropout little, and the learning rate must be within an order of magnitude.
Here       The one-layer transformer of `grokking run` (RMSNorm, no biases) where the paper has two layers, and budgets of 5,000 and
           6,000 steps where it has 10⁵ and 10⁶: what takes longer is censored, and "consistent so far" is all that can be said of it.
           For division both have the rate of `grokking run`, 3e-3, where the paper has 1e-3 (which takes a median of 4,139 steps with
           two layers and decay, figures/published/recipes.csv); AdamW has decay 1, as there. For S5 rates, decay, noise and dropout
           are those of figure 2, with 80 % of the data; full batches, 22 times as large, are part of the `paper` scale alone.
Shows      (Laptop.) Without decay all five runs memorise x / y, after a median of 470 steps, and one generalises within 5,000: sooner than the
           paper's 10⁵. With decay all five do, after a median of 569. From 60 % of the data to 25 % the steps to 99 % rise from 373 to
           2,576, by 4 to 8 % for each percent less, a tenth to a fifth of what the paper has; at 80 % they rise, too, as memorising
           takes ten times as long (2,199), and two of five runs do neither within the budget. On S5 only with decay do all three
           runs generalise, after 1,574 steps; with weight noise two do, with dropout one, with decay to the start none.
Definition Steps to the first evaluation with validation accuracy >= 0.95; for the share of data >= 0.99, as in the paper, where runs
           end. Runs that do not get there count at the budget in every mean. Best: the highest validation accuracy of a run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from five_optimizers import SMALL
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from grokking.comparison import columns, compare, observed, paired_ratio
from grokking.coverage import beside
from grokking.plotting import (
    COLORS,
    GREY,
    Drawing,
    Verdict,
    caption,
    epochs_axis,
    mark_censored,
    run_lines,
    seed_dots,
    step_ticks,
    steps_axis,
    style,
)
from grokking.publish import interval, markdown_table, p_value
from grokking.registry import Settings
from grokking.store import Results
from grokking.study import Study
from grokking.survival import Estimate, median_steps, restricted_mean

DIVISION: Settings = {"task.name": "mod_div", "task.p": 97}
DECAYED: Settings = {"optimizer.name": "adamw", "optimizer.lr": 3e-3, "optimizer.weight_decay": 1.0}
UNDECAYED: Settings = {"optimizer.name": "adam", "optimizer.lr": 3e-3, "optimizer.weight_decay": 0.0}
DELAY: Settings = {**DIVISION, "train_fraction": 0.5, "steps": 5_000}
FRACTIONS = (0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8)
FIRST: Settings = {"linger": 0.0}  # a run ends at its first crossing
FRACTION: Settings = {**DIVISION, **DECAYED, **FIRST, "threshold": 0.99, "steps": 6_000}

S5: Settings = {"task.name": "s5", "train_fraction": 0.8, "steps": 5_000, **FIRST}
ADAM: Settings = {"optimizer.name": "adam", "optimizer.lr": 1e-3, "optimizer.weight_decay": 0.0}
ADAMW: Settings = {"optimizer.name": "adamw", "optimizer.lr": 1e-3, "optimizer.weight_decay": 1.0}
VARIANTS: dict[str, Settings] = {  # of figure 2, left
    "AdamW, decay 1": ADAMW,
    "decay 1 to the start": {
        **{**ADAMW, "optimizer.weight_decay": 0.0},
        **{"transforms": "decay_to_start", "transform.decay_to_start.decay": 1.0},
    },
    "Adam": ADAM,
    "Adam, lr 3e-4": {**ADAM, "optimizer.lr": 3e-4},
    "Adam, lr 3e-3": {**ADAM, "optimizer.lr": 3e-3},
    "Adam, dropout 0.1": {**ADAM, "model.dropout": 0.1},
    "Adam, update noise": {**ADAM, "transforms": "update_noise", "transform.update_noise.std": 1.0},
    "Adam, weight noise 0.01": {**ADAM, "transforms": "weight_noise", "transform.weight_noise.std": 0.01},
}
FULL_BATCH: dict[str, Settings] = {"Adam, full batch": {**ADAM, "batch_size": 0}}
ABLATION = list(VARIANTS.values())
FEW: Settings = {**SMALL, "steps": 300}
STUDIES = {
    "smoke": [
        Study({**DIVISION, **FEW}, [DECAYED, UNDECAYED], range(1)),
        Study({**FRACTION, **FEW}, [{"train_fraction": share} for share in FRACTIONS[3::2]], range(2)),
        Study({**S5, "model.width": 64, "steps": 20}, ABLATION, range(2)),
    ],
    "laptop": [
        Study(DELAY, [DECAYED, UNDECAYED], range(5)),
        Study(FRACTION, [{"train_fraction": share} for share in FRACTIONS], range(5)),
        Study(S5, ABLATION, range(3)),
    ],
    "paper": [
        Study({**DELAY, "steps": 100_000}, [DECAYED, UNDECAYED], range(5)),
        Study({**FRACTION, "steps": 100_000}, [{"train_fraction": share} for share in FRACTIONS], range(10)),
        Study({**S5, "steps": 100_000}, [*ABLATION, *FULL_BATCH.values()], range(3)),
    ],
}
RUN_STEPS = {"smoke": 2_120, "laptop": 380_000, "paper": 10_700_000}  # at most: the sum of all budgets
COMPILE = ("laptop", "paper")


def draw(results: Results) -> Sequence[Drawing]:
    """The three pictures: the delay, the share of data, what helps."""
    runs = results.runs
    permuted = runs["task.name"] == "s5"
    by_share = ~permuted & (runs["threshold"] == FRACTION["threshold"])
    return [
        _delay(runs[~permuted & ~by_share], results.curves, results.machines),
        _share(runs[by_share], results.machines),
        _ablation(runs[permuted], results.curves, results.machines),
    ]


# --- figure 1, left -----------------------------------------------------------------------------------------------------

ARMS = {"adamw": "weight decay 1 (AdamW)", "adam": "no weight decay (Adam)"}


def _delay(runs: pd.DataFrame, curves: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    """Training and validation accuracy against steps, with and without weight decay."""
    runs = runs.assign(arm=runs["optimizer.name"].map(ARMS))
    curves = curves.merge(runs[["run_id", "arm", "seed", "status"]], on="run_id")
    table = pd.DataFrame([_onsets(arm, own) for arm, own in runs.groupby("arm", sort=False)])
    n, first = int(table["n"].min()), runs.iloc[0]
    with style():
        figure = Figure(figsize=(8.6, 3.7), layout="constrained")
        for axes, row in zip(
            figure.subplots(1, len(table), sharex=True, sharey=True, squeeze=False)[0],
            table.to_dict("records"),
            strict=True,
        ):
            own = curves[curves["arm"] == row["arm"]]
            run_lines(axes, own, "train_accuracy", "#C1272D", "training", ls="-")
            run_lines(axes, own, "validation_accuracy", COLORS["adam"], "validation", ls="-")
            censored = own[own["status"] == "censored"]
            mark_censored(axes, censored, "validation_accuracy", "black", "censored: budget spent")
            axes.axhline(float(first["threshold"]), color=GREY, lw=0.8, ls=(0, (4, 3)))
            axes.set_ylim(-0.03, 1.05)
            axes.set_title(f"{row['arm']}: {row['generalized']} of {row['n']} generalise", fontsize=9, pad=6)
            steps_axis(axes)
            epochs_axis(axes, float(first["steps_per_epoch"]))
        figure.axes[0].set_ylabel("accuracy")
        marks = {
            label: mark for axes in figure.axes for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(marks.values()), list(marks), loc="outside upper center", ncols=3)
        caption(
            figure,
            f"{first['task.name']} (p = {first['task.p']:.0f}), {first['train_fraction']:.0%} of the examples for training, {_model(first)}, "
            f"batch {first['batch_size']}, lr {first['optimizer.lr']:g}; n = {n} seeds, each a line. Dashed: {first['threshold']:.0%}, which counts as "
            f"generalised; such a run ends once it has stayed there for {1 + first['linger']:g} times the steps that it took. Budget {first['steps']:,} "
            f"steps (the paper: 10⁶ without decay). Trained on: {'; '.join(machines)}.",
        )
    tables = {"": curves, "summary": table, "runs": runs.drop(columns="arm")}
    return Drawing("power2022", figure, tables, n, _delay_verdict(table, int(first["steps"])), markdown)


def _onsets(arm: Any, runs: pd.DataFrame) -> dict[str, Any]:
    """When these runs memorise and generalise."""
    seen = runs["steps_to_memorize"].fillna(runs["steps_trained"])  # some end before they have memorised
    memorized = median_steps(seen, runs["memorized"].to_numpy(bool))
    steps, done = observed(runs)
    line = {"arm": arm, "n": len(runs), "memorized": int(runs["memorized"].sum()), "generalized": int(done.sum())}
    line |= {"budget": int(runs["steps"].iloc[0]), "is_bound": not done.any()}
    parts = {"memorize": memorized, "median_steps": median_steps(steps, done), "mean_steps": _mean(runs)}
    for name, estimate in parts.items():
        line |= columns(name, estimate)
    return line


def _mean(runs: pd.DataFrame) -> Estimate:
    return restricted_mean(*observed(runs), float(runs["steps"].iloc[0]))


def _delay_verdict(table: pd.DataFrame, budget: int) -> Verdict | None:
    """Without decay all memorise before 10³ steps, and none generalises before 10⁵."""
    row = table[table["arm"] == ARMS["adam"]].squeeze()
    if row["n"] < 2 or pd.isna(row["memorize"]):
        return None
    early = row["memorized"] == row["n"] and row["memorize"] < 1000
    late = row["generalized"] == 0
    answer = ("consistent so far" if budget < 100_000 else "consistent") if early and late else "not consistent"
    return Verdict(
        "without weight decay training accuracy is near 1 before 10³ steps, and validation accuracy begins to rise at 10⁵ (Power et "
        "al. 2022, figure 1)",
        f"{row['memorized']} of {row['n']} memorise, median {row['memorize']:,.0f} steps; {row['generalized']} of {row['n']} "
        f"generalise within {budget:,} (one layer)",
        answer,
    )


def markdown(table: pd.DataFrame) -> str:
    """The delay as it stands in a document."""
    head = ("setting", "memorise", "median steps to memorise", "generalise", "median steps to generalise", "mean steps")
    rows = [
        (
            row["arm"],
            f"{row['memorized']} of {row['n']}",
            interval(row | {"is_bound": False}, "memorize"),
            f"{row['generalized']} of {row['n']}",
            interval(row | {"is_bound": False}, "median_steps"),
            interval(row, "mean_steps"),
        )
        for row in table.to_dict("records")
    ]
    return markdown_table(head, rows)


# --- figure 1, centre ---------------------------------------------------------------------------------------------------


def _share(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    """Steps to 99 % against the share of examples for training."""
    table = by_share(runs)
    n, first = int(table["n"].min()), runs.iloc[0]
    with style():
        figure = Figure(figsize=(5.6, 4.1), layout="constrained")
        axes = figure.subplots()
        done = (runs["status"] == "generalized").to_numpy(bool)
        steps = runs["steps_to_generalize"].fillna(runs["steps"]).to_numpy(float)
        shares = runs["train_fraction"].to_numpy(float)
        spread = (
            0.006 * (runs["seed"] - runs["seed"].mean()).to_numpy(float) / max(1.0, float(runs["seed"].std(ddof=0)))
        )
        blue = COLORS["adamw"]
        axes.plot(
            shares[done] + spread[done], steps[done], "o", ms=4, color=blue, alpha=0.6, mew=0, label="a run, to 99 %"
        )
        axes.plot(
            shares[~done] + spread[~done],
            steps[~done],
            "^",
            ms=5,
            color=blue,
            mfc="none",
            label="censored at the budget",
        )
        axes.plot(
            table["train_fraction"],
            table["mean_steps"],
            "-",
            color=blue,
            lw=1.2,
            label="restricted mean, 95 % t interval",
        )
        sure = table[table["mean_steps_low"].notna() & (table["generalized"] > 0)]
        ends = (sure["mean_steps"] - sure["mean_steps_low"], sure["mean_steps_high"] - sure["mean_steps"])
        axes.errorbar(
            sure["train_fraction"], sure["mean_steps"], ends, fmt="none", ecolor="black", elinewidth=1, capsize=2
        )
        axes.plot(
            table["train_fraction"],
            table["median_steps"],
            "D",
            ms=5,
            color="black",
            mfc="none",
            label="Kaplan–Meier median",
        )
        axes.plot(table["train_fraction"], table["memorize"], "s--", ms=4, lw=1, color=GREY, label="median to memorise")
        axes.set(yscale="log", xlabel="share of the examples for training", ylabel="steps (log)")
        step_ticks(axes.yaxis)
        axes.set_xticks(table["train_fraction"])
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="upper center", fontsize=7.5)
        caption(
            figure,
            f"{first['task.name']} (p = {first['task.p']:.0f}), {_model(first)}, AdamW (lr {first['optimizer.lr']:g}, decay {first['optimizer.weight_decay']:g}); "
            f"n = {n} seeds a share, drawn beside each other. Steps to the first evaluation with validation accuracy ≥ {first['threshold']:.0%}; runs that do "
            f"not get there within {first['steps']:,} steps count there. Trained on: {'; '.join(machines)}.",
        )
    return Drawing("power2022_fraction", figure, {"": table, "runs": runs}, n, _share_verdict(table), share_markdown)


def by_share(runs: pd.DataFrame) -> pd.DataFrame:
    """One line per share of data, least first; `growth`: the factor on the mean for each percent less than the line below.

    Paired by seed: the ratio of two neighbours' restricted means, to the power of 1 / percents between them. Where runs with less
    data are censored, it is a lower bound (`growth_is_bound`); where runs with more data are, nothing follows.
    """
    lines = []
    shares = sorted(float(share) for share in runs["train_fraction"].unique())
    groups = {share: runs[runs["train_fraction"] == share] for share in shares}
    for at, (share, own) in enumerate(groups.items()):
        line = {"train_fraction": share, **_onsets(f"{share:.0%}", own)}
        growth = Estimate(None, None, None, 0)
        if at + 1 < len(shares) and (groups[shares[at + 1]]["status"] == "generalized").all():
            more = shares[at + 1]
            growth = _a_percent(paired_ratio(runs, "train_fraction", share, more), 100 * (more - share))
        bound = growth.value is not None and line["generalized"] < line["n"]
        lines.append({**line, **columns("growth", growth), "growth_is_bound": bound})
    return pd.DataFrame(lines)


def _a_percent(ratio: Estimate, percents: float) -> Estimate:
    """The factor for one percent where so many have this one."""
    value, low, high = (None if end is None else end ** (1 / percents) for end in (ratio.value, ratio.low, ratio.high))
    return Estimate(value, low, high, ratio.n)


def _share_verdict(table: pd.DataFrame) -> Verdict | None:
    """What does one percent less cost where least of the data is left, of shares at which a run gets there, and all of the next do?"""
    known = table[table["growth"].notna() & (table["generalized"] > 0)]
    if known.empty or pd.isna(known.iloc[0]["growth_low"]):
        return None
    row = known.iloc[0]
    following = table["train_fraction"][int(known.index[0]) + 1]
    low, high = row["growth_low"], np.inf if row["growth_is_bound"] else row["growth_high"]
    rises = table["mean_steps"].is_monotonic_decreasing
    answer = "consistent" if rises else "in part (not at every share)"
    if low > 1.5 or high < 1.4:
        answer = "not consistent"
    elif low <= 1:
        answer = "undecided"
    if answer == "consistent" and row["growth_is_bound"]:
        answer = "consistent so far"
    sign = "at least " if row["growth_is_bound"] else ""
    return Verdict(
        "at 25 to 30 % of the data one percent less costs 40 to 50 % more steps to 99 % (Power et al. 2022, figure 1)",
        f"from {following:.0%} to {row['train_fraction']:.0%}: {sign}{row['growth'] - 1:+.0%} [{low - 1:+.0%}, "
        f"{'–' if row['growth_is_bound'] else format(high - 1, '+.0%')}] a percent; {row['generalized']} of {row['n']} runs get there at "
        f"{row['train_fraction']:.0%} (n = {int(table['n'].min())} seeds)",
        answer,
    )


def share_markdown(table: pd.DataFrame) -> str:
    """Steps by share of data as they stand in a document."""
    head = (
        "share of data",
        "reach 99 %",
        "median steps to memorise",
        "median steps",
        "mean steps",
        "steps for each percent less",
    )
    rows = [
        (
            row["arm"],
            f"{row['generalized']} of {row['n']}",
            interval(row | {"is_bound": False}, "memorize"),
            interval(row | {"is_bound": False}, "median_steps"),
            interval(row, "mean_steps"),
            "–" if pd.isna(row["growth"]) else "×" + interval(row | {"is_bound": row["growth_is_bound"]}, "growth", 2),
        )
        for row in table.to_dict("records")
    ]
    return markdown_table(head, rows)


# --- figure 2, left -----------------------------------------------------------------------------------------------------


def _ablation(runs: pd.DataFrame, curves: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    """Every variant's best validation accuracy within the budget, and its steps to generalise."""
    runs = runs.assign(arm=[_variant(row) for row in runs.to_dict("records")])
    runs["best"] = runs["run_id"].map(curves.groupby("run_id")["validation_accuracy"].max())
    table = compare(runs, "arm", reference="Adam")
    bests = runs.groupby("arm", sort=False)["best"]
    table["best"], table["best_low"], table["best_high"] = (
        table["arm"].map(of) for of in (bests.median(), bests.min(), bests.max())
    )
    groups = {str(arm): own for arm, own in runs.groupby("arm", sort=False)}
    n, first = int(table["n"].min()), runs.iloc[0]
    with style():
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for at, own in enumerate(groups.values()):
            x = at + np.linspace(-0.2, 0.2, len(own))
            left.plot(x, own.sort_values("seed")["best"], "o", ms=4, color=COLORS["adamw"], alpha=0.75, mew=0)
            left.plot([at], [own["best"].median()], "_", color="black", ms=14, mew=1.6)
        left.axhline(float(first["threshold"]), color=GREY, lw=0.8, ls=(0, (4, 3)))
        left.set(ylabel="best validation accuracy", ylim=(-0.03, 1.05))
        seed_dots(right, groups, COLORS["adamw"])
        right.set_ylabel("steps to generalise (log)")
        step_ticks(right.yaxis)
        for axes in (left, right):
            axes.set_xticks(range(len(groups)), list(groups), rotation=35, ha="right", fontsize=8)
            axes.grid(axis="x", visible=False)
        caption(
            figure,
            f"Products in S5, {first['train_fraction']:.0%} of the 14,400 examples for training, {_model(first)}, batch 512; lr 1e-3 where none is named; "
            f"n = {n} seeds a variant, each a dot. Left: highest validation accuracy until a run reaches {first['threshold']:.0%} (dashed), where it ends, or the "
            f"budget of {first['steps']:,} steps (the paper: 10⁵); stroke: median. Right: steps to {first['threshold']:.0%}; triangles: censored at the "
            f"budget; bar and whiskers: restricted mean and its 95 % t interval{beside('mean', n)}. Trained on: {'; '.join(machines)}.",
        )
    tables = {"": table, "runs": runs.drop(columns=["arm", "best"])}
    verdict = _ablation_verdict(table, int(first["steps"]))
    return Drawing("power2022_ablation", figure, tables, n, verdict, ablation_markdown)


def _variant(row: Mapping[str, Any]) -> str:
    """The variant that has these settings: the one of which most are named, as Adam's own are part of every other."""
    fitting = [
        name
        for name, own in {**VARIANTS, **FULL_BATCH}.items()
        if all(row.get(key) == value for key, value in own.items())
    ]
    return max(fitting, key=lambda name: len({**VARIANTS, **FULL_BATCH}[name]))


def _ablation_verdict(table: pd.DataFrame, budget: int) -> Verdict | None:
    """Weight decay first: sooner than all others, and decay to the start between it and Adam."""
    of = table.set_index("arm")
    if of["n"].min() < 2 or not of["generalized"].any():
        return None
    others = of.drop(index="AdamW, decay 1")
    decay, start = of.loc["AdamW, decay 1"], of.loc["decay 1 to the start"]
    first = decay["mean_steps"] < others["mean_steps"].min()
    between = decay["mean_steps"] <= start["mean_steps"] <= of.loc["Adam", "mean_steps"]
    answer = "consistent" if first and between else "in part" if first or between else "not consistent"
    if first and start["is_bound"] and of.loc["Adam", "is_bound"]:
        answer = "undecided"  # which of the two is later is not known
    if answer == "consistent" and others["is_bound"].any():
        answer = "consistent so far"
    bound = "≤ " if of.loc["Adam", "is_bound"] else ""
    ratio = f"{decay['ratio']:.2f}" if pd.notna(decay["ratio"]) else "–"
    soonest = others["mean_steps"].idxmin()
    return Verdict(
        "of all interventions weight decay helps most, decay towards the start less (Power et al. 2022, figure 2, 10⁵ steps)",
        f"AdamW takes {bound}{ratio} of Adam's steps ({decay['generalized']} and {of.loc['Adam', 'generalized']} of {decay['n']} runs generalise "
        f"within {budget:,}), decay to the start {start['generalized']} of {start['n']}; soonest of the others: {soonest} "
        f"({others.loc[soonest, 'mean_steps']:,.0f} against {decay['mean_steps']:,.0f} steps, n = {int(of['n'].min())})",
        answer,
    )


def ablation_markdown(table: pd.DataFrame) -> str:
    """The variants as they stand in a document."""
    head = (
        "variant",
        "generalise",
        "best accuracy, median (range)",
        "mean steps",
        "over Adam's",
        "p (Holm; smallest possible)",
    )
    rows = [
        (
            row["arm"],
            f"{row['generalized']} of {row['n']}",
            f"{row['best']:.2f} ({row['best_low']:.2f} to {row['best_high']:.2f})",
            interval(row, "mean_steps"),
            "–" if pd.isna(row["ratio"]) else interval(row, "ratio", 2),
            p_value(row, smallest=True),
        )
        for row in table.to_dict("records")
    ]
    return markdown_table(head, rows)


def _model(run: pd.Series) -> str:
    return f"{run['model.depth']}-layer transformer of width {run['model.width']}"
