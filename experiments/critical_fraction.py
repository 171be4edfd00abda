"""How many examples does it take to generalise, and does Muon need fewer than AdamW?

Claim      Muon generalises from about 25 % of the examples on, AdamW from about 40 % (x + y mod 97, a transformer of two layers, full
           batches, 20,000 steps: PeterPonyu/muon-norm-cap-grokking, 2026, no runs published for it). Below some fraction nothing
           generalises (Power et al. 2022, arXiv 2201.02177; Nanda et al. 2023, arXiv 2301.05217: with 30 to 50 % of p = 113 it
           does, with 10 to 20 % not in 40,000 epochs).
Here       x + y (mod 59), 15 to 50 % of the examples for training, closest where earlier runs, one of them on a tuning seed, let expect the change. AdamW and
           Muon (at the scale `paper` Adam, too), each at its best cell of experiments/sensitivity.py, which was chosen at 40 % on
           other seeds and not again at each fraction: the best weight decay may be another with fewer examples.
Definition A run generalises if some evaluation within the budget of 2,000 steps has validation accuracy >= 0.95; all others count
           as not generalising within it. The critical fraction is where half of the runs do (experiments/halfway.py), so it is
           one for this budget: the same runs, cut off earlier, say how it moves with the budget. "About 25 %" is read as 22.5
           to 27.5 %, "about 40 %" as 37.5 to 42.5 %: consistent is what has an interval that meets it.
Shows      (Laptop.) Muon needs fewer examples: half of its runs generalise from somewhere between 15 and 20 % on, of AdamW's from 27 %,
           and both have all but arrived there at half the budget. Both are below what is published for ten times the budget (25 and
           40 %). To cross is not to stay: half of Muon's runs stay from 23 % on, of AdamW's from 27 %.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from five_optimizers import SMALL
from halfway import Halfway, difference, halfway
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray
from sensitivity import CHOSEN

from grokking.comparison import observed
from grokking.coverage import beside
from grokking.plotting import COLORS, GREY, Drawing, Verdict, caption, label, step_ticks, style
from grokking.publish import markdown_table
from grokking.registry import Settings
from grokking.store import Results
from grokking.study import Study
from grokking.survival import Estimate, restricted_mean, success_rate

FRACTIONS = (0.15, 0.2, 0.22, 0.24, 0.26, 0.28, 0.3, 0.32, 0.34, 0.36, 0.4, 0.5)
PUBLISHED = {"adamw": (0.375, 0.425), "muon": (0.225, 0.275)}
BUDGETS = (250, 500, 1_000, 2_000)  # the last is that of the runs
PUBLISHED_BUDGET = 20_000
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.0f} %")
MARKERS = {"adam": "s", "adamw": "o", "muon": "D"}


def arms(name: str, fractions: Sequence[float]) -> list[Settings]:
    """An optimizer at its best cell, on each fraction."""
    lr, decay = CHOSEN[name]
    best: Settings = {"optimizer.name": name, "optimizer.lr": lr, "optimizer.weight_decay": decay}
    return [{**best, "train_fraction": fraction} for fraction in fractions]


LONG: Settings = {"steps": BUDGETS[-1]}
BOTH = [arm for name in ("adamw", "muon") for arm in arms(name, FRACTIONS)]
STUDIES = {
    "smoke": [
        Study({**SMALL, "steps": 300}, [arm for name in ("adamw", "muon") for arm in arms(name, (0.2, 0.5, 0.7))], [0])
    ],
    "laptop": [Study(LONG, BOTH, range(10))],
    "paper": [Study(LONG, [*BOTH, *arms("adam", FRACTIONS)], range(10))],
}
RUN_STEPS = {"smoke": 1_800, "laptop": 480_000, "paper": 720_000}  # at most: the sum of all budgets
COMPILE = ("laptop", "paper")


def draw(results: Results) -> Sequence[Drawing]:
    """Success and steps over the fraction of the examples, and the critical fraction over the budget."""
    runs = results.runs
    budget = int(runs["steps"].max())
    names = [name for name in MARKERS if name in set(runs["optimizer.name"])]
    table = rates(runs)
    fits = {
        (name, until): fit(runs[runs["optimizer.name"] == name], until)
        for name in names
        for until in [*(b for b in BUDGETS if b < budget), budget]
    }
    stays = {name: fit(runs[runs["optimizer.name"] == name], budget, stay=True) for name in names}
    critical = pd.concat([_critical(fits), _critical({(name, budget): own for name, own in stays.items()}, stay=True)])
    n = int(table["n"].min())
    with style():
        figure = Figure(figsize=(14, 4.0), layout="constrained")
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 0.9))
        for name in names:
            _rates(left, table[table["optimizer"] == name], fits[name, budget], name, names)
            _steps(middle, runs[runs["optimizer.name"] == name], table[table["optimizer"] == name], name, names)
            _over_budget(right, critical[(critical["what"] == name) & ~critical["stays"]], name, names)
        left.axhline(0.5, color=GREY, lw=0.8, ls=":")
        left.set(ylabel="share of runs that generalise", ylim=(-0.04, 1.04))
        middle.axhline(budget, color=GREY, lw=0.8, ls=":")
        middle.set(ylabel="steps to generalise (log)", yscale="log")
        step_ticks(middle.yaxis)
        _published(right)
        for axes in (left, middle):
            axes.set_xlabel("share of the examples for training")
            axes.xaxis.set_major_formatter(PERCENT)
        figure.legend(handles=[_key(name) for name in names], loc="outside upper center", ncols=len(names))
        caption(figure, _caption(runs, names, n, results.machines))
    tables = {"": table, "summary": critical, "runs": runs}
    return [
        Drawing(
            *("critical_fraction", figure, tables, n),
            *(_verdict(critical[~critical["stays"]], int(runs["task.p"].iloc[0]), budget, n), markdown),
        )
    ]


def rates(runs: pd.DataFrame) -> pd.DataFrame:
    """One line per optimizer and fraction: how many generalise, with Wilson's interval, and the mean steps restricted to the budget."""
    lines = []
    for (name, fraction), own in runs.groupby(["optimizer.name", "train_fraction"]):
        steps, done = observed(own)
        success, mean = success_rate(done), restricted_mean(steps, done, float(own["steps"].iloc[0]))
        if not done.any():
            mean = Estimate(mean.value, None, None, mean.n)  # a lower bound
        line = {"optimizer": name, "train_fraction": fraction, "n": len(own), "generalized": int(done.sum())}
        line |= {"sustained": int(own["sustained"].sum()), "diverged": int((own["status"] == "diverged").sum())}
        for column, found in (("success", success), ("mean_steps", mean)):
            line |= {column: found.value, f"{column}_low": found.low, f"{column}_high": found.high}
        lines.append(line | {"is_bound": not done.any()})
    return pd.DataFrame(lines)


