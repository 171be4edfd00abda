"""What a unit is: the results of one trained cohort, as files."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from grokking.later import EVERYWHERE, OF
from grokking.store.sealed import Damaged, check, seal

SCHEMA = 2  # raised when the files change; a unit of another schema is left out, with a sentence
FILES = ("runs.csv", "curves.npy", "unit.json")
METRICS = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")
STEP_COLUMNS = (
    "steps_to_memorize",
    "steps_to_generalize",
    "steps_to_generalize_after",
    "steps_to_sustain",
    "delay",
    "diverged_at",
)


def unit_name(run_ids: Sequence[str], *results: bytes) -> str:
    """What a unit of these runs in this order is called: without `results` its checkpoints, with them the stored unit.

    So the same results have the same name in any store, and others have another: merging by copying compares nothing,
    and neither loses nor doubles anything.
    """
    parts = [",".join(run_ids).encode(), *(hashlib.sha256(content).digest() for content in results)]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def write_unit(
    folder: Path,
    rows: Sequence[Mapping[str, object]],
    steps: Sequence[int],
    curves: Mapping[str, NDArray[Any]],
    info: Mapping[str, object],
) -> Path:
    """Store a cohort's runs under the hash of their run_ids and results; complete, or `Unwritable` and not at all.

    `rows` are the lines of the runs table, `curves` arrays [evaluation, run] with NaN after a run's end, at `steps`
    [evaluation]; `info` whatever may differ between two trainings of the same runs (machine, seconds).
    """
    run_ids = [str(row["run_id"]) for row in rows]
    table, arrays = _csv(rows), _npy(steps, curves)
    unit = folder / "units" / unit_name(run_ids, table, arrays)
    seal(
        unit,
        {
            "runs.csv": table,
            "curves.npy": arrays,
            "unit.json": json.dumps({"schema": SCHEMA, "run_ids": run_ids, **info}, indent=1).encode(),
        },
        accept=parse_unit,
    )
    return unit


@dataclass(frozen=True)
class Parsed:
    """What the files of a unit say."""

    run_ids: list[str]
    header: str  # first line of runs.csv
    lines: list[str]  # [run], the others
    steps: list[int]  # [run], how long each was trained
    machine: str  # in words, as it stands in captions
    seconds: float
    evaluation_seconds: float | None  # of those, where they were counted
    digests: list[str]  # [run], of each run's own curves: with its line, all that is known of it


def parse_unit(content: Mapping[str, bytes]) -> Parsed:
    """Read a unit's files; whatever is wrong with them is `Damaged`."""
    try:
        info = json.loads(content.get("unit.json", b"{}"))
        if info.get("schema") != SCHEMA:
            raise Damaged(f"its schema is {info.get('schema')}, and this version of the package reads {SCHEMA}")
        check(content, FILES)
        header, *lines = content["runs.csv"].decode().rstrip("\n").split("\n")
        column = header.split(",").index("steps_trained")
        steps = [int(cells[column]) for cells in csv.reader(lines)]
        table = unit_curves(content["curves.npy"])
        own = [table[:, run][table["step"][:, run] <= last] for run, last in enumerate(steps)]
        digests = [hashlib.sha256(repr(part.dtype).encode() + part.tobytes()).hexdigest()[:16] for part in own]
        run_ids = [str(run_id) for run_id in info["run_ids"]]
        seconds, counted = float(info.get("seconds", 0.0)), info.get("evaluation_seconds")
        evaluating = None if counted is None else float(counted)
    except Damaged:
        raise
    except Exception as error:  # files that others wrote, or changed, can be wrong in any way
        raise Damaged(f"it was not written by this package ({type(error).__name__}: {error})") from None
    if [line.split(",", 1)[0] for line in lines] != run_ids:
        raise Damaged("runs.csv and unit.json name different runs")
    machine = str(info.get("machine", "unknown machine")) + (", compiled steps" if info.get("compile") else "")
    return Parsed(run_ids, header, lines, steps, machine, seconds, evaluating, digests)


def unit_curves(content: bytes) -> NDArray[Any]:
    """The curves [evaluation, run]: fields `step` and one per metric."""
    header = content[: 10 + int.from_bytes(content[8:10], "little")]  # of an npy file of version 1
    shape, dtype = _layout(header)
    return np.frombuffer(content, dtype, offset=len(header)).reshape(shape)


@lru_cache(maxsize=1024)
def _layout(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype, which NumPy takes longer to parse than to read the numbers; most units share theirs."""
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it is no npy file of version 1")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran or dtype.hasobject:
        raise ValueError("it is no array of numbers in C order")
    return shape, dtype


def read_runs(path: Path | io.StringIO) -> pd.DataFrame:
    """A runs table from CSV: step counts are nullable integers, everything else as written (see `later`)."""
    table = pd.read_csv(path, dtype={"run_id": str})
    for name, value in EVERYWHERE.items():
        was = table[name].astype(object) if name in table else pd.Series(index=table.index, dtype=object)
        table[name] = was.mask(was.isna(), value).infer_objects()
    for (told_by, told), settings in OF.items():
        if told_by not in table:
            continue
        own = table[told_by] == told
        for name, value in settings.items() if own.any() else ():
            was = table[name].astype(object) if name in table else pd.Series(index=table.index, dtype=object)
            table[name] = was.mask(own & was.isna(), value)
    return table.astype({column: "Int64" for column in STEP_COLUMNS if column in table})


def _csv(rows: Sequence[Mapping[str, object]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _npy(steps: Sequence[int], curves: Mapping[str, NDArray[Any]]) -> bytes:
    """One array with a field per metric: it names its own columns, and opens in a tenth of the time of an npz."""
    runs = next(iter(curves.values())).shape[1]
    table = np.empty((len(steps), runs), [("step", "<i8"), *((name, "<f8") for name in curves)])
    table["step"] = np.asarray(steps)[:, None]
    for name, values in curves.items():
        table[name] = values
    packed = io.BytesIO()
    np.save(packed, table, allow_pickle=False)
    return packed.getvalue()
