"""What is known of every unit without opening it: an index that is checked against the files, and may be deleted.

An entry holds for as long as sizes and times of change of its unit's files are those at which the unit was read and
hashed. So an index may be lost, old or copied from elsewhere, and still nothing is believed that was not verified.
"""

import contextlib
import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from grokking.errors import BadInput, Notice
from grokking.store.sealed import Damaged, read, set_aside, signature, temporary_beside
from grokking.store.units import FILES, Parsed, parse_unit

Verify = Literal["fast", "full"]
TICK = 50_000_000  # nanoseconds: file systems count time in steps of up to some milliseconds


@dataclass(frozen=True)
class Unit(Parsed):
    """A verified unit as the index keeps it."""

    name: str
    signature: list[int]  # of its files when they were hashed
    curves: str  # sha256 of its curves.npy


def units(folder: Path, verify: Verify = "fast") -> list[Unit]:
    """Every intact unit, ordered by name; each damaged one is a `Notice` and is left out. Changes no unit.

    "fast" reads a unit only where its files were changed since they were last read; "full" reads and hashes all.
    """
    known = _read_index(folder)
    found, damaged = _survey(folder, known if verify == "fast" else {})
    for path, what in damaged.items():
        hint = "; the next sweep or run sets it aside, and trains its runs again where they are wanted"
        warnings.warn(Notice(f"left out the damaged unit {path}: {what}{hint}"), stacklevel=2)
    if found != list(known.values()):
        _write_index(folder, found)
    return found


def set_aside_damaged(folder: Path) -> None:
    """Rename every damaged unit to `.damaged-…`, with a `Notice`: its runs are missing from now on."""
    for path, what in _survey(folder, _read_index(folder))[1].items():
        with contextlib.suppress(OSError):
            warnings.warn(Notice(f"set aside the damaged unit {path} ({what}) as {set_aside(path).name}"), stacklevel=2)


def _survey(folder: Path, known: Mapping[str, Unit]) -> tuple[list[Unit], dict[Path, Damaged]]:
    """The intact units by name, and the damaged ones; one that cannot be read just now is a `Notice` and neither."""
    found: list[Unit] = []
    damaged: dict[Path, Damaged] = {}
    for name in sorted(_names(folder / "units")):
        path = folder / "units" / name
        try:
            found.append(_look(path, known.get(name)))
        except Damaged as damage:
            damaged[path] = damage
        except OSError as error:
            warnings.warn(Notice(f"left out the unit {path}: cannot read it: {error.strerror or error}"), stacklevel=3)
    return found, damaged


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
    parsed = parse_unit(content)
    if before and time.time_ns() - max(before) < TICK:
        before = []  # it may change again without its times telling
    curves = hashlib.sha256(content["curves.npy"]).hexdigest()
    return Unit(**vars(parsed), name=directory.name, signature=before, curves=curves)


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
