"""What was published, and what we found: one row a claim, from the committed tables alone. The main table of REPRODUCING.md.

Verdicts: `reproduced` where our interval or runs contain what was published; `not reproduced` where they do not; `only …` where it
depends on the setting; `undecided` where our runs cannot tell; `not run` where there are none. Published ratios of steps have no
intervals of their own, and most of them one seed. Trains nothing: `python experiments/published.py --publish`.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tyro

from grokking.plotting import label
from grokking.publish import PUBLISHED, interval, markdown_table, ratio_or_bound, rewrite_documents

TVEIT = 153.09 / 102.89
MORE = 0.05  # of accuracy, by which a gap is larger than another
PLAIN_STEP = 1.26  # operations of a step of Muon over one of AdamW, x + y, with nothing cut short; a test counts them


@dataclass(frozen=True)
class Found:
    """Ours, in words, and whether it agrees."""

    ours: str
    verdict: str


@dataclass(frozen=True)
class Claim:
    """A published statement, and how our tables answer it."""

    source: str
    published: str
    found: Callable[["Tables"], Found]
    command: str
    needs: tuple[str, ...]  # tables; without one of them, or without its line in one, the claim is not run


class NotRun(LookupError):
    """A table has no line of what a claim asks for: it was drawn before that was run."""


class Tables:
    """The committed tables by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / f"{name}.csv")

    def __contains__(self, name: str) -> bool:
        return (self.folder / f"{name}.csv").is_file()

    def said(self, name: str) -> dict[str, Any]:
        """What stands beside a published figure: its claim, our numbers and the verdict."""
        facts: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        return facts

    def line(self, name: str, **where: object) -> dict[str, Any]:
        """The one line of a table where these columns have these values; `NotRun` where there is none."""
        table = self[name]
        for column, value in where.items():
            table = table[table[column] == value]
        if table.empty:
            raise NotRun(f"{name} has no line of {where}")
        (line,) = table.to_dict("records")
        return {str(key): value for key, value in line.items()}


def main(publish: bool = False) -> None:
    """Print the table, and with `publish` write it where the documents take it from.

    Args:
        publish: maintainers: to figures/published, and rewrite the documents.
    """
    tables = Tables(PUBLISHED)
    print(claims_table(tables))
    if publish:
        (PUBLISHED / "claims.md").write_text(claims_table(tables) + "\n")
        if {"muon_vs_adamw", "muon_vs_adamw_stated"} <= {path.stem for path in PUBLISHED.glob("*.csv")}:
            (PUBLISHED / "answer.md").write_text(answer(tables) + "\n")
        rewrite_documents()


def claims_table(tables: Tables) -> str:
    """One row a claim, as it stands in a document."""
    rows = []
    for claim in CLAIMS:
        found = _found(claim, tables)
        rows.append((claim.source, claim.published, found.ours, found.verdict, f"`{claim.command}`"))
    return markdown_table(("source", "published", "ours", "verdict", "command"), rows)


def _found(claim: Claim, tables: Tables) -> Found:
    not_run = Found("–", "not run")
    if not all(name in tables for name in claim.needs):
        return not_run
    try:
        return claim.found(tables)
    except NotRun:
        return not_run


# --- Muon and AdamW -----------------------------------------------------------------------------------------------------


def answer(tables: Tables) -> str:
    """Does Muon grok faster than AdamW? In three sentences."""
    tuned, defaults = tables["muon_vs_adamw"], tables["muon_vs_adamw_stated"]
    together = tuned[tuned["task"] == "all"].iloc[0]
    each = tuned[tuned["task"] != "all"]
    sooner, later = (int(side.sum()) for side in (each["ratio_low"] > 1, each["ratio_high"] < 1))
    cheaper, dearer = (each["ratio_low"] > each["step_cost"]).sum(), (each["ratio_high"] < each["step_cost"]).sum()
    stated = defaults[defaults["task"] == "all"]
    in_steps = together[["ratio", "ratio_low", "ratio_high"]]
    operations = in_steps * together["ratio_in_operations"] / together["ratio"]  # what a step costs is no estimate
    operations = operations.set_axis(["operations", "operations_low", "operations_high"])
    plain = {f"plain{end}": value / PLAIN_STEP for end, value in zip(("", "_low", "_high"), in_steps, strict=True)}
    return (
        f"In steps, {_yes(in_steps)}: each at the best that as many run-steps of search found, Muon is ahead on {sooner} of {len(each)} tasks, AdamW on {later}, and AdamW takes {ratio_or_bound(together)} "
        f"times as many steps to 95 % validation accuracy, {ratio_or_bound(together, 'kept_')} times until it stays there (geometric mean over "
        f"the tasks, n = {together['n']:.0f} paired seeds, 95 % intervals of the seeds alone; published: {TVEIT:.2f} times the epochs). In arithmetic it "
        f"depends on the rest of a step: in a plain loop Muon's takes {PLAIN_STEP:.2f} times as much, and AdamW in all {interval({**plain, 'is_bound': False}, 'plain', 2)} times "
        f"the operations; here, where forward and backward pass are cut short, {together['step_cost']:.1f} times as much, and AdamW "
        f"{interval({**operations, 'is_bound': False}, 'operations', 2)} times (task by task, Muon is ahead on {cheaper}, AdamW on {dearer}). Untuned, at usual numbers, AdamW takes "
        f"{_each_reading(stated)} times the steps (n = {stated['n'].min():.0f})."
    )


