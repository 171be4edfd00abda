"""The pictures and tables of experiments/muon_vs_adamw.py."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from muon_and_adamw import TITLES

from grokking.comparison import observed
from grokking.coverage import beside
from grokking.engine.operations import operations
from grokking.plotting import COLORS, GREY, Drawing, Verdict, caption, label, step_ticks, style
from grokking.publish import interval, markdown_table, ratio_or_bound
from grokking.runs import RunSpec, run_spec
from grokking.setting import DEFAULTS
from grokking.store import Results
from grokking.survival import holm
from grokking.versus import PooledTest, at_threshold, pooled_t_test, versus

PUBLISHED, MUON = 153.09 / 102.89, label("muon")
THRESHOLDS = (0.9, 0.95, 0.99, 1.0)
HUES = (COLORS["muon"], "#E69F00", "#009E73", "#CC79A7")  # of the readings, in order
TASK_COLORS = ("#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#8648E8")


Readings = Mapping[str, tuple[str, str]]  # what is compared → AdamW's arm and the other one, values of the column `arm`


def comparison(name: str, results: Results, runs: pd.DataFrame, readings: Readings) -> Drawing:
    """AdamW against another arm, in one or several readings: every run, the ratios, and who is earlier."""
    readings = {name: pair for name, pair in readings.items() if set(pair) <= set(runs["arm"])}
    table = compared(runs, readings)
    shown = [task for task in TITLES if task in set(table["task"])]
    arms = list(dict.fromkeys(arm for pair in readings.values() for arm in pair))
    with style():
        height = max(0.62, 0.24 * max(len(arms), 2 * len(readings)))
        hues = dict.fromkeys(arms, COLORS["adamw"])
        hues |= {pair[1]: hue for pair, hue in zip(readings.values(), HUES, strict=False)}
        figure = Figure(figsize=(12.5, height * len(shown) + 1.3), layout="constrained")
        dots, ratios, earlier = figure.subplots(1, 3, sharey=True, width_ratios=(1.5, 1.2, 0.8))
        _dots(dots, runs, hues, shown)
        _forest(ratios, table, "ratio", readings, hues, shown)
        _forest(earlier, table, "earlier", readings, hues, shown)
        _ratio_axis(ratios, _other(readings))
        earlier.axvline(0.5, color=GREY, lw=0.8)
        earlier.set(xlim=(-0.03, 1.03), xlabel=f"probability that {_other(readings)} is earlier")
        dots.set_yticks(range(len(shown)), [_row(task, runs, arms) for task in shown])
        dots.set_ylim(len(shown) - 0.45, -0.55)
        for axes in (dots, ratios, earlier):
            axes.grid(axis="y", visible=False)
            axes.axhline(len(shown) - 1.5, color="black", lw=0.6)
            for row in range(1, len(shown) - 1, 2):
                axes.axhspan(row - 0.5, row + 0.5, color="#F5F5F5", lw=0, zorder=0)
        figure.legend(handles=_legend(hues, readings), loc="outside upper center", ncols=4)
        caption(figure, _caption(runs, table, readings, results.machines))
    n = int(table["n"].min())
    tables = {"": table, "pooled": pooled(runs, readings), "runs": runs.drop(columns=["arm", "task"])}
    return Drawing(name, figure, tables, n, _verdict(table), markdown)


def compared(runs: pd.DataFrame, readings: Readings) -> pd.DataFrame:
    """One line per reading and task, and one over all tasks: first crossing, sustained (`kept_…`), and in operations."""
    parts = []
    for reading, (first, second) in readings.items():
        crossed = versus(runs, "arm", first, second, "task")
        kept = versus(runs, "arm", first, second, "task", event="sustain")
        same = [column for column in kept if column not in ("task", "n", "horizon", "smallest_p")]
        part = crossed.join(kept[same].add_prefix("kept_"))
        for side, arm in (("first", first), ("second", second)):
            part[f"{side}_before_memorizing"] = part["task"].map(_before_memorizing(runs[runs["arm"] == arm]))
        part.insert(0, "reading", reading)
        part.insert(1, "other", second.split(",")[0])
        parts.append(_with_operations(part, runs, first, second))
    table = pd.concat(parts, ignore_index=True)
    for prefix in ("", "kept_"):  # the family is all tasks of all readings
        tested = table["task"] != "all"
        table.loc[tested, f"{prefix}p_holm"] = holm(table.loc[tested, f"{prefix}p"].to_numpy(float))
    return table


def _before_memorizing(runs: pd.DataFrame) -> dict[str, int]:
    """How many runs of each task generalise before they have memorised: nothing is delayed there."""
    generalized, memorized = (runs[f"steps_to_{event}"].astype(float) for event in ("generalize", "memorize"))
    return (generalized < memorized.fillna(np.inf)).groupby(runs["task"], sort=False).sum().to_dict()


def _with_operations(table: pd.DataFrame, runs: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """What a step of the second arm costs over one of the first, and the ratio in operations instead of steps."""
    cost = {}
    for task in table.loc[table["task"] != "all", "task"]:
        a, b = (
            operations(_spec(runs[(runs["arm"] == arm) & (runs["task"] == task)].iloc[0])) for arm in (first, second)
        )
        cost[task] = b / a
    per_step = table["task"].map({**cost, "all": float(np.exp(np.mean(np.log(list(cost.values())))))})
    return table.assign(step_cost=per_step, ratio_in_operations=table["ratio"].astype(float) / per_step)


def _spec(row: pd.Series) -> RunSpec:
    """The run of a line of the runs table."""
    names = [name for name in row.index if name in DEFAULTS or "." in name]
    settings = {name: row[name] for name in names if not pd.isna(row[name])}
    return run_spec({name: value.item() if hasattr(value, "item") else value for name, value in settings.items()}, 0)


def pooled(runs: pd.DataFrame, readings: Readings) -> pd.DataFrame:
    """The paper's own test, on our runs of its six tasks; of readings in which at least two runs of each arm generalise."""
    runs = runs[runs["task"] != "mod_sub"]
    crossed = runs.loc[runs["status"] == "generalized", "arm"].value_counts()
    told = {reading: pair for reading, pair in readings.items() if crossed.reindex(pair, fill_value=0).min() > 1}
    found = {reading: pooled_t_test(runs, "arm", *pair) for reading, pair in told.items()}
    columns = ["reading", *(field.name for field in fields(PooledTest))]
    return pd.DataFrame([{"reading": reading, **vars(test)} for reading, test in found.items()], columns=columns)


