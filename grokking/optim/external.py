"""Anyone's `torch.optim.Optimizer`, found by its dotted name, with its options."""

import hashlib
import importlib
import importlib.metadata
import inspect
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from grokking.errors import BadInput, words
from grokking.registry import Entry, Scalar, suggest


@lru_cache(maxsize=64)
def entry(name: str) -> Entry:
    """The optimizer of this dotted name, `torch.optim.NAdam` or `my_module.MyOptimizer`, as if it were registered.

    Its options are the parameters of its constructor with a number, a bool, a text or a tuple of numbers as default
    (written "0.9,0.98"). A function does as well as a class, and may return several optimizers, which step one after the
    other. If the first parameter is called `model`, it is given the module, otherwise its parameters.
    """
    make = _found(name)
    try:
        first, *others = inspect.signature(make).parameters.values()
        version = _version(make)
    except (ValueError, TypeError, OSError):
        raise BadInput(
            f"optimizer {name!r} is no class and no function of parameters; allowed: a torch.optim.Optimizer, or a function "
            "that returns one"
        ) from None
    defaults = {option.name: default for option in others if (default := _default(name, option)) is not None}
    summary = (inspect.getdoc(make) or name).strip().splitlines()[0]
    extra = {
        "external": True,
        "full_batch": False,
        "slots": lambda role, options: {},
        "model": first.name == "model",
        "tuples": [option.name for option in others if isinstance(option.default, tuple) and option.name in defaults],
    }
    return Entry(name, make, defaults, summary, version, extra)


def _found(name: str) -> Callable[..., Any]:
    if not all(part.isidentifier() for part in name.split(".")):
        raise BadInput(f"optimizer {name!r} is no dotted name; allowed: module.Class, such as torch.optim.NAdam")
    path, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(path)
    except (Exception, SystemExit) as error:
        missing = path.partition(".")[0]
        raise BadInput(
            f"optimizer {name!r}: cannot import {path!r} ({words(error)}); install {missing!r}, or name your own file with --import"
        ) from None
    found = getattr(module, attribute, None)
    if not callable(found):
        there = [key for key, thing in vars(module).items() if isinstance(thing, type) and hasattr(thing, "step")]
        raise BadInput(f"optimizer {name!r}: {path} has no such class; {suggest(attribute, sorted(there))}")
    return found


def _default(name: str, option: inspect.Parameter) -> Scalar | None:
    """The default of a constructor's parameter, as a setting; None for what cannot be set."""
    default, kind = option.default, option.annotation
    if option.kind in (option.VAR_POSITIONAL, option.VAR_KEYWORD):
        return None
    if default is option.empty:
        if option.name == "lr":
            return 1e-3
        raise BadInput(
            f"optimizer {name!r} wants {option.name!r}, which has no default; write a function of (params, lr=…) that "
            "returns it made, in a file of your own, and name that"
        )
    if isinstance(default, bool | str):
        return default
    if isinstance(default, int | float):
        numeric = "float" in str(kind) or option.name in ("lr", "weight_decay", "momentum", "eps")
        return None if not math.isfinite(default) else float(default) if numeric else default
    if isinstance(default, tuple) and default and all(isinstance(part, int | float) for part in default):
        return ",".join(map(repr, default))
    return None


def _version(make: Callable[..., Any]) -> str:
    """The release that it comes from, or a hash of the files of a user's own: its own, and those of what it inherits from."""
    modules = dict.fromkeys(thing.__module__ for thing in (make, *getattr(make, "__mro__", ())))
    own = [name for name in modules if _release(name) is None and name != "builtins"]
    if not own:
        return str(_release(make.__module__))
    sources = "".join(inspect.getsource(importlib.import_module(name)) for name in own)
    return "source:" + hashlib.sha256(sources.encode()).hexdigest()[:12]


def _release(module: str) -> str | None:
    """The distribution that an installed module comes from, with its version; None for a user's own."""
    try:
        distribution = importlib.metadata.packages_distributions()[module.partition(".")[0]][0]
        return f"{distribution} {importlib.metadata.version(distribution).partition('+')[0]}"
    except (KeyError, importlib.metadata.PackageNotFoundError):
        return None
