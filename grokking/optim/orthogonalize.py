"""The nearest (semi-)orthogonal matrix, by Newton–Schulz iteration."""

import torch
from torch import Tensor

JORDAN = ((3.4445, -4.7750, 2.0315),) * 5


def newton_schulz(g: Tensor, coefficients: tuple[tuple[float, float, float], ...] = JORDAN) -> Tensor:
    """U Vᵀ of G = U S Vᵀ, approximately: singular values end in about 0.7 … 1.2 (K. Jordan 2024, quintic, 5 steps).

    X ← a X + (b A + c A²) X with A = X Xᵀ, from X = G / ‖G‖_F, in the dtype of `g` [out, in]. Dividing by the largest
    entry first keeps the norm from underflowing: gradients after memorisation are tiny (‖G‖ = 1e-12 and less), and
    the iteration must not see their size. G = 0 gives 0.
    """
    tiny = torch.finfo(g.dtype).tiny
    x = g / g.abs().amax().clamp_min(tiny)
    x = x / x.square().sum().sqrt().clamp_min(1.0)
    tall = g.shape[0] > g.shape[1]
    if tall:
        x = x.T
    for a, b, c in coefficients:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
