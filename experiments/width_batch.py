"""Does Muon stay ahead of AdamW at other widths, batch sizes, and embedding dimensions?

Claim      Muon is ahead under certain conditions only: its advantage is very sensitive to batch size and embedding dimension, and
           disappears under a wider search (Essential AI 2025, "Muon Doesn't Clearly Grok faster", division mod 97, no numbers
           at hand).
Here       x + y (mod 31), 60 % of the examples for training, one thing at a time changed: the width of the transformer, which is its
           embedding dimension, too; the batch size, of 577 examples; and, as the transformer has no embedding dimension apart
           from its width, that of a perceptron of width 128 that reads the embeddings side by side. Every cell was tuned by
           itself, as much for one optimizer as for the other: four learning rates × two decays per step (lr × weight decay,
           which decides more than either: experiments/sensitivity.py) × two tuning seeds, around the best of earlier grids.
           All other numbers stay at their defaults; but as with them none of Muon's runs generalised on a perceptron, there the
           grids were tried a second time: Muon's with the best of AdamW's own for embeddings and head, AdamW's with beta2 0.999.
Definition Steps to the first evaluation with validation accuracy >= 0.95; runs that do not get there count at the budget of
           1,000. Each cell runs ten other seeds at the setting that reaches and keeps 95 % soonest in tuning (CHOSEN). Its ratio is
           AdamW's restricted mean over Muon's, paired by seed: above 1, Muon is sooner.
Shows      (Laptop.) Muon is ahead at every batch size, 2.10 times at 32 and 3.37 at 512, and in transformers of width 32 and more, 1.96 to
           3.37 times. At width 16 AdamW is ahead (0.44), where no setting of either stays at 95 % in tuning, so that both run with
           what crossed it. On perceptrons AdamW is ahead whatever the embedding: 28 of Muon's 30 runs do not generalise within the
           budget, with neither set of numbers for its own AdamW, and all of AdamW's do, after 415 to 499 steps. What turns the
           ranking is the model, not the batch size; what a search of the rest of Muon's numbers would find there is not known.
Next       The table CHOSEN is printed from stored tuning runs by `python experiments/width_batch.py --out results`; with it in place
           a second sweep of the same scale trains the ten seeds.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from five_optimizers import SMALL
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from grokking.comparison import cells, compare, observed
from grokking.coverage import beside
from grokking.plotting import COLORS, GREY, Drawing, Verdict, caption, label, rates_axis, step_ticks, style
from grokking.publish import interval, markdown_table
from grokking.registry import Settings
from grokking.selection import split
from grokking.store import Results, load
from grokking.study import Study
from grokking.survival import Estimate, holm, paired_permutation_test, stratified_ratio

OPTIMIZERS = ("adamw", "muon")
BASE: Settings = {**SMALL, "evaluation.every": 5}  # width 64, batches of 512
PERCEPTRON: Settings = {"model.name": "mlp", "model.width": 128, "model.inputs": "concatenated"}
CELLS: dict[str, Settings] = {  # name → what is changed
    "width 16": {"model.width": 16},
    "width 32": {"model.width": 32},
    "width 64, batch 512": {},
    "width 128": {"model.width": 128},
    "width 256": {"model.width": 256},
    "batch 32": {"batch_size": 32},
    "batch 128": {"batch_size": 128},
    "full batch": {"batch_size": 0},
    "perceptron, embedding 16": {**PERCEPTRON, "model.embedding": 16},
    "perceptron, embedding 64": {**PERCEPTRON, "model.embedding": 64},
    "perceptron, embedding 256": {**PERCEPTRON, "model.embedding": 256},
}
PANELS: dict[str, dict[str, str]] = {  # panel → what stands at the axis → cell
    "width of the transformer": {
        "16": "width 16",
        "32": "width 32",
        "64": "width 64, batch 512",
        "128": "width 128",
        "256": "width 256",
    },
    "batch size": {"32": "batch 32", "128": "batch 128", "512": "width 64, batch 512", "all 577": "full batch"},
    "embedding of the perceptron": {
        "16": "perceptron, embedding 16",
        "64": "perceptron, embedding 64",
        "256": "perceptron, embedding 256",
    },
}
REFERENCE = {"transformer": "width 64, batch 512", "perceptron": "perceptron, embedding 64"}
RATES = {"adamw": (3e-4, 1e-3, 3e-3, 1e-2), "muon": (0.006, 0.02, 0.06, 0.2)}
PER_STEP = {"adamw": (0.003, 0.01), "muon": (0.02, 0.06)}  # lr × weight decay
OTHERS: dict[tuple[str, str], Settings] = {  # what the grid leaves alone
    ("adamw", "defaults"): {},
    ("muon", "defaults"): {},
    ("adamw", "second"): {"optimizer.beta2": 0.999},
    ("muon", "second"): {"optimizer.adamw_lr": 3e-3, "optimizer.adamw_weight_decay": 3.33},
}
TUNING_SEEDS, SEEDS = (1000, 1001), range(10)

# What tuning chose: (cell, optimizer) → (learning rate, weight decay, which others).
CHOSEN: dict[tuple[str, str], tuple[float, float, str]] = {
    ("width 16", "adamw"): (0.01, 1.0, "defaults"),
    ("width 16", "muon"): (0.006, 3.33, "defaults"),
    ("width 32", "adamw"): (0.003, 3.33, "defaults"),
    ("width 32", "muon"): (0.06, 1.0, "defaults"),
    ("width 64, batch 512", "adamw"): (0.001, 10.0, "defaults"),
    ("width 64, batch 512", "muon"): (0.06, 1.0, "defaults"),
    ("width 128", "adamw"): (0.001, 10.0, "defaults"),
    ("width 128", "muon"): (0.02, 3.0, "defaults"),
    ("width 256", "adamw"): (0.001, 10.0, "defaults"),
    ("width 256", "muon"): (0.02, 3.0, "defaults"),
    ("batch 32", "adamw"): (0.001, 3.0, "defaults"),
    ("batch 32", "muon"): (0.02, 1.0, "defaults"),
    ("batch 128", "adamw"): (0.003, 3.33, "defaults"),
    ("batch 128", "muon"): (0.06, 1.0, "defaults"),
    ("full batch", "adamw"): (0.001, 10.0, "defaults"),
    ("full batch", "muon"): (0.06, 1.0, "defaults"),
    ("perceptron, embedding 16", "adamw"): (0.003, 3.33, "second"),
    ("perceptron, embedding 16", "muon"): (0.006, 3.33, "defaults"),
    ("perceptron, embedding 64", "adamw"): (0.003, 3.33, "second"),
    ("perceptron, embedding 64", "muon"): (0.006, 3.33, "defaults"),
    ("perceptron, embedding 256", "adamw"): (0.003, 3.33, "second"),
    ("perceptron, embedding 256", "muon"): (0.2, 0.3, "second"),
}


def arm(name: str, lr: float, decay: float, others: str = "defaults") -> Settings:
    """An optimizer with its two tuned numbers, and the others."""
    return {"optimizer.name": name, "optimizer.lr": lr, "optimizer.weight_decay": decay, **OTHERS[name, others]}


def grid_of(name: str, others: str = "defaults") -> list[Settings]:
    """The settings that are tried."""
    return [arm(name, lr, float(f"{step / lr:.3g}"), others) for lr in RATES[name] for step in PER_STEP[name]]


def tuning(cell: str) -> Study:
    """A cell's tuning, of both optimizers."""
    twice = ("defaults", "second") if cell.startswith("perceptron") else ("defaults",)
    arms = [own for name in OPTIMIZERS for others in twice for own in grid_of(name, others)]
    return Study({**BASE, **CELLS[cell]}, arms, TUNING_SEEDS)


