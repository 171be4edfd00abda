"""Who learns: each model is one decorated function that builds an ordinary single-run `nn.Module` for a task."""

from collections.abc import Callable

from torch import nn

from grokking.registry import Registry, options

models = Registry("model")


def model(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Register a model: a function of (table, options with defaults) that returns a module.

    The module maps tokens [example, position] to class scores [example, table.classes] and creates its parameters with
    `Declaring.declare`. It knows nothing of other runs: the engine lifts it over the run axis.
    """
    models.add(build, options(build, skip=1))
    return build


from grokking.models import lstm, mlp, presets, transformer  # noqa: E402  (they register themselves with `model`)

__all__ = ["lstm", "mlp", "model", "models", "presets", "transformer"]
