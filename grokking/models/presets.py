"""Kinds of transformer in the form in which they became known: what `transformer` is with other defaults."""

from torch import nn

from grokking.models import model
from grokking.models.transformer import transformer
from grokking.tasks import Table


@model
def gpt(table: Table, depth: int = 2, width: int = 128, heads: int = 4, dropout: float = 0.0) -> nn.Module:
    """Decoder in the style of GPT-2: causal, LayerNorm before, GELU, learned positions, biases, tied embedding."""
    return transformer(
        table,
        depth=depth,
        width=width,
        heads=heads,
        dropout=dropout,
        norm="layernorm",
        norm_placement="pre",
        activation="gelu",
        attention="causal",
        bias=True,
        tied=True,
    )


@model
def bert(table: Table, depth: int = 2, width: int = 128, heads: int = 4, dropout: float = 0.0) -> nn.Module:
    """Encoder in the style of BERT: bidirectional, LayerNorm after, GELU, learned positions, biases; read at the last position."""
    return transformer(
        table,
        depth=depth,
        width=width,
        heads=heads,
        dropout=dropout,
        norm="layernorm",
        norm_placement="post",
        activation="gelu",
        attention="bidirectional",
        bias=True,
    )


@model
def lipschitz_transformer(
    table: Table, depth: int = 2, width: int = 128, heads: int = 4, mlp_ratio: int = 4, logit_scale: float = 1.0
) -> nn.Module:
    """Transformer whose every part has a bound on its slope: convex residual, 1/d attention and a third of it, no norms, GELU / 1.129.

    With matrices of norm 1 (transforms=spectral_cap, init.name=orthogonal) `grokking.lipschitz.certificate` bounds the whole.
    Source: Newhouse et al. 2025, arXiv 2507.13338
    """
    return transformer(
        table,
        depth=depth,
        width=width,
        heads=heads,
        mlp_ratio=mlp_ratio,
        norm="none",
        positions="rope",
        activation="gelu_1",
        residual="convex",
        attention_form="lipschitz",
        logit_scale=logit_scale,
    )
