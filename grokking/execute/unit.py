"""One unit of work: train a cohort and store it."""

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from grokking.engine.loop import Record, training
from grokking.runs import RunSpec
from grokking.store import METRICS, write_unit

Report = Callable[[int, list[Record]], None]  # (run-steps since the last call, runs that ended)


def train_unit(specs: Sequence[RunSpec], device: str, folder: Path, report: Report) -> None:
    """Train these runs side by side on `device`, one CPU thread, and store them as one unit.

    One thread: results then depend neither on the number of cores nor on that of workers.
    """
    torch.set_num_threads(1)
    began, before = time.perf_counter(), 0
    records: list[Record] = []
    for snapshot in training(specs, torch.device(device)):
        records = records or list(snapshot.records)
        report((snapshot.step - before) * len(snapshot.records), snapshot.ended)
        before = snapshot.step
    seconds = time.perf_counter() - began
    info = {
        "machine": machine(device),
        "torch": torch.__version__,
        "device": device,
        "width": len(specs),
        "threads": 1,
        "seconds": round(seconds, 3),
        "run_steps_per_second": round(sum(record.steps[-1] for record in records) / seconds, 1),
        "runs": [record.spec.description() for record in records],
    }
    write_unit(folder, [record.row() for record in records], stack(records), info)


def stack(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Curves [evaluation, run] of all runs on the steps of the longest, NaN after a run's end."""
    steps = max((record.steps for record in records), key=len)
    arrays = {"steps": np.array(steps)}
    for metric in METRICS:
        arrays[metric] = np.full((len(steps), len(records)), np.nan)
        for run, record in enumerate(records):
            arrays[metric][: len(record.steps), run] = record.curves[metric]
    return arrays


def machine(device: str) -> str:
    """The machine in words, as it stands in captions."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name} CPU"
