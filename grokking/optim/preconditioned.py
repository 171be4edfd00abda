"""Rules that precondition a matrix by what its gradients have been along rows and columns."""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from grokking.errors import BadInput
from grokking.optim import Numbers, Slots, State, optimizer, zeros
from grokking.optim.adaptive import decayed
from grokking.optim.orthogonalize import finite_or_zero
from grokking.registry import Scalar, Share
from grokking.roles import Geometry, Role, Update

VECTORS = {Role.GAIN, Role.BIAS}


def zeros_of_side(w: Tensor, side: int, most: float = math.inf) -> Tensor:
    """0 [n, n] for n = the rows (side 0) or columns (side 1) of w [rows, columns]; [0, 0] where they are more than `most`."""
    n = w.shape[side] if w.shape[side] <= most else 0
    return w.new_zeros(n, n)


def identity_of_side(w: Tensor, side: int, most: float = math.inf) -> Tensor:
    """1 in the place of 0."""
    return torch.eye(len(zeros_of_side(w, side, most)), dtype=w.dtype, device=w.device)


def per_side(start: Callable[..., Tensor], suffix: str = "", most: float = math.inf) -> Slots:
    """State tensors `left` and `right` (and a suffix) of a matrix."""
    return {f"{name}{suffix}": partial(start, side=side, most=most) for side, name in enumerate(("left", "right"))}


def _shampoo_slots(role: Role, options: Mapping[str, Scalar]) -> Slots:
    return zeros("sum") if role in VECTORS else per_side(zeros_of_side)


def _shampoo_update(role: Role, options: Mapping[str, Scalar]) -> Update:
    kind = Geometry.ENTRYWISE if role in VECTORS else Geometry.SPECTRAL
    return Update(kind, coupled=not options["decoupled"], eps_power=2)


