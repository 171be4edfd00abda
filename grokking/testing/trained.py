"""Runs in the engine that must not differ: alone and among others, beside a NaN, from a checkpoint."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from grokking.engine.checkpoint import Checkpoints
from grokking.engine.cohort import Cohort, start
from grokking.engine.external import ExternalTrainer
from grokking.engine.loop import Training, Trains, begin
from grokking.engine.trainer import Trainer
from grokking.registry import Scalar
from grokking.runs import RunSpec, run_spec
from grokking.store import prepare

CPU = torch.device("cpu")


def mates(spec: RunSpec) -> list[RunSpec]:
    """Two runs to stand beside it, with other numbers and other seeds."""
    return [run_spec({**_settings(spec), **_other_numbers(spec, 1 - 0.2 * at)}, seed) for at, seed in ((1, 4), (2, 5))]


def _settings(spec: RunSpec) -> dict[str, Scalar]:
    return {**spec.setting.by_name, **dict(spec.hyper)}


def _other_numbers(spec: RunSpec, factor: float) -> dict[str, float]:
    return {name: value * factor for name, value in spec.hyper}


def _trainer(spec: RunSpec) -> Trains:
    return (ExternalTrainer if spec.setting.external else Trainer)(spec.setting, CPU)


def _advanced(specs: Sequence[RunSpec], steps: int, change: Callable[[Cohort], None] = lambda cohort: None) -> Cohort:
    """The cohort of these runs after so many steps, `change`d at its start."""
    trainer = _trainer(specs[0])
    cohort = start(specs, CPU, places=trainer.places)
    change(cohort)
    for _ in range(steps):
        trainer.advance(cohort)
    return cohort


def _signature(cohort: Cohort) -> dict[str, Any]:
    named: dict[str, Any] = {name: (tuple(w.shape), w.dtype) for name, w in cohort.weights.items()}
    for name, slots in cohort.state.items():
        named |= {f"{slot} of {name}": (tuple(s.shape), s.dtype) for slot, s in slots.items()}
    return named


def keeps_shapes(spec: RunSpec) -> str:
    """Nothing where two steps keep every shape and type; else, what changed."""
    before, after = _signature(_advanced([spec], 0)), _signature(_advanced([spec], 2))
    changed = [
        f"{name} {before.get(name)} → {after.get(name)}"
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]
    return "; ".join(changed)


def _first_run(cohort: Cohort) -> list[Tensor]:
    return [tensor[0] for tensor in tree_leaves((cohort.weights, cohort.state))]


def _equal(ours: Cohort, theirs: Cohort) -> bool:
    """Whether the first run of both is the same, to the bit."""
    return all(
        a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(_first_run(ours), _first_run(theirs), strict=True)
    )


def alone_as_among(spec: RunSpec, mates: Sequence[RunSpec]) -> str:
    """Nothing where the run is the same beside `mates`; else, that it is not."""
    if _equal(_advanced([spec], 5), _advanced([spec, *mates], 5)):
        return ""
    return "after 5 steps its weights or state differ from those that it has beside two others"


def contains_nan(spec: RunSpec, mates: Sequence[RunSpec]) -> str:
    """Nothing where NaN in `mates` leaves the run as it was and ends them; else, what it does."""

    def poison(cohort: Cohort) -> None:
        for w in cohort.weights.values():
            w[1:] = torch.nan

    among = _advanced([spec, *mates], 3, poison)
    if not _equal(_advanced([spec, *mates], 3), among):
        return "it changes a run beside it"
    return "" if not among.finite[1:].any() else "the run that has it goes on"


def survives_a_checkpoint(specs: Sequence[RunSpec]) -> str:
    """Nothing where runs that continue from a checkpoint go where the others go; else, that they do not."""
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place))
        trainer = Trainer(specs[0].setting, CPU)
        unit = begin(specs, trainer)
        _advance(trainer, unit, 3)
        checkpoints = Checkpoints(Path(place), specs, dict, 1.0)
        checkpoints.save(unit, 0.0)
        found = checkpoints.latest(Trainer(specs[0].setting, CPU))
        if found is None:
            return "nothing could be read back"
        _advance(trainer, unit, 3)
        _advance(Trainer(specs[0].setting, CPU), found[0], 3)
    same = all(
        a.numpy().tobytes() == b.numpy().tobytes()
        for a, b in zip(tree_leaves(unit.cohort.moving), tree_leaves(found[0].cohort.moving), strict=True)
    )
    return "" if same else "continued from one, the runs go elsewhere"


def _advance(trainer: Trains, unit: Training, steps: int) -> None:
    for _ in range(steps):
        trainer.advance(unit.cohort)
