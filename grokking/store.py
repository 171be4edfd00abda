"""The store: one immutable directory per trained cohort, and the tables that a set of run_ids asks of it."""

import csv
import hashlib
import io
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from grokking.errors import BadInput

SCHEMA = 1
METRICS = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")
STEP_COLUMNS = (
    "steps_to_memorize",
    "steps_to_generalize",
    "steps_to_generalize_after",
    "steps_to_sustain",
    "delay",
    "diverged_at",
)


@dataclass(frozen=True)
class Results:
    """Tables of the runs that a study asked for."""

    runs: pd.DataFrame  # a line per run: settings, seed, outcome
    curves: pd.DataFrame  # a line per (run_id, step): the metrics
    machines: tuple[str, ...]  # what they were trained on
    missing: int  # runs asked for that are not stored
    core_seconds: float  # what training the stored ones took, one core each


def prepare(folder: Path) -> None:
    """Create the store, or say in one sentence why nothing can be written there."""
    probe = folder / "units" / f".probe-{uuid.uuid4().hex}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInput(
            f"cannot write results to {str(folder)!r}: {error.strerror or error}; name a writable folder"
        ) from None


def write_unit(
    folder: Path,
    rows: Sequence[Mapping[str, object]],
    curves: Mapping[str, NDArray[Any]],
    info: Mapping[str, object],
) -> Path:
    """Store a cohort's runs under the hash of their run_ids; complete or not at all.

    `rows` are the lines of the runs table, `curves` arrays [evaluation] or [evaluation, run] with NaN after a run's
    end, `info` whatever may differ between two trainings of the same runs (machine, seconds).
    """
    run_ids = [str(row["run_id"]) for row in rows]
    name = hashlib.sha256(",".join(run_ids).encode()).hexdigest()[:16]
    unit = folder / "units" / name
    if not _damage(unit):
        return unit
    packed = io.BytesIO()
    np.savez_compressed(packed, **curves)  # type: ignore[arg-type]
    files = {
        "runs.csv": _csv(rows),
        "curves.npz": packed.getvalue(),
        "unit.json": json.dumps({"schema": SCHEMA, "run_ids": run_ids, **info}, indent=1).encode(),
    }
    digests = {filename: hashlib.sha256(content).hexdigest() for filename, content in files.items()}
    files["DONE"] = json.dumps(digests).encode()
    temporary = folder / "units" / f".tmp-{name}-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        for filename, content in files.items():
            _write(temporary / filename, content)
        if unit.exists() and _damage(unit):
            unit.rename(unit.with_name(f".damaged-{name}-{uuid.uuid4().hex}"))
        temporary.rename(unit)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, OSError) or _damage(unit):
            raise
        # somebody else stored the same runs first
    _sync(unit.parent)
    return unit


def _damage(unit: Path) -> str:
    """What is wrong with a unit; empty where nothing is."""
    try:
        digests = json.loads((unit / "DONE").read_text())
        if set(digests) != {"runs.csv", "curves.npz", "unit.json"}:
            return "DONE does not name the files of a unit"
        for filename, digest in digests.items():
            if hashlib.sha256((unit / filename).read_bytes()).hexdigest() != digest:
                return f"{filename} has changed"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return str(error)
    return ""


def stored(folder: Path) -> dict[str, Path]:
    """The unit that holds each stored run_id. Damaged units are named on stderr and left out."""
    found: dict[str, Path] = {}
    for unit in sorted((folder / "units").glob("[!.]*")):
        if damage := _damage(unit):
            print(f"grokking: left out the damaged unit {unit}: {damage}", file=sys.stderr)
            continue
        for run_id in json.loads((unit / "unit.json").read_text())["run_ids"]:
            found.setdefault(run_id, unit)
    return found


