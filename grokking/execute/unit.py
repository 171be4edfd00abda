"""One unit of work: train a cohort, from its last checkpoint if it has one, and store it."""

import contextlib
import ctypes
import gc
import platform
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from grokking.engine.checkpoint import Checkpoints
from grokking.engine.external import ExternalTrainer
from grokking.engine.loop import Record, Trains, begin, training
from grokking.engine.trainer import Trainer
from grokking.errors import Notice, Unwritable
from grokking.execute.signals import Stop
from grokking.runs import RunSpec
from grokking.setting import Setting, check_versions
from grokking.store import write_unit

Ended = list[tuple[int, str]]  # (steps left of the budget, status) of each run that ended
Advance = tuple[int, Ended, bool]  # run-steps done, runs that ended, and whether they were trained just now


@dataclass(frozen=True)
class Terms:
    """Where and how units are trained, which is no part of what they are."""

    folder: Path
    device: str = "cpu"
    compile: bool = False
    checkpoint_every: float = 60.0  # seconds; 0: only when stopped
    any_execution: bool = False  # continue checkpoints that were made elsewhere, too

    def execution(self) -> dict[str, object]:
        """What bits are known to depend on beside the runs themselves."""
        return {
            "machine": machine(self.device),
            "device": self.device,
            "compile": self.compile,
            "threads": 1,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "matrix_library": matrix_library(),
        }

    def trainer(self, setting: Setting) -> Trains:
        """One for this setting; what was compiled for it in this process is not compiled again."""
        if setting.external:
            return ExternalTrainer(setting, torch.device(self.device))
        make = _kept if self.compile and self.device == "cpu" else Trainer
        return make(setting, torch.device(self.device), self.compile)

    def checkpoints(self, specs: Sequence[RunSpec]) -> Checkpoints:
        """Those of this unit."""
        return Checkpoints(self.folder, specs, self.execution, self.checkpoint_every)


