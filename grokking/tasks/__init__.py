"""What is to be learned: each task is one decorated function that returns the table of all its examples."""

from collections.abc import Callable
from typing import Any

from grokking.registry import Registry, options
from grokking.tasks.table import Position, Table, binary_operation, operation_on, prompted, split

tasks = Registry("task")
Make = Callable[..., Table]


def task(make: Make | None = None, *, reads: Callable[..., str] | None = None) -> Any:
    """Register a task: a function of options with defaults that returns a `Table`.

    The first option may stand behind the name: `--task mod_add:97`. A task that reads more than its options, a file, is
    registered by `@task(reads=f)`: f(options) is a hash of what it reads, which then is part of every run's description.
    """
    if make is None:
        return lambda function: task(function, reads=reads)
    tasks.add(make, options(make), reads=reads)
    return make


from grokking.tasks import bits, groups, mixtures, modular, number_theory, polynomials, text  # noqa: E402  (they register themselves with `task`)

__all__ = [
    "Position",
    "Table",
    "binary_operation",
    "bits",
    "groups",
    "mixtures",
    "modular",
    "number_theory",
    "operation_on",
    "polynomials",
    "prompted",
    "split",
    "task",
    "tasks",
    "text",
]