TUNING = [tuning(cell) for cell in CELLS]
FRESH = [Study({**BASE, **CELLS[cell]}, [arm(name, *best)], SEEDS) for (cell, name), best in CHOSEN.items()]
QUICK: Settings = {"steps": 150, "evaluation.every": 10}
SMOKE = [{**BASE, **CELLS[cell], **QUICK} for cell in ("width 16", "width 64, batch 512", "perceptron, embedding 64")]
STUDIES = {
    "smoke": [
        *(Study(base, [own for name in OPTIMIZERS for own in grid_of(name)[5::8]], TUNING_SEEDS[:1]) for base in SMOKE),
        *(Study(base, [own for name in OPTIMIZERS for own in grid_of(name)[5::8]], range(2)) for base in SMOKE),
    ],
    "laptop": [*TUNING, *FRESH],
}
RUN_STEPS = {"smoke": 2_700, "laptop": 668_000}  # at most: the sum of all budgets
COMPILE = ("laptop",)


KEYS = ["cell", "optimizer.name", "optimizer.lr", "optimizer.weight_decay", "others"]  # of a tuned setting


def draw(results: Results) -> Sequence[Drawing]:
    """The tuning of every cell; and the ratio AdamW / Muon over each thing that is changed, on seeds that did not choose."""
    runs = named(results.runs)
    tuned, fresh = split(runs)
    drawings = []
    if len(tuned):
        drawings.append(_tuning(tuned, results.machines))
    if len(fresh):
        drawings.append(_ratios(fresh, results.machines))
    return drawings


