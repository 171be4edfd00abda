"""Does the ranking of optimizers depend on how long one searched?

Claim      Choi et al. 2019 (arXiv 1910.05446): the ranking of optimizers depends on how they were tuned. Essential AI 2025
           (arXiv 2505.02222) and others: Muon's advantage shrinks under wider tuning.
Here       x + y (mod 31), 60 % of the examples for training, a transformer of width 64. Every optimizer gets the same number of
           random configurations: learning rate and weight decay over three decades each, its momentum from 0.5 to 0.99
           (RMSprop has none here: its alpha from 0.9 to 0.999), and Muon also the learning rate of what is no hidden matrix,
           whose weight decay is that of the matrices. The ranges lie around what earlier grids found best (sensitivity.py),
           which were not equally wide: with few configurations the width of a range matters as much as its rule.
Definition Steps to the first evaluation with validation accuracy >= 0.95, censored at the budget. Best of k: the mean over all
           draws of k configurations, chosen by their mean over all seeds but one, of what the chosen one takes with that seed,
           averaged over the seeds. So what chose is not what is reported. Up to a third of the configurations: beyond that the
           draws are nearly the same, and intervals by resampling are far too narrow (at k = 48 of 48 they cover about two thirds: simulated in the tests).
           The ranking depends on k if some pair is ordered in both ways with intervals of the log ratio that exclude 0.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from five_optimizers import OPTIMIZERS, SMALL
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from grokking.comparison import observed
from grokking.plotting import COLORS, GREY, Drawing, Verdict, caption, label, step_ticks, style
from grokking.publish import markdown_table
from grokking.registry import Settings
from grokking.seeding import stream
from grokking.store import Results
from grokking.study import Study
from grokking.survival import best_of_k_weights, restricted_times
from grokking.tuning.space import Range, drawn

CONFIGURATIONS, SEEDS = 48, (1000, 1001, 1002, 1003)
RESAMPLES = 1_000
MOMENTUM = Range(0.5, 0.99, log=False)
SPACES: dict[str, Mapping[str, Range]] = {
    "sgd": {"lr": Range(3e-3, 3.0), "weight_decay": Range(1e-4, 0.1), "momentum": MOMENTUM},
    "rmsprop": {"lr": Range(1e-4, 0.1), "weight_decay": Range(1e-4, 0.1), "alpha": Range(0.9, 0.999, log=False)},
    "adam": {"lr": Range(1e-4, 0.1), "weight_decay": Range(1e-4, 0.1), "beta1": MOMENTUM},
    "adamw": {"lr": Range(1e-4, 0.1), "weight_decay": Range(0.03, 30.0), "beta1": MOMENTUM},
    "muon": {
        "lr": Range(2e-3, 2.0),
        "weight_decay": Range(0.03, 30.0),
        "momentum": MOMENTUM,
        "adamw_lr": Range(1e-4, 0.1),
    },
}


def configurations(name: str, number: int) -> list[Settings]:
    """The first so many of this optimizer's random search."""
    space = {f"optimizer.{option}": axis for option, axis in SPACES[name].items()}
    found: list[Settings] = []
    for chosen in drawn(space, number, stream(0, "tuning budget", name)):
        both = {"optimizer.adamw_weight_decay": chosen["optimizer.weight_decay"]} if name == "muon" else {}
        found.append({"optimizer.name": name, **chosen, **both})
    return found


STUDIES = {
    "smoke": [Study({**SMALL, "steps": 200}, configurations(name, 3), SEEDS[:2]) for name in OPTIMIZERS],
    "laptop": [Study(SMALL, configurations(name, CONFIGURATIONS), SEEDS) for name in OPTIMIZERS],
    "paper": [Study({"steps": 2_000}, configurations(name, 2 * CONFIGURATIONS), SEEDS) for name in OPTIMIZERS],
}
RUN_STEPS = {"smoke": 6_000, "laptop": 960_000, "paper": 3_840_000}  # at most: the sum of all budgets
COMPILE = ("laptop", "paper")


