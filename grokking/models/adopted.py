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
    tokens = torch.empty((2, 3, len(table.positions)), dtype=torch.int64, device="meta")
    weights = {name: torch.stack([w.detach()] * 2) for name, w in model.eval().named_parameters()}
    try:  # two runs side by side
        with sdpa_kernel(SDPBackend.MATH):
            shape = tuple(vmap(lambda w, t: functional_call(model, w, (t,)))(weights, tokens).shape[1:])
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(f"model {name!r} fails on tokens [3, {len(table.positions)}]: {words(error)}") from error
    if len(shape) != 2 or shape[0] != 3 or shape[1] < table.classes:
        raise BadInput(
            f"model {name!r} returns scores {list(shape)}; they must be [3, {table.classes}], an example a row"
        )
