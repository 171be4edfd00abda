"""The training loop: steps, evaluations, and the end of each run."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from grokking.engine.cohort import Cohort, Places, start
from grokking.engine.data import Data
from grokking.engine.evaluation_grid import evaluation_steps
from grokking.onset import Onset, onset, outcome
from grokking.runs import RunSpec
from grokking.setting import Setting
from grokking.store import METRICS


class Trains(Protocol):
    """What the loop asks of whoever trains a cohort of one setting."""

    setting: Setting
    device: torch.device
    data: Data
    places: Places
    resumable: bool  # from a checkpoint

    def advance(self, cohort: Cohort, most: int = 1) -> None:
        """Update every run, `most` times at most."""

    def evaluate(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """Each metric of each run [run]."""

    def finish(self) -> None:
        """Wait until what was begun is done."""


@dataclass(eq=False)
class Record:
    """What is known of one run so far: its curves, and when it went non-finite if it did."""

    spec: RunSpec
    batch_size: int
    training_examples: int
    steps: list[int] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)
    diverged_at: int | None = None

    def __post_init__(self) -> None:
        for metric in (*METRICS, *self.spec.setting.measures):
            self.curves.setdefault(metric, [])

    def onset(self) -> Onset:
        """When this run memorised, generalised and sustained, as far as its curves go and before it diverged."""
        seen = len(self.steps) if self.diverged_at is None else bisect_left(self.steps, self.diverged_at)
        return onset(
            np.array(self.steps[:seen]),
            np.array(self.curves["train_accuracy"][:seen]),
            np.array(self.curves["validation_accuracy"][:seen]),
            self.spec.setting.number("threshold"),
            self.spec.setting.number("linger"),
        )

    def ended(self) -> bool:
        """A run ends when it has sustained, went non-finite, or used its budget."""
        spent = self.steps[-1] >= self.spec.setting.integer("steps")
        return spent or self.diverged_at is not None or self.onset().sustain is not None

    def row(self) -> dict[str, object]:
        """The run's line of the runs table."""
        final = {f"final_{metric}": curve[-1] for metric, curve in self.curves.items()}
        result = outcome(self.onset(), self.diverged_at, self.steps[-1], self.batch_size, self.training_examples)
        return {**self.spec.row(), **result, **final}


@dataclass
class Training:
    """A unit of runs on its way: all that its continuation depends on, and all that a checkpoint holds."""

    records: list[Record]  # of every run of the unit, in its order
    cohort: Cohort  # the runs that still train
    evaluating: float = 0.0  # seconds spent on evaluations

    def going(self) -> list[Record]:
        """Records of the runs in the cohort, in its order."""
        inside = set(self.cohort.specs)
        return [record for record in self.records if record.spec in inside]

    def evaluated(self) -> int:
        """The last step at which the cohort was evaluated; 0 before the first."""
        return max((step for record in self.records for step in record.steps[-1:]), default=0)


@dataclass(frozen=True)
class Snapshot:
    """The cohort at an evaluation, before the runs that end here leave it."""

    step: int
    cohort: Cohort
    records: list[Record]  # [run], of the runs in the cohort
    ended: list[Record]  # those of them that end here


def begin(specs: Sequence[RunSpec], trainer: Trains) -> Training:
    """Runs of one setting before their first step."""
    examples = len(trainer.data.split(specs[0].seed)[0])
    batch_size = min(specs[0].setting.integer("batch_size") or examples, examples)
    return Training(
        [Record(spec, batch_size, examples) for spec in specs], start(specs, trainer.device, places=trainer.places)
    )


def training(unit: Training, trainer: Trains, boundary: Callable[[], None] = lambda: None) -> Iterator[Snapshot]:
    """Train runs of one setting side by side, and yield at every evaluation until all have ended.

    `boundary` is called after every step (on CUDA every ten): between steps `unit` is whole, so there it may be saved, or left by raising.
    """
    setting = trainer.setting
    grid = evaluation_steps(
        setting.integer("evaluation.every"), setting.number("evaluation.growth"), setting.integer("steps")
    )
    seen = unit.evaluated()
    for step in grid:
        if step <= seen:
            continue
        while unit.cohort.step < step:
            trainer.advance(unit.cohort, step - unit.cohort.step)
            boundary()
        trainer.finish()
        began = time.perf_counter()
        metrics, records = trainer.evaluate(unit.cohort), unit.going()
        unit.evaluating += time.perf_counter() - began
        diverged_at = unit.cohort.diverged_at
        for run, record in enumerate(records):
            record.steps.append(step)
            overflown = step == setting.integer("steps") and not np.isfinite(
                metrics["train_loss"][run]
            )  # no update comes that would tell
            record.diverged_at = diverged_at[run] or (step if overflown else None)
            for metric, curve in record.curves.items():
                curve.append(float(metrics[metric][run]))
        ended = [record for record in records if record.ended()]
        yield Snapshot(step, unit.cohort, records, ended)
        going = [run for run, record in enumerate(records) if record not in ended]
        if not going:
            return
        if ended:
            unit.cohort = unit.cohort.keep(going)
