"""Anyone's `nn.Module`: what is replaced in it, and whether it can be trained here, tried before any work."""

import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from grokking.errors import BadInput, words
from grokking.models.parts import Dropout
from grokking.roles import declarations
from grokking.tasks import Table

FIRST_SITE = 1_000  # of dropouts that are replaced, apart from a model's own


def adopted(model: nn.Module) -> nn.Module:
    """The model, with every `nn.Dropout` replaced by ours, whose masks are a run's own; `BadInput` where that is not enough."""
    site = FIRST_SITE
    for name, module in list(model.named_modules()):
        if getattr(module, "running_mean", None) is not None:
            raise BadInput(
                f"the model has {type(module).__name__} ({name}), which mixes the examples of a batch; use LayerNorm"
            )
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase) and module.dropout:
            raise BadInput(f"{name}.dropout = {module.dropout} draws from a generator that all runs share; set it to 0")
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(module, child_name, Dropout(child.p, site))
                site += 1
    return model


def try_model(model: nn.Module, table: Table, name: str) -> None:
    """Raise `BadInput` where a parameter has no role, runs cannot be lifted, or examples do not give a score for every class."""
    declarations(model)
    try:
        _two_runs(model.train(), table)
        shape = _two_runs(model.eval(), table)
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        hint = "; random numbers are drawn from a generator that all runs share: use nn.Dropout, whose masks are a run's own"
        raise BadInput(
            f"model {name!r} fails on tokens [3, {len(table.positions)}]: {words(error)}{hint * ('random' in str(error))}"
        ) from error
    if len(shape) != 2 or shape[0] != 3 or shape[1] < table.classes:
        raise BadInput(
            f"model {name!r} returns scores {list(shape)}; they must be [3, {table.classes}], an example a row"
        )


def _two_runs(model: nn.Module, table: Table) -> tuple[int, ...]:
    """The shape of what the model returns for three examples, side by side with another run."""
    tokens = torch.empty((2, 3, len(table.positions)), dtype=torch.int64, device="meta")
    weights = {name: torch.stack([w.detach()] * 2) for name, w in model.named_parameters()}
    with sdpa_kernel(SDPBackend.MATH):
        found = vmap(lambda weights, tokens: functional_call(model, weights, (tokens,)))(weights, tokens)
    return tuple(found.shape[1:])
