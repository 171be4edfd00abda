"""The run axis: R runs with one setting, their weights and optimizer state stacked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from grokking.optim import Slots, optimizers
from grokking.optim.transforms import transforms
from grokking.roles import Role, declarations
from grokking.runs import RunSpec
from grokking.setting import Setting

Tensors = dict[str, Tensor]
Places = Callable[[int, int], int]  # (runs, places they have had; 0 at the start) → how many places they take


class Moving(NamedTuple):
    """What a step changes; the first axis of every tensor is the run."""

    weights: Tensors
    state: dict[str, Tensors]  # parameter → slot → tensor
    finite: Tensor  # [run] bool: False from a non-finite loss or gradient on; such a run is frozen
    frozen_at: Tensor  # [run] int64: at which step that was; 0 until then


@dataclass
class Cohort:
    """State of the runs that still train, between two steps.

    A run may be there more than once: the copies fill a cohort up to a width for which a step is captured. On a CPU a run
    is never alone, but trains beside a copy of itself: at width 1 the run axis vanishes from the strides, the matrix
    library is called with other layouts, and on some processors (AMD's) other layouts are other bits.
    """

    specs: list[RunSpec]  # [run], copies included
    step: int  # updates made so far
    moving: Moving
    hyper: Tensors  # number → [run] float64: the optimizer's by its own name, others by their dotted name
    seeds: Tensor  # [run] int64
    places: Places

    @property
    def weights(self) -> Tensors:
        """Parameter → [run, …]."""
        return self.moving.weights

    @property
    def state(self) -> dict[str, Tensors]:
        """Parameter → slot → [run, …]."""
        return self.moving.state

    @property
    def finite(self) -> Tensor:
        """[run] bool: whether the run has been healthy so far."""
        return self.moving.finite

    @property
    def diverged_at(self) -> list[int | None]:
        """[run] the step at which each went non-finite, if it did."""
        frozen = zip(self.moving.finite.tolist(), self.moving.frozen_at.tolist(), strict=True)
        return [None if finite else step for finite, step in frozen]

    def keep(self, runs: list[int]) -> "Cohort":
        """The cohort without the other runs: what is left is not changed by a bit."""
        runs = filled(runs, self.places(len(runs), len(self.specs)))
        at = torch.tensor(runs, device=self.finite.device)
        moving, hyper, seeds = tree_map(lambda tensor: tensor[at], (self.moving, self.hyper, self.seeds))
        return Cohort([self.specs[run] for run in runs], self.step, moving, hyper, seeds, self.places)


def never_alone(runs: int, before: int) -> int:
    """On a CPU: places for so many runs, and two for one."""
    return max(runs, 2)


COMPILED_WIDTH = 4  # runs in a compiled step on a CPU: more gain little, and idle when others have ended


def compiled_width(runs: int, before: int) -> int:
    """In compiled steps on a CPU: a width once compiled is kept, because another takes longer to compile than it saves."""
    return before or (2 if runs <= 2 else -(-runs // COMPILED_WIDTH) * COMPILED_WIDTH)


def power_of_two(runs: int, before: int) -> int:
    """On CUDA: few widths, because the steps are recorded anew for each."""
    return 1 << (runs - 1).bit_length()


T = TypeVar("T")


def filled(runs: Sequence[T], places: int) -> list[T]:
    """The runs, and the last of them again until so many places are taken."""
    return [*runs, *[runs[-1]] * (places - len(runs))]


def start(
    specs: Sequence[RunSpec], device: torch.device, dtype: torch.dtype = torch.float32, places: Places = never_alone
) -> Cohort:
    """The cohort before its first step: every run's weights from its own seed, optimizer state at its start."""
    specs = filled(specs, places(len(specs), 0))
    setting = specs[0].setting
    drawn = {spec.seed: setting.initial_weights(spec.seed, dtype) for spec in dict.fromkeys(specs)}
    weights = {
        name: torch.stack([drawn[spec.seed][name] for spec in specs]).to(device) for name in drawn[specs[0].seed]
    }
    state = state_of(setting, weights)
    columns = zip(*(spec.hyper for spec in specs), strict=True)
    hyper = {
        column[0][0].removeprefix("optimizer."): torch.tensor(
            [v for _, v in column], dtype=torch.float64, device=device
        )
        for column in columns
    }
    runs = len(specs)
    healthy = torch.ones(runs, dtype=torch.bool, device=device)
    moving = Moving(weights, state, healthy, torch.zeros(runs, dtype=torch.int64, device=device))
    seeds = torch.tensor([spec.seed for spec in specs], device=device)
    return Cohort(specs, 0, moving, hyper, seeds, places)


def state_of(setting: Setting, weights: Tensors) -> dict[str, Tensors]:
    """The optimizer's state of these weights {parameter: [run, …]} before the first step."""
    return {
        name: {slot: vmap(first)(weights[name]).contiguous() for slot, first in slots(setting, law.role).items()}
        for name, law in declarations(setting.model()).items()
    }


def slots(setting: Setting, role: Role) -> Slots:
    """State tensors of a parameter: those of the optimizer's rule, and of each transform under `transform.slot`."""
    rule = optimizers[setting.name("optimizer")].extra["slots"](role, setting.options("optimizer"))
    return {**rule, **kept_by_transforms(setting)}


def kept_by_transforms(setting: Setting) -> Slots:
    """State tensors of a parameter that the transforms keep, each under `transform.slot`."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    for name in setting.transforms:
        declared = transforms[name].extra["slots"](setting.options(f"transform.{name}"))
        found |= {f"{name}.{slot}": first for slot, first in declared.items()}
    return found
