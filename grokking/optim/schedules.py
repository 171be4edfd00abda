"""Learning-rate schedules: the factor on every learning rate at each step."""

from collections.abc import Callable

from torch import Tensor

from grokking.registry import Registry, options

schedules = Registry("schedule")
Schedule = Callable[..., Tensor]


def schedule(factor: Schedule) -> Schedule:
    """Register a schedule: a function of (step, steps, options with defaults).

    `step` [] float64 counts updates from 1 to `steps`, the budget; the factor multiplies every learning rate.
    """
    schedules.add(factor, options(factor, skip=2))
    return factor


@schedule
def linear_warmup(step: Tensor, steps: int, warmup: int = 10) -> Tensor:
    """Rise linearly over the first `warmup` updates, then stay constant; the first update has 1 / warmup."""
    return (step / max(warmup, 1)).clamp_max(1.0)
