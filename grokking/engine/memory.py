"""How many runs fit side by side: the memory of a step and of an evaluation, traced without computing anything."""

import math
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.runs import RunSpec

AMPLE = 500  # times its weights: no run takes that (by default 15; two layers and a batch of 4,000: 130)
SPARE = 0.25  # of the free memory stays free: allocators round up, and libraries take workspaces


class Traced(TorchDispatchMode):
    """Counts the bytes of the tensors that are made within and still there: `peak` is the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[StorageWeakRef, int] = {}
        self.bound = 0  # at least what is alive: what has gone since the last look is still in it
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if (reference := StorageWeakRef(storage)) not in self.alive:
                    self.alive[reference] = storage.nbytes()
                    self.bound += storage.nbytes()
        if self.bound > self.peak:
            self.alive = {storage: size for storage, size in self.alive.items() if not storage.expired()}
            self.bound = sum(self.alive.values())
            self.peak = max(self.peak, self.bound)
        return result


def peak(spec: RunSpec, runs: int) -> int:
    """Bytes at the height of training so many runs like this one: weights, state, a step and an evaluation."""
    meta = torch.device("meta")
    trainer = Trainer(spec.setting, meta)
    trainer.model.train()
    with Traced() as traced:
        cohort = start([spec] * runs, meta, slots=lambda runs: runs)
        clock, rows = torch.ones((), dtype=torch.int64, device=meta), trainer.batch(cohort)
        cohort.moving = trainer.step(cohort.hyper, cohort.seeds, clock, cohort.moving, rows)
        trainer.measured(cohort)
    return traced.peak


def bytes_per_run(spec: RunSpec) -> int:
    """What one more run takes."""
    return peak(spec, 2) // 2


def free_memory(device: torch.device) -> float:
    """Bytes that a process may still take on this device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_available(), _allowed())


def fitting(spec: RunSpec, most: int, free: float) -> int:
    """How many runs like this one, up to `most`, fit into `free` bytes side by side.

    One at least, which may then have to fail. Tracing takes seconds: a model that is small beside `free` is not traced.
    """
    parameters = sum(parameter.numel() for parameter in spec.setting.model().parameters())
    if 4 * parameters * AMPLE * most < free:
        return most
    return max(1, min(most, math.floor(free * (1 - SPARE) / bytes_per_run(spec))))


def _available() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def _allowed() -> float:
    """What a container's limit leaves."""
    group = Path("/sys/fs/cgroup")
    try:
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such files, or "max"
        return math.inf
