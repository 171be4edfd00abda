"""Rules that act on the singular values of a matrix's update."""

from torch import Tensor

from grokking.errors import BadInput
from grokking.optim import Numbers, State, optimizer, zeros
from grokking.optim.adaptive import adamw
from grokking.optim.orthogonalize import newton_schulz
from grokking.roles import Role


@optimizer(
    lr=0.06,
    momentum=0.95,
    weight_decay=0.1,
    nesterov=True,
    scale="original",
    adamw_lr=1e-3,
    adamw_beta1=0.9,
    adamw_beta2=0.98,
    adamw_eps=1e-8,
    adamw_weight_decay=1.0,
    state=lambda role: zeros("momentum") if role is Role.HIDDEN else zeros("mean", "square"),
)
def muon(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Muon (K. Jordan et al. 2024) on hidden matrices, AdamW with its own `adamw_…` numbers on everything else.

    m ← momentum · m + (1 - momentum) · grad;   u ← momentum · m + (1 - momentum) · grad with `nesterov`, else m;
    w ← (1 - lr · weight_decay) · w - lr · scale · NewtonSchulz(u), as `torch.optim.Muon` (decay is decoupled).
    `scale` for w [out, in]: "original" √max(1, out/in), "match_rms_adamw" 0.2 √max(out, in) (Moonlight, 2502.16982),
    "spectral" √(out/in), "none" 1.
    """
    if role is not Role.HIDDEN:
        return adamw(w, grad, state, h.under("adamw_"), role)
    momentum = h.momentum * state.momentum + (1 - h.momentum) * grad
    update = h.momentum * momentum + (1 - h.momentum) * grad if h.nesterov else momentum
    step = h.lr * shape_factor(h.scale, *w.shape)
    return w * (1 - h.lr * h.weight_decay) - step * newton_schulz(update), state(momentum=momentum)


def shape_factor(scale: str, fan_out: int, fan_in: int) -> float:
    """How much an orthogonal update of this shape is multiplied by, for each scale rule."""
    factors = {
        "original": max(1.0, fan_out / fan_in) ** 0.5,
        "match_rms_adamw": 0.2 * max(fan_out, fan_in) ** 0.5,
        "spectral": (fan_out / fan_in) ** 0.5,
        "none": 1.0,
    }
    if scale not in factors:
        raise BadInput(f"optimizer.scale = {scale!r}; allowed: {', '.join(factors)}")
    return factors[scale]
