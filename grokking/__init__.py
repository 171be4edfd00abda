"""Measure how long small networks take to generalise after they have memorised, optimizer by optimizer."""

import importlib
import os
from typing import Any

# Intel's matrix library, inside PyTorch, may choose its path by how a matrix happens to lie in memory, and did on the AMD
# processors we measured: a run's bits then depended on its place in a cohort. "AUTO": one path per processor, at no cost
# that we could measure. It is read at the library's first call in a process, a large exp included.
os.environ.setdefault("MKL_CBWR", "AUTO")

__version__ = "0.1.0"

_HOME = {  # the front door; resolved when first used, so that what needs no torch does not load it
    "Study": "grokking.study",
    "grid": "grokking.study",
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