def _dots(axes: Axes, runs: pd.DataFrame, hues: Mapping[str, str], shown: Sequence[str]) -> None:
    """Every run of every arm; triangles: censored."""
    for row, task in enumerate(shown[:-1]):
        for at, (arm, hue) in enumerate(hues.items()):
            own = runs[(runs["task"] == task) & (runs["arm"] == arm)].sort_values("seed")
            middle = row + (at - (len(hues) - 1) / 2) * 0.8 / len(hues)
            y = middle + np.linspace(-0.26, 0.26, len(own)) / len(hues)
            steps, done = observed(own)
            axes.plot(steps[done], y[done], "o", ms=2.8, color=hue, alpha=0.75, mew=0)
            axes.plot(steps[~done], y[~done], ">", ms=4, color=hue, mfc="none")
    axes.set_xscale("log")
    step_ticks(axes.xaxis)
    axes.set_xlabel("steps to generalise (log)")


def _forest(
    axes: Axes, table: pd.DataFrame, column: str, readings: Readings, hues: Mapping[str, str], shown: Sequence[str]
) -> None:
    """Values with intervals, a row per task: first crossing filled, sustained hollow; a triangle is a bound."""
    space = 0.8 / (2 * len(readings))
    for at, (reading, (_, arm)) in enumerate(readings.items()):
        own = table[table["reading"] == reading].set_index("task").reindex(shown)
        for hollow, prefix in enumerate(("", "kept_")):
            y = np.arange(len(shown)) + (2 * at + hollow - (2 * len(readings) - 1) / 2) * space
            value, low, high = (own[f"{prefix}{column}{end}"].astype(float).to_numpy() for end in ("", "_low", "_high"))
            color, fill = hues[arm], "white" if hollow else hues[arm]
            axes.hlines(y, low, high, color=color, lw=1.3)
            bound = own[f"{prefix}bound"].fillna("").to_numpy() * (column == "ratio") * np.isnan(low)
            for marker, sign in (("o", ""), (">", "≥"), ("<", "≤")):
                axes.plot(value[bound == sign], y[bound == sign], marker, ms=4.5, color=color, mfc=fill)


def _ratio_axis(axes: Axes, other: str) -> None:
    axes.axvline(1, color=GREY, lw=0.8)
    if other == MUON:  # of which alone something was published
        axes.axvline(PUBLISHED, color="black", lw=0.9, ls=":")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"AdamW's steps over {other}'s (log)")


def _row(task: str, runs: pd.DataFrame, arms: Sequence[str]) -> str:
    """The name of a task, and how many runs of each arm generalise."""
    if task == "all":
        return TITLES[task]
    own = [runs[(runs["task"] == task) & (runs["arm"] == arm)] for arm in arms]
    counts = [str(int((group["status"] == "generalized").sum())) for group in own if len(group)]
    told = f"each {counts[0]}" if len(counts) > 2 and len(set(counts)) == 1 else ", ".join(counts)
    return f"{TITLES[task]}\n{told} of {max(map(len, own))}"