def fit(runs: pd.DataFrame, until: float, stay: bool = False) -> Halfway:
    """The critical fraction of one optimizer's runs, had they ended at the step `until`."""
    return halfway(*successes(runs, until, stay))


def successes(runs: pd.DataFrame, until: float, stay: bool = False) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Fractions [fraction], and whether the run of each seed generalised by the step `until` [seed, fraction].

    Only seeds that have a run at every fraction; `stay`: only runs that are known to stay count.
    """
    done = observed(runs)[1] & (observed(runs)[0] <= until)
    table = runs.assign(done=done & runs["sustained"].to_numpy(bool) if stay else done)
    wide = table.pivot(index="seed", columns="train_fraction", values="done").dropna().sort_index()
    return wide.columns.to_numpy(float), wide.to_numpy(bool)


def _critical(fits: Mapping[tuple[str, int], Halfway], stay: bool = False) -> pd.DataFrame:
    """One line per optimizer and budget, and per budget AdamW's minus Muon's, with the slope of the curve."""
    lines: list[dict[str, Any]] = []
    for (name, until), own in fits.items():
        lines.append({"what": name, "budget": until, **_ends(own.estimate), "slope": own.slope})
    for until in dict.fromkeys(until for _, until in fits):
        both = [fits.get((name, until)) for name in ("adamw", "muon")]
        if both[0] and both[1]:
            apart = difference(both[0], both[1])
            lines.append({"what": "adamw - muon", "budget": until, **_ends(apart), "slope": np.nan})
    columns = ["fraction", "fraction_low", "fraction_high"]
    return pd.DataFrame(lines).astype(dict.fromkeys(columns, float)).assign(stays=stay)


def _ends(estimate: Estimate) -> dict[str, float | None]:
    return {
        "n": estimate.n,
        "fraction": estimate.value,
        "fraction_low": estimate.low,
        "fraction_high": estimate.high,
    }


def _shift(name: str, names: Sequence[str]) -> float:
    """How far apart the optimizers stand, so that their whiskers are told apart."""
    return 0.004 * (list(names).index(name) - (len(names) - 1) / 2)


def _rates(axes: Axes, own: pd.DataFrame, fitted: Halfway, name: str, names: Sequence[str]) -> None:
    x = own["train_fraction"] + _shift(name, names)
    spread = np.array([own["success"] - own["success_low"], own["success_high"] - own["success"]])
    axes.errorbar(x, own["success"], spread, fmt=MARKERS[name], ms=4.5, lw=0.9, color=COLORS[name])
    if fitted.estimate.value is not None:
        at = np.linspace(own["train_fraction"].min(), own["train_fraction"].max(), 400)
        axes.plot(at, fitted.curve(at), color=COLORS[name], lw=1.3)


def _steps(axes: Axes, runs: pd.DataFrame, table: pd.DataFrame, name: str, names: Sequence[str]) -> None:
    shift, color = _shift(name, names), COLORS[name]
    steps, done = observed(runs)
    at = runs["train_fraction"].to_numpy(float) + shift
    axes.plot(at[done], steps[done], MARKERS[name], ms=3, color=color, alpha=0.45, mew=0)
    axes.plot(at[~done], steps[~done], "^", ms=4.5, color=color, mfc="none", mew=0.8)
    own = table[~table["is_bound"]]
    axes.plot(own["train_fraction"] + shift, own["mean_steps"], color=color, lw=1.3)
    known = own.dropna(subset=["mean_steps_low", "mean_steps_high"])
    ends = np.array([known["mean_steps"] - known["mean_steps_low"], known["mean_steps_high"] - known["mean_steps"]])
    axes.errorbar(
        known["train_fraction"] + shift, known["mean_steps"], ends.astype(float), fmt="none", color=color, lw=0.9
    )


def _over_budget(axes: Axes, own: pd.DataFrame, name: str, names: Sequence[str]) -> None:
    known = own.dropna(subset="fraction")
    x = known["budget"] * (1 + 8 * _shift(name, names))
    ends = np.array(
        [known["fraction"] - known["fraction_low"], known["fraction_high"] - known["fraction"]], dtype=float
    )
    axes.errorbar(x, known["fraction"], ends, fmt=f"{MARKERS[name]}-", ms=4.5, lw=1.2, color=COLORS[name])


def _published(axes: Axes) -> None:
    """The claim at its own budget, and the axes of the critical fraction."""
    for name, (low, high) in PUBLISHED.items():
        middle, half = (low + high) / 2, (high - low) / 2
        axes.errorbar(
            [PUBLISHED_BUDGET], [middle], half, fmt=MARKERS[name], ms=5.5, lw=0.9, color=COLORS[name], mfc="none"
        )
    axes.annotate("published,\np = 97", (PUBLISHED_BUDGET, 0.325), ha="center", va="center", fontsize=7.5, color=GREY)
    axes.set(
        xscale="log", xlim=(190, 1.6 * PUBLISHED_BUDGET), xlabel="budget, in steps (log)", ylabel="critical fraction"
    )
    axes.xaxis.set_major_locator(FixedLocator([250, 500, 1_000, 3_000, PUBLISHED_BUDGET]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(PERCENT)


def _key(name: str) -> Line2D:
    return Line2D([], [], color=COLORS[name], marker=MARKERS[name], ms=5, lw=1.3, label=label(name))


def _caption(runs: pd.DataFrame, names: Sequence[str], n: int, machines: Sequence[str]) -> str:
    first = runs.iloc[0]
    cells = "; ".join(
        f"{label(name)} {own['optimizer.lr'].iloc[0]:g} and {own['optimizer.weight_decay'].iloc[0]:g}"
        for name in names
        for own in [runs[runs["optimizer.name"] == name]]
    )
    return (
        f"{first['task.name']} (p = {first['task.p']}), a transformer of width {first['model.width']}, n = {n} seeds for each "
        f"optimizer and fraction, the same for all; learning rate and weight decay: {cells}, tuned at 40 % of p = 59. A run generalises "
        f"at the first evaluation with validation accuracy of 95 %, or not within {first['steps']:,} steps (the budget, dotted in the middle). "
        "Left: share that does with 95 % Wilson intervals, and the logistic curve in the log-odds of the fraction, where it crosses a half. "
        "Middle: each run a dot, triangles: censored at the budget; line and whiskers: mean restricted to the budget and its 95 % t "
        f"interval{beside('mean', n)}, where some run generalises. Right, filled: the fraction where half of the runs generalise, had the runs ended at that budget, with 95 % "
        f"intervals (seeds drawn anew, and at least the gap between neighbouring fractions); hollow: as published, 'about' read as ± 2.5 points. Trained on: {'; '.join(machines)}."
    )


def _verdict(critical: pd.DataFrame, p: int, budget: int, n: int) -> Verdict:
    """Are both critical fractions where they were published?"""
    whole = critical[critical["budget"] == budget].set_index("what")
    words, meets = [], []
    for name, (low, high) in PUBLISHED.items():
        row = whole.loc[name]
        words.append(f"{label(name)} {_percent(row)}")
        bounded = row[["fraction", "fraction_low", "fraction_high"]].notna().all()
        meets.append(row["fraction_low"] <= high and row["fraction_high"] >= low if bounded else None)
    apart = whole.loc["adamw - muon"]
    if pd.notna(apart["fraction"]):
        words.append(f"AdamW's minus Muon's {_percent(apart, ' points')}")
    answer = "not consistent" if False in meets else "undecided" if None in meets else "consistent"
    return Verdict(
        "half of the runs generalise from about 25 % of the examples with Muon, 40 % with AdamW (p = 97, 20,000 steps, PeterPonyu 2026)",
        f"{', '.join(words)} (p = {p}, {budget:,} steps, n = {n} seeds)",
        f"{answer} at this budget",
    )


def _percent(row: pd.Series, unit: str = " %") -> str:
    """`24.1 % [22.0, 26.3]`."""
    if pd.isna(row["fraction"]):
        return "not within the fractions tried"
    ends = (100 * row[f"fraction_{end}"] for end in ("low", "high"))
    return f"{100 * row['fraction']:.1f}{unit} [{', '.join('–' if pd.isna(end) else f'{end:.1f}' for end in ends)}]"


def markdown(table: pd.DataFrame) -> str:
    """The critical fractions by budget, as they stand in a document."""
    columns = table[["budget", "stays"]].drop_duplicates().itertuples(index=False, name=None)
    titles = {
        (budget, stays): f"{budget:,} steps{', and stays (known to)' if stays else ''}" for budget, stays in columns
    }
    rows = []
    for what, own in table.groupby("what", sort=False):
        cells = own.set_index(["budget", "stays"])
        title, unit = ("AdamW's minus Muon's", " points") if what == "adamw - muon" else (label(str(what)), " %")
        rows.append((title, *(_percent(cells.loc[column], unit) for column in titles), str(own["n"].min())))
    return markdown_table(("critical fraction", *titles.values(), "n"), rows)
