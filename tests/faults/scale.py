"""A store of thousands of units: how long it takes to look at."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from faults.finding import Finding
from faults.writers import synthetic
from grokking.store import load, prepare, write_unit

RUNS, EVALUATIONS = 8, 90  # of a unit: a full cohort, and as many as 2,000 steps have


def fill(folder: Path, count: int, tick=lambda: None) -> None:
    """Write `count` invented units."""
    prepare(folder)
    for unit in range(count):
        write_unit(folder, *synthetic(unit, RUNS, EVALUATIONS), {"machine": "invented", "seconds": 60.0})
        tick()


def measure(folder: Path, count: int, repeats: int = 5, tick=lambda: None) -> list[Finding]:
    """Times in seconds, medians of `repeats`, each command in a process of its own."""
    fill(folder, count, tick)
    time.sleep(0.1)  # so that the youngest files are older than the file system's clock tick
    index = folder / "index.json"

    def status() -> float:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "grokking", "status", "--out", str(folder)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f": {count * RUNS} runs stored" in done.stdout
        return time.perf_counter() - began

    def loading(**how) -> float:
        began = time.perf_counter()
        assert load(folder, **how).missing == 0
        return time.perf_counter() - began

    rebuilt = [(index.unlink(missing_ok=True), status())[1] for _ in range(repeats)]
    warm = [status() for _ in range(repeats)]
    both = [loading() for _ in range(repeats)]
    runs = [loading(curves=False) for _ in range(repeats)]
    full = [loading(verify="full") for _ in range(repeats)]
    inodes = 1 + sum(1 for _ in (folder / "units").rglob("*"))
    what = f"{count:,} units of {RUNS} runs:"

    def line(name: str, times: list[float], limit: float | None) -> Finding:
        middle = statistics.median(times)
        return Finding(
            f"{what} {name}",
            repeats,
            f"{middle:.2f} s",
            f"{limit:g} s" if limit else "–",
            middle < limit if limit else None,
        )

    return [
        line("`status`, warm", warm, 2),
        line("`load()` with curves", both, 5),
        line("`load()` of the runs table", runs, None),
        line("`load()` with every byte hashed", full, None),
        line("`status` that rebuilds the index", rebuilt, None),
        Finding(f"{what} inodes, size of the index", 1, f"{inodes:,}, {index.stat().st_size / 1e6:.0f} MB", "–", None),
    ]
