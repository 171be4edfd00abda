"""A question's runs, and their plan: which of them train side by side."""

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from grokking.errors import BadInput
from grokking.registry import Scalar, Settings
from grokking.runs import RunSpec, run_spec
from grokking.setting import Setting

SHARDED = 8  # runs that stay together in one shard


@dataclass(frozen=True)
class Study:
    """A question's runs: every arm (settings by dotted name, on top of `base`) with every seed."""

    base: Settings
    arms: Sequence[Settings]
    seeds: Sequence[int]

    def specs(self) -> list[RunSpec]:
        """All runs, arm by arm; a run that two arms share appears once."""
        runs = [run_spec({**self.base, **arm}, seed) for arm in self.arms for seed in self.seeds]
        return list({run.run_id: run for run in runs}.values())


Name = TypeVar("Name")


def names_of_runs(studies: Iterable[tuple[Name, Study]]) -> dict[str, Name]:
    """run_id → the name of the study that the run is of."""
    return {spec.run_id: name for name, study in studies for spec in study.specs()}


def total_steps(specs: Iterable[RunSpec]) -> int:
    """Sum of the budgets, in run-steps."""
    return sum(spec.setting.integer("steps") for spec in specs)


def grid(**axes: Sequence[Scalar]) -> list[Settings]:
    """Every combination of the values of each axis; `optimizer__lr` stands for `optimizer.lr`."""
    names = [name.replace("__", ".") for name in axes]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*axes.values())]


def plan(
    specs: Sequence[RunSpec],
    width: int,
    workers: int = 1,
    started: Iterable[Sequence[str]] = (),
    fitting: Callable[[RunSpec], int] = lambda spec: sys.maxsize,
) -> list[list[RunSpec]]:
    """Cohorts of runs with one setting, at most `width` wide, and at least `workers` of them where runs suffice.

    Runs that need subnormal numbers are apart from those that do not.

    `fitting` says how many runs like this one fit into memory side by side.

    Units that were `started` (their run_ids), and of which all runs are among these, come first and as they were: they
    continue from their checkpoints. Of the others, neighbours (the seeds of one arm) stay together, as they tend to end
    together.
    """
    by_id = {spec.run_id: spec for spec in specs}
    cohorts = []
    for run_ids in started:
        if all(run_id in by_id for run_id in run_ids):
            cohorts.append([by_id.pop(run_id) for run_id in run_ids])
    alike: dict[tuple[Setting, bool], list[RunSpec]] = {}
    for spec in by_id.values():
        alike.setdefault((spec.setting, spec.needs_subnormals), []).append(spec)
    parts = {kind: math.ceil(len(group) / min(width, fitting(group[0]))) for kind, group in alike.items()}
    while sum(parts.values()) < min(workers - len(cohorts), len(by_id)):
        parts[max(parts, key=lambda kind: len(alike[kind]) / parts[kind])] += 1
    for kind, group in alike.items():
        cuts = [len(group) * part // parts[kind] for part in range(parts[kind] + 1)]
        cohorts += [group[start:stop] for start, stop in itertools.pairwise(cuts)]
    return cohorts


def parse_shard(text: str | None) -> tuple[int, int]:
    """`2/4` → (2, 4), the second of four; None is all of it."""
    if text is None:
        return 1, 1
    first, _, last = text.partition("/")
    shard, shards = (int(part) if part.isascii() and part.isdecimal() else 0 for part in (first, last))
    if not 1 <= shard <= shards:
        raise BadInput(f"shard = {text!r}; allowed: I/N with I from 1 to N, such as 2/4 for the second of four parts")
    return shard, shards


def shard_of(specs: Sequence[RunSpec], shard: int, shards: int) -> list[RunSpec]:
    """The part of these runs that is the `shard`-th of `shards`, which together hold each run once.

    It depends on the runs alone, neither on the machine nor on what is stored there: parts trained anywhere fit together.
    Runs that would train side by side stay together, and neighbours of those go to different parts, as some arms take longer.
    """
    return [spec for cohort in plan(specs, SHARDED, shards)[shard - 1 :: shards] for spec in cohort]