def _each_reading(lines: pd.DataFrame) -> str:
    """The ratio in each reading of what the paper does not state."""
    return " or ".join(ratio_or_bound(line) for line in lines.to_dict("records"))


def _yes(ratio: pd.Series) -> str:
    """What a ratio with its ends says to the question."""
    low, high = ratio.iloc[1:]
    return "yes" if low > 1 else "no" if high < 1 else "neither is ahead beyond its interval"


def _muon(table: str, **where: object) -> Callable[[Tables], Found]:
    """The published ratio against ours over all tasks, and beside it what the paper's own measure says of our runs."""

    def found(tables: Tables) -> Found:
        line = tables.line(table, task="all", **where)
        pooled = tables.line(f"{table}_pooled", reading=where.get("reading", "tuned"))
        epochs = f"{pooled['first']:.1f} / {pooled['second']:.1f} = {pooled['first'] / pooled['second']:.2f}"
        words = f"{ratio_or_bound(line)}, tasks weighing alike (n = {line['n']:.0f}); mean epochs with its six tasks pooled, as it has them: {epochs}"
        return Found(words, _against(TVEIT, line))

    return found


def _against(published: float, line: dict[str, Any], name: str = "ratio") -> str:
    """Whether the interval of a ratio holds the published one; and if not, on which side it lies."""
    low, high = line[f"{name}_low"], line[f"{name}_high"]
    if pd.isna(low) or pd.isna(high):
        return "undecided"
    return "reproduced" if low <= published <= high else f"not reproduced: {'larger' if low > published else 'smaller'}"


def _fewer_epochs(tables: Tables) -> Found:
    shares = {}
    for name, where in (("muon_vs_adamw", {}), ("muon_vs_adamw_stated", {"reading": "same decay a step"})):
        line = tables.line(name, task="all", **where)
        if pd.isna(line["ratio_low"]):
            return Found("–", "undecided")
        shares[name] = (1 - 1 / line["ratio"], 1 - 1 / line["ratio_low"], 1 - 1 / line["ratio_high"])
    words = [
        f"{name} {value:.0%} [{low:.0%}, {high:.0%}]"
        for name, (value, low, high) in zip(("tuned", "stated"), shares.values(), strict=True)
    ]
    inside = [low <= 0.3 <= high for _, low, high in shares.values()]
    sides = ["fewer" if high < 0.3 else "more" for _, _, high in shares.values()]
    apart = f"not reproduced: {' and '.join(dict.fromkeys(sides))}"
    return Found("; ".join(words), "reproduced" if all(inside) else "only in part" if any(inside) else apart)


def _epochs(tables: Tables) -> Found:
    table = tables["muon_vs_adamw_stated"]
    own = table[(table["reading"] == "same decay a step") & (table["task"] != "all")]
    spans = [(own[f"{side}_mean_epochs"].min(), own[f"{side}_mean_epochs"].max()) for side in ("first", "second")]
    words = "; ".join(
        f"{name} {low:.0f} to {high:.0f}" for name, (low, high) in zip(("AdamW", "Muon"), spans, strict=True)
    )
    inside = spans[0][0] >= 50 and spans[0][1] <= 100 and spans[1][0] >= 35 and spans[1][1] <= 70
    return Found(
        f"stated numbers, means of the tasks: {words} epochs",
        "reproduced" if inside else "not reproduced: no one range for all tasks",
    )


