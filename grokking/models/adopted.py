"""Anyone's `nn.Module`: what is replaced in it, and whether it can be trained here, tried before any work."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from grokking.errors import BadInput, words
from grokking.models.parts import Dropout
from grokking.roles import declarations
from grokking.tasks import Table

FIRST_SITE = 1_000  # of dropouts that are replaced, apart from a model's own


def adopted(model: nn.Module) -> nn.Module:
    """The model, with every `nn.Dropout` replaced by ours, whose masks are a run's own; `BadInput` where that is not enough."""
    if not isinstance(model, nn.Module):
        raise BadInput(f"it returns {type(model).__name__}; a model returns an nn.Module")
    fixed = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if fixed:
        raise BadInput(f"{', '.join(fixed)} asks for no gradient, but every parameter is trained; make it a buffer")
    site = FIRST_SITE
    for name, module in list(model.named_modules()):
        if getattr(module, "running_mean", None) is not None:
            raise BadInput(
                f"the model has {type(module).__name__} ({name}), which mixes the examples of a batch; use LayerNorm"
            )
        if isinstance(module, nn.RNNBase):
            raise BadInput(
                f"{name} is an {type(module).__name__} of torch.nn, which cannot be lifted over runs; take the model lstm"
            )
        if isinstance(module, nn.MultiheadAttention) and module.dropout:
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
    except BadInput as error:
        raise BadInput(f"model {name!r}: {error}") from None
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
    """The shape of what the model returns for three examples, side by side with another run; and back through it."""
    tokens = torch.empty((2, 3, len(table.positions)), dtype=torch.int64, device="meta")
    weights = {name: torch.stack([w.detach()] * 2) for name, w in model.named_parameters()}

    def summed(weights: dict[str, Tensor], tokens: Tensor) -> tuple[Tensor, Tensor]:
        scores = functional_call(model, weights, (tokens,))
        if not isinstance(scores, Tensor):
            raise BadInput(f"it returns a {type(scores).__name__}; a model returns its scores, one tensor")
        return scores.sum(), scores

    with sdpa_kernel(SDPBackend.MATH):
        _, (_, scores) = vmap(grad_and_value(summed, has_aux=True))(weights, tokens)
    return tuple(scores.shape[1:])
