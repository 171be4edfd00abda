"""Rules that follow the gradient as it is."""

from torch import Tensor

from grokking.optim import Numbers, State, optimizer, zeros
from grokking.roles import Role


@optimizer(lr=1.0, momentum=0.0, weight_decay=1e-3, nesterov=False, state=zeros("velocity"))
def sgd(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Stochastic gradient descent with momentum and coupled L2 decay, as `torch.optim.SGD`.

    g ← grad + weight_decay · w;   v ← momentum · v + g;   w ← w - lr · v,
    or with `nesterov` w ← w - lr · (g + momentum · v)  (Sutskever et al. 2013). The default is plain SGD: with momentum
    0.9 and decay, runs of the default model cross the threshold sooner and then fall back (experiments/optimizers.py).
    """
    g = grad + h.weight_decay * w
    velocity = h.momentum * state.velocity + g
    step = g + h.momentum * velocity if h.nesterov else velocity
    return w - h.lr * step, state(velocity=velocity)
