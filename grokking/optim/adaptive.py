"""Rules that divide each gradient entry by a running estimate of its size."""

from torch import Tensor

from grokking.optim import Numbers, State, optimizer, zeros
from grokking.roles import Role


@optimizer(lr=3e-3, alpha=0.99, eps=1e-8, weight_decay=1e-3, state=zeros("square"))
def rmsprop(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """RMSprop (Hinton 2012, lecture 6e) with coupled L2 decay, as `torch.optim.RMSprop`.

    g ← grad + weight_decay · w;   s ← alpha · s + (1 - alpha) · g²;   w ← w - lr · g / (√s + eps)
    """
    g = grad + h.weight_decay * w
    square = h.alpha * state.square + (1 - h.alpha) * g * g
    return w - h.lr * g / (square.sqrt() + h.eps), state(square=square)


@optimizer(lr=3e-3, beta1=0.9, beta2=0.98, eps=1e-8, weight_decay=1e-3, state=zeros("mean", "square"))
def adam(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Adam (Kingma & Ba 2015) with coupled L2 decay, as `torch.optim.Adam`.

    g ← grad + weight_decay · w;   m ← beta1 · m + (1 - beta1) · g;   s ← beta2 · s + (1 - beta2) · g²;
    w ← w - lr · m̂ / (√ŝ + eps) with the bias-corrected m̂ = m / (1 - beta1^t), ŝ = s / (1 - beta2^t).
    """
    return adam_step(w, grad + h.weight_decay * w, state, h)


@optimizer(lr=3e-3, beta1=0.9, beta2=0.98, eps=1e-8, weight_decay=1.0, state=zeros("mean", "square"))
def adamw(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), as `torch.optim.AdamW`.

    w ← (1 - lr · weight_decay) · w, then Adam's step on the bare gradient.
    """
    return adam_step(w * (1 - h.lr * h.weight_decay), grad, state, h)


def adam_step(w: Tensor, g: Tensor, state: State, h: Numbers) -> tuple[Tensor, State]:
    """w - lr · m̂ / (√ŝ + eps), and the new moments."""
    mean = h.beta1 * state.mean + (1 - h.beta1) * g
    square = h.beta2 * state.square + (1 - h.beta2) * g * g
    unbiased_mean = mean / (1 - h.beta1**h.step)
    unbiased_square = square / (1 - h.beta2**h.step)
    return w - h.lr * unbiased_mean / (unbiased_square.sqrt() + h.eps), state(mean=mean, square=square)
