"""Rules that act on the singular values of a matrix's update."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from torch import Tensor

from grokking.errors import BadInput
from grokking.optim import ENTRYWISE, GRADIENT, Numbers, Slots, State, optimizer, zeros
from grokking.optim.adaptive import adamw
from grokking.optim.orthogonalize import (
    coefficients,
    equalized,
    newton_schulz,
    normalized,
    over_spectral_norm,
    polar,
)
from grokking.registry import Scalar
from grokking.roles import Geometry, Role, Update

MATRICES = {  # whose parameters get orthogonal updates; AdamW has the rest
    "hidden": {Role.HIDDEN},
    "hidden+embedding": {Role.HIDDEN, Role.EMBEDDING},
    "hidden+head": {Role.HIDDEN, Role.HEAD},
    "all": {Role.HIDDEN, Role.EMBEDDING, Role.HEAD},
}
EQUALIZED = {"none": set(), "embedding": {Role.EMBEDDING}, **MATRICES}  # the same of egd; SGD has the rest
NEWTON_SCHULZ = ("jordan", "you5", "you6", "polar_express")
EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "svd": polar,
    "frobenius_norm": normalized,
    "spectral_norm": over_spectral_norm,
}


def _slots(role: Role, options: Mapping[str, Scalar]) -> Slots:
    return zeros("momentum") if role in among(MATRICES, "matrices", options) else zeros("mean", "square")


def _update(role: Role, options: Mapping[str, Scalar]) -> Update:
    if role not in among(MATRICES, "matrices", options):
        return ENTRYWISE
    return Update(Geometry.SPECTRAL, size=partial(shape_factor, str(options["scale"])))


@optimizer(
    lr=0.06,
    momentum=0.95,
    weight_decay=0.1,
    nesterov=True,
    momentum_form="ema",
    orthogonalize="jordan",
    ns_steps=0,
    scale="original",
    matrices="hidden",
    adamw_lr=1e-3,
    adamw_beta1=0.9,
    adamw_beta2=0.98,
    adamw_eps=1e-8,
    adamw_weight_decay=1.0,
    adamw_bias_correction=True,
    state=_slots,
    update=_update,
)
def muon(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Muon on hidden matrices, AdamW with its own `adamw_…` numbers on everything else, as `torch.optim.Muon`.

    m ← momentum · m + (1 - momentum) · grad;   u ← momentum · m + (1 - momentum) · grad   (without nesterov u ← m);
    w ← (1 - lr · weight_decay) · w - lr · scale · orthogonalize(u)

    Decay: decoupled.
    `orthogonalize`: U Vᵀ of u = U S Vᵀ by Newton–Schulz iterations with the coefficients "jordan", "you5", "you6" or
    "polar_express", `ns_steps` of them (0: as many as their authors use), or exactly by "svd". Two take the size of u away
    and leave its singular values unequal: "frobenius_norm" u / ‖u‖_F (Newton–Schulz without a step) and "spectral_norm"
    u / ‖u‖₂.
    `momentum_form`: "ema" as above, or "sum" without the factors 1 - momentum, which is the same direction.
    `scale` for w [out, in]: "original" √max(1, out/in), "match_rms_adamw" 0.2 √max(out, in) (Moonlight, arXiv 2502.16982),
    "spectral" √(out/in), "none" 1.
    `matrices`: "hidden", "hidden+embedding", "hidden+head" or "all" of them.
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon
    """
    if role not in among(MATRICES, "matrices", h):
        return adamw(w, grad, state, h.under("adamw_"), role)
    kept = among({"ema": 1 - h.momentum, "sum": 1.0}, "momentum_form", h)
    momentum = h.momentum * state.momentum + kept * grad
    update = h.momentum * momentum + kept * grad if h.nesterov else momentum
    step = h.lr * shape_factor(h.scale, *w.shape)
    return w * (1 - h.lr * h.weight_decay) - step * orthogonalized(update, h), state(momentum=momentum)


def _egd_update(role: Role, options: Mapping[str, Scalar]) -> Update:
    return Update(Geometry.SPECTRAL, coupled=True) if role in among(EQUALIZED, "matrices", options) else GRADIENT


@optimizer(lr=0.7, weight_decay=1e-3, eps=1e-6, matrices="embedding", update=_egd_update)
def egd(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Egalitarian gradient descent: every singular value of a matrix's gradient becomes 1; plain SGD on everything else.

    w ← w - lr · U min(S / eps, 1) Vᵀ   (elsewhere w ← w - lr · g);   g = grad + weight_decay · w = U S Vᵀ

    Decay: coupled L2, on matrices alone (1e-4 in the paper; the default is that of `sgd`).
    There is no momentum: it is Muon's direction, exactly, of the last gradient.
    `eps`: singular values below it count for less, so that what is 0 but for rounding stays out.
    `matrices`: "embedding" alone, which in a perceptron on one-hot codes is the first layer, as in the paper; "hidden",
    "hidden+embedding", "hidden+head", "all"; or "none", which is SGD with the same decay.
    Source: Saheb Pasand & Dohmatob 2025, arXiv 2510.04930
    """
    g = grad + h.weight_decay * w if role in MATRICES["all"] else grad
    direction = equalized(g, h.eps) if role in among(EQUALIZED, "matrices", h) else g
    return w - h.lr * direction, state


def orthogonalized(update: Tensor, h: Numbers) -> Tensor:
    """What `h.orthogonalize` and `h.ns_steps` make of an update [out, in]."""
    if h.orthogonalize in EXACT and h.ns_steps:
        raise BadInput(f"optimizer.ns_steps = {h.ns_steps}; allowed with {h.orthogonalize!r}: 0")
    if h.ns_steps < 0:
        raise BadInput(f"optimizer.ns_steps = {h.ns_steps}; allowed: integers from 0 on (0: as many as is usual)")
    name = among({name: name for name in (*NEWTON_SCHULZ, *EXACT)}, "orthogonalize", h)
    return EXACT[name](update) if name in EXACT else newton_schulz(update, coefficients(name, h.ns_steps))


def shape_factor(scale: str, fan_out: int, fan_in: int) -> float:
    """How much an orthogonal update of this shape is multiplied by, for each scale rule."""
    factors = {
        "original": max(1.0, fan_out / fan_in) ** 0.5,
        "match_rms_adamw": 0.2 * max(fan_out, fan_in) ** 0.5,
        "spectral": (fan_out / fan_in) ** 0.5,
        "none": 1.0,
    }
    return among(factors, "scale", {"scale": scale})


T = TypeVar("T")


def among(choices: Mapping[str, T], option: str, options: Mapping[str, Scalar]) -> T:
    """The choice that a static option names; `BadInput` where there is none of that name."""
    if options[option] not in choices:
        raise BadInput(f"optimizer.{option} = {options[option]!r}; allowed: {', '.join(choices)}")
    return choices[str(options[option])]
