"""Do the settings of the papers generalise when their papers say they do?

Claim      Each recipe's source says after how many steps, by its own criterion (`grokking list recipes`).
Here       Each recipe as it stands, on a laptop: the longest budgets are cut (CUT), and runs end once they have stayed above the
           threshold for a quarter of the steps that they took to reach it.
Definition Steps to the first evaluation with validation accuracy at the recipe's threshold (0.95; 1 for chou2025); for janati2026, as
           there, to the first of six in a row. "as published" where all runs lie within the published steps (of one number: where runs lie
           on both sides of it), else how many do, or by which factor the nearest run is sooner or later; "consistent so far" where none
           generalises within a budget that ends before the published steps, "undecided" within one that ends among them.
Shows      Six are as published: power2022, gromov2023 (12,090 steps, where others saw 11,760), grokfast2024, tveit2025, chou2025, and
           cesista2025, which does not generalise within 1,000 steps, as it is said of Muon without a bound. Of nanda2023 two runs of
           three are, the third is sooner by a tenth. wang2026 and wang2026_adamw are later by 1.1×, janati2026 sooner by 1.1×: all have much that
           their texts leave open. power2022_fig1 is consistent so far (no run generalises within 3,000 of 1,000,000 steps, all memorise
           before 1,000, as published), prieto2025 undecided (0 of 3 within 8,000 of 80,000 steps, with validation accuracy below chance).
           egd2025 is later by 1.1× (five of five between 1,115 and 1,228 steps, where the paper has 1,044), egd2025_sgd consistent so far
           (0 of 3 within 40,000 of 48,528 steps, with validation accuracy from 0.67 to 0.76 there): so the slowest run of EGD is at
           least 32 times as soon, where the paper has 46.5.
           Of omnigrok2023 and lipschitz2025 no number is published; the latter's network is too large for a laptop and left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from grokking.plotting import COLORS, GREY, Drawing, caption, steps_axis, style
from grokking.publish import markdown_table
from grokking.recipes import PAPERS, published_steps
from grokking.registry import Settings
from grokking.store import Results
from grokking.study import Study, names_of_runs

CUT: dict[str, int] = {  # budgets here, where the recipe's own is for a larger machine
    **{"power2022": 10_000, "power2022_fig1": 3_000, "nanda2023": 12_000, "gromov2023": 15_000, "omnigrok2023": 5_000},
    **{"grokfast2024": 4_000, "prieto2025": 8_000, "tveit2025": 4_000, "wang2026": 5_000, "janati2026": 8_000},
    **{"egd2025": 3 * 116 * 9, "egd2025_sgd": 40_000, "wang2026_adamw": 5_000},
}
SEEDS = {name: range(3) for name in PAPERS} | {  # more where runs are short
    **{name: range(10) for name in ("chou2025", "cesista2025")},
    **{name: range(5) for name in ("grokfast2024", "tveit2025", "egd2025")},
}
# A plain step of one run takes 6 · 4 tokens · 512 examples · 2.4 · 10⁶ parameters = 30 · 10⁹ operations, and no number is
# published on this task that the runs could be held to.
TOO_LARGE = ("lipschitz2025",)
IN_A_ROW = {"janati2026": 6}  # evaluations that must reach the threshold


def base(name: str) -> Settings:
    """The recipe's settings with our budget."""
    own = PAPERS[name].settings
    return {**own, "steps": CUT.get(name, own["steps"]), "linger": 0.25}


SMALL: Settings = {"task.p": 13, "train_fraction": 0.6, "steps": 60}
STUDIES = {
    "smoke": [
        Study({**base(name), **SMALL}, [{}], SEEDS[name][:1]) for name in ("tveit2025", "chou2025", "janati2026")
    ],
    "laptop": [Study(base(name), [{}], SEEDS[name]) for name in PAPERS if name not in TOO_LARGE],
    "paper": [Study(PAPERS[name].settings, [{}], SEEDS[name]) for name in PAPERS],
}
RUN_STEPS = {"smoke": 180, "laptop": 402_660, "paper": 6_920_000}  # at most: the sum of all budgets
COMPILE = ("laptop",)


def draw(results: Results) -> Sequence[Drawing]:
    """Published steps and ours, a line per recipe."""
    recipe_of = names_of_runs((name, study) for name in PAPERS for study in _studies(name))
    runs = results.runs.assign(recipe=results.runs["run_id"].map(recipe_of))
    curves = dict(list(results.curves.groupby("run_id")))
    runs["reached"] = [_reached(row, curves[row["run_id"]]) for row in runs.to_dict("records")]
    table = summary(runs)
    with style():
        figure = Figure(figsize=(9.5, 0.42 * len(table) + 1.1), layout="constrained")
        _picture(figure, table, runs)
        caption(
            figure,
            "Steps until validation accuracy reaches the recipe's threshold. Grey: as published (a dot: one number, or nearly; an arrow: or "
            "later; a bar from the left edge: by then). Blue: our runs, each a dot; triangles: not within our budget; small ticks: "
            f"training set memorised. Trained on: {'; '.join(results.machines)}.",
        )
    tables = {"": table, "runs": runs.drop(columns=["recipe", "reached"])}
    return [Drawing("recipes", figure, tables, int(table["n"].min()), None, markdown)]


