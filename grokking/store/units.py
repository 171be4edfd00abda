"""What a unit is: the results of one trained cohort, as files."""

import csv
import hashlib
import io
import json
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from grokking.errors import BadInput
from grokking.store.sealed import Damaged, check, clear_abandoned, seal

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


def prepare(folder: Path) -> None:
    """Create the store, or say in one sentence why nothing can be written there."""
    probe = folder / "units" / f".probe-{uuid.uuid4().hex}"
    try:
        for part in ("units", "checkpoints", "failures"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInput(
            f"cannot write results to {str(folder)!r}: {error.strerror or error}; name a writable folder"
        ) from None
    clear_abandoned(folder)
    clear_abandoned(folder / "units")


def unit_name(run_ids: Sequence[str]) -> str:
    """The name of the unit, and of its checkpoints, that holds these runs in this order."""
    return hashlib.sha256(",".join(run_ids).encode()).hexdigest()[:16]


def write_unit(
    folder: Path,
    rows: Sequence[Mapping[str, object]],
    steps: Sequence[int],
    curves: Mapping[str, NDArray[Any]],
    info: Mapping[str, object],
) -> Path:
    """Store a cohort's runs under the hash of their run_ids; complete, or `Unwritable` and not at all.

    `rows` are the lines of the runs table, `curves` arrays [evaluation, run] with NaN after a run's end, at `steps`
    [evaluation]; `info` whatever may differ between two trainings of the same runs (machine, seconds).
    """
    run_ids = [str(row["run_id"]) for row in rows]
    unit = folder / "units" / unit_name(run_ids)
    seal(
        unit,
        {
            "runs.csv": _csv(rows),
            "curves.npy": _npy(steps, curves),
            "unit.json": json.dumps({"schema": SCHEMA, "run_ids": run_ids, **info}, indent=1).encode(),
        },
        accept=unit_info,
    )
    return unit


def unit_info(content: Mapping[str, bytes]) -> dict[str, Any]:
    """The facts in a unit's unit.json; raises `Damaged` where they are those of another schema."""
    try:
        info = json.loads(content.get("unit.json", b"{}"))
        schema = info.get("schema")
    except (ValueError, AttributeError):
        raise Damaged("unit.json is not what this package writes") from None
    if schema != SCHEMA:
        raise Damaged(f"its schema is {schema}, and this version of the package reads {SCHEMA}")
    check(content, FILES)
    return info


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
    """A runs table from CSV: step counts are nullable integers, everything else as written."""
    table = pd.read_csv(path, dtype={"run_id": str})
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
