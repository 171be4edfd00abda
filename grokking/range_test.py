"""The learning-rate range test: a rate that rises geometrically from step to step, and what the loss does on the way.

Smith 2017 (arXiv 1506.01186). One run says where an optimizer begins to learn and where it breaks; on a task with delayed
generalization it says nothing of when the network generalises, which takes longer than such a run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from grokking.errors import BadInput
from grokking.plotting import COLORS, GREY, Drawing, caption, label, rates_axis, style
from grokking.registry import is_rate

STEPS = 1_000  # unless said otherwise
EVALUATIONS = 200
SMALLEST = 1e-12  # rate, and its inverse the largest
BROKEN = 2.0  # times its least, and it never comes back below: there the loss has left


def parse_range(text: str) -> tuple[float, float]:
    """`1e-6:1` → (1e-6, 1.0)."""
    low, _, high = text.partition(":")
    try:
        found = float(low), float(high)
        if SMALLEST <= found[0] < found[1] <= 1 / SMALLEST:
            return found
    except ValueError:
        pass
    raise BadInput(
        f"lr-range = {text!r}; allowed: two numbers from {SMALLEST:g} to {1 / SMALLEST:g}, the lower one first, such as 1e-6:1"
    )


def settings_of_range(
    chosen: Mapping[str, str | int | float], defaults: Mapping[str, object], low: float, high: float
) -> dict[str, str | int | float]:
    """The settings of a range test from `low` to `high`: other learning rates of the optimizer keep their ratio to `lr`.

    `defaults` are the optimizer's.
    """
    own = {
        name for name in chosen if name.startswith(("schedule.", "evaluation.")) or name in ("optimizer.lr", "linger")
    }
    if own:
        raise BadInput(f"--lr-range sets {', '.join(sorted(own))} itself; leave that out")
    if "lr" not in defaults:
        raise BadInput(f"--lr-range needs an optimizer with a number lr; {chosen['optimizer.name']} has none")
    lr = float(str(defaults["lr"]))
    others = {
        f"optimizer.{name}": high * float(str(value)) / lr
        for name, value in defaults.items()
        if is_rate(name) and name != "lr" and f"optimizer.{name}" not in chosen
    }
    try:
        steps = max(1, int(float(chosen.get("steps", STEPS))))
    except (ValueError, OverflowError):
        steps = STEPS  # whoever reads the settings says what is wrong with it
    return {
        "steps": steps,
        "optimizer.lr": high,
        **others,
        "schedule.name": "exponential_rise",
        "schedule.first": low / high,
        "evaluation.every": max(1, steps // EVALUATIONS),
        "evaluation.growth": 0.0,
        "linger": 1e9,  # to the end, whatever it reaches
        **chosen,
    }


def with_rates(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """The curves table with the learning rate at each evaluation, and optimizer and seed."""
    own = runs.set_index("run_id")[["optimizer.name", "seed", "optimizer.lr", "schedule.first", "steps", "diverged_at"]]
    table = curves.join(own, on="run_id")
    over = table["step"] >= table["diverged_at"].astype(float)  # weights are frozen there, whatever their loss is
    table.loc[over, "train_loss"] = np.inf
    through = (table["step"] - 1) / np.maximum(table["steps"].astype(float) - 1, 1)
    table.insert(2, "lr", table["optimizer.lr"] * table["schedule.first"] ** (1 - through))
    return table.drop(columns=["optimizer.lr", "schedule.first", "steps", "diverged_at"])


def findings(table: pd.DataFrame) -> pd.DataFrame:
    """Of each run: at which rates the training loss falls fastest, is least, and leaves for good.

    Fastest: where the logarithm of the loss falls most per unit of the logarithm of the rate, over eleven evaluations, before
    it is least. Leaves: the first rate after which it stays above twice its least, or is not finite; empty where there is
    none.
    """
    lines = []
    for run_id, curve in table.groupby("run_id", sort=False):
        lr, loss = curve["lr"].to_numpy(float), curve["train_loss"].to_numpy(float)
        safe = np.where(np.isfinite(loss), np.maximum(loss, np.finfo(np.float32).tiny), np.inf)  # 0 has no logarithm
        least = int(np.argmin(safe))
        above = safe > BROKEN * safe[least]
        back = np.flatnonzero(~above)
        left = int(back[-1]) + 1
        lines.append(
            {
                "run_id": run_id,
                "seed": curve["seed"].iloc[0],
                "fastest": lr[_steepest(np.log(lr[: least + 1]), np.log(safe[: least + 1]))],
                "least": lr[least],
                "least_loss": safe[least],
                "leaves": lr[left] if left < len(lr) else np.nan,
            }
        )
    return pd.DataFrame(lines)


def _steepest(x: "np.ndarray", y: "np.ndarray") -> int:
    """Where a line through eleven neighbours falls most."""
    if len(x) < 11:
        return len(x) - 1
    slopes = [np.polyfit(x[at : at + 11], y[at : at + 11], 1)[0] for at in range(len(x) - 10)]
    return int(np.argmin(slopes)) + 5


def drawing(runs: pd.DataFrame, curves: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    """Training loss and validation accuracy against the learning rate, a line per seed, with what was found."""
    table = with_rates(runs, curves)
    found = findings(table)
    first = runs.iloc[0]
    name = str(first["optimizer.name"])
    color = COLORS.get(name, GREY)
    with style():
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        for at, (_, curve) in enumerate(table.groupby("run_id", sort=False)):
            seed = "a seed" if at == 0 else None
            top.plot(curve["lr"], curve["train_loss"], color=color, lw=0.9, label=seed)
            bottom.plot(curve["lr"], curve["validation_accuracy"], color=color, lw=0.9)
            bottom.plot(curve["lr"], curve["train_accuracy"], color=color, lw=0.9, ls=":")
        marks = (("fastest", "-", "falls fastest"), ("least", "--", "least"), ("leaves", ":", "leaves for good"))
        for column, dash, words in marks:
            if (rates := found[column].dropna()).size:
                for axes in (top, bottom):
                    axes.axvline(float(np.exp(np.log(rates).median())), color="black", lw=0.9, ls=dash, label=words)
        if np.isfinite(table["train_loss"]).any():
            top.set_yscale("log")
        top.set(ylabel="training loss (log)", title=f"{label(name)} on {first['task.name']}")
        bottom.set(ylabel="accuracy", ylim=(-0.03, 1.05))
        rates_axis(bottom)
        figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=4)
        caption(
            figure,
            f"The learning rate rises geometrically over {first['steps']:,} steps{conditions(first)}. Every line is a seed (n = {len(runs)}); upright "
            "lines: medians over seeds of where the loss falls fastest, is least, and leaves (stays above twice its least). Below: validation (solid) and training (dotted) accuracy; how soon "
            f"a network generalises, such a run does not say. Trained on: {'; '.join(machines)}.",
        )
    return Drawing(f"lr_range_{first['task.name']}_{name}", figure, {"": table, "found": found}, len(runs))


def conditions(run: Mapping[Any, Any]) -> str:
    """What else rises with the rate, and the decay that a high rate multiplies: they decide, too, where a run breaks."""
    own = {
        str(name).removeprefix("optimizer."): value for name, value in run.items() if str(name).startswith("optimizer.")
    }
    numbers = {name: value for name, value in own.items() if isinstance(value, float) and value > 0}
    rising = [
        f"{name} at {value / own['lr']:.2g} of it" for name, value in numbers.items() if is_rate(name) and name != "lr"
    ]
    decays = [f"{name} {value:g}" for name, value in numbers.items() if name.endswith("weight_decay")]
    return (f", and with it {' and '.join(rising)}" if rising else "") + (
        f"; {' and '.join(decays)} as set, times the rate" if decays else ""
    )


def sentence(line: Mapping[str, float], name: str) -> str:
    """What was found of one run."""
    if not np.isfinite(line["least_loss"]):
        return f"{name} seed {line['seed']:.0f}: training loss is finite at none of these rates"
    left = "does not leave it" if np.isnan(line["leaves"]) else f"leaves it for good at {line['leaves']:.2g}"
    return (
        f"{name} seed {line['seed']:.0f}: training loss falls fastest at lr {line['fastest']:.2g}, is least "
        f"({line['least_loss']:.2g}) at {line['least']:.2g}, {left}"
    )
