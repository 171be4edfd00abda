"""Runs so small that training them takes no time."""

from grokking.runs import run_spec

TINY = {
    "task.p": 7,
    "model.width": 16,
    "model.heads": 2,
    "batch_size": 16,
    "steps": 16,
    "train_fraction": 0.5,
    "evaluation.every": 4,
}


def runs(seeds=2, **changed):
    """One for each of so many seeds; `optimizer__lr` stands for `optimizer.lr`."""
    return [run_spec({**TINY, **{n.replace("__", "."): v for n, v in changed.items()}}, seed) for seed in range(seeds)]