def _wider_tuning(tables: Tables) -> Found:
    tuned, stated = tables.line("muon_vs_adamw", task="all"), tables["muon_vs_adamw_stated"]
    readings = stated[stated["task"] == "all"]
    budgets = [lines.loc[lines["task"] != "all", "horizon"].max() for lines in (stated, tables["muon_vs_adamw"])]
    words = f"stated {_each_reading(readings)} (within {budgets[0]:,.0f} steps), tuned {ratio_or_bound(tuned)} (within {budgets[1]:,.0f})"
    if pd.isna([tuned["ratio_low"], *readings["ratio_low"]]).any():
        return Found(words, "undecided")
    if tuned["ratio_low"] <= 1:
        return Found(words, "reproduced")
    shrinks, of = int((readings["ratio_low"] > tuned["ratio_high"]).sum()), len(readings)
    in_some = "" if shrinks == of else f" against {shrinks} of {of} readings of what is stated"
    return Found(words, f"in part: it stays, and shrinks{in_some}" if shrinks else "not reproduced")


def _subtraction(tables: Tables) -> Found:
    line = tables.line("muon_vs_adamw", task="mod_sub")
    ours = (
        f"first crossing {ratio_or_bound(line)}, sustained {ratio_or_bound(line, 'kept_')} (tuned, n = {line['n']:.0f})"
    )
    low = line["ratio_low"]
    verdict = "undecided" if pd.isna(low) else "reproduced" if low <= 1 else "not reproduced: Muon is sooner here, too"
    return Found(ours, verdict)


# --- others -------------------------------------------------------------------------------------------------------------


def _recipe(name: str) -> Callable[[Tables], Found]:
    """What experiments/recipes.py says of a recipe."""

    def found(tables: Tables) -> Found:
        line = tables.line("recipes", recipe=name)
        median = f"{line['median']:,.0f}" if line["median"] < line["budget"] else f"not within {line['budget']:,.0f}"
        verdict = line["verdict"]
        if verdict.startswith(("later", "sooner")):  # the factor is that of the nearest run
            verdict = f"not reproduced: {verdict} or more"
        words = {"as published": "reproduced", "consistent so far": "undecided (consistent so far)"}
        return Found(f"{median} steps ({line['generalized']} of {line['n']} runs)", words.get(verdict, verdict))

    return found


def _grokfast(tables: Tables) -> Found:
    table = tables["transforms"].set_index("method")
    tuned, bare, untuned = (table.loc[name] for name in ("Grokfast", "Adam", "Adam, Grokfast"))
    return Found(
        f"against AdamW, tuned alike: {1 / tuned['ratio']:.2f} [{1 / tuned['ratio_high']:.2f}, {1 / tuned['ratio_low']:.2f}] times as soon; its own "
        f"comparison (Adam without decay): {bare['generalized']} of {bare['n']} runs against {untuned['generalized']} of {untuned['n']}",
        _as_soon(1 / tuned["ratio_high"], 1 / tuned["ratio_low"], untuned["generalized"] > bare["generalized"]),
    )


def _as_soon(low: float, high: float, without_decay: bool) -> str:
    """What the times as soon (ends of their interval) say of 43 to 50; `without_decay`: whether more runs generalise there."""
    if low <= 50 and high >= 43:
        return "reproduced"
    if low > 1:
        return "not reproduced: sooner, but by another factor"
    return "only against Adam without weight decay" if without_decay else "not reproduced"


def _orthograd(tables: Tables) -> Found:
    """At once: every run, and no later than tuned AdamW, beyond its interval."""
    line = tables.line("transforms", method="⊥Grad")
    return Found(
        f"{line['generalized']} of {line['n']} runs within {tables['transforms_runs']['steps'].max():,} steps, tuned on AdamW (transformer, p = 59)",
        "reproduced" if line["generalized"] == line["n"] and line["ratio_low"] <= 1 else "not reproduced here",
    )


def _scale(tables: Tables) -> Found:
    table = tables["ablation_muon"].set_index(["part", "variant"])
    none, bare = table.loc[("scale", "none")], table.loc[("Newton–Schulz steps", "0")]
    verdicts = [_against(value, dict(line)) for value, line in ((1744 / 1856, none), (3088 / 1856, bare))]
    words = f"{interval(none, 'ratio', 2)}; {interval(bare, 'ratio', 2)} (tuned, n = {none['n']})"
    return Found(words, f"the first {verdicts[0]}, the second {verdicts[1]}")


