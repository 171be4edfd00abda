"""Learning-rate schedules: the factor on every learning rate at each step."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from grokking.errors import BadInput
from grokking.registry import Registry, Share, options

schedules = Registry("schedule")
Schedule = Callable[..., Tensor]


def schedule(factor: Schedule) -> Schedule:
    """Register a schedule: a function of (step, steps, options with defaults).

    `step` [] float64 counts updates from 1 to `steps`, the budget; the factor multiplies every learning rate. Floats among
    the options are numbers of each run (0-d tensors; `Share(0.3)` is one between 0 and 1), the others are static: runs of one
    cohort may peak and end at rates of their own. Never branch on a tensor.
    """
    schedules.add(factor, options(factor, skip=2))
    return factor


@schedule
def constant(step: Tensor, steps: int) -> Tensor:
    """The same at every step."""
    return torch.ones_like(step)


@schedule
def linear_warmup(step: Tensor, steps: int, warmup: int = 10) -> Tensor:
    """Rise linearly over the first `warmup` updates, then stay constant; the first update has 1 / warmup."""
    _check_at_least(0, "warmup", warmup)
    return (step / max(warmup, 1)).clamp_max(1.0)


@schedule
def linear_decay(step: Tensor, steps: int, warmup: int = 10, floor: float = 0.0) -> Tensor:
    """Warm up, then fall linearly to `floor`, which the update after the last would have."""
    return linear_warmup(step, steps, warmup) * (1 - (1 - floor) * _after(step, steps, warmup))


@schedule
def cosine(step: Tensor, steps: int, warmup: int = 10, floor: float = 0.0, cycles: int = 1) -> Tensor:
    """Warm up, then fall along half a cosine to `floor`, `cycles` times, each from the peak.

    Source: Loshchilov & Hutter 2017, arXiv 1608.03983
    """
    _check_at_least(1, "cycles", cycles)
    through = _after(step, steps, warmup) * cycles % 1.0
    return linear_warmup(step, steps, warmup) * (floor + (1 - floor) * (1 + (math.pi * through).cos()) / 2)


@schedule
def cyclical(step: Tensor, steps: int, low: float = 0.1, cycles: int = 4) -> Tensor:
    """Rise linearly from `low` to the peak and fall back, `cycles` times.

    Source: Smith 2017, arXiv 1506.01186
    """
    _check_at_least(1, "cycles", cycles)
    through = (step - 1) / steps * cycles % 1.0
    return low + (1 - low) * (1 - (2 * through - 1).abs())


@schedule
def one_cycle(step: Tensor, steps: int, rise: float = Share(0.3), start: float = 0.04, end: float = 4e-6) -> Tensor:
    """Rise along half a cosine from `start` to the peak for a share `rise` of the steps, then fall to `end` at the last.

    As `torch.optim.lr_scheduler.OneCycleLR`, without its momentum cycle.
    Source: Smith & Topin 2018, arXiv 1708.07120
    """
    peak = rise * steps - 1
    rising = start + (1 - start) * _eased(_share(step - 1, peak))
    falling = 1 - (1 - end) * _eased(_share(step - 1 - peak, steps - 1 - peak))
    return torch.where(step - 1 <= peak, rising, falling)


@schedule
def warmup_stable_decay(
    step: Tensor, steps: int, warmup: int = 10, decay: float = Share(0.2), floor: float = 0.0
) -> Tensor:
    """Warm up, stay at the peak, and fall linearly to `floor` over the last share `decay` of the steps.

    The update after the last would have it.

    Source: Hu et al. 2024, arXiv 2404.06395
    """
    fallen = _share(step - 1 - steps * (1 - decay), steps * decay)
    return linear_warmup(step, steps, warmup) * (1 - (1 - floor) * fallen)


@schedule
def exponential_rise(step: Tensor, steps: int, first: float = 1e-6) -> Tensor:
    """Rise geometrically from `first` at the first update to 1 at the last: a learning-rate range test.

    Source: Smith 2017, arXiv 1506.01186
    """
    return first ** (1 - (step - 1) / max(steps - 1, 1))


def _after(step: Tensor, steps: int, warmup: int) -> Tensor:
    """How far through the steps after the warm-up, from 0 before and at their first to 1 after the last."""
    return _share(step - 1 - warmup, steps - warmup)


def _share(part: Tensor, whole: Tensor | float) -> Tensor:
    """`part / whole`, within 0 and 1."""
    return (part / torch.as_tensor(whole, dtype=part.dtype).clamp_min(1e-9)).clamp(0, 1)


def _eased(through: Tensor) -> Tensor:
    """From 0 to 1 along half a cosine."""
    return (1 - (math.pi * through).cos()) / 2


def _check_at_least(least: int, name: str, value: int) -> None:
    if value < least:
        raise BadInput(f"schedule.{name} = {value}; allowed: integers from {least} on")
