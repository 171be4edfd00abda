"""Many processes that write the same units into one store at once."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np

from faults.finding import Finding
from grokking.errors import Notice
from grokking.store import load, prepare, write_unit


def synthetic(unit: int, runs: int, evaluations: int = 20) -> tuple:
    """Rows, steps and curves of an invented unit, the same whenever and wherever they are made."""
    draw = np.random.Generator(np.random.PCG64(unit))
    steps = list(range(10, 10 * evaluations + 1, 10))
    curves = {
        name: draw.random((evaluations, runs))
        for name in ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")
    }
    options = {f"optimizer.option{at}": at / 7 for at in range(30)}  # as many columns as real runs have
    rows = [
        {
            "run_id": f"{unit:08x}{run:08x}",
            "task.name": "mod_add",
            **options,
            "seed": run,
            "status": ("generalized", "censored", "diverged")[run % 3],
            "steps_to_generalize": 100 if run % 3 == 0 else None,
            "diverged_at": None,
            "steps_trained": steps[-1],
            "final_train_loss": float(curves["train_loss"][-1, run]),
        }
        for run in range(runs)
    ]
    return rows, steps, curves


def write_all(folder: Path, count: int, writer: int) -> None:
    """All units, each writer in an order of its own."""
    for unit in np.random.Generator(np.random.PCG64(1000 + writer)).permutation(count):
        write_unit(folder, *synthetic(int(unit), 2), {"machine": "invented", "seconds": 1.0 + writer})


def write_at_once(folder: Path, writers: int, count: int) -> list[Finding]:
    """`writers` processes write `count` units each, the same ones; nothing may be lost or stand there twice."""
    prepare(folder)
    code = "import sys, pathlib; from faults.writers import write_all; write_all(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(folder), str(count), str(writer)], env=environment)
        for writer in range(writers)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)  # a reader among them: raises if it ever sees half a unit
        while any(process.poll() is None for process in processes):
            load(folder)
    failed = sum(process.returncode != 0 for process in processes)
    there = sorted(path.name for path in (folder / "units").iterdir())
    alone = folder.with_name("alone")
    prepare(alone)
    write_all(alone, count, 0)
    wanted = sorted(path.name for path in (alone / "units").iterdir())
    ours, theirs = load(folder, verify="full"), load(alone)
    same = ours.runs.equals(theirs.runs) and ours.curves.equals(theirs.curves)
    lost, twice = len(set(wanted) - set(there)), len(there) - len(set(wanted) & set(there))
    return [
        Finding(f"{writers} writers at once: units lost", count, f"{lost}", "0", lost == 0 and same and failed == 0),
        Finding(f"{writers} writers at once: stored twice, or left over", count, f"{twice}", "0", twice == 0),
    ]