def _legend(hues: Mapping[str, str], readings: Readings) -> list[Line2D]:
    """What the colors are; the first arms of several readings have one and the same."""
    first = {pair[0] for pair in readings.values()}
    named = {hue: arm.split(",")[0] if arm in first else arm for arm, hue in hues.items()}
    handles = [Line2D([], [], ls="", marker="o", color=hue, label=label(arm)) for hue, arm in named.items()]
    kinds = (("first crossing", "black"), ("sustained", "white"))
    handles += [Line2D([], [], marker="o", color="black", mfc=fill, label=kind) for kind, fill in kinds]
    published = [Line2D([], [], color="black", ls=":", label="published: 1.49")]
    return handles + published * (_other(readings) == MUON)


def _other(readings: Readings) -> str:
    """How the second arms are called together."""
    others = {pair[1].split(",")[0] for pair in readings.values()}
    return label(others.pop()) if len(others) == 1 else "the other"


def _caption(runs: pd.DataFrame, table: pd.DataFrame, readings: Readings, machines: Sequence[str]) -> str:
    tests = "; ".join(
        f"{label(str(line['reading'])) + ': ' if len(readings) > 1 else ''}{line['first']:.1f} against {line['second']:.1f} epochs, t = {line['t']:.1f}, "
        f"p = {line['p']:.1g}, {line['dropped']} runs dropped"
        for line in pooled(runs, readings).to_dict("records")
    )
    fractions = runs.groupby("task", sort=False)["train_fraction"].first()
    splits = ", ".join(f"{TITLES[task]} {share:.0%}" for task, share in fractions.items())
    first, n = runs.iloc[0], int(table["n"].min())
    several = len(runs[["model.name", "model.depth", "model.width"]].drop_duplicates()) > 1
    depth = f"{first['model.depth']} layer{'s' * int(first['model.depth'] > 1)}"
    model = "models as named" if several else f"transformer with {depth} of width {first['model.width']}"
    above = ", AdamW's above those of what it is compared with" * (len({first for first, _ in readings.values()}) > 1)
    *some, last = dict.fromkeys(label(arm.split(",")[0]) for pair in readings.values() for arm in pair)
    return (
        f"{', '.join(some)} and {last} on the tasks of Tveit et al. 2025 and subtraction (p = 97; examples for training: {splits}), "
        f"{model}, batch 512, n = {n} seeds, the same for all. Left: "
        f"steps to the first evaluation with validation accuracy ≥ 95 %, each run a dot{above}; triangles: not within {first['steps']:,} steps; "
        f"beside the task: how many of each arm generalise. Middle: ratio of restricted means, paired by seed, with 95 % intervals{beside('ratio', n)} (all "
        f"tasks: geometric mean{beside('ratio over 7 tasks', n)}); triangle: a bound, as one arm never generalises. Hollow: until accuracy stays there for half as long again, which is known up to {first['steps'] / (1 + first['linger']):,.0f} steps. "
        f"Right: probability of being earlier with the same seed. The paper's pooled t-test on its own tasks: {tests or 'too few generalise'}. Trained on: "
        f"{'; '.join(machines)}."
    )


def _verdict(table: pd.DataFrame) -> Verdict | None:
    """The published ratio against ours over all tasks; None where the other arm is not Muon, of which nothing was claimed."""
    if set(table["other"]) != {"muon"}:
        return None
    words, answers = [], []
    for reading, own in table.groupby("reading", sort=False):
        row, each = own[own["task"] == "all"].iloc[0], own[own["task"] != "all"]
        sooner = int((each["ratio_low"] > 1).sum())
        said = f"{reading}: " if table["reading"].nunique() > 1 else ""
        words.append(
            f"{said}{ratio_or_bound(row)}, sustained {ratio_or_bound(row, 'kept_')}, sooner on {sooner} of {len(each)} tasks"
        )
        low, high = row["ratio_low"], row["ratio_high"]
        answers.append(
            "undecided"
            if pd.isna(low)
            else "larger"
            if low > PUBLISHED
            else "consistent"
            if high >= PUBLISHED
            else "smaller"
            if low > 1
            else "not sooner"
        )
    n = int(table["n"].min())
    claim = "AdamW needs 1.49 times the epochs of Muon (153.09 / 102.89, six tasks pooled, Tveit et al. 2025)"
    return Verdict(
        claim, f"{'; '.join(words)} (n = {n} seeds, each with every task)", "; ".join(dict.fromkeys(answers))
    )


HEAD = (
    *("task", "AdamW generalises", "{}", "AdamW's median steps", "{}'s", "AdamW's steps over {}'s"),
    *("until it stays", "in operations", "{} earlier", "p (Holm)", "before memorising"),
)


