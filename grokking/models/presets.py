"""The two usual kinds of transformer, in the form in which they became known: what `transformer` is with other defaults."""

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
