"""The atlas's two pictures, from its tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from atlas_problems import FAMILIES, FAR, FLOOR, MATRIX, MATRIX_ARMS, RATES, SURFACES, Problem
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from grokking.plotting import COLORS, DASHES, Drawing, caption, label, style

DOTTED = 40  # first points of a path that are drawn
DEFINITION = (
    "Learning rate: for every rule and problem the best of the same {n} from {low:g} to {high:g}, by the largest loss in the last "
    "tenth of the steps; never one at which the loss ever exceeds {far:g} times its start. Not finite: {diverged} of {tried} runs. "
    "Constant rates, no decay, other numbers at their defaults, exact gradients: nothing here is about noise or generalization, and one start ranks nobody."
)


def surfaces(parts: Mapping[str, pd.DataFrame]) -> Drawing:
    """A row for every surface: paths on its contours, one family of rules a panel, and all losses by step."""
    paths = parts[""]
    with style():
        figure = Figure(figsize=(10.5, 9.4), layout="constrained")
        rows = figure.subplots(len(SURFACES), len(FAMILIES) + 1, width_ratios=(1, 1, 1, 1.3))
        for row, (surface, problem) in zip(rows, SURFACES.items(), strict=True):
            own = paths[paths["surface"] == surface]
            for axes, names in zip(row, FAMILIES.values(), strict=False):
                _contours(axes, problem)
                for name in names:
                    _path(axes, own[own["optimizer"] == name], name)
            row[0].set_title(problem.title, loc="left", fontweight="bold")
            row[0].set_ylabel("y")
            _losses(row[-1], own, problem)
        for axes, (family, names) in zip(rows[0], FAMILIES.items(), strict=False):
            _legend(axes, family, [_line(name, label=label(name)) for name in names])
        _legend(rows[0][-1], "all of them, by step", _marks())
        for axes in rows[-1][:-1]:
            axes.set_xlabel("x")
        rows[-1][-1].set_xlabel("steps")
        caption(
            figure,
            "Paths of the package's elementwise rules (as registered, in float64) from one start, 200 steps, on the contours of four "
            "losses (each level a third of the next), and right the loss by step. "
            f"Dots: the first {DOTTED} points. The saddle's start lies beside its ridge, at y = 1e-6. The least value of all four is 0, and a loss below {FLOOR:g} counts as 0. Condition "
            "100: its axes are turned by 30°. " + _definition(parts["rates"]),
        )
    return Drawing("optimizer_atlas", figure, dict(parts), 1)


def matrix(parts: Mapping[str, pd.DataFrame]) -> Drawing:
    """Loss by step, what first updates do to singular values, and the loss by learning rate."""
    paths, rates, updates = (parts[part] for part in ("", "rates", "updates"))
    with style():
        figure = Figure(figsize=(10.5, 4.1), layout="constrained")
        losses, values, grid = figure.subplots(1, 3)
        for arm in MATRIX_ARMS:
            own, tried, first = (table[table["optimizer"] == arm] for table in (paths, rates, updates))
            line = _style(arm)
            losses.plot(own["step"], own["loss"] / own["loss"].iloc[0], **line)
            values.plot(first["rank"], first["singular_value"], marker="o", ms=3, **line)
            start = own["loss"].iloc[0]
            grid.plot(tried["lr"], (tried["loss"] / start).clip(upper=100), **line)
            best = tried[tried["chosen"]]
            grid.plot(best["lr"], best["loss"] / start, "o", ms=5, color=line["color"])
        for axes in (losses, values, grid):
            axes.set_yscale("log")
        values.set_xticks(range(1, 9))
        losses.set(xlabel="steps", ylabel="loss over its start", title="Convergence", xlim=(0, MATRIX.steps))
        values.set(xlabel="rank", ylabel="singular value over the largest", title="First update", ylim=(1e-7, 3))
        grid.set(xscale="log", xlabel="learning rate", ylabel="loss at the end over its start", title="Tuning")
        grid.set_ylim(top=20)
        figure.legend(
            handles=[_line(arm, label=label(arm)) for arm in MATRIX_ARMS], loc="outside upper center", ncols=9
        )
        caption(
            figure,
            "½ ‖A W B − A W* B‖², W 8 × 8 from 0; A and B of condition 30; the package's rules as registered, in float64. Exact: UVᵀ by "
            "singular value decomposition in place of five Newton–Schulz iterations. Middle: singular values of the first update (of "
            "SOAP's second, its first is 0). Right: the largest loss of the last tenth of the steps, of every rate; dots: chosen. "
            + _definition(rates),
        )
    return Drawing("optimizer_atlas_matrix", figure, dict(parts), 1)


def _definition(rates: pd.DataFrame) -> str:
    counts = {"diverged": int(rates["loss"].isna().sum()), "tried": len(rates)}
    return DEFINITION.format(n=len(RATES), low=RATES[0], high=RATES[-1], far=FAR, **counts)


def _style(arm: str) -> dict[str, Any]:
    name, *own = arm.split(",")
    return {"color": COLORS[name], "ls": (0, (1, 1)) if own else DASHES.get(name, "-"), "lw": 1.4}


def _line(arm: str, label: str) -> Line2D:
    return Line2D([], [], label=label, **_style(arm))


def _marks() -> list[Line2D]:
    ends = {"start": ("o", 5), "minimum": ("*", 9)}
    return [
        Line2D([], [], ls="", marker=marker, ms=size, mfc="white", mec="black", label=words)
        for words, (marker, size) in ends.items()
    ]


def _contours(axes: Axes, problem: Problem) -> None:
    left, right, low, high = problem.box
    x, y = np.meshgrid(np.linspace(left, right, 97), np.linspace(low, high, 97))
    height = problem.loss(torch.from_numpy(np.stack([x, y]))).numpy()
    levels = height.max() / 3.0 ** np.arange(7, -1, -1)
    axes.contour(x, y, height, levels=levels, colors="#C4C4C4", linewidths=0.6)
    axes.plot(*problem.start, "o", ms=5, mfc="white", mec="black", zorder=4)
    for minimum in problem.minima:
        axes.plot(*minimum, "*", ms=9, mfc="white", mec="black", zorder=5)
    axes.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    axes.grid(visible=False)
    axes.tick_params(labelsize=7)


def _path(axes: Axes, path: pd.DataFrame, name: str) -> None:
    axes.plot(path["x"], path["y"], **{**_style(name), "lw": 0.9})
    first = path.head(DOTTED)
    axes.plot(first["x"], first["y"], ".", ms=2.5, color=COLORS[name])


def _losses(axes: Axes, paths: pd.DataFrame, problem: Problem) -> None:
    for name in problem.arms:
        own = paths[paths["optimizer"] == name]
        axes.plot(own["step"], own["loss"], **{**_style(name), "lw": 1.1})
    axes.set_yscale("log")
    axes.set_xticks(range(0, problem.steps + 1, 50))
    least, most = max(FLOOR, paths["loss"].min() / 2), 5 * paths["loss"].iloc[0]
    axes.set(xlim=(0, problem.steps), ylim=(least, most), ylabel="loss")
    axes.tick_params(labelsize=7)


def _legend(axes: Axes, title: str, handles: Sequence[Line2D]) -> None:
    axes.legend(handles=handles, title=title, loc="lower center", bbox_to_anchor=(0.5, 1.13), ncols=2, handlelength=2.6)
