"""What is left to train, and what becomes of each unit; whoever trains them is an `Executor`."""

import signal
from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from grokking.errors import Unwritable
from grokking.execute.progress import Progress
from grokking.execute.signals import Stop, stoppable
from grokking.execute.unit import Advance, Outcome, Terms
from grokking.runs import RunSpec
from grokking.setting import Setting
from grokking.store.failures import forget_failures, note_failure

TRIES = 4  # of a unit whose worker dies: once, and three times again


class Executor(Protocol):
    """Where cohorts are trained: on this machine, or on a cluster."""

    terms: Terms
    slots: int  # cohorts at a time

    def room(self) -> float:
        """Bytes of memory that each slot may fill."""

    def refuse_unfit(self, cohorts: Sequence[list[RunSpec]]) -> None:
        """Raise `BadInput` where a checkpoint of one of these cohorts cannot be continued here."""

    def train(self, cohorts: Sequence[list[RunSpec]]) -> list[Path]:
        """Train every cohort and store each as soon as it is done; returns the traceback files of those that failed.

        Raises `Interrupted` on SIGINT and SIGTERM, with every cohort saved at a step boundary, and `Unwritable` as soon as
        the store cannot be written.
        """


@dataclass
class Job:
    """A unit of runs to train, and what became of it so far."""

    specs: list[RunSpec]
    deaths: int = 0  # of workers, since it last came farther
    step: int = 0  # of its last checkpoint at the last of them
    told: list[Advance] = field(default_factory=list)  # progress of this attempt

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

    def hear(self, job: Job, message: Advance | Outcome) -> None:
        """A unit's progress, which is taken back if it has to be trained again, or its end, which is settled."""
        if isinstance(message, Outcome):
            self.settle(job, message)
        else:
            job.told.append(message)
            self.progress.add(*message)

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


def train_all(cohorts: Sequence[list[RunSpec]], terms: Terms, serve: Callable[[Jobs, Stop], None]) -> list[Path]:
    """What every executor's `train` does around its own `serve`, which trains what waits until nothing does."""
    forget_failures(terms.folder, [spec.run_id for cohort in cohorts for spec in cohort])
    with Progress([spec for cohort in cohorts for spec in cohort]) as progress, stoppable() as stop:
        jobs = Jobs(terms, deque(Job(cohort) for cohort in cohorts), progress)
        serve(jobs, stop)
        stop.check()  # a signal that came behind the last step
        return jobs.failures
