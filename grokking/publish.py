"""Our evidence: published figures with their tables, and the documents whose numbers are generated from them.

A document has places `<!-- generated: NAME -->` … `<!-- end -->`; what stands between them is
`figures/published/NAME.md`, which is written here from committed tables and nowhere by hand.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grokking.comparison import settings_in
from grokking.errors import BadInput
from grokking.later import later
from grokking.plotting import Drawing, label, save
from grokking.store import Results, read_runs

PUBLISHED = Path("figures/published")
DOCUMENTS = ("README.md", "REPRODUCING.md", "RECORDS.md")
PLACE = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def publish_drawing(drawing: Drawing, results: Results, scale: str, experiment: str, folder: Path = PUBLISHED) -> None:
    """Copy a drawing and its tables to the published ones; refuses to replace evidence from more seeds.

    `scale` is empty for an experiment that is a script of its own.
    """
    path = folder / f"{drawing.name}.json"
    runs = len(drawing.tables["runs"])
    if results.missing:
        raise BadInput(
            f"{results.missing} runs of {experiment} at scale {scale!r} are not trained yet; refused to publish"
        )
    before = json.loads(path.read_text()) if path.exists() else {}
    if before and (before["n"], before["runs"]) > (drawing.n, runs):
        raise BadInput(
            f"{path} holds n = {before['n']} ({before['runs']} runs); refused to replace it with n = {drawing.n} ({runs} runs)"
        )
    tables = {**drawing.tables, "runs": as_described(drawing.tables["runs"])}
    save(replace(drawing, tables=tables), folder)
    steps = int(drawing.tables["runs"]["steps_trained"].sum())
    share = None if math.isnan(results.evaluation_share) else round(results.evaluation_share, 3)
    if (
        share is None and before.get("run_steps") == steps
    ):  # the same runs, adopted: only the store that had trained them knew
        share = before["evaluation_share"]
    facts = {
        "figure": drawing.name,
        "experiment": experiment,
        "scale": scale,
        "n": drawing.n,
        "runs": runs,
        "run_steps": steps,
        "core_minutes": round(results.core_seconds / 60 * steps / int(results.runs["steps_trained"].sum())),
        "evaluation_share": share,
        "machine": "; ".join(results.machines),
        "claim": drawing.verdict.claim if drawing.verdict else "",
        "ours": drawing.verdict.ours if drawing.verdict else "",
        "verdict": drawing.verdict.answer if drawing.verdict else "",
    }
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    if drawing.markdown is not None:
        (folder / f"{drawing.name}.md").write_text(
            drawing.markdown(drawing.tables.get("summary", drawing.tables[""])) + "\n"
        )


def as_described(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs table without columns of settings that came later, where all runs have what they had before: so it stays as it was."""
    known = [later(row) for row in runs.to_dict("records")]
    same = [
        name
        for name in runs
        if any(name in own for own in known)
        and all(pd.isna(value) or own.get(str(name)) == value for value, own in zip(runs[name], known, strict=True))
    ]
    return runs.drop(columns=same)


def verdicts(folder: Path = PUBLISHED) -> str:
    """One line per published figure: what was claimed, what we measured, and the command that measures it."""
    head = ("figure", "published", "ours", "verdict", "runs, run-steps, core-minutes, machine", "command")
    lines = []
    for path in sorted(folder.glob("*.json")):
        f = json.loads(path.read_text())
        picture = f"[{f['figure']}](figures/published/{f['figure']}.png) (n = {f['n']})"
        work = f"{f['runs']}, {f['run_steps']:,}, {f['core_minutes']}, {f['machine']}"
        sweep = f"grokking sweep {f['experiment']} --scale {f['scale']}"
        command = f"`{sweep if f['scale'] else 'python ' + f['experiment']}`"
        lines.append((picture, *(f[key] or "–" for key in ("claim", "ours", "verdict")), work, command))
    return markdown_table(head, lines)


def effort(folder: Path = PUBLISHED) -> str:
    """What the published part of `make reproduce-all` takes; figures may share runs, so it is an upper bound.

    The hours are those of what was trained on CPUs alone, and as many for each run-step of the rest.
    """
    facts = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    runs, steps = (sum(f[key] for f in facts) for key in ("runs", "run_steps"))
    on_cpu = [f for f in facts if "NVIDIA" not in f["machine"]]
    hours = sum(f["core_minutes"] for f in on_cpu) / 60 / 2 * steps / sum(f["run_steps"] for f in on_cpu)
    return (
        f"`make reproduce-all` trains and draws every experiment. What is published of them is {runs:,} runs, {steps / 1e6:.1f} "
        f"million run-steps, about {hours:.0f} hours on two cores shared with other work; for the others no time was measured."
    )


