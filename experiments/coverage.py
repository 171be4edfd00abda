"""Do the intervals contain the truth as often as they say, and do the tests err as seldom, with censored runs and few seeds?

Not a sweep, as nothing is trained: studies are simulated from a known law, and the package's own functions applied to them.

    .venv/bin/python experiments/coverage.py [--studies 2000] [--figures figures] [--publish]

Law        log-normal steps-to-generalize, seen at the default evaluations (10 steps or 5 % apart) up to a budget
           (grokking/simulation.py). Median 1,500 steps in the slower arm and 1,000 in the other, unless said otherwise.
Scenarios  seeds 5, 10, 30, 64; spread of log steps between seeds 0.1, 0.2, 0.5 (REPRODUCING.md says what it is in published
           runs); censored 0, 20 or 50 % of the (slower) arm's runs; correlation between the arms of a seed 0, 0.5, 0.9.
Intervals  of the success rate, median and restricted mean of an arm; of the ratio of two arms, of that ratio over seven tasks
           (medians 100 to 2,000), and of the probability that an arm is earlier: where that is about 0.7, and at the ratio 1.5.
Tests      sign flips of two arms that are alike; Holm over seven arms that are like the reference.
Others     the percentile bootstrap of the restricted mean, and the mean of the runs that generalise, with the rest dropped.
Measure    Share of the studies with an interval in the tables (see `printed`) in which it contains the truth, which is computed
           from the law; share of the studies in which a test errs. Wanted before any of it was seen: 93 to 97 %, and at most 6 %,
           from 30 seeds on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from grokking.coverage import (
    INTERVALS,
    OF_AN_ARM,
    OTHERS,
    SEEDS,
    STUDIES,
    TESTS,
    Scenario,
    Share,
    coverage,
    of_interval,
    prefers_the_wrong_arm,
    scenarios,
)
from grokking.plotting import COLORS, GREY, Drawing, caption, save, style
from grokking.publish import PUBLISHED, markdown_table, rewrite_documents

WANTED = (0.93, 0.97)
ALLOWED = 0.06
NAMED = 6  # scenarios that are named of each interval; all are in the table
COLOR = {0.0: COLORS["adamw"], 0.2: COLORS["sgd"], 0.5: COLORS["muon"]}  # by the share censored
DASH = {0.1: ":", 0.2: "--", 0.5: "-"}  # by sigma


def measured(studies: int) -> pd.DataFrame:
    """A line per interval, test or choice and scenario."""
    lines: list[dict[str, Any]] = []
    for n in tqdm(SEEDS, desc="seeds"):
        for name in tqdm([*INTERVALS, *OTHERS], desc=f"intervals at n = {n}", leave=False):
            kind = "interval" if name in INTERVALS else "other interval"
            lines += [_line(kind, name, one, coverage(name, one, studies)) for one in of_interval(name, n)]
        for name, test in TESTS.items():
            # Many of the cheap one: of 2,000 studies that err at 5 %, chance alone lets one in fifty scenarios exceed 6 %.
            many = studies * (2 if name == "sign flip" else 1)
            lines += [_line("test", name, one, test(one, many)) for one in scenarios(n)]
        for name, dropped in (("restricted mean", False), ("mean, censored runs dropped", True)):
            lines.append(
                _line("wrong arm", name, Scenario(n, np.nan, np.nan), prefers_the_wrong_arm(n, dropped, studies))
            )
    return pd.DataFrame(lines)


def _line(kind: str, name: str, scenario: Scenario, found: Share) -> dict[str, Any]:
    own = vars(scenario) | {"share": round(found.share, 5), "error": round(found.error, 5)}
    return {"kind": kind, "name": name, **own, "studies": found.studies, "printed": found.printed}


def outside(table: pd.DataFrame) -> pd.DataFrame:
    """Intervals outside 93 to 97 %, and tests above 6 %, from 30 seeds on."""
    share, large = table["share"], table["n"] >= 30
    misses = (table["kind"] == "interval") & ~share.between(*WANTED)
    return table[large & (misses | ((table["kind"] == "test") & (share > ALLOWED)))]


def drawing(table: pd.DataFrame) -> Drawing:
    """Coverage against the number of seeds, a panel per interval and test, a line per scenario."""
    shown = table[table["kind"] != "wrong arm"]
    names = list(dict.fromkeys(shown["name"]))
    with style():
        figure = Figure(figsize=(11, 6.6), layout="constrained")
        grid = figure.subplots(3, 4).ravel()
        for axes, name in zip(grid, names, strict=False):
            _panel(axes, shown[shown["name"] == name], name)
        for axes in grid[len(names) :]:
            axes.set_axis_off()
        for censored, color in COLOR.items():
            grid[-1].plot([], [], color=color, label=f"{censored:.0%} censored")
        for sigma, dash in DASH.items():
            grid[-1].plot([], [], color=GREY, ls=dash, label=f"spread {sigma:g}")
        grid[-1].legend(loc="center", fontsize=9)
    studies = _studies(table)
    caption(
        figure,
        f"Share of {studies:,} simulated studies in which the 95 % interval contains the truth, or the test errs, against the number of seeds; "
        "lines: share of runs censored, spread of log steps between seeds, and (several lines of a kind) correlation of the arms. "
        "Band: 93 to 97 %, and up to 6 %. Studies in which the tables would print no interval are left out. Percentile bootstrap and "
        "dropping censored runs are what others do, not this package. Monte-Carlo standard error at 95 %: "
        f"{100 * np.sqrt(0.95 * 0.05 / studies):.1f} %.",
    )
    return Drawing("coverage", figure, {"": table}, studies, markdown=markdown)


def _panel(axes: Axes, own: pd.DataFrame, name: str) -> None:
    test = own["kind"].iloc[0] == "test"
    low, high = (0.0, ALLOWED) if test else WANTED
    axes.axhspan(100 * low, 100 * high, color="#D9EAD3", lw=0)
    for (sigma, censored, _), line in own.groupby(["sigma", "censored", "correlation"]):
        axes.plot(line["n"], 100 * line["share"], color=COLOR[censored], ls=DASH[sigma], lw=1, marker=".", ms=3)
    axes.set_xscale("log")
    axes.set_xticks(SEEDS, [str(n) for n in SEEDS])
    axes.minorticks_off()
    axes.set_ylim((-0.5, 10) if test else (min(84.0, 100 * own["share"].min() - 2), 100.5))
    axes.set(title=name, xlabel="seeds (log)", ylabel="errs, %" if test else "covers, %")


def markdown(table: pd.DataFrame) -> str:
    """Least and most over the scenarios, and by name what misses from 30 seeds on."""
    head = ("interval, test", *(f"n = {n}" for n in SEEDS), "outside from 30 on", "least printed")
    rows = []
    for (kind, name), own in table[table["kind"] != "wrong arm"].groupby(["kind", "name"], sort=False):
        large = own[own["n"] >= 30]
        missed = "–" if kind == "other interval" else f"{len(outside(own))} of {len(large)}"
        cells = [_range(own.loc[own["n"] == n, "share"]) for n in SEEDS]
        rows.append((f"{name}{' (errs)' if kind == 'test' else ''}", *cells, missed, f"{own['printed'].min():.0%}"))
    return "\n\n".join([markdown_table(head, rows), *_notes(table)])


def _range(shares: pd.Series) -> str:
    """`91.2 to 95.4 %`."""
    if shares.empty:
        return "–"
    return f"{100 * shares.min():.1f} to {100 * shares.max():.1f} %"


def _notes(table: pd.DataFrame) -> Iterator[str]:
    yield (
        f"Least to most over the scenarios, {_studies(table):,} simulated studies each (sign flips: twice as many): intervals of 95 % contain the truth, tests at 5 % err. "
        "*Outside*: scenarios with 30 or 64 seeds outside 93 to 97 %, or above 6 %. *Least printed*: smallest share of studies in which "
        "the tables would print an interval at all."
    )
    missed = outside(table)
    if missed.empty:
        yield "From 30 seeds on nothing is outside."
    what = np.where(missed["kind"] == "test", "errs", np.where(missed["share"] < WANTED[0], "misses", "too wide"))
    for (name, fault), own in missed.groupby(["name", what], sort=False):
        own = own.sort_values("share", ascending=fault == "misses")
        words = "; ".join(_named(line) for line in own.head(NAMED).to_dict("records"))
        more = f"; and {len(own) - NAMED} more" if len(own) > NAMED else ""
        yield f"**{name}, {fault}** from 30 seeds on: {words}{more}."
    for name, own in table[table["kind"] == "wrong arm"].groupby("name", sort=False):
        found = ", ".join(f"{100 * line['share']:.0f} % at n = {line['n']}" for line in own.to_dict("records"))
        yield f"Prefers an arm that a third of the time takes longer than the budget to a steady one: the {name}, in {found}."


def _studies(table: pd.DataFrame) -> int:
    return int(table.loc[table["kind"] == "wrong arm", "studies"].max())


def _named(line: dict[Any, Any]) -> str:
    pair = "" if line["name"] in OF_AN_ARM else f", correlation {line['correlation']:g}"
    return f"{100 * line['share']:.1f} % at n = {line['n']}, spread {line['sigma']:g}, {line['censored']:.0%} censored{pair}"


def main(studies: int = STUDIES, figures: Path = Path("figures"), publish: bool = False) -> None:
    """Simulate, tabulate, draw (two minutes).

    Args:
        studies: simulated studies per scenario.
        figures: folder that gets the picture and its table.
        publish: maintainers: also to figures/published, and rewrite the documents.
    """
    drawn = drawing(measured(studies))
    for folder in (figures, PUBLISHED) if publish else (figures,):
        print(save(drawn, folder)[0])
    if publish:
        (PUBLISHED / "coverage.md").write_text(markdown(drawn.tables[""]) + "\n")
        rewrite_documents()


if __name__ == "__main__":
    tyro.cli(main)
