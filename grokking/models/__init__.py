"""Who learns: each model is one decorated function that builds an ordinary single-run `nn.Module` for a task."""

from collections.abc import Callable

from torch import nn

from grokking.registry import Registry, options

models = Registry("model")


def model(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Register a model: a function of (table, options with defaults) that returns a module.

    The module maps tokens [example, position] to class scores [example, table.classes]. It knows nothing of other runs: the
    engine lifts it over the run axis. Its parameters are created with `Declaring.declare`, or are those of modules of
    `torch.nn`, whose roles are known and which draw their initial weights themselves. Dropout of `torch.nn` is replaced by
    ours, whose masks are the run's own (one module that is called twice in a step has one mask: make two); other buffers are
    constants.
    """
    models.add(build, options(build, skip=1))
    return build


from grokking.models import lstm, mlp, presets, transformer  # noqa: E402  (they register themselves with `model`)

__all__ = ["lstm", "mlp", "model", "models", "presets", "transformer"]
