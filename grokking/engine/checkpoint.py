"""Checkpoints of a cohort on its way: everything its continuation depends on, so that the bits stay the same.

results/checkpoints/<unit>/<step>/cohort.safetensors   weights, optimizer state and who is finite, each [run, …]
                                  progress.json        step, curves so far, and what was trained where
"""

import contextlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from grokking.engine.cohort import Cohort, Moving, Tensors, filled
from grokking.engine.loop import Training, Trains, begin
from grokking.errors import BadInput, Notice, Unwritable
from grokking.runs import RunSpec
from grokking.store.sealed import Content, Damaged, check, clear_abandoned, read, seal, set_aside
from grokking.store.units import METRICS, unit_name

FILES = ("cohort.safetensors", "progress.json")
SCHEMA = 3  # raised when what a checkpoint holds changes
KEPT = 2  # the last, and the one before in case the last is damaged
SHARE = 0.05  # of the time at most goes into checkpoints


class Checkpoints:
    """The checkpoints of one unit of runs in a store."""

    def __init__(
        self, folder: Path, specs: Sequence[RunSpec], execution: Callable[[], Mapping[str, object]], every: float
    ) -> None:
        self.specs, self._execution, self.every = specs, execution, every
        self.place = folder / "checkpoints" / unit_name([spec.run_id for spec in specs])
        self.history: list[dict[str, Any]] = []  # where it was trained before, as far as that was elsewhere
        self.ready, self.spent = time.monotonic() + every, 0.0

    @cached_property
    def execution(self) -> dict[str, object]:
        """Where we train; asked for when it matters, as a driver that only moves files may have no such device."""
        return dict(self._execution())

    def due(self) -> bool:
        """Whether `every` seconds have passed (0: never due), and so many that saving takes at most 5 % of the time."""
        return self.every > 0 and time.monotonic() >= self.ready

    def save(self, unit: Training, seconds: float) -> None:
        """Put the unit at this step boundary on disk, `seconds` after its start; raises `Unwritable`."""
        began = time.monotonic()
        files = {"cohort.safetensors": safetensors.torch.save(_tensors(unit.cohort)), "progress.json": b""}
        files["progress.json"] = json.dumps(
            {**self._identity(), **_progress(unit), "seconds": seconds, "history": self.executions()}
        ).encode()
        self._put(f"{unit.cohort.step:09d}", files)
        self._forget_but(unit.cohort.step)
        cost = time.monotonic() - began
        self.spent += cost
        self.ready = time.monotonic() + max(self.every, cost * (1 - SHARE) / SHARE)

    def newest(self) -> tuple[str, Content] | None:
        """The name and files of the last one that is intact, to be `receive`d elsewhere; None where nothing was saved."""
        for path in reversed(_steps(self.place)):
            try:
                content = read(path)
                check(content, FILES)
            except (Damaged, OSError):
                continue
            return path.name, {name: content[name] for name in FILES}
        return None

    def receive(self, name: str, files: Content) -> None:
        """Put what another store's `newest` gave into place; raises `Unwritable`."""
        self._put(name, files)
        self._forget_but(int(name))

    def _put(self, name: str, files: Content, tries: int = 2) -> None:
        try:
            self.place.mkdir(exist_ok=True)  # but not its parents: a store that was removed is an error
        except OSError as error:
            raise Unwritable(f"cannot write {str(self.place)!r}: {error.strerror or error}") from error
        try:
            seal(self.place / name, files, accept=_opened)
        except Unwritable:
            if tries == 1 or self.place.exists() or not self.place.parent.exists():
                raise
            # Another sweep has just stored this unit and removed its checkpoints.
            self._put(name, files, tries - 1)

    def _forget_but(self, step: int) -> None:
        """Keep this one and the one before it; a later one is from an attempt that was given up."""
        there = _steps(self.place)
        ours = [path for path in there if int(path.name) <= step]
        for old in set(there) - set(ours[-KEPT:]):
            shutil.rmtree(old, ignore_errors=True)
        clear_abandoned(self.place)

    def latest(self, trainer: Trains, any_execution: bool = False) -> tuple[Training, float] | None:
        """The unit as last saved, and its seconds so far; None where nothing was.

        A damaged checkpoint is a `Notice`, and the one before it is taken. One of other runs or versions, or (unless
        `any_execution`) of another execution, is refused with `BadInput`.
        """
        for path in reversed(_steps(self.place)):
            try:
                progress, tensors = _opened(read(path))
                self._compare(path, progress, any_execution)
                unit, self.history = _restored(self.specs, progress, tensors, trainer), list(progress["history"])
                return unit, float(progress["seconds"])
            except BadInput:
                raise
            except (Damaged, ArithmeticError, LookupError, TypeError, ValueError) as error:
                warnings.warn(Notice(f"left out the damaged checkpoint {path}: {error}"), stacklevel=2)
                with contextlib.suppress(OSError):
                    set_aside(path)
        return None

    def refuse_unfit(self, any_execution: bool) -> None:
        """Raise `BadInput` now where `latest` would, before any work; damage is left to `latest`, which survives it."""
        for path in reversed(_steps(self.place)):
            try:
                return self._compare(path, _described(read(path)), any_execution)
            except OSError as error:
                raise BadInput(
                    f"cannot read the checkpoint {path}: {error.strerror or error}; make it readable"
                ) from None
            except Damaged:
                continue

    def executions(self) -> list[dict[str, Any]]:
        """Every execution that had a part in this unit, in order."""
        return self.history if self.execution in self.history[-1:] else [*self.history, self.execution]

    def step(self) -> int:
        """The step of the last one; 0 where there is none."""
        return max((int(path.name) for path in _steps(self.place)), default=0)

    def clear(self) -> None:
        """Remove them: the unit is stored, or starts again otherwise."""
        shutil.rmtree(self.place, ignore_errors=True)

    def _identity(self) -> dict[str, Any]:
        runs = [spec.description() for spec in self.specs]
        return {"schema": SCHEMA, "execution": self.execution, "runs": runs}

    def _compare(self, path: Path, progress: Mapping[str, Any], any_execution: bool) -> None:
        """Refuse, line by line, what was saved by other runs or elsewhere."""
        ours = json.loads(json.dumps(self._identity()))
        saved = {name: progress.get(name) for name in ours}
        if any_execution:
            ours.pop("execution"), saved.pop("execution")
        if lines := _differences(saved, ours):
            raise BadInput(
                f"the checkpoint {path} does not belong to what is to be continued:\n"
                + "\n".join(f"  {line}" for line in lines)
                + "\ncontinue where it was made, or say --resume anyway (if only the execution differs: the bits will be "
                "neither machine's) or --resume never (train from step 0)"
            )


