"""What is to be learned: each task is one decorated function that returns the table of all its examples."""

from collections.abc import Callable

from grokking.registry import Registry, options
from grokking.tasks.table import Position, Table, binary_operation, split

tasks = Registry("task")


def task(make: Callable[..., Table]) -> Callable[..., Table]:
    """Register a task: a function of options with defaults that returns a `Table`."""
    tasks.add(make, options(make))
    return make


from grokking.tasks import bits, modular, number_theory  # noqa: E402  (they register themselves with `task`)

__all__ = ["Position", "Table", "binary_operation", "bits", "modular", "number_theory", "split", "task", "tasks"]
