"""Steepest descent under a norm that fits what a matrix is for: an update of known size, whatever the gradient's."""

from collections.abc import Mapping

import torch
from torch import Tensor

from grokking.optim import ENTRYWISE, Numbers, State, optimizer, zeros
from grokking.optim.spectral import among, orthogonalized, shape_factor
from grokking.registry import Scalar
from grokking.roles import Geometry, Role, Update

NORMS = ("rows", "columns", "sign", "spectral")  # of embeddings and of the head; hidden matrices are spectral
RATE = {Role.EMBEDDING: "embedding_lr", Role.HEAD: "head_lr", Role.HIDDEN: "lr", Role.GAIN: "lr", Role.BIAS: "lr"}


def _update(role: Role, options: Mapping[str, Scalar]) -> Update:
    if _norm(role, options) == "spectral":
        return Update(Geometry.SPECTRAL, size=lambda fan_out, fan_in: shape_factor("spectral", fan_out, fan_in))
    return ENTRYWISE


def _norm(role: Role, options: Mapping[str, Scalar]) -> str:
    if role is Role.HIDDEN:
        return "spectral"
    if role in (Role.GAIN, Role.BIAS):
        return "rows"  # they have one
    return among({name: name for name in NORMS}, role.value, options)


@optimizer(
    lr=0.1,
    embedding_lr=0.1,
    head_lr=0.1,
    momentum=0.9,
    weight_decay=0.1,
    nesterov=True,
    embedding="rows",
    head="rows",
    tangent=False,
    orthogonalize="jordan",
    ns_steps=0,
    state=zeros("momentum"),
    update=_update,
)
def scion(w: Tensor, grad: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Scion: steepest descent under the spectral norm for hidden matrices, and under norms of rows for embeddings and head.

    m ← momentum · m + (1 - momentum) · grad;   u ← momentum · m + (1 - momentum) · grad   (without nesterov u ← m);
    w ← (1 - lr · weight_decay) · w - lr · d,   d = √(out / in) · orthogonalize(u), or the rows of u at root mean square 1

    Decay: decoupled; weights then have a norm of at most 1 / weight_decay, the constrained form of the paper (with `jordan` 1.2 of that).
    `embedding`, `head`, each with its own rate: "rows", "columns" (of root mean square 1), "sign" (entries of ± 1) or "spectral".
    Gains and biases: root mean square 1, as a row. `tangent`: u loses what is along each row (or column) of w, as on a sphere (with the constraint
    `oblique`). `orthogonalize`: as of muon.
    Source: Pethick et al. 2025, arXiv 2502.07529; on spheres Cesista 2025, leloykun.github.io/ponder/steepest-descent-stiefel
    """
    lr = h[RATE[role]]
    momentum = h.momentum * state.momentum + (1 - h.momentum) * grad
    update = h.momentum * momentum + (1 - h.momentum) * grad if h.nesterov else momentum
    kind = _norm(role, h)
    if kind == "spectral":
        direction = shape_factor("spectral", *w.shape) * orthogonalized(update, h)
    elif kind == "sign":
        direction = update.sign()
    else:
        direction = _unit(update, w, -1 if kind == "rows" else 0, bool(h.tangent) and w.dim() == 2)
    return w * (1 - lr * h.weight_decay) - lr * direction, state(momentum=momentum)


def _unit(u: Tensor, w: Tensor, axis: int, tangent: bool) -> Tensor:
    """Rows (axis -1) or columns (axis 0) of u at root mean square 1, 0 where they are 0; `tangent`: without what is along w's."""
    u = _largest_1(u, axis)  # so that squares of tiny gradients do not underflow, nor those of a row unseen for long
    if tangent:
        along = (u * w).sum(axis, keepdim=True) / w.square().sum(axis, keepdim=True).clamp_min(
            torch.finfo(w.dtype).tiny
        )
        u = _largest_1(u - along * w, axis)
    return u / u.square().mean(axis, keepdim=True).sqrt().clamp_min(torch.finfo(u.dtype).tiny)


def _largest_1(u: Tensor, axis: int) -> Tensor:
    """Each row (or column) over its largest entry; 0 where it is 0, or too small for a number."""
    return u / u.abs().amax(axis, keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)