def _studies(name: str) -> list[Study]:
    """The recipe at every scale."""
    scales = (base(name), {**base(name), **SMALL}, PAPERS[name].settings)
    return [Study(scale, [{}], SEEDS[name]) for scale in scales]


def _reached(row: Mapping[Any, Any], curve: pd.DataFrame) -> float:
    """The first step of as many evaluations in a row at the threshold as the source asks for; nan: none."""
    good = (curve["validation_accuracy"] >= row["threshold"]).to_numpy(int)
    count = IN_A_ROW.get(row["recipe"], 1)
    runs = np.convolve(good, np.ones(count, int), "valid") == count if len(good) >= count else np.zeros(0, bool)
    return float(curve["step"].iloc[int(np.argmax(runs))]) if runs.any() else math.nan


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """One line per recipe: what is published, what we measured, and whether they agree."""
    lines = []
    for name in [name for name in PAPERS if name in set(runs["recipe"])]:
        own, within = runs[runs["recipe"] == name], PAPERS[name].within
        budget = int(own["steps"].iloc[0])
        lines.append(
            {
                "recipe": name,
                "published_first": math.nan if within is None else within[0],
                "published_last": math.nan if within is None else within[1],
                "budget": budget,
                "budget_published": PAPERS[name].settings["steps"],
                "n": len(own),
                "generalized": int(own["reached"].notna().sum()),
                "sustained": int(own["sustained"].sum()),
                "memorized_median": own["steps_to_memorize"].astype(float).median(),
                "first": own["reached"].min(),
                "median": own["reached"].fillna(math.inf).median(),
                "last": own["reached"].max(),
                "verdict": verdict(own["reached"], budget, within),
            }
        )
    return pd.DataFrame(lines)


def verdict(reached: pd.Series, budget: int, within: tuple[float, float] | None) -> str:
    """Whether steps to generalise (nan: not within the budget) are as published, and by how much they are not."""
    if within is None:
        return "nothing is published"
    first, last = within
    found = reached.dropna()
    inside = int(found.between(first, last).sum())
    if found.empty:
        if budget <= first:  # no run could show more than that it is not sooner
            return "as published" if last == math.inf and budget == first else "consistent so far"
        return "undecided" if budget < last else "not reached here"
    if first == last and found.min() <= first <= found.max():
        return "as published"
    if inside:
        return "as published" if inside == len(reached) else f"{inside} of {len(reached)} as published"
    if found.max() < first:
        return f"sooner, by {first / found.max():.1f}×"
    return f"later, by {found.min() / last:.1f}×" if found.min() > last else "on both sides"


def _picture(figure: Figure, table: pd.DataFrame, runs: pd.DataFrame) -> None:
    axes = figure.subplots()
    lines = list(enumerate(table.to_dict("records")))
    for at, line in lines:
        low, high = line["published_first"], line["published_last"]
        if high < 1.1 * low:  # a bar of it could not be seen
            axes.plot([math.sqrt(low * high)], [at], "o", ms=10, color=GREY, alpha=0.5, mew=0)
        elif not math.isnan(low):
            end = min(high, 2e6)
            axes.plot([max(low, 10), end], [at, at], lw=9, color=GREY, alpha=0.35, solid_capstyle="butt")
            if high == math.inf:
                axes.plot([end], [at], ">", color=GREY, ms=9, alpha=0.5, mew=0)
        own = runs[runs["recipe"] == line["recipe"]]
        y = at + np.linspace(-0.22, 0.22, len(own))
        done = own["reached"].notna().to_numpy()
        axes.plot(own["reached"].to_numpy()[done], y[done], "o", ms=4, color=COLORS["adamw"], mew=0)
        axes.plot(own["steps"].to_numpy()[~done], y[~done], "^", ms=5, color=COLORS["adamw"], mfc="none")
        axes.plot(own["steps_to_memorize"], y, "|", ms=5, color="black", mew=0.8)
        if at:
            axes.axhline(at - 0.5, color="#E6E6E6", lw=0.6)
        axes.annotate(line["verdict"], (1.01, at), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.set_yticks(range(len(lines)), [f"{line['recipe']} (n = {line['n']})" for _, line in lines])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlim(8, 3e6)
    steps_axis(axes)
    axes.grid(axis="y", visible=False)


def markdown(table: pd.DataFrame) -> str:
    """The table as it stands in a document."""
    head = ("recipe", "published", "here", "generalise (and stay)", "memorise", "budget (the recipe's)", "verdict")
    rows = [
        (
            f"`{row['recipe']}`",
            published_steps(PAPERS[row["recipe"]].within),
            _steps(row),
            f"{row['generalized']} of {row['n']} ({row['sustained']})",
            "–" if math.isnan(row["memorized_median"]) else f"{row['memorized_median']:,.0f}",
            f"{row['budget']:,} ({row['budget_published']:,})",
            row["verdict"],
        )
        for row in table.to_dict("records")
    ]
    return markdown_table(head, rows)


def _steps(row: Mapping[Any, Any]) -> str:
    """`median (first to last)` of those that generalise."""
    if not row["generalized"]:
        return f"not within {row['budget']:,}"
    middle = "beyond the budget" if row["median"] == math.inf else f"{row['median']:,.0f}"
    return f"{middle} ({row['first']:,.0f} to {row['last']:,.0f})"
