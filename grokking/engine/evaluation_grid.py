"""At which steps a run is evaluated."""

from collections.abc import Iterator


def evaluation_steps(every: int, growth: float, budget: int) -> Iterator[int]:
    """Steps `max(every, growth · step)` apart, the last one at the budget.

    Onsets are then known to within 5 % by default, at a cost that grows with the logarithm of the run's length.
    """
    step = 0
    while step < budget:
        step = min(budget, step + max(every, int(growth * step)))
        yield step
