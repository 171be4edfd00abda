"""Rules whose steps have the same size in every entry: only signs count."""

from torch import Tensor

from grokking.optim import ENTRYWISE, Numbers, State, optimizer, zeros
from grokking.roles import Role


@optimizer(lr=1e-3, momentum=0.9, weight_decay=1.0, state=zeros("momentum"), update=ENTRYWISE)
def sign_sgd(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """The sign of an average of gradients (Signum), or with momentum 0 of the gradient.

    m ← momentum · m + (1 - momentum) · grad;   w ← (1 - lr · weight_decay) · w - lr · sign(m)

    Decay: decoupled.
    Source: Bernstein et al. 2018, arXiv 1802.04434
    """
    momentum = h.momentum * state.momentum + (1 - h.momentum) * grad
    return w * (1 - h.lr * h.weight_decay) - h.lr * momentum.sign(), state(momentum=momentum)


@optimizer(lr=1e-3, beta1=0.9, beta2=0.98, weight_decay=1.0, state=zeros("momentum"), update=ENTRYWISE)
def lion(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Lion: the sign of an average in which the last gradient counts more than in the one that is kept.

    w ← (1 - lr · weight_decay) · w - lr · sign(beta1 · m + (1 - beta1) · grad);   then m ← beta2 · m + (1 - beta2) · grad

    Decay: decoupled. beta2 is the other rules' 0.98 here; the paper's is 0.99.
    Source: Chen et al. 2023, arXiv 2302.06675
    """
    direction = (h.beta1 * state.momentum + (1 - h.beta1) * grad).sign()
    momentum = h.beta2 * state.momentum + (1 - h.beta2) * grad
    return w * (1 - h.lr * h.weight_decay) - h.lr * direction, state(momentum=momentum)
