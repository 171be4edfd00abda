"""In how few steps can addition be learned? The entries to RECORDS.md, which has the rules.

Claim      Cesista 2025 (Steepest descent on Stiefel, leloykun.github.io): a median of 44 full-batch steps over 64 seeds (p = 113), without
           code; Chou 2025: tuned AdamW 111 epochs, ⊥AdamW 124, to 100 %; PeterPonyu/muon-norm-cap-grokking 2026: a transformer with Muon
           and AdamW 50 to 75 steps (p = 97).
Here       Each entry as its recipe has it, on the seeds of the rules: where it is from, and ours at p = 113 and 97 with 40 % of the
           examples, and at p = 113 with 30 %, with the numbers that were chosen at p = 113 with 40 %.
Definition Steps to the first evaluation with validation accuracy >= 0.95, after every step; and to the first from which it stays there for
           half as long again.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grokking.plotting import COLORS, GREY, Drawing, caption, steps_axis, style
from grokking.publish import interval, markdown_table
from grokking.recipes import RECIPES, published_steps
from grokking.registry import Settings
from grokking.store import Results
from grokking.study import Study, names_of_runs
from grokking.survival import median_steps


@dataclass(frozen=True)
class Cell:
    """What is added, and how much of it is seen."""

    p: int
    share: float

    def __str__(self) -> str:
        return f"p = {self.p}, {self.share:.0%}"

    def settings(self) -> Settings:
        """Of a run in this cell."""
        return {"task.p": self.p, "train_fraction": self.share}


CELLS = (Cell(113, 0.4), Cell(97, 0.4), Cell(113, 0.3))
ENTRIES: dict[str, tuple[Cell, ...]] = {  # recipe → where it is run
    "fewest_steps_symmetric": CELLS,
    "fewest_steps": CELLS,
    "cesista2025_stiefel": CELLS[:1],
    "muon_norm_cap2026": CELLS[1:2],
    "chou2025": CELLS[:1],
    "chou2025_orthograd": CELLS[:1],
}
SEEDS = range(64)
FEWER = {
    "cesista2025_stiefel": range(16),
    "chou2025": range(8),
    "chou2025_orthograd": range(8),
    "muon_norm_cap2026": range(4),
}  # slow, and no records
SYMMETRIC = {name for name in ENTRIES if RECIPES[name].settings.get("model.inputs") == "summed"}


def studies(name: str, changed: Settings, seeds: Sequence[int] | None = None) -> list[Study]:
    """The runs of an entry, one study for each cell."""
    return [
        Study(
            {**RECIPES[name].settings, "threshold": 0.95, **cell.settings(), **changed},
            [{}],
            seeds or FEWER.get(name, SEEDS),
        )
        for cell in ENTRIES[name]
    ]


SMALL: Settings = {"task.p": 11, "train_fraction": 0.6}
STUDIES = {
    "smoke": [studies(name, SMALL, range(2))[0] for name in ("fewest_steps", "chou2025")],
    "laptop": [study for name in ENTRIES for study in studies(name, {})],
}
RUN_STEPS = {"smoke": 908, "laptop": 31_536}  # at most: the sum of all budgets


def draw(results: Results) -> Sequence[Drawing]:
    """Each run a dot, a line for each entry."""
    of = names_of_runs(
        ((name, str(cell)), study)
        for name, cells in ENTRIES.items()
        for changed in (SMALL, {})
        for cell, study in zip(cells[:1] if changed else cells, studies(name, changed), strict=False)
    )
    entries, cells = zip(*results.runs["run_id"].map(of), strict=True)
    runs = results.runs.assign(entry=entries, cell=cells)
    table = summary(runs)
    counts = " to ".join(str(n) for n in sorted({table["n"].min(), table["n"].max()}))
    with style():
        figure = Figure(figsize=(11, 0.55 * len(ENTRIES) + 1.6), layout="constrained")
        shown = [str(cell) for cell in CELLS if str(cell) in set(runs["cell"])]
        panels = figure.subplots(1, len(shown), sharey=True, sharex=True, squeeze=False)[0]
        for axes, cell in zip(panels, shown, strict=True):
            _panel(axes, table[table["cell"] == cell], runs[runs["cell"] == cell])
            axes.set_title(cell)
        panels[0].set_yticks(range(len(ENTRIES)), list(ENTRIES))
        caption(
            figure,
            f"x + y (mod p), the share of the examples that is trained on above; n = {counts} seeds. Each dot a run: the first step after which "
            "95 % of the validation set are right; black: their median; ring: the median of the first step from which it stays so for half as "
            "long again; grey: as published (to 100 % for chou2025 and chou2025_orthograd). Symmetric: knows that x + y = y + x. "
            f"Trained on: {'; '.join(results.machines)}.",
        )
    tables = {"": table, "runs": runs.drop(columns=["entry", "cell"])}
    return [Drawing("speedrun", figure, tables, int(table["n"].min()), None, markdown)]


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """One line for each entry and cell."""
    lines = []
    for cell, name in itertools.product(map(str, CELLS), ENTRIES):
        own = runs[(runs["entry"] == name) & (runs["cell"] == cell)]
        if own.empty:
            continue
        line: dict[str, Any] = {"entry": name, "cell": cell, "n": len(own)}
        for event, column in (("generalize", "steps_to_generalize"), ("sustain", "steps_to_sustain")):
            reached = own[column].notna().to_numpy()
            median = median_steps(own[column].where(reached, own["steps"]).to_numpy(float), reached)
            line |= {f"{event}_events": int(reached.sum()), event: median.value}
            line |= {f"{event}_low": median.low, f"{event}_high": median.high}
        steps = own["steps_to_generalize"].astype(float)
        line |= {"first": steps.min(), "last": steps.max(), "memorize": own["steps_to_memorize"].astype(float).median()}
        lines.append(line)
    return pd.DataFrame(lines)


def _panel(axes: Axes, table: pd.DataFrame, runs: pd.DataFrame) -> None:
    for line in table.to_dict("records"):
        at = list(ENTRIES).index(line["entry"])
        own = np.sort(runs.loc[runs["entry"] == line["entry"], "steps_to_generalize"].dropna().to_numpy(float))
        y = at + np.linspace(-0.3, 0.3, len(own))
        axes.plot(own, y, "o", ms=2.5, mew=0, alpha=0.7, color=COLORS["muon" if at < 2 else "adamw"])
        for event, look in (
            ("generalize", {"marker": "|", "ms": 16, "mew": 1.6}),
            ("sustain", {"marker": "o", "mfc": "none"}),
        ):
            axes.plot([line[event]], [at], color="black", ls="", **look)
        within = RECIPES[line["entry"]].within
        if within is not None:
            axes.plot(within, [at, at], "o-", ms=9, mew=0, lw=9, color=GREY, alpha=0.35, zorder=0)
    axes.set_ylim(len(ENTRIES) - 0.5, -0.5)
    steps_axis(axes)
    axes.grid(axis="y", visible=False)


def markdown(table: pd.DataFrame) -> str:
    """The table as it stands in a document."""
    head = (
        "entry",
        "examples",
        "all runs",
        "median steps",
        "from which it stays",
        "first and last run",
        "memorise",
        "published",
    )
    return markdown_table(head, [_row(line) for line in table.to_dict("records")])


def _row(line: Mapping[Any, Any]) -> tuple[str, ...]:
    name = f"`{line['entry']}`" + (" (symmetric)" if line["entry"] in SYMMETRIC else "")
    return (
        name,
        line["cell"],
        f"{line['generalize_events']} of {line['n']}",
        interval(line, "generalize"),
        interval(line, "sustain"),
        "–" if pd.isna(line["first"]) else f"{line['first']:,.0f} to {line['last']:,.0f}",
        "–" if pd.isna(line["memorize"]) else f"{line['memorize']:,.0f}",
        published_steps(RECIPES[line["entry"]].within),
    )
