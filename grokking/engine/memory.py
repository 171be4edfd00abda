"""How many runs fit side by side: the memory of a step and of an evaluation, traced without computing anything."""

import math
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grokking.engine.cohort import Places, kept_by_transforms, start
from grokking.engine.trainer import EVALUATED, Trainer
from grokking.runs import RunSpec

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


def peak(spec: RunSpec, runs: int, device: str = "cpu") -> int:
    """Bytes at the height of training so many runs like this one: weights, state, a step and an evaluation.

    What is recorded on CUDA keeps its memory, each graph its own: a block of steps, a single one, and an evaluation.
    """
    meta = torch.device("meta")
    trainer = Trainer(spec.setting, meta)
    trainer.model.train()
    with Traced() as step:
        cohort = start([spec] * runs, meta, places=lambda runs, before: runs)
        clock, rows = torch.ones((), dtype=torch.int64, device=meta), trainer.data.batch(cohort)
        cohort.moving = trainer.step(cohort.hyper, cohort.seeds, clock, cohort.moving, rows)
    del cohort
    with Traced() as evaluation:
        trainer.measured(start([spec] * runs, meta, places=lambda runs, before: runs))
    if device == "cuda" and not trainer.waits_for_host():
        return 2 * step.peak + evaluation.peak
    return max(step.peak, evaluation.peak)


def bytes_per_run(spec: RunSpec, device: str = "cpu") -> int:
    """What one more run takes."""
    return peak(spec, 2, device) // 2


def free_memory(device: torch.device) -> float:
    """Bytes that a process may still take on this device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_available(), _allowed())


def fitting(spec: RunSpec, most: int, free: float, places: Places, device: str = "cpu") -> int:
    """How many runs like this one, up to `most`, fit into `free` bytes of the device side by side, in as many places as they take.

    One at least, which may then have to fail. Tracing takes seconds: what is small beside `free` is not traced.
    """
    if ample(spec) * (2 if device == "cuda" else 1) * places(most, 0) < free:  # recorded, it may take all of that
        return most
    one, allowed = bytes_per_run(spec, device), free * (1 - SPARE)
    return max((runs for runs in range(1, most + 1) if places(runs, 0) * one <= allowed), default=1)


def ample(spec: RunSpec) -> int:
    """More bytes than a run takes, by counting parameters: each matrix makes an output for every token that it sees.

    Twelve times those outputs, twenty times the parameters, and six times what transforms keep: traced steps of ours took at
    most a third of that.
    """
    parameters = list(spec.setting.model().parameters())
    batch = spec.setting.integer("batch_size") or len(spec.setting.table().tokens)
    rows = max(batch, EVALUATED) * spec.setting.table().tokens.shape[1]
    outputs = sum(parameter.shape[0] for parameter in parameters if parameter.dim() == 2)
    kept = sum(first(w).numel() for w in parameters for first in kept_by_transforms(spec.setting).values())
    return 4 * (20 * sum(parameter.numel() for parameter in parameters) + 12 * rows * outputs + 6 * kept)


def _available() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def _allowed() -> float:
    """What a container's limit leaves (cgroup v2); what files have cached is given back when it is needed."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, taken = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        lines = (group / "memory.stat").read_text().splitlines()
        return limit - taken + next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, StopIteration):  # no such files, or "max"
        return math.inf
