"""Does what was learned stay? Runs are carried on to ten times the steps of their first crossing.

Claim      Wang 2026 (arXiv 2607.20512): first crossings and stable generalization rank optimizers differently; AdamW crosses after
           2,388 steps and stays from 4,932 on, Muon after 1,750 and from there on. Janati et al. 2026 (arXiv 2608.07436):
           transformers trained by Muon collapse after they have generalised (137 to 321 evaluations below 95 % in each of five
           runs, with AdamW 0 to 2), and do not once embeddings and head are frozen when the circuit has formed.
Here       x + y (mod 59), 40 % of the examples for training; optimizers at their best cells (experiments/sensitivity.py), AdamW
           and Muon also with embeddings and head frozen from 1.5 times their published median crossing on (figures/published/
           sensitivity_best.csv, not these runs). At the `paper` scale also both at the defaults of `grokking run`, where the delay
           is long. SGD with momentum is left out: most of its runs do not cross.
Definition First: the first evaluation with validation accuracy >= 0.95. The window: from there to ten times that step, evaluated
           every 10 steps. A dip: a stretch of evaluations below 0.95 in it, counted once. Settled: the first evaluation from which
           every one through the end of the window is >= 0.95. A run whose window the budget (twelve times the published median)
           cuts short is never one that stays or settles; nor is one that is below at the end. In means these count at the first
           evaluation at which they can have settled, which is a lower bound.
Shows      (Laptop.) Tuned with decoupled decay, what is learned stays: no run of AdamW falls below 95 % up to ten times its first
           crossing, one of Muon's ten does, once, at 94.5 %, and none once embeddings and head are frozen. What falls is the other
           kind: Adam and RMSprop, whose decay is part of the gradient, dip 9 and 31 times a run, down to 3 and 15 %.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from five_optimizers import SMALL
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from sensitivity import CHOSEN, arm

from grokking.comparison import columns
from grokking.plotting import COLORS, GREY, Drawing, Verdict, caption, label, step_ticks, style
from grokking.publish import interval, markdown_table
from grokking.registry import Settings
from grokking.store import Results
from grokking.study import Study
from grokking.survival import Estimate, restricted_mean_ratio

TIMES = 10  # the window's end over the first crossing
ROOM = 12  # the budget over the published median crossing
FROZEN_FROM = 1.5  # over the published median crossing
MEDIANS = {"rmsprop": 626, "adam": 279, "adamw": 279, "muon": 100}  # steps, figures/published/sensitivity_best.csv
AT_DEFAULTS = {"adamw": 1_012, "muon": 597}  # steps, figures/published/delayed_generalization_summary.csv
LINEAR: Settings = {"evaluation.every": 10, "evaluation.growth": 0.0, "linger": float(TIMES - 1)}


def best(name: str) -> Settings:
    """The optimizer at its best cell, with room for its window."""
    lr, decay = CHOSEN[name]
    rates: Settings = {"optimizer.lr": lr, "optimizer.weight_decay": decay}
    return {**arm(name), **rates, **LINEAR, "steps": ROOM * MEDIANS[name]}


def frozen(name: str) -> Settings:
    """The same, with embeddings and head frozen once the published runs had long generalised."""
    after = round(FROZEN_FROM * MEDIANS[name])
    return {**best(name), "transforms": "freeze", "transform.freeze.after": float(after)}


def at_defaults(name: str) -> Settings:
    """The optimizer as `grokking run` has it."""
    return {"optimizer.name": name, **LINEAR, "steps": ROOM * AT_DEFAULTS[name]}


TUNED = [best("adam"), best("adamw"), frozen("adamw"), best("muon"), frozen("muon")]
STUDIES = {
    "smoke": [Study({}, [{**own, **SMALL} for own in TUNED[1:]], range(1))],
    "laptop": [Study({}, [best("rmsprop")], range(5)), Study({}, TUNED, range(10))],
    "paper": [
        Study({}, [best("rmsprop"), *TUNED], range(10)),
        Study({}, [at_defaults(name) for name in AT_DEFAULTS], range(5)),
    ],
}
RUN_STEPS = {"smoke": 4_000, "laptop": 162_000, "paper": 296_100}  # at most: the sum of all budgets
COMPILE = ("laptop", "paper")


def draw(results: Results) -> Sequence[Drawing]:
    """What happens in each run's window; and first crossing against settling, run by run."""
    runs = results.runs.assign(arm=[_arm(row) for row in results.runs.to_dict("records")])
    curves = dict(list(results.curves.groupby("run_id", sort=False)))
    found = pd.DataFrame([_found(row, curves[row["run_id"]]) for row in runs.to_dict("records")])
    table = summary(found)
    n = int(table["n"].min())
    with style():
        wide = math.ceil(len(table) / 2)
        figure = Figure(figsize=(2.3 * wide + 5.9, 4.9), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(2.3 * wide, 5.9), squeeze=False)[0]
        panels = left.subplots(2, wide, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, line in zip(panels, table.to_dict("records"), strict=False):
            _window(axes, line, found[found["arm"] == line["arm"]], curves)
        for axes in panels[len(table) :]:
            axes.set_visible(False)
        left.supxlabel("steps / steps of the first crossing", fontsize=9)
        left.supylabel("validation accuracy", fontsize=9)
        _scatter(right.subplots(), found)
        caption(figure, _caption(runs, table, results.machines))
    drawn = results.curves.merge(found[["run_id", "arm", "seed", "first"]], on="run_id")
    drawn = drawn[drawn["step"].between(drawn["first"], TIMES * drawn["first"])]
    drawn = drawn[["arm", "seed", "first", "step", "validation_accuracy"]]
    whole_numbers = dict.fromkeys(("first", "dips", "settled", "counts"), "Int64")
    tables = {"": drawn, "found": found.astype(whole_numbers), "summary": table, "runs": runs.drop(columns="arm")}
    return [Drawing("stability", figure, tables, n, _verdict(found, table), markdown)]


def _arm(row: Mapping[str, Any]) -> str:
    name = str(row["optimizer.name"])
    tuned = (row["optimizer.lr"], row["optimizer.weight_decay"]) == CHOSEN[name]
    return name + ", frozen" * (row["transforms"] == "freeze") + ", defaults" * (not tuned)


def _found(row: Mapping[str, Any], curve: pd.DataFrame) -> dict[str, Any]:
    """What a run does after its first crossing, beside what it is."""
    healthy = curve[curve["step"] < (np.inf if pd.isna(row["diverged_at"]) else row["diverged_at"])]
    steps, accuracy = healthy["step"].to_numpy(np.int64), healthy["validation_accuracy"].to_numpy(float)
    first = None if pd.isna(row["steps_to_generalize"]) else int(row["steps_to_generalize"])
    own = {"run_id": row["run_id"], "arm": row["arm"], "seed": row["seed"], "budget": row["steps"]}
    return {**own, **after_crossing(steps, accuracy, float(row["threshold"]), first)}


def after_crossing(
    steps: NDArray[np.int64], accuracy: NDArray[np.float64], threshold: float, first: int | None
) -> dict[str, Any]:
    """What the accuracies [evaluation] at `steps` [evaluation] do between the `first` crossing and ten times that step.

    `whole`: the window was seen to its end. `stays`: it was, and nothing in it is below. `settled`: the step from which nothing
    is, None where it is below at the end, or the end was not seen. `counts`: the first at which it can have settled, a lower bound
    where it has not.
    """
    if first is None:
        nothing = dict.fromkeys(("dips", "share_below", "lowest", "settled"))
        return {"first": None, **nothing, "whole": False, "stays": False, "counts": None}
    inside = (steps >= first) & (steps <= TIMES * first)
    steps, accuracy, whole = steps[inside], accuracy[inside], bool(steps[-1] >= TIMES * first)
    below = accuracy < threshold
    last = int(np.flatnonzero(below)[-1]) if below.any() else -1
    counts = int(steps[min(last + 1, len(steps) - 1)])
    return {
        "first": first,
        "dips": int((below[1:] & ~below[:-1]).sum()),
        "share_below": float(below[1:].mean()) if len(below) > 1 else 0.0,
        "lowest": float(accuracy.min()),
        "settled": counts if whole and not below[-1] else None,
        "whole": whole,
        "stays": whole and not below.any(),
        "counts": counts,
    }


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """One line per arm, with the means of the first crossing and of settling, and their ratios to AdamW's, paired by seed.

    A run that never crosses counts at its budget in both means, one that has not settled at the first step where it can have.
    Then means are lower bounds; `generalized` and `settled` say how many do get there.
    """
    lines = []
    for name, own in found.groupby("arm", sort=False):
        crossed = own[own["first"].notna()]
        line = {
            "arm": name,
            "n": len(own),
            "generalized": len(crossed),
            "whole": int(own["whole"].sum()),
            "stay": int(own["stays"].sum()),
            "settled": int(own["settled"].notna().sum()),
            "dips": crossed["dips"].astype(float).median(),
            "most_dips": crossed["dips"].astype(float).max(),
            "share_below": crossed["share_below"].astype(float).mean(),
            "lowest": crossed["lowest"].astype(float).min(),
            "mean_first": _counted(own, "first").mean(),
            "mean_settled": _counted(own, "counts").mean(),
        }
        for column, value in (("first_over", "first"), ("settled_over", "counts")):
            line |= columns(column, _ratio(found, value, str(name), "adamw"))
        lines.append(line)
    return pd.DataFrame(lines)


def _counted(own: pd.DataFrame, value: str) -> pd.Series:
    """Steps by seed, the budget where there are none."""
    return own[value].astype(float).fillna(own["budget"].astype(float)).set_axis(own["seed"])


def _ratio(found: pd.DataFrame, value: str, numerator: str, denominator: str) -> Estimate:
    """Ratio of two arms' means over the seeds that both have."""
    a, b = (_counted(found[found["arm"] == name], value) for name in (numerator, denominator))
    both = a.index.intersection(b.index)
    if numerator == denominator or len(both) == 0:
        return Estimate(1.0 if len(both) else None, None, None, len(both))
    return restricted_mean_ratio(a[both].to_numpy(), b[both].to_numpy())


def _window(axes: Axes, line: Mapping[Any, Any], own: pd.DataFrame, curves: Mapping[str, pd.DataFrame]) -> None:
    """Every run of an arm in its window, in units of its own first crossing."""
    color = COLORS[str(line["arm"]).split(",")[0]]
    for run in own[own["first"].notna()].to_dict("records"):
        curve = curves[run["run_id"]]
        inside = curve["step"].between(run["first"], TIMES * run["first"])
        x, y = curve["step"][inside] / run["first"], curve["validation_accuracy"][inside]
        axes.plot(x, y, color=color, lw=0.7, alpha=0.8)
        if not run["whole"]:
            axes.plot(x.iloc[-1:], y.iloc[-1:], "|", color="black", ms=8, mew=1.4)
    axes.axhline(0.95, color="black", lw=0.8, ls=(0, (4, 3)))
    axes.set(xlim=(1, TIMES), ylim=(-0.02, 1.03), xticks=(1, 2, 4, 6, 8, 10))
    axes.set_title(f"{label(str(line['arm']))}\n{line['stay']} of {line['n']} stay, {_dips(line)}", fontsize=8.5)


def _dips(line: Mapping[Any, Any]) -> str:
    return "none crosses" if pd.isna(line["dips"]) else f"{line['dips']:g} dips (median)"


def _scatter(axes: Axes, found: pd.DataFrame) -> None:
    """First crossing against settling; on the diagonal a run stays, on the dotted line its window ends."""
    crossed = found[found["first"].notna()]
    names = list(dict.fromkeys(crossed["arm"]))
    for run in crossed.to_dict("records"):
        color = COLORS[run["arm"].split(",")[0]]
        face = "none" if "frozen" in run["arm"] else color
        shape = _shape(run["arm"]) if pd.notna(run["settled"]) else "^"
        axes.plot([run["first"]], [run["counts"]], shape, ms=5.5, color=color, mfc=face, alpha=0.8)
    if names:
        ends = np.array([0.8 * crossed["first"].min(), 1.25 * crossed["first"].max()], dtype=float)
        axes.plot(ends, ends, color=GREY, lw=0.9)
        axes.plot(ends, TIMES * ends, color=GREY, lw=0.9, ls=":")
        axes.set(xlim=ends, ylim=(0.8 * ends[0], 1.3 * TIMES * ends[1]))
    axes.set(xscale="log", yscale="log", xlabel="steps to the first crossing (log)", ylabel="steps to settle (log)")
    for axis in (axes.xaxis, axes.yaxis):
        step_ticks(axis)
    marks = [
        Line2D([], [], ls="", marker=_shape(name), color=(c := COLORS[name.split(",")[0]]), mfc=c, label=label(name))
        if "frozen" not in name
        else Line2D([], [], ls="", marker="o", color=COLORS[name.split(",")[0]], mfc="none", label=label(name))
        for name in names
    ]
    marks.append(Line2D([], [], ls="", marker="^", color=GREY, label="not known to settle: no earlier"))
    marks.append(Line2D([], [], color=GREY, lw=0.9, label="stays from the first on"))
    marks.append(Line2D([], [], color=GREY, lw=0.9, ls=":", label="the window's end"))
    axes.legend(handles=marks, fontsize=7.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _shape(name: str) -> str:
    return "s" if "defaults" in name else "o"


def _caption(runs: pd.DataFrame, table: pd.DataFrame, machines: Sequence[str]) -> str:
    first = runs.iloc[0]
    most = int(table["n"].max())
    fewer = "".join(f", {label(row['arm'])}: {row['n']}" for row in table.to_dict("records") if row["n"] < most)
    return (
        f"{first['task.name']} (p = {first['task.p']}), {first['train_fraction']:.0%} of the examples for training, every optimizer at "
        f"its best cell{' or at its defaults' * any('defaults' in name for name in table['arm'])}; frozen: embeddings and head stand still from "
        f"{FROZEN_FROM:g} times the published median crossing on. n = {most} seeds{fewer}, each a line and a mark. Left: from the first evaluation with validation accuracy ≥ 95 % "
        f"(dashed) to {TIMES} times that step, evaluated every {first['evaluation.every']} steps; a black stroke: the budget ends before that. Right: the "
        "step from which no evaluation through that end is below 95 %, against the first crossing; triangles: below at the end, or "
        f"cut by the budget, and so no earlier than this. Trained on: {'; '.join(machines)}."
    )


def _verdict(found: pd.DataFrame, table: pd.DataFrame) -> Verdict | None:
    """Wang's: settling takes AdamW longer, beside its first crossing, than Muon. Janati's: Muon falls, and freezing ends it."""
    of = table.set_index("arm")
    if not {"adamw", "muon", "muon, frozen"} <= set(of.index) or of["generalized"].min() < 2:
        return None
    crossed = found[found["first"].notna()]
    relative = crossed.assign(delay=crossed["counts"] / crossed["first"])
    delay = _ratio(relative, "delay", "adamw", "muon")
    first, settled = (_ratio(found, value, "adamw", "muon") for value in ("first", "counts"))
    shares = {name: of.loc[name, "share_below"] for name in ("adamw", "muon", "muon, frozen")}
    words = ", ".join(f"{label(name)} {share:.1%}" for name, share in shares.items())
    wang = "undecided"  # the interval holds 1, and more
    if delay.low is not None and delay.high is not None and (delay.low > 1 or delay.high <= 1):
        wang = "consistent" if delay.low > 1 else "not consistent"
    fall = {name: int((crossed.loc[crossed["arm"] == name, "dips"] > 0).sum()) for name in shares}
    more = fall["muon"] > max(fall["adamw"], fall["muon, frozen"])
    most = fall["muon"] > of.loc["muon", "generalized"] / 2  # theirs: each of five
    few = fall["muon"] < 3  # of ten against none of ten that may be chance: p > 0.1
    janati = "consistent" if more and most and fall["muon, frozen"] == 0 else "not consistent"
    if more and not most:
        janati = "undecided" if few else "in part"
    return Verdict(
        "AdamW over Muon: 1.36 to the first crossing, 2.82 to stay (Wang 2026); Muon falls below 95 % again, AdamW hardly, Muon "
        "frozen never (Janati et al. 2026)",
        f"{_words(first)} to the first crossing, {_words(settled)} to settle; evaluations below 95 % up to ten times the first "
        f"crossing: {words} (in {fall['adamw']}, {fall['muon']}, {fall['muon, frozen']} runs of {first.n})",
        f"Wang: {wang}; Janati: {janati}",
    )


def _words(ratio: Estimate) -> str:
    ends = "" if ratio.low is None or ratio.high is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{ratio.value:.2f}{ends}"


HEAD = (
    "optimizer",
    "generalise",
    "stay to 10× (windows seen whole)",
    "dips a run, median (most)",
    "evaluations below 95 %",
    "lowest accuracy",
    "steps to the first",
    "to settle (runs that do)",
    "first over AdamW's",
    "settling over AdamW's",
)


def markdown(table: pd.DataFrame) -> str:
    """The summary as it stands in a document."""
    rows = [
        (
            label(row["arm"]),
            f"{row['generalized']} of {row['n']}",
            f"{row['stay']} ({row['whole']})",
            *(
                ("–", "–", "–")
                if row["generalized"] == 0
                else (f"{row['dips']:g} ({row['most_dips']:g})", f"{row['share_below']:.1%}", f"{row['lowest']:.2f}")
            ),
            f"{'≥ ' * (row['generalized'] < row['n'])}{row['mean_first']:,.0f}",
            f"{'≥ ' * (row['settled'] < row['n'])}{row['mean_settled']:,.0f} ({row['settled']})",
            _over(row, "first_over"),
            _over(row, "settled_over"),
        )
        for row in table.to_dict("records")
    ]
    return markdown_table(HEAD, rows)


def _over(row: Mapping[Any, Any], name: str) -> str:
    return "–" if pd.isna(row[name]) else interval(row, name, 2)