def _depends(tables: Tables) -> Found:
    table = tables["tuning_budget"]
    wanted = {name: table[table["optimizer"] == name].set_index("k")["steps"] for name in ("adamw", "muon")}
    words = ", ".join(f"best of {k}: {wanted['adamw'][k]:,.0f} and {wanted['muon'][k]:,.0f}" for k in (1, 4, 16))
    verdicts = {
        "consistent": "reproduced",
        "undecided": "undecided: no pair changes places beyond its intervals",
        "not seen here": "not reproduced",
    }
    return Found(f"AdamW and Muon, {words} steps", verdicts[tables.said("tuning_budget")["verdict"]])


def _figure(name: str) -> Callable[[Tables], Found]:
    """What a published figure says of its claim."""

    def found(tables: Tables) -> Found:
        said = tables.said(name)
        words = {"consistent": "reproduced", "not consistent": "not reproduced"}
        return Found(said["ours"] or "–", words.get(said["verdict"], said["verdict"]))

    return found


SWEEP = "grokking sweep experiments/{}.py --scale {}"
TUNED, STATED = SWEEP.format("muon_vs_adamw", "tuned"), SWEEP.format("muon_vs_adamw", "stated")
RECIPES = SWEEP.format("recipes", "laptop")
BOTH = ("muon_vs_adamw", "muon_vs_adamw_stated")


def _recipes() -> Iterable[Claim]:
    said = (
        ("Power et al. 2022, 2201.02177", "x / y mod 97, AdamW: 95 % by 100,000 steps", "power2022"),
        ("Power et al. 2022, figure 1", "Adam without decay: from 10⁵ to 10⁶ steps", "power2022_fig1"),
        ("Nanda et al. 2023, 2301.05217", "5,000 to 10,000 epochs (full batch)", "nanda2023"),
        ("Gromov 2023, 2301.02679", "1,000 to 20,000 steps", "gromov2023"),
        ("Lee et al. 2024 (Grokfast), 2405.20233", "910 steps with EMA", "grokfast2024"),
        ("Prieto et al. 2025, 2501.04697", "StableMax, no decay: by 80,000 steps", "prieto2025"),
        ("Saheb Pasand & Dohmatob 2025, 2510.04930", "EGD: 116 epochs (1,044 steps)", "egd2025"),
        ("the same, plain SGD", "5,392 epochs (48,528 steps)", "egd2025_sgd"),
        ("Wang 2026, 2607.20512", "Muon 1,750 ± 206 steps", "wang2026"),
        ("Wang 2026", "AdamW 2,388 ± 302 steps", "wang2026_adamw"),
        ("Janati et al. 2026, 2608.07436", "Muon 5,300 to 5,400 steps, sustained", "janati2026"),
        ("Chou 2025", "tuned AdamW, MLP: 111 steps to 100 %", "chou2025"),
        ("Cesista 2025", "Muon without constraints: not within 1,000 steps", "cesista2025"),
    )
    return (Claim(source, published, _recipe(name), RECIPES, ("recipes",)) for source, published, name in said)


def _mup_faster(tables: Tables) -> Found:
    """At the widest width, each parametrization at its best rate of the grid: steps to memorise, and to generalise."""
    said, sooner = [], []
    for verb, name, column in (("memorize", "best", "memorize"), ("generalize", "grokking_best", "value")):
        table = tables[f"mup_transfer_{name}"]
        widest = table[table["width"] == table["width"].max()].to_dict("records")
        each = [f"{label(line['optimizer'])} {_ratio_of_reached(line, column, f'{verb}d')}" for line in widest]
        said.append(f"to {verb.replace('ize', 'ise')} {', '.join(each)} times the steps (n = {widest[0]['n']})")
        sooner += [line[f"{column}_high"] < 1 for line in widest]
    verdict = "reproduced" if all(sooner) else "only in part" if any(sooner) else "not reproduced"
    return Found(f"at width {widest[0]['width']} {'; '.join(said)}", verdict)


def _ratio_of_reached(line: dict[Any, Any], column: str, reached: str) -> str:
    """A ratio of muP over standard, and beside it how many of the runs with muP get there, if not all; a bound where none does."""
    arrived = line[f"{reached}_mup"]
    ratio = interval({**line, "is_bound": not arrived}, column, 2)
    return ratio if arrived == line["n"] else f"{ratio} ({arrived} of {line['n']} with muP do)"