@optimizer(
    lr=0.1,
    memory=Share(1.0),
    eps=1e-6,
    weight_decay=1e-3,
    decoupled=False,
    state=_shampoo_slots,
    update=_shampoo_update,
)
def shampoo(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Shampoo on matrices, Adagrad on vectors (with eps inside the root).

    L ← memory · L + g gᵀ;   R ← memory · R + gᵀ g;   w ← w - lr · (L + eps)^(-1/4) g (R + eps)^(-1/4)

    Decay: coupled L2, g = grad + weight_decay · w (the statistics see it, too); with `decoupled` w ← (1 - lr · weight_decay) · w.
    `memory`: 1 sums up all gradients, as in the paper; below 1 it forgets old ones.
    The roots are taken anew at every step, which costs more than the gradient: for small models.
    Source: Gupta et al. 2018, arXiv 1802.09568
    """
    g, w = decayed(w, grad, h)
    if role in VECTORS:
        total = h.memory * state.sum + g * g
        return w - h.lr * g / (total + h.eps).sqrt(), state(sum=total)
    left, right = h.memory * state.left + g @ g.T, h.memory * state.right + g.T @ g
    return w - h.lr * inverse_fourth_root(left, h.eps) @ g @ inverse_fourth_root(right, h.eps), state(
        left=left, right=right
    )


def inverse_fourth_root(m: Tensor, eps: Tensor) -> Tensor:
    """(M + eps)^(-1/4) of a positive semidefinite M [n, n]; NaN where M is not finite."""
    # In float64: of M = Σ g gᵀ, whose rank is low, float32 sees small eigenvalues as noise, and LAPACK may not converge at all.
    values, vectors = torch.linalg.eigh(finite_or_zero(m).double())
    # By square roots, which are rounded alike everywhere; the bits of a power depend on the place in a tensor.
    root = (vectors / (values.clamp_min(0) + eps).sqrt().sqrt()) @ vectors.T
    return torch.where(torch.isfinite(m).all(), root, torch.nan).to(m.dtype)


def _soap_slots(role: Role, options: Mapping[str, Scalar]) -> Slots:
    moments, most = zeros("mean", "square"), int(options["max_size"])
    if most < 0:
        raise BadInput(f"optimizer.max_size = {most}; allowed: integers from 0 on (0: no side is rotated)")
    if role in VECTORS:
        return moments
    return {**moments, **per_side(zeros_of_side, most=most), **per_side(identity_of_side, "_basis", most)}


@optimizer(
    lr=3e-3,
    beta1=0.95,
    beta2=0.95,
    shampoo_beta=0.95,
    eps=1e-8,
    weight_decay=1.0,
    max_size=256,
    state=_soap_slots,
    # In bases of its own every direction that gradients ever had becomes as large as the first, so their number decides. Perceptron,
    # a dozen examples, widths 64 to 256: as SPECTRAL the hidden update grows like width^0.6 (in float64, too), as ENTRYWISE the scores' change falls
    # like width^-0.6; with eps=1e-4 SPECTRAL is right, but only while max_size rotates both sides at every width.
    update=None,
)
def soap(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """SOAP: Adam in the eigenbasis of Shampoo's matrices; Adam on vectors.

    m ← beta1 · m + (1 - beta1) · grad;   s ← beta2 · s + (1 - beta2) · (P' grad P̄)²;
    w ← (1 - lr · weight_decay) · (w - lr · √(1 - beta2^t) / (1 - beta1^t) · P (P' m P̄ / (√s + eps)) P̄');
    L ← shampoo_beta · L + (1 - shampoo_beta) · grad gradᵀ, R likewise;   P ← QR(L P), P̄ ← QR(R P̄), by falling eigenvalue

    Decay: decoupled. The first gradient only sets L and R, and t counts from the second, as in the authors' code. There P and P̄ begin with the eigenvectors
    and follow every tenth step; here they begin with the identity and follow every step (the authors' best, and dearest).
    `max_size`: longer sides of a matrix stay unrotated.
    Source: Vyas et al. 2025, arXiv 2409.11321
    """
    started, t = h.step > 1, (h.step - 1).clamp_min(1)
    left, right = (None, None) if role in VECTORS else (_any(state.left_basis), _any(state.right_basis))
    mean = torch.where(started, h.beta1 * state.mean + (1 - h.beta1) * grad, 0.0)
    square = torch.where(started, h.beta2 * state.square + (1 - h.beta2) * _rotated(grad, left, right) ** 2, 0.0)
    direction = _rotated_back(_rotated(mean, left, right) / (square.sqrt() + h.eps), left, right)
    step = h.lr * (1 - h.beta2**t).sqrt() / (1 - h.beta1**t) * direction
    new = torch.where(started, (w - step) * (1 - h.lr * h.weight_decay), w)
    after = {"mean": mean, "square": square}
    for axis, name, basis in ((0, "left", left), (1, "right", right)):
        if basis is not None:
            outer = grad @ grad.T if axis == 0 else grad.T @ grad
            after[name] = h.shampoo_beta * state[name] + (1 - h.shampoo_beta) * outer
            after[f"{name}_basis"], order = _followed(after[name], basis)
            after["square"] = after["square"].index_select(axis, order)
    return new, state(**after)


def _any(basis: Tensor) -> Tensor | None:
    """The basis; None for a side that is not rotated."""
    return basis if len(basis) else None


def _rotated(x: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """P' x P̄."""
    x = x if left is None else left.T @ x
    return x if right is None else x @ right


def _rotated_back(x: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """P x P̄'."""
    x = x if left is None else left @ x
    return x if right is None else x @ right.T


def _followed(m: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """One power iteration of M [n, n] on an eigenbasis, sorted by what it says of the eigenvalues, and that order [n]."""
    product = m @ basis
    order = (basis * product).sum(0).argsort(descending=True, stable=True)
    orthogonal, _ = torch.linalg.qr(finite_or_zero(product.index_select(1, order)))
    return torch.where(torch.isfinite(m).all(), orthogonal, torch.nan), order