def spreads(folder: Path = PUBLISHED) -> str:
    """How far apart in log steps the seeds of published settings lie: what the simulated studies should look like.

    Of settings that censor it is not known, and the runs that do generalise lie too close.
    """
    found: dict[str, pd.Series] = {}
    for path in sorted(folder.glob("*_runs.csv")):
        runs = read_runs(path).sort_values("seed")
        for _, own in runs.groupby(settings_in(runs), dropna=False):
            first = own["run_id"].iloc[0]  # by which other tables know the setting, too
            whole = (own["status"] == "generalized").all()
            if whole and len(own) >= max(5, 1 + len(found.get(first, ()))):
                found[first] = np.log(own["steps_to_generalize"].astype(float))
    if not found:
        return "No setting of which five seeds generalise is published yet."
    low, lower, upper, high = np.quantile([steps.std() for steps in found.values()], [0, 0.25, 0.75, 1])
    return (
        f"The spread (standard deviation) of log steps between the seeds of one setting is {low:.2f} to {high:.2f} in what is published, "
        f"in half of the {len(found)} settings {lower:.2f} to {upper:.2f} (those with at least five seeds, all of which generalise)."
    )


def rewrite_documents(root: Path = Path()) -> None:
    """Put every generated text into its places."""
    folder = root / PUBLISHED
    (folder / "verdicts.md").write_text(verdicts(folder) + "\n")
    (folder / "effort.md").write_text(effort(folder) + "\n")
    (folder / "spreads.md").write_text(spreads(folder) + "\n")
    for name in DOCUMENTS:
        path = root / name
        path.write_text(filled(path.read_text(), folder))


def filled(document: str, folder: Path) -> str:
    """The document with its generated places filled; a place whose text is not published yet stays as it is."""

    def fill(place: re.Match[str]) -> str:
        source = folder / f"{place[2]}.md"
        return place[1] + source.read_text() + place[3] if source.exists() else place[0]

    return PLACE.sub(fill, document)


def interval(row: Mapping[Any, Any], name: str, digits: int = 0) -> str:
    """`value [low, high]` of an estimate's three columns; a dash where an end is unbounded or not estimable."""
    value, low, high = (row[name], row[f"{name}_low"], row[f"{name}_high"])
    if pd.isna(value):
        return "not reached"
    if row.get("is_bound"):
        return f"≥ {value:,.{digits}f}"
    ends = ["–" if pd.isna(end) else f"{end:,.{digits}f}" for end in (low, high)]
    return f"{value:,.{digits}f}" if ends == ["–", "–"] else f"{value:,.{digits}f} [{', '.join(ends)}]"


def number(value: float) -> str:
    """Three digits, all of them from 100 on, powers of ten beyond a million; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


def ratio_or_bound(line: Mapping[Any, Any], prefix: str = "") -> str:
    """A ratio of `grokking.versus` (with `prefix` before its columns) with its interval, or the bound that it is."""
    if pd.isna(line[f"{prefix}ratio"]):
        return "neither"
    said = line.get(f"{prefix}bound")
    bound = said if isinstance(said, str) else ""  # an empty one is NaN in a CSV
    if len(bound) > 1:  # of several tasks some are at least as large as that, others at most
        return "–"
    return f"{bound} {line[f'{prefix}ratio']:.2f}" if bound else interval(line, f"{prefix}ratio", 2)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as it stands in a document."""
    return "\n".join([_line(head), "|---" * len(head) + "|", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def counted(row: Mapping[Any, Any]) -> str:
    """`9 of 10 (8)`: how many runs generalised, and stayed."""
    return f"{row['generalized']} of {row['n']} ({row['sustained']})"


def p_value(row: Mapping[Any, Any], smallest: bool = False) -> str:
    """`p (Holm)`, or `p (Holm; smallest possible)`; a dash for what nothing was compared with."""
    if pd.isna(row["p"]):
        return "–"
    least = f"; {row['smallest_p']:.2g}" if smallest else ""
    return f"{row['p']:.2g} ({row['p_holm']:.2g}{least})"


COMPARISON = (
    "optimizer (lr, weight decay)",
    "generalise (and stay)",
    "median steps",
    "mean steps",
    "mean epochs",
    "mean / AdamW's",
    "p (Holm; smallest possible)",
)


def comparison_table(table: pd.DataFrame) -> str:
    """A table of `comparison.compare` (with columns arm, lr, weight_decay) as it stands in a document."""
    rows = [
        (
            f"{label(row['arm'])} ({row['lr']:g}, {row['weight_decay']:g})",
            counted(row),
            *(interval(row, name) for name in ("median_steps", "mean_steps", "mean_epochs")),
            interval(row, "ratio", 2),
            p_value(row, smallest=True),
        )
        for row in table.to_dict("records")
    ]
    return markdown_table(COMPARISON, rows)