def _mup_overfits(tables: Tables) -> Found:
    """The gap of training to validation accuracy after as many steps, where one without muP leaves room for a larger one."""
    table = tables["mup_transfer_best"]
    widest = table[table["width"] == table["width"].max()].to_dict("records")
    each = [f"{label(line['optimizer'])} {line['gap_mup']:.2f} for {line['gap_standard']:.2f}" for line in widest]
    room = [line for line in widest if line["gap_standard"] <= 1 - MORE]
    more = [line["gap_mup"] > line["gap_standard"] + MORE for line in room]
    verdict = "reproduced" if all(more) else "only in part" if any(more) else "not reproduced"
    words = f"training less validation accuracy after as many steps, width {widest[0]['width']}: {', '.join(each)}"
    return Found(words, verdict) if room else Found(f"{words}, which cannot be more than 1", "undecided")


FIGURES = (  # source, published, figure, experiment
    (
        "Yang et al. 2022, 2203.03466",
        "with muP the best learning rate stays as the width grows, without it falls",
        "mup_transfer",
        "mup_transfer",
    ),
    (
        "Wang 2026; Janati et al. 2026",
        "AdamW takes long to stay, Muon stays; Muon collapses later, unless frozen",
        "stability",
        "stability",
    ),
    (
        "PeterPonyu 2026",
        "Muon from about 25 % of the examples on, AdamW from about 40 %",
        "critical_fraction",
        "critical_fraction",
    ),
    (
        "Essential AI 2025",
        "Muon's advantage depends on batch size and embedding dimension",
        "width_batch",
        "width_batch",
    ),
    (
        "Power et al. 2022, figure 1",
        "one percent less of the data: 40 to 50 % more steps",
        "power2022_fraction",
        "power2022",
    ),
    (
        "Power et al. 2022, figure 1",
        "without decay: memorised before 10³ steps, validation accuracy rises at 10⁵",
        "power2022",
        "power2022",
    ),
    ("Power et al. 2022, figure 2", "of all interventions weight decay helps most", "power2022_ablation", "power2022"),
)
CLAIMS = (
    Claim(
        "Tveit et al. 2025, 2504.16041",
        "153.09 / 102.89 = 1.49 times the epochs",
        _muon("muon_vs_adamw"),
        TUNED,
        ("muon_vs_adamw", "muon_vs_adamw_pooled"),
    ),
    Claim(
        "the same, at stated numbers",
        "1.49",
        _muon("muon_vs_adamw_stated", reading="same decay a step"),
        STATED,
        ("muon_vs_adamw_stated", "muon_vs_adamw_stated_pooled"),
    ),
    Claim("popular articles on it", "30 % fewer epochs", _fewer_epochs, TUNED, BOTH),
    Claim("popular articles on it", "50–100 epochs become 35–70", _epochs, STATED, ("muon_vs_adamw_stated",)),
    Claim("Essential AI 2025", "the advantage disappears under wider tuning", _wider_tuning, TUNED, BOTH),
    Claim(
        "Wang 2026, 2607.20512",
        "in generalization that stays; not on subtraction (attributed to it, no source found)",
        _subtraction,
        TUNED,
        ("muon_vs_adamw",),
    ),
    Claim(
        "Wang 2026",
        "over Muon's steps: 0.94 without the scale; 1.66 without Newton–Schulz steps",
        _scale,
        SWEEP.format("ablation_muon", "laptop"),
        ("ablation_muon",),
    ),
    Claim(
        "Choi et al. 2019, 1910.05446",
        "the ranking depends on the tuning",
        _depends,
        SWEEP.format("tuning_budget", "laptop"),
        ("tuning_budget",),
    ),
    Claim(
        "Lee et al. 2024 (Grokfast)",
        "43 to 50 times as soon",
        _grokfast,
        SWEEP.format("transforms", "laptop"),
        ("transforms",),
    ),
    Claim(
        "Prieto et al. 2025",
        "⊥AdamW generalises at once",
        _orthograd,
        SWEEP.format("transforms", "laptop"),
        ("transforms", "transforms_runs"),
    ),
    Claim(
        "popular texts on muP",
        "trains 30 % faster",
        _mup_faster,
        SWEEP.format("mup_transfer", "laptop"),
        ("mup_transfer_best", "mup_transfer_grokking_best"),
    ),
    Claim(
        "popular texts on muP",
        "is prone to overfit",
        _mup_overfits,
        SWEEP.format("mup_transfer", "laptop"),
        ("mup_transfer_best",),
    ),
    *(
        Claim(source, published, _figure(figure), SWEEP.format(experiment, "laptop"), (figure,))
        for source, published, figure, experiment in FIGURES
    ),
    *_recipes(),
)

if __name__ == "__main__":
    tyro.cli(main)
