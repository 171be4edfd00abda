"""From tables to pictures, in one style; every figure leaves PNG, SVG and the CSV behind it."""

import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from grokking.survival import KaplanMeier, restricted_mean

matplotlib.use("Agg")

# Okabe & Ito's colours, told apart with every kind of colour vision; the order keeps neighbours distinct in grey too.
# Beyond the first five, relatives share a hue and differ in lightness and dash.
COLORS = {
    "sgd": "#E69F00",
    "rmsprop": "#56B4E9",
    "adam": "#009E73",
    "adamw": "#0072B2",
    "muon": "#D55E00",
    "egd": "#D55E00",
    "gradient_descent": "#000000",
    "heavy_ball": "#E69F00",
    "nesterov": "#8C4A00",
    "adagrad": "#8648E8",
    "rmsprop_momentum": "#56B4E9",
    "amsgrad": "#009E73",
    "nadam": "#004D38",
    "sign_sgd": "#7A2F5E",
    "lion": "#CC79A7",
    "shampoo": "#3E1A78",
    "soap": "#003A66",
}
DASHES = {  # solid where none stands here
    "egd": (0, (5, 1.5)),
    "heavy_ball": (0, (5, 1.5)),
    "nesterov": (0, (5, 1.2, 1, 1.2)),
    "rmsprop_momentum": (0, (5, 1.5)),
    "amsgrad": (0, (1, 1)),
    "nadam": (0, (3, 1.2)),
    "sign_sgd": (0, (3, 1.2)),
    "shampoo": (0, (5, 1.2, 1, 1.2)),
    "soap": (0, (5, 1.5)),
}
TITLES = {
    "sgd": "SGD",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "adamw": "AdamW",
    "muon": "Muon",
    "egd": "EGD",
    "gradient_descent": "Gradient descent",
    "heavy_ball": "Heavy ball",
    "nesterov": "Nesterov",
    "adagrad": "Adagrad",
    "rmsprop_momentum": "RMSprop, centered, momentum",
    "amsgrad": "AMSGrad",
    "nadam": "NAdam",
    "sign_sgd": "Sign SGD",
    "lion": "Lion",
    "shampoo": "Shampoo",
    "soap": "SOAP",
}
GREY = "#8A8A8A"


def label(arm: str) -> str:
    """`adamw, no decay` → `AdamW, no decay`; names without a title stay as they are."""
    name, *rest = arm.split(",")
    return ",".join([TITLES.get(name, name), *rest])


@dataclass(frozen=True)
class Verdict:
    """Does our evidence agree with what was published?"""

    claim: str  # what was published, with its source
    ours: str  # the same quantity here, with interval and n
    answer: str  # "consistent", "not consistent", "undecided"

    def __str__(self) -> str:
        return f"{self.answer}: {self.claim}; here {self.ours}"


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure with the tables behind it: `tables[""]` becomes NAME.csv, what is drawn; `tables["runs"]` NAME_runs.csv.

    `tables["summary"]` holds the estimates that documents quote, where they are not what is drawn.
    """

    name: str
    figure: Figure
    tables: dict[str, pd.DataFrame]
    n: int  # seeds per arm
    verdict: Verdict | None = None
    markdown: Callable[[pd.DataFrame], str] | None = None  # the estimates as they stand in a document


@contextmanager
def style() -> Iterator[None]:
    """The house style, for figures made within."""
    settings = {
        "figure.dpi": 110,
        "savefig.dpi": 160,
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#E6E6E6",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "svg.hashsalt": "grokking",
        "svg.fonttype": "none",
    }
    with sns.axes_style("ticks"), matplotlib.rc_context(settings):
        yield


def run_lines(axes: Axes, curves: pd.DataFrame, metric: str, color: str, label: str, **line: Any) -> None:
    """Every run of `curves` (columns run_id, step and `metric`) as a thin line."""
    for index, (_, curve) in enumerate(curves.groupby("run_id", sort=False)):
        axes.plot(curve["step"], curve[metric], color=color, lw=0.9, label=label if index == 0 else None, **line)


def mark_censored(axes: Axes, curves: pd.DataFrame, metric: str, color: str, label: str | None) -> None:
    """Mark where each of these runs, all censored, was cut off at its budget."""
    if curves.empty:
        return
    last = curves.groupby("run_id", sort=False).last()
    axes.plot(last["step"], last[metric], ls="", marker="|", ms=9, mew=1.6, color=color, label=label)


def steps_axis(axes: Axes) -> None:
    """Steps on a log axis."""
    _log_axis(axes)
    axes.set_xlabel("steps (log)")


def step_ticks(axis: Axis) -> None:
    """Plain numbers at 1, 2 and 5 of each decade of a log axis of steps."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def rates_axis(axes: Axes) -> None:
    """Learning rates on a log axis, with plain numbers at the decades, and at 2 and 5 where there are few."""
    low, high = axes.get_xlim()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 60 * max(low, 1e-12) else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("learning rate (log)")


