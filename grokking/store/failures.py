"""Units that could not be trained: a file each, with the runs it names and the traceback."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from grokking.store.units import unit_name


def note_failure(folder: Path, run_ids: Sequence[str], text: str) -> Path:
    """Write why these runs failed to a file, where that is possible, and return its path."""
    path = folder / "failures" / f"{unit_name(run_ids)}.txt"
    with contextlib.suppress(OSError):
        path.write_text(f"runs: {' '.join(run_ids)}\n{text}")
    return path


def failures(folder: Path, stored: Callable[[], Iterable[str]]) -> list[Path]:
    """Files of failures whose runs are not all stored by now; `stored` is asked only where there is one."""
    found = _all(folder)
    known = set(stored()) if found else set()
    return [path for path, run_ids in found if not run_ids or not run_ids <= known]


def forget_failures(folder: Path, run_ids: Iterable[str]) -> None:
    """Remove what names any of these runs: they are trained again."""
    again = set(run_ids)
    for path, named in _all(folder):
        if named & again:
            path.unlink(missing_ok=True)


def _all(folder: Path) -> list[tuple[Path, set[str]]]:
    found = []
    for path in sorted((folder / "failures").glob("[!.]*.txt")):
        with contextlib.suppress(OSError):
            found.append((path, set(path.read_text(errors="replace").partition("\n")[0].split()[1:])))
    return found