def started(folder: Path) -> list[list[str]]:
    """The run_ids of every unit in this store that has a checkpoint, in the unit's order."""
    found = []
    for directory in sorted((folder / "checkpoints").glob("[!.]*")):
        for path in reversed(_steps(directory)):
            try:
                progress = json.loads((path / "progress.json").read_bytes())
                run_ids = [str(run_id) for run_id in progress["run_ids"]]
            except Exception:  # what is damaged there is told when it is read in full
                continue
            if unit_name(run_ids) == directory.name and len(set(run_ids)) == len(run_ids):
                found.append(run_ids)
                break
    return found


def discard(folder: Path, run_ids: Iterable[str]) -> None:
    """Remove the checkpoints of every unit that holds one of these runs."""
    again = set(run_ids)
    for unit in started(folder):
        if not again.isdisjoint(unit):
            shutil.rmtree(folder / "checkpoints" / unit_name(unit), ignore_errors=True)


def _steps(folder: Path) -> list[Path]:
    """The checkpoints of a unit, by step."""
    return sorted(path for path in folder.glob("?????????") if path.name.isascii() and path.name.isdecimal())


def _opened(content: Mapping[str, bytes]) -> tuple[dict[str, Any], Tensors]:
    """What the files of a checkpoint say; raises `Damaged` where they are none."""
    progress = _described(content)
    try:
        return progress, safetensors.torch.load(content["cohort.safetensors"])
    except (ValueError, SafetensorError) as error:
        raise Damaged(str(error)) from None


def _described(content: Mapping[str, bytes]) -> dict[str, Any]:
    """What the checkpoint says of itself, its tensors left alone."""
    check(content, FILES)
    try:
        progress = json.loads(content["progress.json"])
    except (ValueError, RecursionError) as error:
        raise Damaged(str(error)) from None
    if not isinstance(progress, dict):
        raise Damaged("progress.json is not what this package writes")
    return progress


