"""Measure how long small networks take to generalise after they have memorised, optimizer by optimizer."""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {  # the front door; resolved when first used, so that what needs no torch does not load it
    "Study": "grokking.runs",
    "grid": "grokking.runs",
    "run_spec": "grokking.runs",
    "load": "grokking.store",
    "task": "grokking.tasks",
    "optimizer": "grokking.optim",
    "model": "grokking.models",
    "loss": "grokking.losses",
}
__all__ = ["Study", "__version__", "grid", "load", "loss", "model", "optimizer", "run_spec", "task"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'grokking' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
