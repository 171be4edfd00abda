"""Filling the store: what is missing of some runs is trained, wherever `Where` says."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from grokking.commands.arguments import Where
from grokking.errors import BadInput

if TYPE_CHECKING:
    from grokking.execute.jobs import Executor
    from grokking.runs import RunSpec


def train(specs: Sequence["RunSpec"], where: Where, imports: Sequence[str], declared: bool = False) -> int:
    """Train the runs that are not stored, in compiled steps if that is `declared` or asked for; 1 if something failed."""
    check(specs, where)
    open_store(where)
    missing = missing_of(specs, where)
    if not missing:  # then nobody has to be there
        where = replace(where, executor="local", ray_address=None, compile="off")
    with opened(where, imports, declared) as executor:
        return train_missing(missing, executor, len(specs))


def check(specs: Sequence["RunSpec"], where: Where) -> None:
    """Raise `BadInput` where runs like these cannot be trained like that, before anything is written."""
    from grokking.engine.compiled import check_compiling
    from grokking.execute.local import choose_device

    where.check()
    if where.executor == "local":
        refuse_tf32(specs, choose_device(where.device))
        if where.compile == "on":
            check_compiling()


def refuse_tf32(specs: Sequence["RunSpec"], device: str) -> None:
    """Raise `BadInput` where a run asks for what a CPU does not have."""
    if device == "cpu" and any(spec.setting.by_name["precision"] == "tf32" for spec in specs):
        raise BadInput("precision = 'tf32' exists on CUDA alone; allowed on a CPU: fp32, bf16")


def open_store(where: Where) -> None:
    """Make the folder of the results ready; what is damaged there is set aside."""
    from grokking.store import prepare, set_aside_damaged

    prepare(where.out)
    set_aside_damaged(where.out)


@contextlib.contextmanager
def opened(where: Where, imports: Sequence[str], declared: bool) -> Iterator["Executor"]:
    """Whoever is to train."""
    from grokking.engine.compiled import obstacle
    from grokking.execute.local import Local, choose_device
    from grokking.execute.unit import Terms

    # What "never" means is done by `missing_of`: a unit that is tried again does continue from its own checkpoint.
    terms = Terms(where.out, where.device, False, where.checkpoint_every, any_execution=where.resume == "anyway")
    if where.executor == "ray":
        from grokking.execute.ray import OnRay

        compile = where.compile == "on" or (where.compile == "declared" and declared)
        with OnRay(replace(terms, compile=compile), where.ray_address, where.workers, imports) as cluster:
            if cluster.terms.device == "cuda" and where.compile != "on":
                cluster.terms = replace(cluster.terms, compile=False)
            yield cluster
        return
    device = choose_device(where.device)
    compile = where.compile == "on" or (where.compile == "declared" and declared and device == "cpu")
    if compile and (why := obstacle()):
        print(f"grokking: steps are not compiled, which takes longer: {why}", file=sys.stderr)
        compile = False
    workers = where.workers or (1 if device == "cuda" else _cores())
    with Local(replace(terms, device=device, compile=compile), workers, imports) as executor:
        yield executor


def missing_of(specs: Sequence["RunSpec"], where: Where) -> list["RunSpec"]:
    """Those of these runs that are not stored; their checkpoints are removed if they are never to be continued."""
    from grokking.engine.checkpoint import discard
    from grokking.store import stored

    known = stored(where.out)
    missing = [spec for spec in specs if spec.run_id not in known]
    if where.resume == "never":
        discard(where.out, [spec.run_id for spec in missing])
    return missing


def fill(specs: Sequence["RunSpec"], where: Where, executor: "Executor") -> int:
    """Train those of these runs that are not stored; 1 if something failed."""
    return train_missing(missing_of(specs, where), executor)


def train_missing(missing: Sequence["RunSpec"], executor: "Executor", of: int | None = None) -> int:
    """Train these runs, the rest `of` so many; 1 if something failed."""
    from grokking.study import total_steps

    terms = executor.terms
    refuse_tf32(missing, terms.device)
    cohorts = _cohorts(missing, executor)
    continued = sum(terms.checkpoints(cohort).step() > 0 for cohort in cohorts)
    executor.refuse_unfit(cohorts)
    if of is not None:
        print(
            f"grokking: {len(missing)} of {of} runs to train on {terms.device}, at most {total_steps(missing):,} steps"
            + (f"; cohorts that continue from a checkpoint: {continued}" if continued else ""),
            file=sys.stderr,
        )
    failures = executor.train(cohorts) if cohorts else []
    for path in failures:
        print(f"grokking: a cohort failed: {_last_line(path)} (all of it in {path})", file=sys.stderr)
    return 1 if failures else 0


def _cohorts(missing: Sequence["RunSpec"], executor: "Executor") -> list[list["RunSpec"]]:
    """The plan of these runs: as wide as pays on this device, and as fits into each slot's share of its memory."""
    from grokking.engine.checkpoint import started
    from grokking.engine.memory import fitting
    from grokking.engine.trainer import places
    from grokking.execute.local import widest
    from grokking.study import plan

    terms = executor.terms
    most, take = widest(terms.device, terms.compile), places(terms.device, terms.compile)
    room = executor.room() if missing else 0.0

    def fits(spec: "RunSpec") -> int:
        return 1 if spec.setting.external else fitting(spec, most, room, take, terms.device)

    return plan(missing, most, executor.slots, started(terms.folder), fits)


def _last_line(path: Path) -> str:
    if not path.exists():
        return "and its traceback could not be written"
    return path.read_text().strip().splitlines()[-1].removeprefix("grokking.errors.BadInput: ")


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
