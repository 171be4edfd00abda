"""A sound bound on how fast a model's scores change with its embedded input, from its weights alone.

Inputs X [position, width] and everything that passes along positions are measured by the largest root mean square of a position,
‖X‖ = maxᵢ rms(xᵢ), scores by their root mean square. Of a map f between them two numbers are followed: `size`, with ‖f(X)‖ ≤ size
for all X of the domain ‖X‖ ≤ reach, and `slope`, with ‖f(X) - f(Y)‖ ≤ slope · ‖X - Y‖ for all X, Y of it. The domain is convex, so
a bound on the derivative is one on the slope.

A matrix W [out, in] has the norm ‖W‖ = σ(W) √(in / out). Elementwise activations with |φ'| ≤ c and φ(0) = 0 multiply both numbers
by c at most.

Attention is bounded head by head, since the root mean square over all channels says little of that over one head's: with
q = W_Q x, k = W_K x, v = W_V x of one head, each of `channels` numbers, and scores s_ij = scale · qᵢ·kⱼ,

    o_i = Σⱼ pᵢⱼ vⱼ,   p = softmax(s):   ‖Δo‖ ≤ maxⱼ ‖Δvⱼ‖ + ‖Σⱼ Δpᵢⱼ vⱼ‖ ≤ ‖W_V‖ ‖ΔX‖ + ½ Σⱼ |Δpᵢⱼ| · 2 maxⱼ ‖vⱼ‖

as Σⱼ Δpᵢⱼ = 0 (each vⱼ may be replaced by its distance from the middle of a ball that holds them all), Σⱼ |Δpᵢⱼ| ≤ maxⱼ |Δsᵢⱼ|
(the mean distance from the mean of a variable within ± 1 is at most 1), and |Δs| ≤ scale · channels · 2 ‖W_Q‖ ‖W_K‖ ‖X‖ ‖ΔX‖. So

    slope of a head ≤ ‖W_V‖ (1 + 2 · scale · channels · ‖W_Q‖ ‖W_K‖ · size²)

with biases added to the sizes of q, k and v. Newhouse et al. 2025 (arXiv 2507.13338, appendix B) have the norm of the full matrix in
place of that of a head, which can be √heads times too small for each of q and k; their released code multiplies all of the slope by
scale · channels, and divides by GELU's slope a second time.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokking.errors import BadInput
from grokking.models.mlp import MLP
from grokking.models.parts import GELU_SLOPE, FeedForward, Linear, Norm, gelu_1, silu
from grokking.models.transformer import Attention, Block, Transformer
from grokking.softmax import SOFTMAXES

SLOPES = {F.relu: 1.0, F.gelu: GELU_SLOPE, gelu_1: 1.0, silu: 1.0999, torch.tanh: 1.0}  # at most; all are 0 at 0
ROUNDING = 1 + 1e-9  # of norms that are found in float64


@dataclass(frozen=True)
class Bound:
    """Of what has been computed so far: its `size`, and its `slope` with respect to the embedded input."""

    size: float
    slope: float

    def through(self, slope: float, bias: float = 0.0) -> "Bound":
        """Behind a map that is 0 at 0 (but for a bias of this size) and has this slope."""
        return Bound(self.size * slope + bias, self.slope * slope)


def certificate(model: nn.Module, reach: float) -> Bound:
    """Bounds on the scores of a model [example, class] over all embedded inputs of size up to `reach`.

    `BadInput` where nothing is known of it: models other than ours of transformers and perceptrons, sparsemax and stablemax in
    attention, swiglu and x². Dropout is off. Through norms there is a bound, but a useless one: they may multiply by
    their largest gain over √ε, some 300. It is of exact arithmetic: what a float32 rounds to may lie above by so much, and subclasses,
    whose scores may be others, have none. NaN where a weight is not finite, infinite where a bound is too large for a float.
    """
    if not reach >= 0:
        raise BadInput(f"reach = {reach}; allowed: numbers from 0 on")
    with torch.no_grad():
        if not all(torch.isfinite(w).all() for w in model.parameters()):
            return Bound(math.nan, math.nan)
        if type(model) is Transformer:
            return _transformer(model, Bound(reach, 1.0))
        if type(model) is MLP:
            return _perceptron(model, Bound(reach, 1.0))
    raise BadInput(f"nothing is known of the slopes of {type(model).__name__}; of Transformer and MLP a bound is")


def norm(w: Tensor) -> float:
    """‖W‖ = σ(W) √(in / out) of W [out, in]."""
    largest = float(torch.linalg.matrix_norm(w.double(), ord=2))
    return largest * math.sqrt(w.shape[1] / w.shape[0]) * ROUNDING


def rms(x: Tensor | None) -> float:
    """The largest root mean square along the last axis; 0 of nothing."""
    return 0.0 if x is None else float(x.double().square().mean(-1).sqrt().amax())


def _linear(x: Bound, layer: Linear) -> Bound:
    return x.through(norm(layer.weight), rms(layer.bias))


def _slope(activation: object) -> float:
    if activation not in SLOPES:
        raise BadInput(f"no bound is known for the activation {getattr(activation, '__name__', activation)}")
    return SLOPES[activation]


# --- perceptrons --------------------------------------------------------------------------------------------------------


def _perceptron(model: MLP, x: Bound) -> Bound:
    slope = _slope(model.activation)
    if model.activates_first:
        x = x.through(slope)
    for layer in model.hidden:
        x = _linear(x, cast(Linear, layer)).through(slope)
    return _linear(x.through(model.multiplier.factor), model.head).through(model.logit_scale)


# --- transformers -------------------------------------------------------------------------------------------------------


def _transformer(model: Transformer, x: Bound) -> Bound:
    for block in model.layers():
        x = _block(block, x)
    x = _normed(x, model.final_norm).through(model.multiplier.factor)
    tied = model.embedding.weight[: model.outputs]
    x = x.through(norm(tied)) if model.head is None else _linear(x, model.head)
    return x.through(model.logit_scale)


def _block(block: Block, x: Bound) -> Bound:
    """As `Block.read` and `Block.write` go."""
    seen = x if block.placement == "post" else _normed(x, block.attention_norm)
    if block.placement == "stream":
        x = seen
    x = _sum(block, x, _attention(seen, block.attention))
    if block.placement != "post":
        return x if block.mlp is None else _sum(block, x, _feed_forward(_normed(x, block.mlp_norm), block.mlp))
    x = _normed(x, block.attention_norm)
    return x if block.mlp is None else _normed(_sum(block, x, _feed_forward(x, block.mlp)), block.mlp_norm)


def _sum(block: Block, x: Bound, brought: Bound) -> Bound:
    kept, share = (1.0, 1.0) if block.alpha is None else (1 - block.alpha, block.alpha)
    return Bound(kept * x.size + share * brought.size, kept * x.slope + share * brought.slope)


def _normed(x: Bound, module: nn.Module) -> Bound:
    """Behind a norm: its outputs are at most its largest gain (and its bias) in size."""
    if isinstance(module, nn.Identity):
        return x
    assert isinstance(module, Norm)
    gain = float(module.gain.double().abs().amax())
    bias = rms(module.bias)
    steep = gain / Norm.EPS**0.5
    return Bound(min(gain, x.size * steep) + bias, x.slope * steep)


def _feed_forward(x: Bound, layer: FeedForward) -> Bound:
    if layer.gate is not None:
        raise BadInput("no bound is known for the activation swiglu")
    return _linear(_linear(x, layer.up).through(_slope(layer.activation)), layer.down)


def _attention(x: Bound, attention: Attention) -> Bound:
    if attention.shares is not SOFTMAXES["softmax"]:
        raise BadInput("no bound is known for attention without softmax")
    channels = attention.value.weight.shape[0] // attention.heads
    steep, heads = attention.scale * attention.multiplier.factor * channels, []
    for own in range(attention.heads):
        rows = slice(own * channels, (own + 1) * channels)
        q, k, v = (_head(x, layer, rows) for layer in (attention.query, attention.key, attention.value))
        scores = steep * (q.slope * k.size + q.size * k.slope)  # how fast a score changes
        heads.append(Bound(v.size, v.slope + v.size * scores))
    mixed = Bound(*(math.hypot(*own) / math.sqrt(len(heads)) for own in _sizes_and_slopes(heads)))
    return _linear(mixed, attention.out).through(attention.share)


def _sizes_and_slopes(heads: list[Bound]) -> tuple[list[float], list[float]]:
    return [head.size for head in heads], [head.slope for head in heads]


def _head(x: Bound, layer: Linear, rows: slice) -> Bound:
    return x.through(norm(layer.weight[rows]), rms(None if layer.bias is None else layer.bias[rows]))
