"""Pictures of coordinate checks: sizes over the width, a line for each layer, dashed where its slope is not theory's."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from grokking.plotting import caption, style

SHOWN = {  # what → title of its panel
    "start": "given out at the start",
    "change": "changed by {steps} steps",
    "update": "parameters moved, as they act",
}
ALL_FLAT = "all flat, but for scores at the start (and attention's), which fall as 1/√width"
Colors = Mapping[str, Any]  # of layers


def drawn(table: pd.DataFrame, found: pd.DataFrame, title: str, examples: str, steps: int, allowed: float) -> Figure:
    """A panel for each thing measured; `table` and `found` as `grokking.coordinates` has them."""
    colors = layer_colors(found["name"])
    with style():
        figure = Figure(figsize=(11, 4), layout="constrained")
        for axes, (what, words) in zip(figure.subplots(1, len(SHOWN)), SHOWN.items(), strict=True):
            sizes(axes, table[table["what"] == what], found[found["what"] == what], colors)
            axes.set(xlabel="width (log)", title=words.format(steps=steps))
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        figure.axes[0].set_ylabel("root mean square, or norm (log)")
        layer_legend(figure)
        caption(
            figure,
            f"Coordinate check of {title}; n = {int(found['n'].min())} seeds, {examples}. Mean over seeds; dashed: the slope of the widest three is "
            f"more than {allowed:g} off theory, by which they are {ALL_FLAT}.",
        )
    return figure


def sizes(axes: Axes, table: pd.DataFrame, found: pd.DataFrame, colors: Colors) -> None:
    """One thing measured: the mean size over seeds of everything that has a slope in `found`."""
    passes = dict(zip(found["name"], found["passes"], strict=True))
    for name, own in table.groupby("name", sort=False):
        if name in passes:
            size, plain = own.groupby("width")["size"].mean(), _plain(str(name))
            dash = "-" if passes[name] else (0, (2, 1.5))
            axes.plot(size.index, size, "o", ls=dash, ms=3, lw=1.2, color=colors[plain], label=plain)
    widths = sorted(table["width"].unique())
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(widths, widths)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def layer_colors(names: Sequence[str]) -> Colors:
    """A color for each layer, its weight included."""
    plain = list(dict.fromkeys(map(_plain, names)))
    shades = matplotlib.colormaps["turbo"]([0.04 + 0.92 * at / max(1, len(plain) - 1) for at in range(len(plain))])
    return dict(zip(plain, shades, strict=True))


def layer_legend(figure: Figure) -> None:
    """Every layer once, beside the panels."""
    handles = {text: h for axes in figure.axes for h, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize=7)


def _plain(name: str) -> str:
    return name.removesuffix(".weight")