def epochs_axis(axes: Axes, steps_per_epoch: float) -> None:
    """A second axis on top, in epochs: passes over the training set. To be called when the limits of steps are set."""

    def to_epochs(steps: Any) -> Any:
        return steps / steps_per_epoch

    def to_steps(epochs: Any) -> Any:
        return epochs * steps_per_epoch

    top = axes.secondary_xaxis("top", functions=(to_epochs, to_steps))
    _log_axis(top)
    top.tick_params(labelsize=7, pad=1)
    top.set_xlabel("epochs (log)", fontsize=8)


def _log_axis(axes: Any) -> None:
    """Log scale with plain numbers at 1, 2 and 5 of each decade, or at the decades alone where there are many."""
    low, high = axes.get_xlim()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 60 * max(low, 1.0) else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.3g}" if value < 1 else f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def survival_curve(
    axes: Axes, estimate: KaplanMeier, until: float, color: str, label: str, band: bool, **line: Any
) -> None:
    """Share of runs that have generalised by each step, 1 - S(t), with its 95 % log-log band."""
    steps = np.append(estimate.steps, until)
    share, low, high = (
        1 - np.append(values, values[-1]) for values in (estimate.survival, estimate.high, estimate.low)
    )
    axes.step(steps, share, where="post", color=color, label=label, **line)
    if band:
        axes.fill_between(steps, low, high, step="post", color=color, alpha=0.12, lw=0)


def seed_dots(axes: Axes, groups: Mapping[str, pd.DataFrame], color: str) -> None:
    """Steps to generalise, a column of dots per group, each a run; triangles at the budget: censored; bar: restricted mean.

    Where a group has runs that generalised, the whiskers are the mean's 95 % t interval.
    """
    for at, runs in enumerate(groups.values()):
        own = runs.sort_values("seed")
        x = at + (np.linspace(-0.25, 0.25, len(own)) if len(own) > 1 else np.zeros(1))
        done = (own["status"] == "generalized").to_numpy(bool)
        steps = own["steps_to_generalize"].fillna(own["steps"]).to_numpy(float)
        axes.plot(x[done], steps[done], "o", ms=4, color=color, alpha=0.75, mew=0)
        axes.plot(x[~done], steps[~done], "^", ms=5, color=color, mfc="none")
        mean = restricted_mean(steps, done, float(own["steps"].max()))
        if done.any() and mean.low is not None and mean.high is not None:
            axes.plot([at, at], [mean.low, mean.high], color="black", lw=1)
        axes.plot([at], [float(mean.value or np.nan)], "_", color="black", ms=14, mew=1.6)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_yscale("log")
    axes.grid(axis="x", visible=False)


def heat_map(axes: Axes, table: pd.DataFrame, value: str, budget: float) -> None:
    """Mean steps over learning rate and weight decay, darker is sooner; the best cell in a frame.

    `table` has optimizer.lr, optimizer.weight_decay, the column `value`, `word` (what is written in the cell) and best.
    """
    keys = {"index": "optimizer.weight_decay", "columns": "optimizer.lr"}
    means = table.pivot(**keys, values=value)
    scale = {"vmin": np.log(50), "vmax": np.log(budget), "cmap": "cividis", "cbar": False}
    notes = {"annot": table.pivot(**keys, values="word"), "fmt": "", "annot_kws": {"fontsize": 7.5}}
    sns.heatmap(np.log(means), **scale, **notes, linewidths=1, ax=axes)
    best = table[table["best"]].iloc[0]
    column, row = means.columns.get_loc(best["optimizer.lr"]), means.index.get_loc(best["optimizer.weight_decay"])
    axes.add_patch(Rectangle((column, row), 1, 1, fill=False, ec="#D55E00", lw=2.5, clip_on=False))
    axes.set_xticklabels([f"{lr:g}" for lr in means.columns], rotation=0, fontsize=8)
    axes.set_yticklabels([f"{decay:g}" for decay in means.index], rotation=0)
    axes.set(xlabel="learning rate", ylabel="weight decay")
    axes.grid(visible=False)


def caption(figure: Figure, text: str) -> None:
    """A caption below the figure: n, units, definitions, machine."""
    width = int(figure.get_figwidth() * 17.5)
    figure.text(0.01, -0.01, textwrap.fill(text, width), ha="left", va="top", fontsize=7.5, color="#444444")


def save(drawing: Drawing, folder: Path) -> list[str]:
    """Write PNG, SVG and CSVs; the bytes of a CSV depend on its table alone."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with style():
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            path = folder / f"{drawing.name}.{suffix}"
            drawing.figure.savefig(path, bbox_inches="tight", metadata=metadata)
            files.append(str(path))
    for part, table in drawing.tables.items():
        path = folder / (f"{drawing.name}_{part}.csv" if part else f"{drawing.name}.csv")
        table.to_csv(path, index=False, lineterminator="\n")
        files.append(str(path))
    return files
