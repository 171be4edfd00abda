"""Does the ranking of optimizers depend on how long one searched?

Claim      Choi et al. 2019 (arXiv 1910.05446): the ranking of optimizers depends on how they were tuned. Essential AI 2025
           (arXiv 2505.02222) and others: Muon's advantage shrinks under wider tuning.
Here       x + y (mod 31), 60 % of the examples for training, a transformer of width 64. Every optimizer gets the same number of
           random configurations: learning rate and weight decay over three decades each, its momentum from 0.5 to 0.99
           (RMSprop: alpha from 0.9 to 0.999), and Muon also the learning rate of what is no hidden matrix.
Definition Steps to the first evaluation with validation accuracy >= 0.95, censored at the budget. Best of k: the mean over all
           draws of k configurations, chosen by their mean over all seeds but one, of what the chosen one takes with that seed,
           averaged over the seeds. So what chose is not what is reported.
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
    return [{"optimizer.name": name, **chosen} for chosen in drawn(space, number, stream(0, "tuning budget", name))]


STUDIES = {
    "smoke": [Study({**SMALL, "steps": 200}, configurations(name, 3), SEEDS[:2]) for name in OPTIMIZERS],
    "laptop": [Study(SMALL, configurations(name, CONFIGURATIONS), SEEDS) for name in OPTIMIZERS],
    "paper": [Study({"steps": 2_000}, configurations(name, 2 * CONFIGURATIONS), SEEDS) for name in OPTIMIZERS],
}
COMPILE = ("laptop", "paper")


def draw(results: Results) -> Sequence[Drawing]:
    """Best of k against k, and how likely each optimizer's search beats AdamW's with as many configurations."""
    runs = results.runs
    found = {name: Found.of(runs[runs["optimizer.name"] == name]) for name in OPTIMIZERS}
    most = min(len(own.times) for own in found.values())
    table = _table(found, most, float(runs["steps"].max()))
    with style():
        figure = Figure(figsize=(10.5, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name in OPTIMIZERS:
            own = table[table["optimizer"] == name]
            left.plot(own["k"], own["steps"], color=COLORS[name], label=label(name))
            left.fill_between(own["k"], own["steps_low"], own["steps_high"], color=COLORS[name], alpha=0.12, lw=0)
            if name != "adamw":
                right.plot(own["k"], own["sooner_than_adamw"], color=COLORS[name], label=label(name))
        left.set(ylabel="steps to generalise of the best of k (log)", yscale="log")
        step_ticks(left.yaxis)
        right.axhline(0.5, color=GREY, lw=0.8, ls=":")
        right.set(ylabel="probability to be sooner than AdamW", ylim=(-0.02, 1.02))
        for axes in (left, right):
            _k_axis(axes, most)
        left.legend()
        first = runs.iloc[0]
        caption(
            figure,
            f"{first['task.name']} (p = {first['task.p']}), {first['train_fraction']:.0%} of the examples for training, "
            f"{CONFIGURATIONS if most == CONFIGURATIONS else most} random configurations of each optimizer, {len(found['adamw'].times[0])} "
            f"seeds each, {first['steps']:,} steps a run; runs that do not generalise count at the budget. Best of k: exact mean "
            f"over all draws of k, chosen on all seeds but one and measured on that one. Band: 95 % by resampling "
            f"configurations. Right: two independent searches of k. Trained on: {'; '.join(results.machines)}.",
        )
    return [
        Drawing(
            "tuning_budget", figure, {"": table, "runs": runs}, int(table["seeds"].iloc[0]), _verdict(table), markdown
        )
    ]


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

    def folds(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """For each seed: the probability [k, configuration] to be chosen by the others, and the times [configuration] with it."""
        seeds = self.times.shape[1]
        others = [np.delete(self.times, seed, axis=1).mean(axis=1) for seed in range(seeds)]
        return [(best_of_k_weights(others[seed]), self.times[:, seed]) for seed in range(seeds)]

    def best(self) -> NDArray[np.float64]:
        """Best of k [k], averaged over the seeds."""
        return np.mean([weights @ times for weights, times in self.folds()], axis=0)


def _table(found: Mapping[str, Found], most: int, horizon: float) -> pd.DataFrame:
    lines = []
    reference = found["adamw"].folds()
    for name, own in found.items():
        best = own.best()
        generator = stream(0, "best of k", name)
        draws = [generator.integers(0, len(own.times), len(own.times)) for _ in range(RESAMPLES)]
        again = np.array([Found(own.times[chosen], own.run_steps).best() for chosen in draws])
        low, high = np.percentile(again, [2.5, 97.5], axis=0)
        sooner = np.mean([_sooner(a, b) for a, b in zip(own.folds(), reference, strict=True)], axis=0)
        works = float((own.times < horizon).all(axis=1).mean())
        for k in range(1, most + 1):
            line = {"optimizer": name, "k": k, "steps": best[k - 1], "steps_low": low[k - 1], "steps_high": high[k - 1]}
            line |= {
                "sooner_than_adamw": sooner[k - 1],
                "run_steps": k * own.run_steps,
                "configurations": len(own.times),
            }
            lines.append(line | {"works": works, "seeds": own.times.shape[1]})
    return pd.DataFrame(lines)


def _sooner(
    a: tuple[NDArray[np.float64], NDArray[np.float64]], b: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Probability [k] that what a's search of k chose takes fewer steps than what b's chose; ties count half."""
    (weights, times), (others, theirs) = a, b
    less = (times[:, None] < theirs) + 0.5 * (times[:, None] == theirs)
    most = min(len(weights), len(others))
    return np.einsum("ka,ab,kb->k", weights[:most], less, others[:most])


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


def _verdict(table: pd.DataFrame) -> Verdict:
    orders = {k: ranking(table, k) for k in _shown(table)}
    parts = [
        (", ".join(str(k) for k, _ in group), order)
        for order, group in itertools.groupby(orders.items(), key=lambda item: item[1])
    ]
    ours = "; ".join(f"k = {ks}: {' < '.join(map(label, order))}" for ks, order in parts)
    answer = "consistent" if len(parts) > 1 else "not consistent here"
    return Verdict(
        "the ranking depends on the tuning budget (Choi et al. 2019)",
        f"{ours} (n = {table['seeds'].iloc[0]} seeds)",
        answer,
    )


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
