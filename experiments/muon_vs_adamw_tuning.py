"""The searches behind experiments/muon_vs_adamw.py: the same run-steps for each optimizer on each task."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import tyro
from muon_and_adamw import SEARCH_STEPS, SPACES, TASKS, search
from tqdm import tqdm

from grokking.commands.arguments import Where
from grokking.commands.training import fill, open_store, opened
from grokking.execute.jobs import Executor
from grokking.runs import RunSpec
from grokking.tuning.search import Search


def main(
    optimizers: tuple[str, ...] = tuple(SPACES),
    tasks: tuple[str, ...] = tuple(TASKS),
    out: Path = Path("results"),
    workers: int = 0,
) -> None:
    """Search, or go on searching.

    Args:
        optimizers: whose numbers.
        tasks: on which of the tasks.
        out: folder of the results.
        workers: processes that train; 0: as many as cores.
    """
    where = Where(out=out, workers=workers)
    open_store(where)
    with opened(where, (), declared=True) as executor:
        train = partial(_train, where=where, executor=executor)
        for optimizer, task in tqdm([(o, t) for t in tasks for o in optimizers], desc="searches"):
            with Search(out, search(task, optimizer), train) as own:
                while batch := own.batch(None, SEARCH_STEPS):
                    own.settle(batch)
                print(f"{task}, {optimizer}: {own.so_far()}", file=sys.stderr)


def _train(specs: Sequence[RunSpec], where: Where, executor: Executor) -> None:
    if fill(specs, where, executor):
        sys.exit("a cohort failed")


if __name__ == "__main__":
    tyro.cli(main)
