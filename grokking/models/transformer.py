"""One transformer that covers the configurations of the grokking papers."""

import math

import torch
from torch import Tensor, nn

from grokking.errors import BadInput
from grokking.models import distinct, model
from grokking.models.parts import (
    Dropout,
    Embedding,
    FeedForward,
    Linear,
    Multiplier,
    check_logit_scale,
    norm,
    rotate,
    sinusoidal,
)
from grokking.roles import Role
from grokking.softmax import SOFTMAXES
from grokking.tasks import Table

CHOICES = {
    "norm": ("none", "layernorm", "rmsnorm"),
    "norm_placement": ("pre", "post", "stream"),
    "positions": ("learned", "sinusoidal", "rope", "none"),
    "activation": ("relu", "gelu", "gelu_1", "silu", "swiglu"),
    "residual": ("sum", "convex"),
    "attention_form": ("usual", "lipschitz"),
    "attention": ("causal", "bidirectional"),
    "attention_softmax": tuple(SOFTMAXES),
    "biased": ("all", "blocks", "mlp", "norms"),
    "dropout_at": ("all", "hidden"),
    "outputs": ("classes", "vocabulary"),
}


@model
def transformer(
    table: Table,
    depth: int = 1,
    width: int = 128,
    heads: int = 4,
    mlp_ratio: int = 4,
    norm: str = "rmsnorm",
    norm_placement: str = "pre",
    positions: str = "learned",
    activation: str = "relu",
    attention: str = "causal",
    bias: bool = False,
    dropout: float = 0.0,
    tied: bool = False,
    attention_softmax: str = "softmax",
    biased: str = "all",
    outputs: str = "classes",
    rope_base: int = 10_000,
    dropout_at: str = "all",
    residual: str = "sum",
    attention_form: str = "usual",
    logit_scale: float = 1.0,
) -> nn.Module:
    """Transformer that reads the answer at the last position (Power et al. 2022 and successors).

    `norm`: none, layernorm or rmsnorm; `positions`: learned, sinusoidal, rope or none; `activation`: relu, gelu, gelu_1 (GELU
    whose slopes are at most 1), silu or swiglu; `attention`: causal or bidirectional; `attention_softmax`: softmax, stablemax or sparsemax.
    `mlp_ratio`: width of the feed-forward over that of the model; 0: attention only.
    `norm_placement`: "pre", what attention and feed-forward read; "post", their sums with the residual stream; "stream", what
    attention reads and the residual stream itself before it, and what the feed-forward reads (the code of Grokfast).
    `bias`: whether there are biases, and `biased` where: in all parts, in "blocks" (all but the head), in the feed-forward
    alone, in the norms alone.
    `dropout_at`: after attention, in the feed-forward and after it, or "hidden": in the feed-forward alone.
    `residual`: "sum" x + f(x), or "convex" (1 - α) x + α f(x), where α is 1 over the number of such sums.
    `attention_form`: "usual", or "lipschitz", with scores over channels (not their root) and a third of what is mixed.
    `logit_scale`: what scores are multiplied by.
    `outputs`: a score for every class, or for every token of the vocabulary, as in some published code; the answer is
    always a class.
    """
    config = dict(locals())
    for option, allowed in CHOICES.items():
        if config[option] not in allowed:
            raise BadInput(f"model.{option} = {config[option]!r}; allowed: {', '.join(allowed)}")
    for option, least in {"depth": 1, "width": 1, "heads": 1, "mlp_ratio": 0, "rope_base": 1}.items():
        if config[option] < least:
            raise BadInput(f"model.{option} = {config[option]}; allowed: integers from {least} on")
    if width % heads:
        raise BadInput(f"model.width = {width} is not a multiple of model.heads = {heads}")
    if positions == "rope" and (width // heads) % 2:
        raise BadInput(f"model.positions = 'rope' needs an even width per head, but {width} / {heads} is odd")
    if not 0 <= dropout < 1:
        raise BadInput(f"model.dropout = {dropout}; allowed: 0 up to, but not including, 1")
    check_logit_scale(logit_scale)
    return Transformer(**config)


class Attention(nn.Module):
    """Multi-head attention with separate query, key and value matrices and 1/√d scores; or with 1/d, and a third of it."""

    def __init__(self, width: int, heads: int, bias: bool, rope: int | None, softmax: str, form: str = "usual") -> None:
        super().__init__()
        self.heads, self.rope = heads, rope
        channels = width // heads
        self.scale = float(channels**-0.5 if form == "usual" else 1 / channels)
        self.share = 1.0 if form == "usual" else 1 / 3
        self.shares = SOFTMAXES[softmax]
        self.query = Linear(width, width, bias)
        self.key = Linear(width, width, bias)
        self.value = Linear(width, width, bias)
        self.out = Linear(width, width, bias)
        self.multiplier = Multiplier("scores", channels if form == "usual" else 1)  # scales with the width already
        self.scores = nn.Identity()  # what they are in `plain`, for whoever watches

    def split(self, x: Tensor) -> Tensor:
        """[…, width] → […, head, channel]."""
        return x.unflatten(-1, (self.heads, -1))

    def queries(self, x: Tensor, positions: Tensor) -> Tensor:
        """[row, position, width] → [row, position, head, channel], scaled."""
        q = self.split(self.query(x))
        q = self.multiplier(q * self.scale)
        return q if self.rope is None else rotate(q, positions, self.rope)

    def keys(self, x: Tensor, positions: Tensor) -> Tensor:
        """[row, position, width] → [row, position, head, channel]."""
        k = self.split(self.key(x))
        return k if self.rope is None else rotate(k, positions, self.rope)

    def values(self, x: Tensor) -> Tensor:
        """[row, position, width] → [row, position, head, channel]."""
        return self.split(self.value(x))

    def brought(self, mixed: Tensor) -> Tensor:
        """What it gives out of mixed values: […, head, channel] → […, width]."""
        x = self.out(mixed.flatten(-2))
        return x if self.share == 1.0 else x * self.share


class Block(nn.Module):
    """Attention and feed-forward (or none), each with a residual connection, and norms as `norm_placement` says."""

    def __init__(
        self,
        attention: Attention,
        mlp: FeedForward | None,
        norms: list[nn.Module],
        placement: str,
        sites: list[int],
        dropout: float,
        alpha: float | None = None,
    ) -> None:
        super().__init__()
        self.attention, self.mlp, self.placement, self.alpha = attention, mlp, placement, alpha
        self.attention_norm = norms[0]
        self.mlp_norm = norms[1] if mlp is not None else nn.Identity()
        self.attention_dropout, self.mlp_dropout = (Dropout(dropout, site) for site in sites)

    def read(self, x: Tensor) -> Tensor:
        """What attention sees of the residual stream."""
        return x if self.placement == "post" else self.attention_norm(x)

    def write(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The residual stream after attention brought `mixed` […, head, channel] and the feed-forward had its turn."""
        if self.placement == "stream":
            x = self.attention_norm(x)
        x = self.sum(x, self.attention_dropout(self.attention.brought(mixed)))
        if self.placement != "post":
            return x if self.mlp is None else self.sum(x, self.mlp_dropout(self.mlp(self.mlp_norm(x))))
        x = self.attention_norm(x)
        if self.mlp is None:
            return x
        return self.mlp_norm(self.sum(x, self.mlp_dropout(self.mlp(x))))

    def sum(self, x: Tensor, brought: Tensor) -> Tensor:
        """The residual connection; between the two where `alpha` says how far."""
        return x + brought if self.alpha is None else (1 - self.alpha) * x + self.alpha * brought


class Transformer(nn.Module):
    """Maps tokens [example, position] to class scores [example, class]."""

    def __init__(
        self,
        table: Table,
        depth: int,
        width: int,
        heads: int,
        mlp_ratio: int,
        norm_placement: str,
        positions: str,
        activation: str,
        attention: str,
        bias: bool,
        dropout: float,
        tied: bool,
        attention_softmax: str,
        biased: str,
        outputs: str,
        rope_base: int,
        dropout_at: str,
        residual: str,
        attention_form: str,
        logit_scale: float,
        **norms: str,
    ) -> None:
        super().__init__()
        length, kind = len(table.positions), norms["norm"]
        in_head, in_attention, in_mlp, in_norms = (
            bias and biased in ("all", *places) for places in ((), ("blocks",), ("blocks", "mlp"), ("blocks", "norms"))
        )
        outside = dropout if dropout_at == "all" else 0.0
        rope = rope_base if positions == "rope" else None
        scores = table.classes if outputs == "classes" else len(table.vocabulary)
        self.layout = table.positions
        self.causal = attention == "causal"
        self.dropout_rate = dropout
        self.embedding = Embedding(len(table.vocabulary), width)
        self.position_embedding = Embedding(length, width) if positions == "learned" else None
        self.sinusoidal = positions == "sinusoidal"
        self.blocks = nn.ModuleList(
            Block(
                Attention(width, heads, in_attention, rope, attention_softmax, attention_form),
                FeedForward(width, mlp_ratio * width, activation, in_mlp, Dropout(dropout, 3 * layer))
                if mlp_ratio
                else None,
                [norm(kind, width, in_norms), norm(kind, width, in_norms)],
                norm_placement,
                [3 * layer + 1, 3 * layer + 2],
                outside,
                None if residual == "sum" else 1 / (depth * (2 if mlp_ratio else 1)),
            )
            for layer in range(depth)
        )
        self.final_norm = nn.Identity() if norm_placement == "post" else norm(kind, width, in_norms)
        self.multiplier = Multiplier("readout", width)
        self.head = None if tied else Linear(width, scores, in_head, role=Role.HEAD)
        self.outputs, self.logit_scale = scores, logit_scale

    def layers(self) -> list[Block]:
        """The blocks, first to last."""
        return list(self.blocks)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor) -> Tensor:
        """Class scores, computing each distinct state once; dropout makes every example's states distinct."""
        if self.training and self.dropout_rate:
            return self.plain(tokens)
        return distinct.forward(self, tokens)

    def plain(self, tokens: Tensor) -> Tensor:
        """Class scores the ordinary way: every position of every example through every layer."""
        return self.through(self.embedded(tokens))

    def embedded(self, tokens: Tensor) -> Tensor:
        """[example, position] → [example, position, width]: what `through` takes."""
        return self.embed(tokens, torch.arange(tokens.shape[-1], device=tokens.device))

    def through(self, x: Tensor) -> Tensor:
        """The residual stream's start [example, position, width] → class scores [example, class]."""
        positions = torch.arange(x.shape[-2], device=x.device)
        visible = positions[:, None] >= positions if self.causal else torch.ones_like(positions[:, None] >= positions)
        for block in self.layers():
            h = block.read(x)
            q, k = block.attention.queries(h, positions), block.attention.keys(h, positions)
            scores = block.attention.scores(torch.einsum("nihc,njhc->nhij", q, k)).masked_fill(~visible, -math.inf)
            mixed = torch.einsum("nhij,njhc->nihc", block.attention.shares(scores), block.attention.values(h))
            x = block.write(x, mixed)
        return self.readout(x[:, -1])

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The residual stream's start: tokens [row, position] at `positions` [position] → [row, position, width]."""
        x = self.embedding.weight[tokens]
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[positions]
        if self.sinusoidal:
            x = x + sinusoidal(positions, x.shape[-1], x.dtype)
        return x

    def readout(self, x: Tensor) -> Tensor:
        """[row, width] → scores [row, class]; tied: by the embedding of the tokens that name the classes."""
        x = self.multiplier(self.final_norm(x))
        scores = x @ self.embedding.weight[: self.outputs].T if self.head is None else self.head(x)
        return scores if self.logit_scale == 1.0 else scores * self.logit_scale
