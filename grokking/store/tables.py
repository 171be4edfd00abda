"""The tables that a set of run_ids asks of a store."""

import csv
import hashlib
import io
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from grokking.errors import Notice
from grokking.store.index import Unit, Verify, forget, units
from grokking.store.published import adopted
from grokking.store.units import read_runs, unit_curves


@dataclass(frozen=True)
class Results:
    """Tables of the runs that a study asked for."""

    runs: pd.DataFrame  # a line per run: settings, seed, outcome
    curves: pd.DataFrame  # a line per (run_id, step): the metrics
    machines: tuple[str, ...]  # what they were trained on
    missing: int  # runs asked for that are not stored
    core_seconds: float  # what training the stored ones took, one core each
    evaluation_share: float  # how much of that went into evaluations, where it is known; NaN where it is not


def load(
    folder: Path,
    run_ids: Iterable[str] | None = None,
    adopt: Path | None = None,
    verify: Verify = "fast",
    curves: bool = True,
) -> Results:
    """The tables of these runs (None: of all that are stored), in this order.

    Runs that are not stored are counted, never invented. With `adopt`, they are taken from that folder's published
    tables. Whatever is damaged is left out with a `Notice`: `verify` as in `units`; curves are hashed as they are read.
    A run that two units hold is taken from the first by name, with a `Notice` if they do not agree.
    """
    known = units(folder, verify)
    wanted = list(dict.fromkeys(run_id for unit in known for run_id in unit.run_ids) if run_ids is None else run_ids)
    wanted = list(dict.fromkeys(wanted))
    arrays = _curves(folder, known, set(wanted)) if curves else {}
    homes = _homes(folder, [unit for unit in known if not curves or unit.name in arrays], set(wanted))
    seconds, evaluating = _core_seconds(homes, wanted)
    published = {run_id: source for run_id, source in adopted(adopt).items() if run_id not in homes}
    here = [run_id for run_id in wanted if run_id in homes or run_id in published]
    runs = _runs(homes, published, here)
    return Results(
        runs,
        _curve_table(homes, arrays, published, runs) if curves else pd.DataFrame(),
        tuple(sorted({homes[run_id][0].machine if run_id in homes else published[run_id].machine for run_id in here})),
        len(wanted) - len(here),
        seconds + sum(published[run_id].seconds(run_id) for run_id in here if run_id in published),
        evaluating / seconds if seconds else math.nan,
    )


Home = tuple[Unit, int]  # where a run is stored: the unit, and which of its runs


def _homes(folder: Path, known: Sequence[Unit], wanted: set[str]) -> dict[str, Home]:
    homes: dict[str, Home] = {}
    for unit in known:
        for at, run_id in enumerate(unit.run_ids):
            if run_id not in wanted:
                continue
            first, place = homes.setdefault(run_id, (unit, at))
            if first is not unit and (difference := _difference(first, place, unit, at)):
                warnings.warn(
                    Notice(
                        f"run {run_id} is stored twice with different results, in {folder / 'units' / first.name} (used) "
                        f"and {unit.name}: {difference}; remove one of them"
                    ),
                    stacklevel=3,
                )
    return homes


def _difference(a: Unit, row: int, b: Unit, other: int) -> str:
    """The first column in which two units differ on the same run; empty where they agree."""
    if (a.header, a.lines[row], a.digests[row]) == (b.header, b.lines[other], b.digests[other]):
        return ""
    ours, theirs = (next(csv.DictReader([unit.header, unit.lines[at]])) for unit, at in ((a, row), (b, other)))
    for name in dict.fromkeys((*ours, *theirs)):
        if ours.get(name) != theirs.get(name):
            return f"{name} is {ours.get(name) or 'nothing'} and {theirs.get(name) or 'nothing'}"
    return "" if a.digests[row] == b.digests[other] else "their curves differ"


def _runs(homes: dict[str, Home], published: dict[str, Any], here: Sequence[str]) -> pd.DataFrame:
    """The runs table: lines of one header are parsed together, then all are put into the order asked for."""
    lines: dict[str, list[str]] = {}
    for run_id in here:
        if run_id in homes:
            unit, at = homes[run_id]
            lines.setdefault(unit.header, []).append(unit.lines[at])
    tables = [read_runs(io.StringIO("\n".join([header, *own, ""]))) for header, own in lines.items()]
    tables += [published[run_id].runs.loc[[run_id]] for run_id in here if run_id not in homes]
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables).set_index("run_id", drop=False)
    return table.loc[list(here)].reset_index(drop=True)


def _curves(folder: Path, known: Sequence[Unit], wanted: set[str]) -> dict[str, NDArray[Any]]:
    """The curves [evaluation, run] of each unit that holds a wanted run, hashed as they are read."""
    arrays = {}
    for unit in known:
        if wanted.isdisjoint(unit.run_ids):
            continue
        path = folder / "units" / unit.name / "curves.npy"
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != unit.curves:
                raise ValueError("it has changed")
            arrays[unit.name] = unit_curves(content)
        except (OSError, ValueError) as error:
            warnings.warn(Notice(f"left out {path}, which is damaged: {error}"), stacklevel=3)
            forget(folder, [unit.name])
    return arrays


def _curve_table(
    homes: dict[str, Home], arrays: dict[str, NDArray[Any]], published: dict[str, Any], runs: pd.DataFrame
) -> pd.DataFrame:
    """One line per (run_id, step) up to the run's own last step, in the order of the runs table."""
    if runs.empty:
        return pd.DataFrame()
    tables: list[pd.DataFrame] = []
    same: list[tuple[str, NDArray[Any]]] = []  # neighbours whose curves have the same metrics become one table

    def flush() -> None:
        if same:
            dtype = same[0][1].dtype
            joined = np.concatenate([part.view(f"V{dtype.itemsize}") for _, part in same]).view(dtype)
            run_id = np.repeat(np.array([name for name, _ in same], dtype=object), [len(part) for _, part in same])
            tables.append(pd.DataFrame({"run_id": run_id, **{name: joined[name] for name in joined.dtype.names or ()}}))
            same.clear()

    for run_id, last in zip(runs["run_id"], runs["steps_trained"], strict=True):
        if run_id in homes:
            unit, at = homes[run_id]
            own = arrays[unit.name][:, at]
            own = own[: np.searchsorted(own["step"], last, side="right")]
            if same and same[0][1].dtype != own.dtype:
                flush()
            same.append((run_id, own))
        elif run_id in published[run_id].curves:
            flush()
            tables.append(published[run_id].curves[run_id])
    flush()
    if len(tables) < 2:
        return tables[0].reset_index(drop=True) if tables else pd.DataFrame()
    return pd.concat(tables).reset_index(drop=True)


def _core_seconds(homes: dict[str, Home], run_ids: Sequence[str]) -> tuple[float, float]:
    """Each run's part of its unit's seconds, and of those for evaluations (NaN: not counted), in proportion to its steps."""
    total, evaluating = 0.0, 0.0
    for run_id in run_ids:
        if run_id in homes:
            unit, at = homes[run_id]
            share = unit.steps[at] / max(1, sum(unit.steps))
            total += unit.seconds * share
            evaluating += math.nan if unit.evaluation_seconds is None else unit.evaluation_seconds * share
    return total, evaluating
