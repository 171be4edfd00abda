"""Losses: a mean over one run's batch."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from grokking.errors import BadInput, words
from grokking.registry import Entry, Registry, Scalar, options
from grokking.softmax import log_stablemax, sparsemax_threshold

losses = Registry("loss")
Loss = Callable[..., Tensor]


def loss(function: Loss) -> Loss:
    """Register a loss: a function of (scores [example, class], labels [example], options) that returns a mean []."""
    losses.add(function, options(function, skip=2))
    return function


@loss
def cross_entropy(scores: Tensor, labels: Tensor, float64: bool = False) -> Tensor:
    """-log softmax(scores)[label], averaged over the batch.

    `float64`: in double precision, in which it does not round to 0 where a network is sure of itself, as it does in single
    precision ("softmax collapse", Prieto et al. 2025, arXiv 2501.04697).
    """
    return F.cross_entropy(_wide(scores, float64), labels)


@loss
def stablemax_cross_entropy(scores: Tensor, labels: Tensor, float64: bool = False) -> Tensor:
    """-log stablemax(scores)[label], averaged over the batch.

    Source: Prieto et al. 2025, arXiv 2501.04697 (whose code computes it in float64)
    """
    return F.nll_loss(log_stablemax(_wide(scores, float64)), labels)


@loss
def sparsemax_loss(scores: Tensor, labels: Tensor, float64: bool = False) -> Tensor:
    """The Fenchel–Young loss whose gradient is sparsemax(scores) - label; 0 where the label leads by 1.

    ½ + ½ Σ (z² - τ²) over the support - z[label], of scores whose largest is 0 (to which it does not mind being moved).

    Source: Martins & Astudillo 2016, arXiv 1602.02068
    """
    z = _wide(scores, float64)
    z = z - z.amax(-1, keepdim=True)
    threshold = sparsemax_threshold(z)
    parts = torch.where(z > threshold, z * z - threshold * threshold, 0.0)
    return (0.5 + 0.5 * parts.sum(-1) - z.gather(-1, labels[:, None])[:, 0]).mean()


@loss
def squared_error(scores: Tensor, labels: Tensor, halved: bool = False) -> Tensor:
    """(scores - one-hot label)², averaged over classes and batch as by `torch.nn.MSELoss`; with `halved`, half of it."""
    target = (labels[:, None] == torch.arange(scores.shape[-1], device=scores.device)).to(scores.dtype)  # for `vmap`
    return F.mse_loss(scores, target) * (0.5 if halved else 1.0)


def try_loss(entry: Entry, options: Mapping[str, Scalar], classes: int) -> None:
    """Raise `BadInput` where a loss, tried without data on two runs side by side, is not one number of each."""
    scores, labels = torch.empty((2, 3, classes), device="meta"), torch.empty((2, 3), dtype=torch.int64, device="meta")
    try:
        found = vmap(lambda scores, labels: entry.make(scores, labels, **options))(scores, labels)
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(f"loss {entry.name!r} fails on scores [3, {classes}]: {words(error)}") from error
    if found.shape != (2,):
        raise BadInput(
            f"loss {entry.name!r} returns {list(found.shape[1:])}; a loss is one number []: a mean over examples"
        )


def _wide(scores: Tensor, float64: bool) -> Tensor:
    return scores.to(torch.float64) if float64 else scores