def load(folder: Path, run_ids: Iterable[str], adopt: Path | None = None) -> Results:
    """The tables of these runs, in this order; runs that are not stored are counted, never invented.

    With `adopt`, runs that are not stored are taken from that folder's published tables.
    """
    wanted = list(dict.fromkeys(run_ids))
    units = stored(folder)
    found = {unit: _open(unit) for unit in dict.fromkeys(units[run_id] for run_id in wanted if run_id in units)}
    sources = {run_id: found[units[run_id]] for run_id in wanted if run_id in units}
    published = adopted(adopt)
    sources |= {run_id: published[run_id] for run_id in wanted if run_id in published and run_id not in sources}
    here = [run_id for run_id in wanted if run_id in sources]
    runs = [sources[run_id].runs.loc[[run_id]] for run_id in here]
    curves = [sources[run_id].curves[run_id] for run_id in here if run_id in sources[run_id].curves]
    return Results(
        pd.concat(runs).reset_index(drop=True) if runs else pd.DataFrame(),
        pd.concat(curves).reset_index(drop=True) if curves else pd.DataFrame(),
        tuple(sorted({sources[run_id].machine for run_id in here})),
        len(wanted) - len(here),
        sum(sources[run_id].seconds(run_id) for run_id in here),
    )


@dataclass(frozen=True, eq=False)
class Source:
    """One place that runs are read from: a unit, or a published pair of tables."""

    runs: pd.DataFrame  # indexed by run_id
    curves: dict[str, pd.DataFrame]
    machine: str
    core_seconds: float  # of all its runs

    def seconds(self, run_id: str) -> float:
        """The run's part of the core-seconds, in proportion to its steps."""
        return float(self.core_seconds * self.runs["steps_trained"][run_id] / self.runs["steps_trained"].sum())


def adopted(folder: Path | None) -> dict[str, Source]:
    """The source of each run in a folder of published tables: NAME_runs.csv, NAME.json, and curves in NAME.csv."""
    if folder is None:
        return {}
    if not folder.is_dir():
        raise BadInput(f"adopt = {str(folder)!r} is no folder; name one that holds published tables (*_runs.csv)")
    found: dict[str, Source] = {}
    for path in sorted(folder.glob("*_runs.csv")):
        name = path.name.removesuffix("_runs.csv")
        table = read_runs(path).set_index("run_id", drop=False)
        for needed in (f"{name}.csv", f"{name}.json"):
            if not (folder / needed).is_file():
                raise BadInput(f"{folder} holds {path.name} but not {needed}; copy the published files together")
        main = pd.read_csv(folder / f"{name}.csv", dtype={"run_id": str})
        columns = ["run_id", "step", *(metric for metric in METRICS if metric in main)]
        curves = dict(list(main[columns].groupby("run_id"))) if {"run_id", "step"} <= set(main.columns) else {}
        try:
            facts = json.loads((folder / f"{name}.json").read_text())
            source = Source(table, curves, facts["machine"], 60.0 * facts["core_minutes"])
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{folder / f'{name}.json'} is damaged; copy the published files together") from None
        found |= {run_id: source for run_id in table.index if run_id not in found or curves}
    return found


def read_runs(path: Path | io.StringIO) -> pd.DataFrame:
    """A runs table from CSV: step counts are nullable integers, everything else as written."""
    table = pd.read_csv(path, dtype={"run_id": str})
    return table.astype({column: "Int64" for column in STEP_COLUMNS if column in table})


def _open(unit: Path) -> Source:
    table = read_runs(unit / "runs.csv")
    with np.load(unit / "curves.npz", allow_pickle=False) as packed:
        arrays = dict(packed)
    steps = arrays.pop("steps")
    curves = {}
    for run, run_id in enumerate(table["run_id"]):
        own = steps <= table["steps_trained"][run]
        curves[run_id] = pd.DataFrame(
            {"run_id": run_id, "step": steps[own], **{name: values[own, run] for name, values in arrays.items()}}
        )
    info = json.loads((unit / "unit.json").read_text())
    machine, seconds = str(info.get("machine", "unknown machine")), float(info.get("seconds", 0.0))
    return Source(table.set_index("run_id", drop=False), curves, machine, seconds)


def _csv(rows: Sequence[Mapping[str, object]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
