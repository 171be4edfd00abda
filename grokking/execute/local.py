"""The local executor: worker processes, or this process."""

import itertools
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from grokking.engine.cohort import COMPILED_WIDTH
from grokking.engine.memory import free_memory
from grokking.errors import BadInput, Interrupted, Notice, Unwritable
from grokking.execute.jobs import Job, Jobs, train_all
from grokking.execute.signals import Stop
from grokking.execute.unit import Outcome, Terms, attempt, matrix_library
from grokking.execute.workers import Worker, anything_said
from grokking.runs import RunSpec

GRACE = 3.0  # seconds for workers to reach a step boundary and save; a process is to be gone within 5
LATE = (
    "PyTorch has computed something in this process before grokking was imported (or MKL_CBWR is set): on some processors the "
    "bits of a run now depend on its place in a cohort; import grokking first"
)


def widest(device: str, compile: bool) -> int:
    """How many runs train side by side at most, by measurement: on a CPU, more would leave the caches."""
    return 256 if device == "cuda" else COMPILED_WIDTH if compile else 8


def choose_device(device: str) -> str:
    """`auto` is CUDA where there is one, else the CPU."""
    if device not in ("auto", "cpu", "cuda"):
        raise BadInput(f"device = {device!r}; allowed: auto, cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device = 'cuda', but PyTorch sees no CUDA device here; allowed: auto, cpu")
    return "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device


class Local:
    """Worker processes of this machine, each with one cohort at a time; they stay until the executor is left.

    A cohort alone, or one worker, needs no process but this one. On CUDA all workers share the one device.
    """

    def __init__(self, terms: Terms, workers: int, imports: Sequence[str] = ()) -> None:
        self.terms, self.slots, self.imports = terms, workers, imports
        self.idle: list[Worker] = []

    def __enter__(self) -> "Local":
        return self

    def __exit__(self, *_: object) -> None:
        while self.idle:
            self.idle.pop().end()

    def room(self) -> float:
        """An equal share of what is free on the device."""
        return free_memory(torch.device(self.terms.device)) / self.slots

    def refuse_unfit(self, cohorts: Sequence[list[RunSpec]]) -> None:
        """See `Executor`."""
        for cohort in cohorts:
            self.terms.checkpoints(cohort).refuse_unfit(self.terms.any_execution)

    def train(self, cohorts: Sequence[list[RunSpec]]) -> list[Path]:
        """See `Executor`."""
        alone = self.slots == 1 or (len(cohorts) == 1 and not self.idle)
        return train_all(cohorts, self.terms, _here if alone else self._in_processes)

    def _in_processes(self, jobs: Jobs, stop: Stop) -> None:
        busy: dict[Worker, Job] = {}
        try:
            while jobs.waiting or busy:
                if stop.code:
                    _stop(list(busy), stop)
                while jobs.waiting and len(busy) < self.slots:
                    self._give(jobs, busy)
                for worker in anything_said(list(busy), 0.2):
                    self._listen(worker, jobs, busy)
        except Unwritable:
            for worker in busy:
                worker.ask_to_stop()  # what can still be saved is
            _wait(list(busy))
            raise
        finally:
            for worker in busy:
                worker.end()

    def _give(self, jobs: Jobs, busy: dict[Worker, Job]) -> None:
        """Have a worker train a job: one that has compiled its setting, if there is one."""
        for dead in [worker for worker in self.idle if not worker.process.is_alive()]:
            self.idle.remove(dead)
            dead.end()
        wanted = jobs.waiting[0].specs[0].setting
        known = [at for at, worker in enumerate(self.idle) if wanted in worker.settings]
        worker = self.idle.pop(known[0] if known else -1) if self.idle else Worker(self.terms, self.imports)
        others = [other.settings for other in itertools.chain(busy, self.idle)]
        busy[worker] = jobs.next(worker.settings, set().union(*others))
        worker.give(busy[worker].specs)

    def _listen(self, worker: Worker, jobs: Jobs, busy: dict[Worker, Job]) -> None:
        """Pass on what a worker has said; if its unit has ended, it is idle, or no more."""
        job = busy[worker]
        for message in worker.hear():
            if not isinstance(message, Outcome):
                jobs.hear(job, message)
                continue
            del busy[worker]
            if message.end == "died":
                worker.end()
            else:
                self.idle.append(worker)
            jobs.hear(job, message)
            return  # that it has died since is seen before it gets another


def execute(cohorts: Sequence[list[RunSpec]], terms: Terms, workers: int, imports: Sequence[str]) -> list[Path]:
    """Train every cohort on this machine, once; see `Executor.train`."""
    with Local(terms, workers, imports) as executor:
        return executor.train(cohorts)


def _here(jobs: Jobs, stop: Stop) -> None:
    if jobs.terms.device == "cpu" and matrix_library() == "free":
        warnings.warn(Notice(LATE), stacklevel=2)
    while jobs.waiting:
        stop.check()
        job = jobs.waiting.popleft()
        for message in attempt(job.specs, jobs.terms, stop):
            jobs.hear(job, message)


def _stop(workers: Sequence[Worker], stop: Stop) -> None:
    for worker in workers:
        worker.ask_to_stop()
    _wait(workers)
    raise Interrupted(stop.code)


def _wait(workers: Sequence[Worker]) -> None:
    until = time.monotonic() + GRACE
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))
    if late := sum(worker.process.is_alive() for worker in workers):
        warnings.warn(
            Notice(f"{late} workers were ended in the middle of a step: what they last saved is kept"), stacklevel=2
        )
