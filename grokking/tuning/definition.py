"""What a search is: which runs it may try, how it judges them and how it chooses; its hash names its folder."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import pandas as pd

from grokking.errors import BadInput
from grokking.registry import Scalar, Settings
from grokking.runs import RunSpec, run_spec
from grokking.survival import Estimate, restricted_mean
from grokking.tuning.space import Axis, grid_of, settings_at

SAMPLERS = ("tpe", "random", "grid")
OBJECTIVES = ("steps_to_generalize", "steps_to_sustain")


@dataclass(frozen=True)
class Definition:
    """A search: configurations from `space` on top of `settings`, each tried with every tuning seed."""

    settings: tuple[tuple[str, Scalar], ...]
    space: tuple[tuple[str, Axis], ...]
    seeds: tuple[int, ...]
    objective: str = "steps_to_generalize"
    sampler: str = "tpe"
    sampler_seed: int = 0
    batch: int = 8  # configurations that are asked for at once, whatever trains them
    rungs: tuple[int, ...] = ()  # budgets that a batch is tried with before the whole one, ascending; runs of their own
    reduction: int = 4  # one in so many passes a rung
    points: int = 4  # of each range, where the sampler is a grid
    start: tuple[tuple[str, Scalar], ...] = ()  # a configuration that is tried first, such as the one in use so far

    def check(self) -> None:
        """Raise `BadInput` for what no search can be made of, corners of the space included."""
        if self.sampler not in SAMPLERS:
            raise BadInput(f"sampler = {self.sampler!r}; allowed: {', '.join(SAMPLERS)}")
        if self.objective not in OBJECTIVES:
            raise BadInput(f"objective = {self.objective!r}; allowed: {', '.join(OBJECTIVES)}")
        for option, number, least in (
            ("batch", self.batch, 1),
            ("reduction", self.reduction, 2),
            ("points", self.points, 1),
        ):
            if number < least:
                raise BadInput(f"{option} = {number}; allowed: integers from {least} on")
        if not 0 <= self.sampler_seed < 2**31:
            raise BadInput(f"sampler seed = {self.sampler_seed}; allowed: integers from 0 to 2³¹ - 1")
        self._check_space()
        if list(self.rungs) != sorted({step for step in self.rungs if 0 < step < self.horizon}):
            raise BadInput(
                f"rungs = {' '.join(map(str, self.rungs))}; allowed: ascending steps below the budget of {self.horizon:,}"
            )

    def _check_space(self) -> None:
        for name, axis in self.space:
            if name in ("steps", "task.name", "optimizer.name"):
                raise BadInput(f"{name} cannot be searched; make a search of each, and compare what they find")
            if name in dict(self.settings):
                raise BadInput(f"{name} is in --space, but it is said for all runs; leave it out of one of them")
            if self.start and not axis.holds(dict(self.start).get(name)):
                raise BadInput(f"start has {name} = {dict(self.start).get(name)}; allowed: {axis}")
            for value in axis.points(2):
                run_spec({**dict(self.settings), **self.middle(), name: value}, self.seeds[0])

    @cached_property
    def horizon(self) -> int:
        """The budget of a run, in steps."""
        return run_spec({**dict(self.settings), **self.middle()}, self.seeds[0]).setting.integer("steps")

    @cached_property
    def name(self) -> str:
        """Task, optimizer, sampler and the hash of the whole definition."""
        base = run_spec({**dict(self.settings), **self.middle()}, self.seeds[0])
        content = json.dumps({**self.described(), "base": base.description()}, sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        return f"{base.setting.name('task')}-{base.setting.name('optimizer')}-{self.sampler}-{digest}"

    def described(self) -> dict[str, Any]:
        """The definition as plain JSON values."""
        space = {name: str(axis) for name, axis in self.space}
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "start"}
        if self.start:  # a search without one keeps the name that it had before there was this field
            own["start"] = dict(self.start)
        return own | {
            "settings": dict(self.settings),
            "space": space,
            "seeds": list(self.seeds),
            "rungs": list(self.rungs),
        }

    def runs(self, params: Settings, steps: int | None = None) -> list[RunSpec]:
        """A configuration's run for every tuning seed, with the whole budget or that of a rung."""
        chosen = {**dict(self.settings), **settings_at(dict(self.space), params)}
        if steps is not None:
            chosen["steps"] = steps
        return [run_spec(chosen, seed) for seed in self.seeds]

    def grid(self) -> list[dict[str, Scalar]]:
        """All configurations, where the sampler is a grid."""
        return grid_of(dict(self.space), self.points)

    def value(self, runs: pd.DataFrame) -> Estimate:
        """What is to be small: the mean of the objective over the tuning seeds, restricted to the budget."""
        reached = runs[self.objective].notna()
        horizon = float(runs["steps"].iloc[0])
        return restricted_mean(runs[self.objective].fillna(horizon).to_numpy(float), reached.to_numpy(bool), horizon)

    def score(self, runs: pd.DataFrame) -> float:
        """How far a configuration is at a rung, smaller is better, from -1 to 1.

        Its restricted mean over the rung's steps, less its mean validation accuracy: as long as nothing has generalised,
        accuracy alone decides.
        """
        mean, accuracy = self.value(runs).value, runs["final_validation_accuracy"].fillna(0.0).mean()
        assert mean is not None
        return float(mean / runs["steps"].iloc[0] - accuracy)

    def promoted(self, scores: Sequence[float]) -> list[int]:
        """Which of a batch goes on from a rung: one in `reduction`, rounded up; ties go to whoever came first."""
        ranked = sorted(range(len(scores)), key=lambda at: (scores[at], at))
        return sorted(ranked[: math.ceil(len(scores) / self.reduction)])

    def middle(self) -> dict[str, Scalar]:
        """Some configuration: the middle of every range, the first of the choices."""
        return {name: axis.points(1)[0] for name, axis in self.space}