_kept = lru_cache(maxsize=16)(Trainer)


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a unit ended, and the traceback or message that tells why."""

    end: Literal["stored", "failed", "memory", "died", "unwritable"]
    text: str = ""


def attempt(specs: Sequence[RunSpec], terms: Terms, stop: Stop) -> Iterator[Advance | Outcome]:
    """`train_unit`, and at last how it ended, with every error as an outcome; only `Interrupted` is raised."""
    try:
        yield from train_unit(specs, terms, stop)
    except Unwritable as error:
        outcome = Outcome("unwritable", str(error))
    except (Exception, SystemExit) as error:  # a user's rule may exit, which is a failure of it
        stop.check()  # a signal to the whole process group ends a compiler, too
        outcome = Outcome("memory" if out_of_memory(error) else "failed", traceback.format_exc())
    else:
        outcome = Outcome("stored")
    if terms.device == "cuda":
        give_memory_back()
    yield outcome


def train_unit(specs: Sequence[RunSpec], terms: Terms, stop: Stop) -> Iterator[Advance]:
    """Train these runs side by side, one CPU thread, and store them as one unit; says after every evaluation how far it is.

    One thread: results then depend neither on the number of cores nor on that of workers. When `stop` is set, the unit
    is saved at the next step boundary and `Interrupted` is raised.
    """
    check_versions(specs[0].setting)
    if specs[0].setting.external:
        terms = replace(terms, compile=False)
    torch.set_num_threads(1)
    keep_freed_memory()
    with subnormals(any(spec.needs_subnormals for spec in specs)):
        yield from _trained(specs, terms, stop)


def _trained(specs: Sequence[RunSpec], terms: Terms, stop: Stop) -> Iterator[Advance]:
    if terms.device == "cuda":
        torch.set_float32_matmul_precision("high" if specs[0].setting.by_name["precision"] == "tf32" else "highest")
    began = time.perf_counter()
    trainer = terms.trainer(specs[0].setting)
    checkpoints = terms.checkpoints(specs)
    unit, earlier = checkpoints.latest(trainer, terms.any_execution) or (begin(specs, trainer), 0.0)
    stop.check()
    resumed_at = before = unit.cohort.step
    yield *_done_before(unit.records, before), False

    def boundary() -> None:
        if not (stop.code or checkpoints.due()):
            return
        try:
            if trainer.resumable:
                checkpoints.save(unit, earlier + time.perf_counter() - began)
        except Unwritable as error:
            if not stop.code:
                raise
            warnings.warn(Notice(f"stopped without a checkpoint: {error}"), stacklevel=2)
        stop.check()

    for snapshot in training(unit, trainer, boundary):
        yield (snapshot.step - before) * len(snapshot.records), left(snapshot.ended), True
        before = snapshot.step
    seconds = earlier + time.perf_counter() - began
    info = {
        **terms.execution(),
        "machine": " and ".join(dict.fromkeys(str(where["machine"]) for where in checkpoints.executions())),
        "executions": checkpoints.executions(),
        "width": len(specs),
        "resumed_at_step": resumed_at,
        "seconds": round(seconds, 3),
        "checkpoint_seconds": round(checkpoints.spent, 3),
        "evaluation_seconds": round(unit.evaluating, 3),
        "run_steps_per_second": round(sum(record.steps[-1] for record in unit.records) / seconds, 1),
        "runs": [record.spec.description() for record in unit.records],
    }
    rows = [record.row() for record in unit.records]
    write_unit(terms.folder, rows, *stack(unit.records), info)
    checkpoints.clear()


def give_memory_back() -> None:
    """Have the device free what the last unit has left, for the next one and for other workers.

    A trainer and what it has recorded hold each other, so that Python would find them later, if at all.
    """
    gc.collect()
    with contextlib.suppress(RuntimeError):  # of a device that has failed: the next unit will hear of it
        torch.cuda.empty_cache()


@contextlib.contextmanager
def subnormals(kept: bool) -> Iterator[None]:
    """Unless they are `kept`, numbers below 1.2e-38 count as 0 on the CPU.

    Long after memorization the probabilities of wrong classes are such numbers, and a matrix product takes many times as
    long with them.
    """
    torch.set_flush_denormal(not kept)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next one.

    Otherwise it gives tens of megabytes back in every step, and the kernel zeroes them page by page for the next. Does
    nothing where the C library is not GNU's.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(trim_threshold, 2**31 - 1)
        library.mallopt(mmap_threshold, 32 * 2**20)  # the most that it takes


def out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, in Python's, NumPy's, CUDA's or the CPU allocator's words."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def left(ended: Sequence[Record]) -> Ended:
    """What each ended run left of its budget, and its status."""
    return [(r.spec.setting.integer("steps") - r.steps[-1], str(r.row()["status"])) for r in ended]


def _done_before(records: Sequence[Record], step: int) -> tuple[int, Ended]:
    """The run-steps and ended runs of a checkpoint at `step`."""
    ended = [record for record in records if record.steps and record.ended()]
    return sum(r.steps[-1] if r in ended else step for r in records), left(ended)


def stack(records: Sequence[Record]) -> tuple[list[int], dict[str, np.ndarray]]:
    """The steps of the longest run, and on them the curves [evaluation, run] of all, NaN after a run's end."""
    steps = max((record.steps for record in records), key=len)
    arrays = {metric: np.full((len(steps), len(records)), np.nan) for metric in records[0].curves}
    for metric, values in arrays.items():
        for run, record in enumerate(records):
            values[: len(record.steps), run] = record.curves[metric]
    return steps, arrays


def matrix_library() -> str:
    """How Intel's matrix library inside PyTorch chooses its path: what it does, not what MKL_CBWR asked for.

    "one path" (see grokking/__init__.py) or "free"; "other" and "unknown" elsewhere.
    """
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return {1: "free", 2: "one path"}.get(library.mkl_serv_cbwr_get(-1), "other")
    except (OSError, AttributeError):
        return "unknown"


def machine(device: str) -> str:
    """The machine in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name} CPU"