def draw(results: Results) -> Sequence[Drawing]:
    """Best of k against k, and how likely each optimizer's search beats AdamW's with as many configurations."""
    runs = results.runs
    found = {name: Found.of(runs[runs["optimizer.name"] == name]) for name in OPTIMIZERS}
    configurations = min(len(own.times) for own in found.values())
    table, orders = _table(found, max(1, configurations // 3), float(runs["steps"].max()))
    with style():
        figure = Figure(figsize=(10.5, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name in OPTIMIZERS:
            own = table[table["optimizer"] == name]
            _band(left, own, "steps", COLORS[name], label(name))
            if name != "adamw":
                _band(right, own, "sooner_than_adamw", COLORS[name], label(name))
        left.set(ylabel="steps to generalise of the best of k (log)", yscale="log")
        step_ticks(left.yaxis)
        right.axhline(0.5, color=GREY, lw=0.8, ls=":")
        right.set(ylabel="probability to be sooner than AdamW", ylim=(-0.02, 1.02))
        for axes in (left, right):
            _k_axis(axes, int(table["k"].max()))
        left.legend()
        first = runs.iloc[0]
        caption(
            figure,
            f"{first['task.name']} (p = {first['task.p']}), {first['train_fraction']:.0%} of the examples for training, "
            f"{configurations} random configurations of each optimizer, {len(found['adamw'].times[0])} seeds each, "
            f"{first['steps']:,} steps a run; runs that do not generalise count at the budget. Best of k: exact mean over all "
            f"draws of k, chosen on all seeds but one and measured on that one. Right: a search of k against one of AdamW, ties "
            f"counted half. Bands: 95 % by resampling configurations, for these seeds (about 90 % by simulation). Trained on: "
            f"{'; '.join(results.machines)}.",
        )
    seeds = int(table["seeds"].iloc[0])
    return [Drawing("tuning_budget", figure, {"": table, "runs": runs}, seeds, _verdict(table, orders), markdown)]


class Found:
    """What an optimizer's configurations take: `times` [configuration, seed], restricted to the budget, and their cost."""

    def __init__(self, times: NDArray[np.float64], run_steps: float) -> None:
        self.times, self.run_steps = times, run_steps

    @classmethod
    def of(cls, runs: pd.DataFrame) -> "Found":
        """From the runs of one optimizer."""
        options = [name for name in runs.columns if name.startswith("optimizer.") and runs[name].notna().any()]
        tables = [group.sort_values("seed") for _, group in runs.groupby(options, sort=False)]
        horizon = float(runs["steps"].iloc[0])
        times = [restricted_times(*observed(table), horizon) for table in tables]
        return cls(np.array(times), float(runs["steps_trained"].sum() / len(tables)))

    def again(self, generator: np.random.Generator) -> "Found":
        """As many configurations, drawn from these with replacement."""
        return Found(self.times[generator.integers(0, len(self.times), len(self.times))], self.run_steps)

    def folds(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """For each seed: the probability [k, configuration] to be chosen by the others, and the times [configuration] with it."""
        seeds = self.times.shape[1]
        others = [np.delete(self.times, seed, axis=1).mean(axis=1) for seed in range(seeds)]
        return [(best_of_k_weights(others[seed]), self.times[:, seed]) for seed in range(seeds)]

    def best(self) -> NDArray[np.float64]:
        """Best of k [k], averaged over the seeds."""
        return np.mean([weights @ times for weights, times in self.folds()], axis=0)

    def sooner_than(self, other: "Found") -> NDArray[np.float64]:
        """Probability [k] that what a search of k chose takes fewer steps than what the other's chose; ties count half."""
        shares = []
        for (weights, times), (others, theirs) in zip(self.folds(), other.folds(), strict=True):
            less = (times[:, None] < theirs) + 0.5 * (times[:, None] == theirs)
            most = min(len(weights), len(others))
            shares.append(np.einsum("ka,ab,kb->k", weights[:most], less, others[:most]))
        return np.mean(shares, axis=0)


# Of a pair with k configurations each: -1 the first is sooner, 1 later, 0 not told.
Orders = dict[tuple[str, str, int], int]


def _table(found: Mapping[str, Found], most: int, horizon: float) -> tuple[pd.DataFrame, Orders]:
    """A line for each optimizer and k up to `most`, with 95 % intervals by resampling configurations; and what they order."""
    generator = stream(0, "best of k")
    resampled = [{name: own.again(generator) for name, own in found.items()} for _ in range(RESAMPLES)]
    best = {name: np.array([draw[name].best()[:most] for draw in resampled]) for name in found}
    lines = []
    for name, own in found.items():
        columns = {"steps": (own.best(), best[name])}
        if name != "adamw":
            sooner = np.array([draw[name].sooner_than(draw["adamw"])[:most] for draw in resampled])
            columns["sooner_than_adamw"] = (own.sooner_than(found["adamw"]), sooner)
        works = float((own.times < horizon).all(axis=1).mean())
        for at in range(most):
            line = {"optimizer": name, "k": at + 1, "run_steps": (at + 1) * own.run_steps, "works": works}
            for column, (value, draws) in columns.items():
                low, high = np.percentile(draws[:, at], [2.5, 97.5])
                line |= {column: value[at], f"{column}_low": low, f"{column}_high": high}
            lines.append(line | {"configurations": len(own.times), "seeds": own.times.shape[1]})
    orders: Orders = {}
    for a, b in itertools.combinations(found, 2):
        low, high = np.percentile(np.log(best[a]) - np.log(best[b]), [2.5, 97.5], axis=0)
        for at in range(most):
            orders[a, b, at + 1] = -1 if high[at] < 0 else 1 if low[at] > 0 else 0
    return pd.DataFrame(lines), orders


def _band(axes: Axes, own: pd.DataFrame, column: str, color: str, name: str) -> None:
    axes.plot(own["k"], own[column], color=color, label=name)
    axes.fill_between(own["k"], own[f"{column}_low"], own[f"{column}_high"], color=color, alpha=0.12, lw=0)


def _k_axis(axes: Axes, most: int) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([k for k in (1, 2, 4, 8, 16, 32, 64) if k <= most]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.set_xlabel("configurations tried, k (log)")


def _shown(table: pd.DataFrame) -> list[int]:
    return [k for k in (1, 2, 4, 8, 16, 32) if k <= table["k"].max()]


def ranking(table: pd.DataFrame, k: int) -> list[str]:
    """The optimizers with k configurations each, the soonest first."""
    return list(table[table["k"] == k].sort_values("steps")["optimizer"])


def turned(orders: Orders) -> list[tuple[str, str]]:
    """Pairs that some k orders one way and another k the other way, both beyond doubt."""
    pairs = dict.fromkeys((a, b) for a, b, _ in orders)
    ways = {pair: {way for (a, b, _), way in orders.items() if (a, b) == pair} for pair in pairs}
    return [pair for pair in pairs if {-1, 1} <= ways[pair]]


def _verdict(table: pd.DataFrame, orders: Orders) -> Verdict:
    parts = [
        (", ".join(str(k) for k in ks), order)
        for order, ks in itertools.groupby(_shown(table), key=lambda k: ranking(table, k))
    ]
    ours = "; ".join(f"k = {ks}: {' < '.join(map(label, order))}" for ks, order in parts)
    pairs = [f"{label(a)} and {label(b)}" for a, b in turned(orders)]
    told = f"pairs that change places, beyond their intervals: {', '.join(pairs) or 'none'}"
    answer = "consistent" if pairs else "not seen here" if len(parts) == 1 else "undecided"
    claim = "the ranking of optimizers depends on the tuning (Choi et al. 2019)"
    return Verdict(claim, f"{ours}; {told} ({table['configurations'].iloc[0]} configurations)", answer)


def markdown(table: pd.DataFrame) -> str:
    """Best of k and its interval per optimizer, with what k configurations cost."""
    ks = _shown(table)
    head = ("optimizer", "configurations that work", "run-steps each", *(f"best of {k}" for k in ks))
    rows = []
    for name, own in table.groupby("optimizer", sort=False):
        first = own.iloc[0]
        cells = [label(str(name)), f"{first['works']:.0%} of {first['configurations']}", f"{first['run_steps']:,.0f}"]
        for k in ks:
            line = own[own["k"] == k].iloc[0]
            cells.append(f"{line['steps']:,.0f} [{line['steps_low']:,.0f}, {line['steps_high']:,.0f}]")
        rows.append(cells)
    return markdown_table(head, rows)
