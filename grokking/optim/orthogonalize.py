"""The nearest (semi-)orthogonal matrix: by Newton–Schulz iterations of several coefficient sets, or exactly."""

import torch
from torch import Tensor

from grokking.errors import BadInput

Coefficients = tuple[tuple[float, float, float], ...]  # of a x + b x³ + c x⁵, a triple for each iteration

JORDAN: Coefficients = ((3.4445, -4.7750, 2.0315),) * 5
YOU_5: Coefficients = (  # J. You; also in Newhouse et al. 2025, arXiv 2507.13338
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
YOU_6: Coefficients = tuple(
    (a / 1024, b / 1024, c / 1024)
    for a, b, c in (
        (3955, -8306, 5008),
        (3735, -6681, 3463),
        (3799, -6499, 3211),
        (4019, -6385, 2906),
        (2677, -3029, 1162),
        (2172, -1833, 682),
    )
)
POLAR_EXPRESS: Coefficients = (  # Amsel et al. 2025, arXiv 2505.16932, without their margin for rounding
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
MARGIN = 1.01  # theirs: every iteration but the last sees singular values this much smaller


def coefficients(name: str, steps: int = 0) -> Coefficients:
    """A set by name, for so many iterations (0: as many as its authors use); `BadInput` where it has no such form.

    Singular values from 0.01 on end at least at: jordan 0.68, you5 0.98, you6 0.995, polar_express 1 (with five iterations
    0.88); and from wherever they begin, at most at 1.20, 1.15, 1, 1 (1.12).
    """
    if name == "jordan":
        return JORDAN[:1] * (steps or 5)
    if name == "polar_express":
        steps = steps or len(POLAR_EXPRESS)
        raw = [*POLAR_EXPRESS[:steps], *POLAR_EXPRESS[-1:] * (steps - len(POLAR_EXPRESS))]
        return (*((a / MARGIN, b / MARGIN**3, c / MARGIN**5) for a, b, c in raw[:-1]), raw[-1])
    own = {"you5": YOU_5, "you6": YOU_6}[name]
    if steps not in (0, len(own)):
        raise BadInput(f"optimizer.ns_steps = {steps}; allowed with {name!r}: {len(own)}, or 0 for the same")
    return own


def newton_schulz(g: Tensor, coefficients: Coefficients = JORDAN) -> Tensor:
    """U Vᵀ of G = U S Vᵀ, approximately: singular values end near 1, how near depends on the coefficients.

    X ← a X + (b A + c A²) X with A = X Xᵀ, from X = G / ‖G‖_F, in the dtype of `g` [out, in] (K. Jordan 2024). Dividing
    by the largest entry first keeps the norm from underflowing: gradients after memorisation are tiny (‖G‖ = 1e-12 and
    less), and the iteration must not see their size. G = 0 gives 0.
    """
    x = normalized(g)
    tall = g.shape[0] > g.shape[1]
    if tall:
        x = x.T
    for a, b, c in coefficients:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def normalized(g: Tensor) -> Tensor:
    """G / ‖G‖_F, and 0 for 0, whatever the size of G [out, in]."""
    tiny = torch.finfo(g.dtype).tiny
    x = g / g.abs().amax().clamp_min(tiny)
    return x / x.square().sum().sqrt().clamp_min(1.0)


def polar(g: Tensor) -> Tensor:
    """U Vᵀ of G = U S Vᵀ [out, in], exactly, by singular value decomposition.

    Directions in which G vanishes stay out, as 0, where rounding would choose them at random.
    """
    u, s, v = torch.linalg.svd(finite_or_zero(g), full_matrices=False)
    there = s > s.amax() * torch.finfo(g.dtype).eps * max(g.shape)
    return _nan_unless_finite(g, (u * there) @ v)


def equalized(g: Tensor, eps: Tensor) -> Tensor:
    """U min(S / eps, 1) Vᵀ of G = U S Vᵀ [out, in]: every singular value is 1, but of those below `eps`, which stay small."""
    u, s, v = torch.linalg.svd(finite_or_zero(g), full_matrices=False)
    return _nan_unless_finite(g, (u * (s / eps).clamp_max(1.0)) @ v)


def over_spectral_norm(g: Tensor) -> Tensor:
    """G [out, in] divided by its largest singular value: the direction of the gradient at the size of an orthogonal step."""
    x = normalized(g)
    largest = torch.linalg.svdvals(finite_or_zero(x)).amax()
    return _nan_unless_finite(g, x / torch.where(largest > 0, largest, 1.0))


def finite_or_zero(m: Tensor) -> Tensor:
    """The matrix, or 0 if any of it is not finite: a decomposition of one such matrix would fail for all runs of a cohort."""
    return torch.where(torch.isfinite(m).all(), m, 0.0)


def _nan_unless_finite(m: Tensor, result: Tensor) -> Tensor:
    return torch.where(torch.isfinite(m).all(), result, torch.nan)