def markdown(table: pd.DataFrame) -> str:
    """The comparison as it stands in a document."""
    several = table["reading"].nunique() > 1
    other = label(table["other"].iloc[0]) if table["other"].nunique() == 1 else "the other"
    rows = []
    for reading, own in table.groupby("reading", sort=False):
        lines = {line["task"]: line for line in own.to_dict("records")}
        for task in TITLES:
            cells = _cells(lines[task], len(lines) - 1) if task in lines else ("not run", *["–"] * (len(HEAD) - 2))
            rows.append((*([label(str(reading))] if several else []), TITLES[task], *cells))
    return markdown_table([*(["arm"] if several else []), *(head.format(other) for head in HEAD)], rows)


def _cells(line: dict[Hashable, Any], tasks: int) -> tuple[str, ...]:
    together = line["task"] == "all"
    of = line["n"] * (tasks if together else 1)
    medians = ["–", "–"] if together else [interval(line, f"{side}_median_steps") for side in ("first", "second")]
    return (
        *(f"{line[f'{side}_events']:.0f} of {of:.0f}" for side in ("first", "second")),
        *medians,
        ratio_or_bound(line),
        ratio_or_bound(line, "kept_"),
        "–" if pd.isna(line["ratio"]) else f"{line['ratio_in_operations']:.2f}",
        interval(line, "earlier", 2),
        f"{line['p']:.2g}" + ("" if together else f" ({line['p_holm']:.2g})"),
        "–" if together else ", ".join(f"{line[f'{side}_before_memorizing']:.0f}" for side in ("first", "second")),
    )


def thresholds(results: Results, runs: pd.DataFrame) -> Drawing:
    """The ratio of AdamW's steps to Muon's, for several thresholds of validation accuracy."""
    parts = []
    for threshold in THRESHOLDS:
        own = at_threshold(runs, results.curves, threshold)
        parts.append(versus(own, "arm", "adamw", "muon", "task").assign(threshold=threshold))
    table = pd.concat(parts, ignore_index=True)
    shown = [task for task in TITLES if task in set(table["task"])]
    with style():
        figure = Figure(figsize=(7.5, 4), layout="constrained")
        axes = figure.subplots()
        axes.axhline(1, color=GREY, lw=0.8)
        for at, task in enumerate(shown):
            own = table[table["task"] == task]
            x = np.arange(len(own)) + (at - len(shown) / 2) * 0.06
            color = "black" if task == "all" else TASK_COLORS[at]
            axes.plot(
                x,
                own["ratio"].astype(float),
                "o-",
                ms=4,
                lw=1.8 if task == "all" else 0.8,
                color=color,
                label=TITLES[task],
            )
            axes.vlines(x, own["ratio_low"].astype(float), own["ratio_high"].astype(float), color=color, lw=1)
            for bound, mark in (("≥", "^"), ("≤", "v")):
                told = (own["bound"] == bound).to_numpy()
                axes.plot(x[told], own["ratio"].astype(float)[told], mark, ms=7, mew=0, color=color)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xticks(range(len(THRESHOLDS)), [f"{threshold:.0%}" for threshold in THRESHOLDS])
        axes.set(xlabel="validation accuracy to reach", ylabel="AdamW's steps over Muon's (log)")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        n, budget = int(table["n"].min()), runs["steps"].max()
        caption(
            figure,
            f"Both optimizers at what their searches found, n = {n} seeds, each run until every validation example is right or for {budget:,} "
            "steps: ratio of restricted means of the steps to the first evaluation with at least this validation accuracy, paired by seed, "
            f"with 95 % intervals{beside('ratio', n)}; triangles: at least (up) or at most this, as AdamW or Muon never gets there. All tasks: geometric mean, "
            f"in which a task that neither learns so well counts as 1. Trained on: {'; '.join(results.machines)}.",
        )
    tables = {"": table, "runs": runs.drop(columns=["arm", "task"])}
    return Drawing("muon_vs_adamw_thresholds", figure, tables, n, None, thresholds_markdown)


def thresholds_markdown(table: pd.DataFrame) -> str:
    """A line per task, a column per threshold."""
    lines = []
    for task in dict.fromkeys(table["task"]):
        own = table[table["task"] == task].to_dict("records")
        counts = [f"{line['first_events']:.0f}, {line['second_events']:.0f}" for line in own]
        lines.append(
            (TITLES[task], *(f"{ratio_or_bound(line)} ({count})" for line, count in zip(own, counts, strict=True)))
        )
    head = ("task", *(f"{threshold:.0%} (runs that do: AdamW, Muon)" for threshold in THRESHOLDS))
    return markdown_table(head, lines)
