"""Rules that divide each gradient entry by a running estimate of its size."""

import torch
from torch import Tensor

from grokking.optim import ENTRYWISE, ENTRYWISE_COUPLED, Numbers, State, entrywise, optimizer, zeros
from grokking.roles import Role


@optimizer(lr=0.03, eps=1e-10, weight_decay=1e-3, state=zeros("sum"), update=ENTRYWISE_COUPLED)
def adagrad(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Adagrad: each entry's rate falls with all the gradient that it has seen, as `torch.optim.Adagrad`.

    s ← s + g²;   w ← w - lr · g / (√s + eps);   g = grad + weight_decay · w

    Decay: coupled L2.
    Source: Duchi et al. 2011
    """
    g = grad + h.weight_decay * w
    total = state.sum + g * g
    return w - h.lr * g / (total.sqrt() + h.eps), state(sum=total)


@optimizer(lr=3e-3, alpha=0.99, eps=1e-8, weight_decay=1e-3, state=zeros("square"), update=ENTRYWISE_COUPLED)
def rmsprop(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """RMSprop, as `torch.optim.RMSprop`.

    s ← alpha · s + (1 - alpha) · g²;   w ← w - lr · g / (√s + eps);   g = grad + weight_decay · w

    Decay: coupled L2.
    Source: Hinton 2012, lecture 6e
    """
    g = grad + h.weight_decay * w
    square = h.alpha * state.square + (1 - h.alpha) * g * g
    return w - h.lr * g / (square.sqrt() + h.eps), state(square=square)


@optimizer(
    lr=3e-4,
    alpha=0.99,
    momentum=0.9,
    eps=1e-8,
    weight_decay=1e-3,
    centered=True,
    nesterov=False,
    state=zeros("mean", "square", "velocity"),
    update=ENTRYWISE_COUPLED,
)
def rmsprop_momentum(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """RMSprop with momentum, by default centered: divided by the gradient's standard deviation, as `torch.optim.RMSprop`.

    m ← alpha · m + (1 - alpha) · g;   s ← alpha · s + (1 - alpha) · g²;   v ← momentum · v + g / (√(s - m²) + eps);
    w ← w - lr · v   (nesterov: w - lr · (u + momentum · v), u what v was given);   g = grad + weight_decay · w

    Decay: coupled L2. Without `centered`, √s in place of √(s - m²), which is never less than 0 here. Graves has eps inside the
    root and the learning rate inside the velocity.
    Source: Graves 2013, arXiv 1308.0850
    """
    g = grad + h.weight_decay * w
    mean = h.alpha * state.mean + (1 - h.alpha) * g
    square = h.alpha * state.square + (1 - h.alpha) * g * g
    spread = (square - mean * mean).clamp_min(0) if h.centered else square
    direction = g / (spread.sqrt() + h.eps)
    velocity = h.momentum * state.velocity + direction
    step = direction + h.momentum * velocity if h.nesterov else velocity
    return w - h.lr * step, state(mean=mean, square=square, velocity=velocity)


@optimizer(
    lr=3e-3,
    beta1=0.9,
    beta2=0.98,
    eps=1e-8,
    weight_decay=1e-3,
    bias_correction=True,
    state=zeros("mean", "square"),
    update=ENTRYWISE_COUPLED,
)
def adam(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Adam, as `torch.optim.Adam`.

    m ← beta1 · m + (1 - beta1) · g;   s ← beta2 · s + (1 - beta2) · g²;   w ← w - lr · m̂ / (√ŝ + eps);
    m̂ = m / (1 - beta1^t), ŝ = s / (1 - beta2^t);   g = grad + weight_decay · w

    Decay: coupled L2. Without `bias_correction`, m̂ = m and ŝ = s.
    Source: Kingma & Ba 2015, arXiv 1412.6980
    """
    return adam_step(w, grad + h.weight_decay * w, state, h)


@optimizer(
    lr=3e-3,
    beta1=0.9,
    beta2=0.98,
    eps=1e-8,
    weight_decay=1.0,
    bias_correction=True,
    state=zeros("mean", "square"),
    update=ENTRYWISE,
)
def adamw(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Adam with decoupled weight decay, as `torch.optim.AdamW`.

    m ← beta1 · m + (1 - beta1) · grad;   s ← beta2 · s + (1 - beta2) · grad²;
    w ← (1 - lr · weight_decay) · w - lr · m̂ / (√ŝ + eps);   m̂ = m / (1 - beta1^t), ŝ = s / (1 - beta2^t)

    Decay: decoupled. Without `bias_correction`, m̂ = m and ŝ = s.
    Source: Loshchilov & Hutter 2019, arXiv 1711.05101
    """
    return adam_step(w * (1 - h.lr * h.weight_decay), grad, state, h)


def adam_step(w: Tensor, g: Tensor, state: State, h: Numbers) -> tuple[Tensor, State]:
    """w - lr · m̂ / (√ŝ + eps), and the new moments."""
    mean, square = moments(g, state, h)
    unbiased_mean = mean / (1 - h.beta1**h.step) if h.bias_correction else mean
    unbiased_square = square / (1 - h.beta2**h.step) if h.bias_correction else square
    return w - h.lr * unbiased_mean / (unbiased_square.sqrt() + h.eps), state(mean=mean, square=square)


@optimizer(
    lr=3e-3,
    beta1=0.9,
    beta2=0.98,
    eps=1e-8,
    weight_decay=1.0,
    decoupled=True,
    state=zeros("mean", "square", "largest"),
    update=entrywise,
)
def amsgrad(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Adam whose second moment never shrinks, as `torch.optim.AdamW` with `amsgrad`.

    m, s as in AdamW;   l ← max(l, s);   w ← (1 - lr · weight_decay) · w - lr · m̂ / (√l̂ + eps);   l̂ = l / (1 - beta2^t)

    Decay: decoupled; without `decoupled` coupled L2, as `torch.optim.Adam` (then begin with a weight_decay near 1e-3).
    Source: Reddi et al. 2018, arXiv 1904.09237
    """
    g, w = decayed(w, grad, h)
    mean, square = moments(g, state, h)
    largest = torch.maximum(state.largest, square)
    size = (largest / (1 - h.beta2**h.step)).sqrt() + h.eps
    step = h.lr * mean / (1 - h.beta1**h.step) / size
    return w - step, state(mean=mean, square=square, largest=largest)


@optimizer(
    lr=3e-3,
    beta1=0.9,
    beta2=0.98,
    eps=1e-8,
    momentum_decay=4e-3,
    weight_decay=1.0,
    decoupled=True,
    state={**zeros("mean", "square"), "product": lambda w: w.new_ones(())},
    update=entrywise,
)
def nadam(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Adam with Nesterov momentum, as `torch.optim.NAdam`.

    m, s, ŝ as in AdamW;   P ← P · b;   b = beta1 · (1 - 0.96^(t · momentum_decay) / 2), b' the same for t + 1;
    w ← (1 - lr · weight_decay) · w - lr · (b' · m / (1 - P · b') + (1 - b) · g / (1 - P)) / (√ŝ + eps)

    Decay: decoupled; without `decoupled` coupled L2 (then begin with a weight_decay near 1e-3).
    `momentum_decay`: how fast the momentum rises from beta1 / 2 to beta1.
    Source: Dozat 2016
    """
    g, w = decayed(w, grad, h)
    momentum, ahead = (h.beta1 * (1 - 0.5 * 0.96 ** (t * h.momentum_decay)) for t in (h.step, h.step + 1))
    product = state.product * momentum
    mean, square = moments(g, state, h)
    direction = ahead * mean / (1 - product * ahead) + (1 - momentum) * g / (1 - product)
    size = (square / (1 - h.beta2**h.step)).sqrt() + h.eps
    return w - h.lr * direction / size, state(mean=mean, square=square, product=product)


def moments(g: Tensor, state: State, h: Numbers) -> tuple[Tensor, Tensor]:
    """The running averages of the gradient and of its square."""
    return h.beta1 * state.mean + (1 - h.beta1) * g, h.beta2 * state.square + (1 - h.beta2) * g * g


def decayed(w: Tensor, grad: Tensor, h: Numbers) -> tuple[Tensor, Tensor]:
    """The gradient and the weights, one of them with the decay in it."""
    if h.decoupled:
        return grad, w * (1 - h.lr * h.weight_decay)
    return grad + h.weight_decay * w, w
