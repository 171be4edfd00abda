"""From scores to shares that sum to one: softmax and two that do not exponentiate; for attention and for losses."""

from collections.abc import Callable

import torch
from torch import Tensor


def softmax(scores: Tensor) -> Tensor:
    """exp(z) / Σ exp(z) over the last axis."""
    return scores.softmax(-1)


def stablemax(scores: Tensor) -> Tensor:
    """s(z) / Σ s(z) over the last axis, with s(z) = z + 1 from 0 on and 1 / (1 - z) below (Prieto et al. 2025, 2501.04697)."""
    above, below = _parted(scores)
    size = (1 + above) / (1 + below)
    return size / size.sum(-1, keepdim=True)


def log_stablemax(scores: Tensor) -> Tensor:
    """Logarithm of `stablemax`; no score overflows, and none makes a gradient of NaN."""
    above, below = _parted(scores)
    total = ((1 + above) / (1 + below)).sum(-1, keepdim=True)
    return torch.log1p(above) - torch.log1p(below) - total.log()


def _parted(scores: Tensor) -> tuple[Tensor, Tensor]:
    """max(z, 0) and max(-z, 0); at 0 the first has slope 1 and the second 0, so that s has its slope of 1 there, too."""
    return scores.clamp_min(0), (-scores).relu()


def sparsemax(scores: Tensor) -> Tensor:
    """The point of the simplex nearest to the scores: max(z - τ, 0) over the last axis (Martins & Astudillo 2016, 1602.02068).

    In float32 at least: sums of many shares of bfloat16 would not be 1.
    """
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    wide = wide - wide.amax(-1, keepdim=True)
    return (wide - sparsemax_threshold(wide)).relu().to(scores.dtype)


def sparsemax_threshold(scores: Tensor) -> Tensor:
    """τ […, 1] with Σ max(z - τ, 0) = 1, for scores whose largest is 0; scores of -∞ have no share."""
    falling = scores.sort(-1, descending=True).values
    rank = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
    total = falling.cumsum(-1)
    support = (
        (1 + rank * falling > total).sum(-1, keepdim=True).clamp_min(1)
    )  # 0 of NaN, which has no place to gather from
    return (total.gather(-1, support - 1) - 1) / support


SOFTMAXES: dict[str, Callable[[Tensor], Tensor]] = {"softmax": softmax, "stablemax": stablemax, "sparsemax": sparsemax}
