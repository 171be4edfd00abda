"""Losses: a mean over one run's batch."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from grokking.registry import Registry, options

losses = Registry("loss")
Loss = Callable[..., Tensor]


def loss(function: Loss) -> Loss:
    """Register a loss: a function of (scores [example, class], labels [example], options) that returns a mean []."""
    losses.add(function, options(function, skip=2))
    return function


@loss
def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(scores)[label], averaged over the batch."""
    return F.cross_entropy(scores, labels)
