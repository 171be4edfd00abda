"""What is known of every unit without opening it: an index that is checked against the files, and may be deleted.

An entry holds for as long as sizes and times of change of its unit's files are those at which the unit was read and
hashed. So an index may be lost, old or copied from elsewhere, and still nothing is believed that was not verified.
"""

import contextlib
import csv
import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from grokking.errors import BadInput, Notice
from grokking.store.sealed import Damaged, read, signature, temporary_beside
from grokking.store.units import FILES, unit_curves, unit_info

Verify = Literal["fast", "full"]
TICK = 50_000_000  # nanoseconds: file systems count time in steps of up to some milliseconds


@dataclass(frozen=True)
class Unit:
    """A verified unit as the index keeps it."""

    name: str
    signature: list[int]  # of its files when they were hashed
    run_ids: list[str]
    header: str  # first line of its runs.csv
    lines: list[str]  # [run], the others
    steps: list[int]  # [run], how long each was trained
    machine: str
    seconds: float
    digests: list[str]  # [run], of each run's own curves: with its line, all that is known of it
    curves: str  # sha256 of its curves.npy


def units(folder: Path, verify: Verify = "fast") -> list[Unit]:
    """Every intact unit, ordered by name; each damaged one is a `Notice` and is left out. Changes no unit.

    "fast" reads a unit only where its files were changed since they were last read; "full" reads and hashes all.
    """
    known = _read_index(folder)
    found: list[Unit] = []
    for name in sorted(_names(folder / "units")):
        try:
            found.append(_look(folder / "units" / name, known.get(name) if verify == "fast" else None))
        except Damaged as damage:
            warnings.warn(
                Notice(
                    f"left out the damaged unit {folder / 'units' / name}: {damage}; the next sweep or run that needs "
                    "its runs trains them again, and keeps what is there as .damaged-…"
                ),
                stacklevel=2,
            )
        except OSError as error:
            warnings.warn(
                Notice(f"left out the unit {folder / 'units' / name}: cannot read it: {error.strerror or error}"),
                stacklevel=2,
            )
    if found != list(known.values()):
        _write_index(folder, found)
    return found


def check_verify(verify: str) -> Verify:
    """`verify`, or `BadInput` where it is no way to verify."""
    if verify not in get_args(Verify):
        raise BadInput(f"verify = {verify!r}; allowed: {', '.join(get_args(Verify))}")
    return cast(Verify, verify)


def stored(folder: Path) -> dict[str, Path]:
    """The unit that holds each stored run_id."""
    return {run_id: folder / "units" / unit.name for unit in reversed(units(folder)) for run_id in unit.run_ids}


def forget(folder: Path, names: Iterable[str]) -> None:
    """Look at these units again next time: they were not what the index said."""
    known = _read_index(folder)
    _write_index(folder, [unit for unit in known.values() if unit.name not in set(names)])


def _names(folder: Path) -> Iterable[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadInput(f"cannot read {str(folder)!r}: {error.strerror or error}; name a folder of results") from None


def _look(directory: Path, known: Unit | None) -> Unit:
    """The unit in this directory: as it is known, if its files are as they were then; else read and hashed."""
    try:
        before = signature(directory, FILES)
    except OSError:
        before = []
    if known is not None and before and known.signature == before:
        return known
    content = read(directory)
    info = unit_info(content)
    try:
        header, *lines = content["runs.csv"].decode().rstrip("\n").split("\n")
        machine, seconds = str(info.get("machine", "unknown machine")), float(info.get("seconds", 0.0))
        run_ids = [str(run_id) for run_id in info["run_ids"]]
        column = header.split(",").index("steps_trained")
        steps = [int(cells[column]) for cells in csv.reader(lines)]
        table = unit_curves(content["curves.npy"])
        own = [table[:, run][table["step"][:, run] <= last] for run, last in enumerate(steps)]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Damaged(f"it was not written by this package ({error})") from None
    if [line.split(",", 1)[0] for line in lines] != run_ids:
        raise Damaged("runs.csv and unit.json name different runs")
    if before and time.time_ns() - max(before) < TICK:
        before = []  # it may change again without its times telling
    digests = [hashlib.sha256(repr(part.dtype).encode() + part.tobytes()).hexdigest()[:16] for part in own]
    curves = hashlib.sha256(content["curves.npy"]).hexdigest()
    return Unit(directory.name, before, run_ids, header, lines, steps, machine, seconds, digests, curves)


def _path(folder: Path) -> Path:
    return folder / "index.json"


def _read_index(folder: Path) -> dict[str, Unit]:
    """The index, by unit; empty where there is none, or where it is not bit for bit what was written."""
    try:
        digest, _, body = _path(folder).read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            return {}
        return {entry["name"]: Unit(**entry) for entry in json.loads(body)}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _write_index(folder: Path, found: list[Unit]) -> None:
    body = json.dumps([vars(unit) for unit in found]).encode()
    temporary = temporary_beside(_path(folder))
    try:
        temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        temporary.replace(_path(folder))
    except OSError:  # a store that cannot be written can still be read
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
