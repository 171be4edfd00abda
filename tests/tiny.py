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
    tiny = {n: value for n, value in TINY.items() if n != "model.heads" or changed.get("model__name") != "mlp"}
    return [run_spec({**tiny, **{n.replace("__", "."): v for n, v in changed.items()}}, seed) for seed in range(seeds)]


BASE = {  # every role occurs: embeddings, matrices (square, tall and wide), head, gains, biases
    "task.name": "mod_add",
    "task.p": 7,
    "train_fraction": 0.6,
    "batch_size": 16,
    "model.depth": 1,
    "model.width": 16,
    "model.heads": 2,
    "model.norm": "layernorm",
    "model.bias": True,
    "schedule.warmup": 1,
}


def arm(name, **numbers):
    return {**BASE, "optimizer.name": name, **{f"optimizer.{key}": value for key, value in numbers.items()}}