def named(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the name of their `cell`, and which `others` they have."""
    rows = runs.to_dict("records")
    return runs.assign(cell=[_cell(row) for row in rows], others=[_others(row) for row in rows])


def _cell(row: Mapping[Hashable, Any]) -> str:
    plain: Settings = {"model.name": "transformer", "model.width": 64, "batch_size": 512}
    for cell, change in CELLS.items():
        if all(row.get(name) == value for name, value in {**plain, **change}.items()):
            return cell
    raise ValueError(f"no cell has the settings of run {row['run_id']}")


def _others(row: Mapping[Hashable, Any]) -> str:
    second = OTHERS[row["optimizer.name"], "second"]
    return "second" if all(row[name] == value for name, value in second.items()) else "defaults"


def chosen(runs: pd.DataFrame) -> dict[tuple[str, str], tuple[float, float, str]]:
    """CHOSEN, from the tuning runs: where each cell's runs reach and keep 95 % soonest, of equals reach it soonest."""
    table = cells(named(runs), KEYS, KEYS[:2])
    best = {(row["cell"], row["optimizer.name"]): row for row in table[table["best"]].to_dict("records")}
    keys = [(cell, name) for cell in CELLS for name in OPTIMIZERS if (cell, name) in best]
    return {key: (best[key]["optimizer.lr"], best[key]["optimizer.weight_decay"], best[key]["others"]) for key in keys}


def _tuning(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    """Mean steps to reach and keep 95 % over the learning rate, a panel for each cell."""
    table = cells(runs, KEYS, KEYS[:2])
    shown = [cell for cell in CELLS if cell in set(table["cell"])]
    with style():
        figure = Figure(figsize=(13.5, 2.7 * -(-len(shown) // 4)), layout="constrained")
        panels = figure.subplots(-(-len(shown) // 4), 4, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, cell in zip(panels, shown, strict=False):
            for name in OPTIMIZERS:
                _lines(axes, table[(table["cell"] == cell) & (table["optimizer.name"] == name)], name)
            axes.set_title(cell)
            axes.set_yscale("log")
            axes.set_xlim(2e-4, 0.3)
            rates_axis(axes)
            step_ticks(axes.yaxis)
        for at, axes in enumerate(panels):
            lowest = at + 4 >= len(shown)
            axes.tick_params(labelbottom=lowest)
            axes.set_visible(at < len(shown))
            if not lowest:
                axes.set_xlabel("")
        for axes in panels[::4]:
            axes.set_ylabel("steps to stay at 95 % (log)")
        figure.legend(handles=_legend(), loc="outside upper center", ncols=3)
        first = runs.iloc[0]
        n = int(table["n"].min())
        caption(
            figure,
            f"{first['task.name']} (p = {first['task.p']}), {first['train_fraction']:.0%} of the examples for training. Each cell's tuning: mean "
            f"over n = {n} tuning seeds of the first evaluation from which validation accuracy stays at 95 %, with runs that do not within the budget of "
            f"{first['steps']:,} steps at the budget. Squares: {_second()}. Ring: the setting that the cell runs with on other seeds. Trained on: {'; '.join(machines)}.",
        )
    return Drawing("width_batch_tuning", figure, {"": table, "runs": runs.drop(columns=["cell", "others"])}, n)


MARKS = {"defaults": "o", "second": "s"}


def _lines(axes: Axes, own: pd.DataFrame, name: str) -> None:
    """One line per decay per step, the solid one with more; a ring at the best."""
    per_step = own["optimizer.lr"] * own["optimizer.weight_decay"]
    for step, dash in zip(PER_STEP[name], ((0, (3, 1.5)), "-"), strict=True):
        line = own[np.isclose(per_step, step, rtol=0.02)].sort_values("optimizer.lr")
        for others, mark in MARKS.items():
            part = line[line["others"] == others]
            axes.plot(
                part["optimizer.lr"], part["mean_steps_to_sustain"], mark, ls=dash, ms=3, lw=1.2, color=COLORS[name]
            )
    best = own[own["best"]]
    axes.plot(best["optimizer.lr"], best["mean_steps_to_sustain"], "o", ms=9, mfc="none", color=COLORS[name])


def _second() -> str:
    """What the squares have."""
    own = {name: " ".join(f"{key}={value:g}" for key, value in OTHERS[name, "second"].items()) for name in OPTIMIZERS}
    return "; ".join(f"{label(name)} with {text}" for name, text in own.items())


def _legend() -> list[Line2D]:
    lines = []
    for name in OPTIMIZERS:
        for step, dash in zip(PER_STEP[name], ((0, (3, 1.5)), "-"), strict=True):
            text = f"{label(name)}, lr × weight decay = {step:g}"
            lines.append(Line2D([], [], color=COLORS[name], marker="o", ms=3, ls=dash, label=text))
    square = Line2D([], [], color="black", marker="s", ms=3, ls="", label="other numbers, too")
    ring = Line2D([], [], color="black", marker="o", ms=9, mfc="none", ls="", label="best")
    return [*lines, square, ring]


def _ratios(runs: pd.DataFrame, machines: Sequence[str]) -> Drawing:
    """AdamW over Muon in each panel, and the steps of both below."""
    table = ratios(runs)
    rows = table.set_index("cell")
    n = int(table["n"].min())
    with style():
        figure = Figure(figsize=(11, 5.6), layout="constrained")
        widths = [len(panel) for panel in PANELS.values()]
        above, below = figure.subplots(2, 3, sharey="row", sharex="col", width_ratios=widths, height_ratios=(1.2, 1))
        for top, bottom, (title, panel) in zip(above, below, PANELS.items(), strict=True):
            _ratio_panel(top, rows, list(panel.values()))
            _steps_panel(bottom, runs, rows, list(panel.values()))
            top.set_title(title)
            bottom.set_xticks(range(len(panel)), list(panel))
            bottom.set_xlim(-0.5, len(panel) - 0.5)
            bottom.set_xlabel(title)
        above[0].set_ylabel("AdamW's steps / Muon's (log)")
        below[0].set_ylabel("steps to generalise (log)")
        keys = [Line2D([], [], color=COLORS[name], marker="o", ls="", ms=4, label=label(name)) for name in OPTIMIZERS]
        figure.legend(handles=keys, loc="outside upper center", ncols=2)
        caption(figure, _caption(runs, n, machines))
    tables = {"": table, "runs": runs.drop(columns=["cell", "others"])}
    return Drawing("width_batch", figure, tables, n, _verdict(table), markdown)


def ratios(runs: pd.DataFrame) -> pd.DataFrame:
    """One line per cell: both optimizers' settings, outcomes and restricted means, and AdamW's mean over Muon's, paired by seed.

    `bound`: "≥" or "≤" where AdamW or Muon never generalises, and then no interval; "?" where neither does; else "=". `change`: the
    ratio over that of the reference cell, on the same seeds. p, change_p: of sign-flip tests; with _holm: Holm's over all cells.
    """
    present = [cell for cell in CELLS if cell in set(runs["cell"])]
    times = {
        (cell, name): pd.Series(observed(own)[0], index=own["seed"].to_numpy())
        for (cell, name), own in runs.groupby(["cell", "optimizer.name"])
    }
    table = pd.DataFrame([_line(cell, runs[runs["cell"] == cell]) for cell in present])
    known = set(table.loc[table["bound"] == "=", "cell"])
    for at, cell in enumerate(table["cell"]):
        reference = REFERENCE["perceptron" if cell.startswith("perceptron") else "transformer"]
        told = cell != reference and {cell, reference} <= known
        change, p = _change(times, cell, reference) if told else (Estimate(None, None, None, 0), None)
        columns = {"change": change.value, "change_low": change.low, "change_high": change.high, "change_p": p}
        for column, value in columns.items():
            table.loc[at, column] = np.nan if value is None else value
    for column in ("p", "change_p"):
        table[f"{column}_holm"] = np.nan
        tested = table[column].notna()
        if tested.any():
            table.loc[tested, f"{column}_holm"] = holm(table.loc[tested, column].to_numpy(float))
    return table


def _line(cell: str, runs: pd.DataFrame) -> dict[str, Any]:
    """A cell without what needs the others."""
    both = compare(runs, "optimizer.name", "muon").set_index("optimizer.name")
    line: dict[str, Any] = {"cell": cell, "n": int(both["n"].min())}
    for name in OPTIMIZERS:
        own = runs[runs["optimizer.name"] == name].iloc[0]
        lr, rates = float(own["optimizer.lr"]), RATES[name]
        line |= {f"{name}_lr": lr, f"{name}_weight_decay": float(own["optimizer.weight_decay"])}
        line |= {f"{name}_at_edge": lr in (rates[0], rates[-1]), f"{name}_others": own["others"]}
        columns = ("generalized", "sustained", "mean_steps", "mean_steps_low", "mean_steps_high")
        line |= {f"{name}_{column}": both.loc[name, column] for column in columns}
    never = tuple(both.loc[name, "generalized"] == 0 for name in OPTIMIZERS)
    line["bound"] = {(True, True): "?", (True, False): "≥", (False, True): "≤"}.get(never, "=")
    line["ratio"] = np.nan if line["bound"] == "?" else both.loc["adamw", "ratio"]
    ends = both.loc["adamw", ["ratio_low", "ratio_high"]]
    line |= {column: np.nan if pd.isna(end) or line["bound"] != "=" else end for column, end in ends.items()}
    p = both.loc["adamw", "p"]
    return line | {"p": np.nan if pd.isna(p) or line["bound"] == "?" else p}


def _change(times: Mapping[tuple[str, str], pd.Series], cell: str, reference: str) -> tuple[Estimate, float]:
    """(AdamW / Muon here) / (AdamW / Muon in the reference), the square of the geometric mean of the first and 1 / the second.

    And the p of the sign-flip test that the mean of its log over the seeds is 0.
    """
    series = [times[cell, "adamw"], times[cell, "muon"], times[reference, "muon"], times[reference, "adamw"]]
    a, b, c, d = pd.concat(series, axis=1, join="inner").to_numpy(float).T
    mean = stratified_ratio([(a, b), (c, d)])
    value, low, high = (None if x is None else x**2 for x in (mean.value, mean.low, mean.high))
    return Estimate(value, low, high, mean.n), paired_permutation_test(a * c, b * d).p_value


def _ratio_panel(axes: Axes, rows: pd.DataFrame, panel: Sequence[str]) -> None:
    axes.axhline(1, color=GREY, lw=1)
    axes.set_yscale("log")
    for at, cell in enumerate(panel):
        if cell not in rows.index or rows.loc[cell, "bound"] == "?":
            axes.annotate("not told", (at, 1), (0, 3), textcoords="offset points", ha="center", fontsize=7, color=GREY)
            continue
        row = rows.loc[cell]
        marker = {"≥": "^", "≤": "v"}.get(row["bound"], "o")
        axes.plot([at], [row["ratio"]], marker, ms=5.5, color="black", mfc="black" if row["bound"] == "=" else "none")
        if pd.notna(row["ratio_low"]):
            axes.plot([at, at], [row["ratio_low"], row["ratio_high"]], color="black", lw=1)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", visible=False)


def _steps_panel(axes: Axes, runs: pd.DataFrame, rows: pd.DataFrame, panel: Sequence[str]) -> None:
    """Each run a dot, triangles where censored, and the restricted means."""
    for at, cell in enumerate(panel):
        for name, shift in zip(OPTIMIZERS, (-0.18, 0.18), strict=True):
            own = runs[(runs["cell"] == cell) & (runs["optimizer.name"] == name)].sort_values("seed")
            if own.empty:
                continue
            steps, done = observed(own)
            x = at + shift + (np.linspace(-0.11, 0.11, len(own)) if len(own) > 1 else np.zeros(1))
            axes.plot(x[done], steps[done], "o", ms=3.5, color=COLORS[name], alpha=0.7, mew=0)
            axes.plot(x[~done], steps[~done], "^", ms=4.5, color=COLORS[name], mfc="none")
            mean, low, high = (rows.loc[cell, f"{name}_mean_steps{end}"] for end in ("", "_low", "_high"))
            axes.plot([at + shift], [mean], "_", color="black", ms=10, mew=1.4)
            if pd.notna(low):
                axes.plot([at + shift] * 2, [low, high], color="black", lw=0.9)
    axes.set_yscale("log")
    step_ticks(axes.yaxis)
    axes.grid(axis="x", visible=False)


def _caption(runs: pd.DataFrame, n: int, machines: Sequence[str]) -> str:
    first = runs.iloc[0]
    return (
        f"{first['task.name']} (p = {first['task.p']}), {first['train_fraction']:.0%} of the examples for training; one thing changed at a time "
        "from a transformer of width 64 with batches of 512 (in both panels), or a perceptron of width 128 with embeddings of 64. Each cell "
        f"at settings of its own, chosen with as many trials for either optimizer on other seeds; n = {n} seeds, the same for both. Above: ratio of the "
        "mean steps until validation accuracy reaches 95 %, restricted to the budget, and its 95 % interval, paired by seed; over 1, Muon is sooner; "
        "hollow triangles: a bound, as one of the two never generalises. Below: each run a dot, triangles: censored at the budget of "
        f"{first['steps']:,} steps; bar and whiskers: restricted mean and its 95 % t interval{beside('mean', n)}. Trained on: {'; '.join(machines)}."
    )


def _verdict(table: pd.DataFrame) -> Verdict:
    """Does Muon's advantage disappear, or change, anywhere?"""
    told = table[table["ratio_low"].notna() | table["bound"].isin(["≤", "≥"]) & table["p_holm"].notna()]
    sure = told["p_holm"] < 0.05  # a bound has no interval: that every seed is on its side of 1 says as much
    below = told[(told["ratio_high"] < 1) & sure | (told["bound"] == "≤") & (told["ratio"] < 1) & sure]
    above = told[(told["ratio_low"] > 1) | (told["bound"] == "≥") & (told["ratio"] > 1) & sure]
    around = told.drop([*below.index, *above.index])
    changed = told[told["change_p_holm"] < 0.05]
    if len(told) < len(CELLS):
        answer = "undecided"
    elif len(below):
        # What turns must be what the claim names: the batch size, and the width, which is a transformer's embedding dimension.
        turned = [below["cell"].isin(PANELS[panel].values()).any() for panel in list(PANELS)[:2]]
        answer = "consistent" if all(turned) else "in part"
    elif len(around):
        answer = "undecided"
    else:
        answer = "in part" if len(changed) else "not consistent"
    parts = [f"above 1 in {len(above)} of {len(table)} cells"]
    parts += [f"{words} {_list(own)}" for words, own in (("around 1:", around), ("below 1:", below)) if len(own)]
    parts += [f"other than in the base: {_list(changed)}"] if len(changed) else []
    return Verdict(
        "Muon's advantage is very sensitive to batch size and embedding dimension, and disappears under wider search (Essential AI 2025)",
        f"AdamW's steps over Muon's {'; '.join(parts)} (95 % intervals, n = {int(table['n'].min())} seed pairs a cell)",
        answer,
    )


def _list(rows: pd.DataFrame) -> str:
    return ", ".join(f"{row['cell']} {_ratio(row)}" for row in rows.to_dict("records"))


def _ratio(row: Mapping[Hashable, Any]) -> str:
    """`2.10 [1.90, 2.32]`, or a bound without an interval."""
    if pd.isna(row["ratio"]):
        return "–"
    return interval(row, "ratio", 2) if row["bound"] == "=" else f"{row['bound']} {row['ratio']:.2f}"


def markdown(table: pd.DataFrame) -> str:
    """Every cell, as it stands in a document."""
    settings = (f"{label(name)}: lr (* at its grid's edge), weight decay († and others)" for name in OPTIMIZERS)
    head = ("cell", *settings, "generalise: AdamW, Muon", "mean steps: AdamW, Muon")
    rows = []
    for row in table.to_dict("records"):
        found = [
            f"{row[f'{name}_lr']:g}{'*' * bool(row[f'{name}_at_edge'])}, {row[f'{name}_weight_decay']:g}"
            + " †" * (row[f"{name}_others"] == "second")
            for name in OPTIMIZERS
        ]
        counts = ", ".join(f"{row[f'{name}_generalized']:.0f}" for name in OPTIMIZERS)
        means = ", ".join(f"{row[f'{name}_mean_steps']:,.0f}" for name in OPTIMIZERS)
        change = "–" if pd.isna(row["change"]) else interval(row, "change", 2)
        p = "–" if pd.isna(row["p"]) else f"{row['p']:.2g} ({row['p_holm']:.2g})"
        rows.append((row["cell"], *found, f"{counts} of {row['n']}", means, _ratio(row), p, change))
    return markdown_table((*head, "AdamW / Muon", "p (Holm)", "over the base's"), rows)


def main(out: Path = Path("results")) -> None:
    """Print the table CHOSEN from the tuning runs stored in `out`."""
    found = load(out, [spec.run_id for study in TUNING for spec in study.specs()], curves=False)
    if found.missing:
        print(f"# {found.missing} tuning runs are not trained yet")
    for key, setting in (chosen(found.runs) if len(found.runs) else {}).items():
        print(f"    {key}: {setting},".replace("'", '"'))


if __name__ == "__main__":
    tyro.cli(main)
