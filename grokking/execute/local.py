"""The local executor: one worker process per core (or this process), and what becomes of each unit."""

import functools
import itertools
import signal
import time
import warnings
from collections import deque
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import torch

from grokking.engine.cohort import COMPILED_WIDTH
from grokking.errors import BadInput, Interrupted, Notice, Unwritable
from grokking.execute.progress import Progress
from grokking.execute.signals import Stop, stoppable
from grokking.execute.unit import Ended, Outcome, Terms, attempt, matrix_library
from grokking.execute.workers import Worker, anything_said
from grokking.runs import RunSpec
from grokking.setting import Setting
from grokking.store.failures import forget_failures, note_failure

GRACE = 3.0  # seconds for workers to reach a step boundary and save; a process is to be gone within 5
LATE = (
    "PyTorch has computed something in this process before grokking was imported (or MKL_CBWR is set): on some processors the "
    "bits of a run now depend on its place in a cohort; import grokking first"
)
TRIES = 4  # of a unit whose worker dies: once, and three times again


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


@dataclass
class Job:
    """A unit of runs to train, and what became of it so far."""

    specs: list[RunSpec]
    deaths: int = 0  # of workers, since it last came farther
    step: int = 0  # of its last checkpoint at the last of them
    told: list[tuple[int, Ended, bool]] = field(default_factory=list)  # progress of this attempt

    def halves(self) -> list["Job"]:
        """The same runs in two narrower units."""
        middle = (len(self.specs) + 1) // 2
        return [Job(self.specs[:middle], self.deaths), Job(self.specs[middle:], self.deaths)]


@dataclass
class Jobs:
    """What is left to train, and what failed for good."""

    terms: Terms
    waiting: deque[Job]
    progress: Progress
    failures: list[Path] = field(default_factory=list)

    def next(self, own: Set[Setting], others: Set[Setting]) -> Job:
        """The first in line; where steps are compiled, of a setting that this worker has compiled, or else that no other has."""
        settings = [job.specs[0].setting for job in self.waiting]
        ranks = [
            0 if setting in own or not self.terms.compile else 2 if setting in others else 1 for setting in settings
        ]
        place = ranks.index(min(ranks))
        job = self.waiting[place]
        del self.waiting[place]
        return job

    def report(self, job: Job, steps: int, ended: Ended, trained: bool) -> None:
        """A unit's progress, which is taken back if it has to be trained again."""
        job.told.append((steps, ended, trained))
        self.progress.add(steps, ended, trained)

    def settle(self, job: Job, outcome: Outcome) -> None:
        """Put a unit back, whole or in halves, or note its failure; `Unwritable` ends the sweep.

        Too little memory: in halves. A worker that died: again from its checkpoint; if the system killed it and it came no
        farther than the one before, in halves, because then it was probably killed for its size.
        """
        if outcome.end == "unwritable":
            raise Unwritable(outcome.text)
        if outcome.end == "stored":
            return
        self.progress.take_back(job.told)
        job.told = []
        narrower, again = outcome.end == "memory", False
        if outcome.end == "died":
            step = self.terms.checkpoints(job.specs).step()
            job.deaths, job.step = (job.deaths + 1 if step <= job.step else 1), step
            again = job.deaths < TRIES
            narrower = again and job.deaths > 1 and signal.SIGKILL.name in outcome.text
        if narrower and len(job.specs) > 1:
            self.terms.checkpoints(job.specs).clear()
            self.waiting.extendleft(reversed(job.halves()))
        elif again:
            self.waiting.appendleft(job)
        else:
            self.failures.append(self._file(job, outcome))

    def _file(self, job: Job, outcome: Outcome) -> Path:
        times = f"its worker died {job.deaths} times, at last:\n" if outcome.end == "died" else ""
        text = f"the first of them: {job.specs[0].description()}\n\n{times}{outcome.text}"
        return note_failure(self.terms.folder, [spec.run_id for spec in job.specs], text)


def execute(cohorts: Sequence[list[RunSpec]], terms: Terms, workers: int, imports: Sequence[str]) -> list[Path]:
    """Train every cohort and store each as soon as it is done; returns the traceback files of those that failed.

    Raises `Interrupted` on SIGINT and SIGTERM, with every cohort saved at a step boundary, and `Unwritable` as soon as
    the store cannot be written.
    """
    forget_failures(terms.folder, [spec.run_id for cohort in cohorts for spec in cohort])
    with Progress([spec for cohort in cohorts for spec in cohort]) as progress, stoppable() as stop:
        jobs = Jobs(terms, deque(Job(cohort) for cohort in cohorts), progress)
        if terms.device == "cuda" or workers == 1 or len(cohorts) == 1:
            if terms.device == "cpu" and matrix_library() == "free":
                warnings.warn(Notice(LATE), stacklevel=2)
            while jobs.waiting:
                stop.check()
                job = jobs.waiting.popleft()
                jobs.settle(job, attempt(job.specs, terms, functools.partial(jobs.report, job), stop))
        else:
            _in_processes(jobs, workers, imports, stop)
        return jobs.failures


def _in_processes(jobs: Jobs, workers: int, imports: Sequence[str], stop: Stop) -> None:
    busy: dict[Worker, Job] = {}
    idle: list[Worker] = []
    try:
        while jobs.waiting or busy:
            if stop.code:
                _stop(list(busy), stop)
            while jobs.waiting and len(busy) < workers:
                worker = idle.pop() if idle else Worker(jobs.terms, imports)
                others = [other.settings for other in itertools.chain(busy, idle)]
                busy[worker] = jobs.next(worker.settings, set().union(*others))
                worker.give(busy[worker].specs)
            for worker in anything_said(list(busy), 0.2):
                if (outcome := _listen(worker, busy[worker], jobs)) is None:
                    continue
                job = busy.pop(worker)
                if outcome.end == "died":
                    worker.end()
                else:
                    idle.append(worker)
                jobs.settle(job, outcome)
    except Unwritable:
        for worker in busy:
            worker.ask_to_stop()  # what can still be saved is
        _wait(list(busy))
        raise
    finally:
        for worker in itertools.chain(busy, idle):
            worker.end()


def _listen(worker: Worker, job: Job, jobs: Jobs) -> Outcome | None:
    """Pass on the worker's progress; its outcome, if it has one by now."""
    for message in worker.hear():
        if isinstance(message, Outcome):
            return message
        jobs.report(job, *message)
    return None


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
