"""A search as a picture: what was found for how many steps, and where in the space it lies."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from grokking.plotting import GREY, Drawing, caption, label, step_ticks, style
from grokking.tuning.definition import Definition
from grokking.tuning.space import Axis, Range

SHOWN = 3  # numbers of the space that get a panel
BLUE, ORANGE = "#0072B2", "#D55E00"


def drawing(definition: Definition, table: pd.DataFrame) -> Drawing:
    """`table` is that of `Search.table`; trials in the order in which they were asked for."""
    table = table.assign(total=table["spent"].cumsum())
    done = table[table["state"] == "complete"]
    axes_shown = list(definition.space)[:SHOWN]
    with style():
        figure = Figure(figsize=(4.6 + 2.9 * len(axes_shown), 3.4), layout="constrained")
        panels = figure.subplots(1, 1 + len(axes_shown), sharey=True, width_ratios=[1.5, *(1 for _ in axes_shown)])
        _progress(panels[0], definition, table, done)
        for panel, (name, axis) in zip(panels[1:], axes_shown, strict=True):
            _where(panel, name, axis, table, done, definition.horizon)
        caption(figure, _caption(definition, table))
    return Drawing(f"tune-{definition.name}", figure, {"": table}, len(definition.seeds))


def _progress(axes: Axes, definition: Definition, table: pd.DataFrame, done: pd.DataFrame) -> None:
    stopped = table[table["state"] == "pruned"]
    axes.plot(done["total"], done["value"], "o", ms=4, color=BLUE, alpha=0.7, mew=0, label="a configuration")
    if len(stopped):
        axes.plot(
            stopped["total"], [definition.horizon] * len(stopped), "|", ms=8, color=GREY, label="stopped at a rung"
        )
    if (done["generalized"] > 0).any():
        best = done["value"].cummin()
        axes.step(
            [*done["total"], table["total"].max()],
            [*best, best.iloc[-1]],
            where="post",
            color=ORANGE,
            label="best so far",
        )
    axes.set_yscale("log")
    step_ticks(axes.yaxis)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:,g}k" if value else "0"))
    axes.set(xlabel="run-steps spent", ylabel=f"mean {definition.objective.replace('_', ' ')} (log)")
    axes.axhline(definition.horizon, color=GREY, lw=0.8, ls=":")
    axes.legend(loc="best")


def _where(axes: Axes, name: str, axis: Axis, table: pd.DataFrame, done: pd.DataFrame, horizon: int) -> None:
    stopped = table[table["state"] == "pruned"]
    numbers = isinstance(axis, Range)
    axes.plot(done[name] if numbers else done[name].astype(str), done["value"], "o", ms=4, color=BLUE, alpha=0.7, mew=0)
    axes.plot(
        stopped[name] if numbers else stopped[name].astype(str), np.full(len(stopped), horizon), "|", ms=8, color=GREY
    )
    if (done["generalized"] > 0).any():
        best = done.loc[done["value"].idxmin()]
        axes.plot([best[name] if numbers else str(best[name])], [best["value"]], "o", ms=8, mfc="none", color=ORANGE)
    if isinstance(axis, Range) and axis.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.axhline(horizon, color=GREY, lw=0.8, ls=":")
    axes.set_xlabel(name)


def _caption(definition: Definition, table: pd.DataFrame) -> str:
    settings = dict(definition.settings)
    spent = int(table["spent"].sum())
    words = f"{settings['task.name']}, {label(str(settings['optimizer.name']))}, {definition.sampler}: {len(table)} configurations"
    words += (
        f" with {len(definition.seeds)} tuning seeds each, asked for {definition.batch} at a time; {spent:,} run-steps."
    )
    words += f" Mean over the seeds, restricted to the budget of {definition.horizon:,} steps (dotted)."
    if definition.rungs:
        rungs = ", ".join(f"{rung:,}" for rung in definition.rungs)
        words += f" One in {definition.reduction} passes a rung ({rungs} steps)."
    return words + " The best was chosen on the seeds that are shown; expect worse on others."
