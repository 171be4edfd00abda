"""Rules that follow the gradient as it is."""

from torch import Tensor

from grokking.optim import GRADIENT, Numbers, State, optimizer, zeros
from grokking.roles import Role


@optimizer(lr=0.3, weight_decay=1e-3, full_batch=True, update=GRADIENT)
def gradient_descent(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Full-batch gradient descent: every step sees the whole training set.

    w ← w - lr · (grad + weight_decay · w)

    Decay: coupled L2. The batch is the whole training set; a smaller batch_size is refused.
    Source: Cauchy 1847
    """
    return w - h.lr * (grad + h.weight_decay * w), state


@optimizer(lr=1.0, momentum=0.0, weight_decay=1e-3, nesterov=False, state=zeros("velocity"), update=GRADIENT)
def sgd(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Stochastic gradient descent with momentum, as `torch.optim.SGD`.

    v ← momentum · v + g;   w ← w - lr · v   (nesterov: w - lr · (g + momentum · v));   g = grad + weight_decay · w

    Decay: coupled L2. The velocity has no learning rate in it: a schedule acts at once, unlike in `heavy_ball`. The
    default is plain SGD: with momentum 0.9 and decay, runs of the default model cross the threshold sooner and then fall
    back (experiments/optimizers.py).
    Source: Robbins & Monro 1951; Sutskever et al. 2013
    """
    g = grad + h.weight_decay * w
    velocity = h.momentum * state.velocity + g
    step = g + h.momentum * velocity if h.nesterov else velocity
    return w - h.lr * step, state(velocity=velocity)


@optimizer(lr=0.1, momentum=0.9, weight_decay=1e-3, state=zeros("velocity"), update=GRADIENT)
def heavy_ball(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """The heavy ball: the last displacement goes on.

    v ← momentum · v - lr · g;   w ← w + v;   g = grad + weight_decay · w

    Decay: coupled L2. The learning rate is inside the velocity: after a change of it, the ball has to slow down first. At a
    constant rate (`schedule.name=constant`) it is `sgd` with momentum.
    Source: Polyak 1964
    """
    velocity = h.momentum * state.velocity - h.lr * (grad + h.weight_decay * w)
    return w + velocity, state(velocity=velocity)


@optimizer(lr=0.1, momentum=0.9, weight_decay=1e-3, state=zeros("velocity"), update=GRADIENT)
def nesterov(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Nesterov's accelerated gradient, at the point to which the velocity leads.

    v ← momentum · v - lr · g;   w ← w + momentum · v - lr · g;   g = grad + weight_decay · w

    Decay: coupled L2. `w` is the point at which the gradient is taken (Bengio et al. 2013, arXiv 1212.0901). At a constant
    rate (`schedule.name=constant`) it is `sgd` with `nesterov`.
    Source: Nesterov 1983; Sutskever et al. 2013
    """
    step = h.lr * (grad + h.weight_decay * w)
    velocity = h.momentum * state.velocity - step
    return w + h.momentum * velocity - step, state(velocity=velocity)