def _tensors(cohort: Cohort) -> Tensors:
    """Of every run once: how many copies fill a cohort depends on where it is trained."""
    runs = len(dict.fromkeys(cohort.specs))  # copies come last
    named = {f"weights/{name}": w for name, w in cohort.weights.items()}
    named |= {f"state/{name}/{slot}": s for name, slots in cohort.state.items() for slot, s in slots.items()}
    named |= {"finite": cohort.moving.finite, "frozen_at": cohort.moving.frozen_at}
    # Copies: safetensors refuses tensors that share memory, which a rule's state may.
    return {name: t[:runs].clone(memory_format=torch.contiguous_format) for name, t in named.items()}


def _progress(unit: Training) -> dict[str, Any]:
    return {
        "step": unit.cohort.step,
        "run_ids": [record.spec.run_id for record in unit.records],
        "going": [record.spec.run_id for record in unit.going()],
        "records": [[record.steps, record.curves, record.diverged_at] for record in unit.records],
        "evaluating": unit.evaluating,
    }


def _restored(specs: Sequence[RunSpec], progress: Mapping[str, Any], tensors: Tensors, trainer: Trains) -> Training:
    """The unit that was saved; raises `Damaged` where a tensor is missing, too many, or of another shape."""
    _check_plausible(specs, progress)
    unit = begin(specs, trainer)
    for record, saved in zip(unit.records, progress["records"], strict=True):
        record.steps, record.curves, record.diverged_at = saved
    by_id = {spec.run_id: run for run, spec in enumerate(specs)}
    cohort = unit.cohort.keep([by_id[run_id] for run_id in progress["going"]])
    expected = _tensors(cohort)
    if set(tensors) != set(expected):
        raise Damaged(f"it lacks or adds {', '.join(sorted(set(tensors) ^ set(expected)))}")

    def saved_as(name: str, like: Tensor) -> Tensor:
        tensor = tensors[name]
        if (tensor.shape, tensor.dtype) != (expected[name].shape, like.dtype):
            raise Damaged(
                f"{name} is {tensor.dtype} {list(tensor.shape)}, not {like.dtype} {list(expected[name].shape)}"
            )
        # In memory of its own, aligned as if it had been computed here.
        return tensor[filled(range(len(tensor)), len(cohort.specs))].to(trainer.device)

    cohort.step = int(progress["step"])
    cohort.moving = Moving(
        {name: saved_as(f"weights/{name}", w) for name, w in cohort.weights.items()},
        {
            name: {slot: saved_as(f"state/{name}/{slot}", s) for slot, s in slots.items()}
            for name, slots in cohort.state.items()
        },
        saved_as("finite", cohort.moving.finite),
        saved_as("frozen_at", cohort.moving.frozen_at),
    )
    unit.cohort, unit.evaluating = cohort, float(progress["evaluating"])
    return unit


def _check_plausible(specs: Sequence[RunSpec], progress: Mapping[str, Any]) -> None:
    """Raise `Damaged` where the numbers cannot be those of these runs."""
    step, going = progress["step"], progress["going"]
    if not 0 <= step <= specs[0].setting.integer("steps"):
        raise Damaged(f"its step is {step}")
    if not going or not set(going) <= {spec.run_id for spec in specs}:
        raise Damaged("it names other runs")
    for steps, curves, _ in progress["records"]:
        if set(curves) != {*METRICS, *specs[0].setting.measures} or any(
            len(curve) != len(steps) for curve in curves.values()
        ):
            raise Damaged("its curves are incomplete")
        if steps and not 0 < steps[-1] <= step:
            raise Damaged("its curves are longer than its steps")


def _differences(saved: Any, ours: Any, name: str = "") -> list[str]:
    """Where two JSON values differ, a line each."""
    if isinstance(saved, dict) and isinstance(ours, dict):
        keys = sorted({*saved, *ours})
        return [
            line for key in keys for line in _differences(saved.get(key), ours.get(key), f"{name}.{key}".strip("."))
        ]
    if isinstance(saved, list) and isinstance(ours, list) and len(saved) == len(ours):
        return [line for at in range(len(ours)) for line in _differences(saved[at], ours[at], f"{name}[{at}]")]
    return [] if saved == ours else [f"{name}: {saved!r} in the checkpoint, {ours!r} now"]
