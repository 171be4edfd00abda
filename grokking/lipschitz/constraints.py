"""What keeps a matrix within bounds after every update: each constraint is one decorated function of one matrix.

Spectral constraints bound a matrix W [out, in] as a map between vectors measured by their root mean square: ‖W‖ is its largest
singular value over √(out / in), and `bound` is what ‖W‖ may be. An update is decayed, stepped and then constrained, as in
Newhouse et al. 2025, arXiv 2507.13338.
"""

import torch
from torch import Tensor

from grokking.errors import BadInput
from grokking.hashing import normal
from grokking.lipschitz.lifting import constraint
from grokking.optim import Numbers, Slots, State
from grokking.optim.orthogonalize import coefficients, finite_or_zero, newton_schulz, polar
from grokking.roles import Role


def size(w: Tensor) -> float:
    """The largest singular value of a matrix [out, in] with ‖W‖ = 1."""
    return float((w.shape[0] / w.shape[1]) ** 0.5)


# --- the largest singular value -----------------------------------------------------------------------------------------

TOP: Slots = {"top": lambda w: _unit(normal(torch.zeros((), dtype=torch.int64, device=w.device), w[0]))}


def _unit(x: Tensor) -> Tensor:
    return x / x.square().sum().sqrt().clamp_min(torch.finfo(x.dtype).tiny)


def top(w: Tensor, v: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """u [out], s [], v [in] of the largest singular value of W, by power iteration from v: s is never too large.

    v stays where W sends it to 0, as a matrix that is still 0 does: from v = 0 nothing would ever be found again.
    """
    if iterations < 1:
        raise BadInput(f"transform option iterations = {iterations}; allowed: integers from 1 on")
    for _ in range(iterations):
        new = _unit(w.T @ _unit(w @ v))
        v = torch.where((new != 0).any(), new, v)
    along = w @ v
    return _unit(along), along.square().sum().sqrt(), v


@constraint(state=TOP, decay=0.05, iterations=2)
def spectral_decay(w: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Weight decay of the largest singular value alone.

    W ← W - decay · s u vᵀ

    Bounds nothing by itself. `decay`: the share that every step takes, whatever its learning rate, as in the authors' code.
    `iterations` of the power method, which goes on from step to step.
    Source: Newhouse et al. 2025, arXiv 2507.13338
    """
    u, s, v = top(w, state.top, h.iterations)
    return w - h.decay * s * torch.outer(u, v), state(top=v)


@constraint(state=TOP, bound=1.0, iterations=2)
def spectral_hammer(w: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """The largest singular value becomes the bound, whether it was above or below.

    W ← W + (bound · √(out / in) - s) u vᵀ

    Others may lie above it: nothing is promised. Made for AdamW, whose updates have few large ones.
    Source: Newhouse et al. 2025, arXiv 2507.13338
    """
    u, s, v = top(w, state.top, h.iterations)
    return w + (h.bound * size(w) - s) * torch.outer(u, v), state(top=v)


@constraint(state=TOP, bound=1.0, sphere=False, iterations=2)
def spectral_normalize(w: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """All of the matrix is divided by what its largest singular value is too large by.

    W ← W / max(1, s / (bound · √(out / in)))

    Holds but for what the power method misses, which goes on from step to step: a few percent with two `iterations`.
    `sphere`: it is multiplied as well, so that ‖W‖ is the bound and not below it.
    Source: Miyato et al. 2018, arXiv 1802.05957; with a maximum Newhouse et al. 2025, arXiv 2507.13338
    """
    _, s, v = top(w, state.top, h.iterations)
    excess = s / (h.bound * size(w))
    tiny = torch.finfo(w.dtype).tiny
    return w / (excess.clamp_min(tiny) if h.sphere else excess.clamp_min(1.0)), state(top=v)


# --- all singular values ------------------------------------------------------------------------------------------------


@constraint(bound=1.0, method="svd")
def stiefel(w: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """All singular values become the bound: W stays on the (scaled) Stiefel manifold.

    W ← bound · √(out / in) · U Vᵀ   of W = U S Vᵀ

    Directions in which W vanishes stay out, as 0.
    `method`: "svd", exactly, or Newton–Schulz with "you6", whose values never end higher, and those from 0.01 ‖W‖_F on up to 0.5 %
    lower.
    Source: Newhouse et al. 2025, arXiv 2507.13338
    """
    return h.bound * size(w) * _orthogonal(w, h), state


@constraint(bound=1.0, method="svd")
def spectral_cap(w: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Singular values above the bound become the bound, the others stay: the nearest matrix within it.

    W ← √(out / in) · U min(S, bound) Vᵀ   of W / √(out / in) = U S Vᵀ

    `method`: "svd", exactly; "polynomial", the four of Newhouse et al., which are made for values up to three times the bound,
    and lower those near it by 3 % a step; or by orthogonal factors, ½ (b O + W - msign(b - O Wᵀ) (b O - W)) with O = msign(W), from
    Newton–Schulz iterations "you6" or "polar_express" (Cesista 2025, leloykun.github.io/ponder/spectral-clipping), of which "you6"
    lets ten times the bound end up to 2 % above it and a hundred times up to 20 %, and "polar_express" next to nothing.
    Source: Newhouse et al. 2025, arXiv 2507.13338
    """
    x = w / (h.bound * size(w))
    return h.bound * size(w) * capped(x, str(h.method)), state


@constraint(bound=1.0, decay=0.1, method="svd")
def clipped_decay(w: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Weight decay of what singular values have above the bound.

    W ← (1 - decay) · W + decay · cap(W)

    With updates of norm η, ‖W‖ settles at most at bound + η (1 - decay) / decay.
    `decay`: the share that every step takes; `method`: as of `spectral_cap`.
    Source: Cesista 2025, leloykun.github.io/ponder/spectral-clipping
    """
    x = w / (h.bound * size(w))
    return (1 - h.decay) * w + h.decay * h.bound * size(w) * capped(x, str(h.method)), state


@constraint(bound=1.0, inflation=1.0)
def spectral_soft_cap(w: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Two odd polynomials lower every singular value a little, the largest by what a step can have added.

    x ← x - α x³;   x ← x + α x³   of the singular values x of W / √(out / in)

    α is the least with which nothing up to bound · (1 - lr · weight_decay) + lr · inflation ends above the bound. So ‖W‖ stays
    within it where it begins there, and where updates before their learning rate have ‖U‖ ≤ inflation: Muon with scale="spectral",
    and `inflation` what its orthogonalization lets singular values end at (jordan 1.21, you5 1.15, svd and you6 1), on matrices
    that have the optimizer's `lr` and no rate of their own, and where lr · (inflation - bound · weight_decay) ≤ 1.6 · bound:
    beyond that values grow without end.
    Newhouse et al. solve for the largest value alone, which is not the one that ends highest when steps are long.
    Source: Newhouse et al. 2025, arXiv 2507.13338, theorem 3.1
    """
    reached = 1 + h.lr * (h.inflation / h.bound - h.weight_decay)  # in units of the bound
    alpha = soft_cap(reached).to(w.dtype)
    x = w / (h.bound * size(w))
    for sign in (-1, 1):
        x = x + sign * alpha * _cubed(x)
    return h.bound * size(w) * x, state


def _cubed(x: Tensor) -> Tensor:
    """U S³ Vᵀ of X = U S Vᵀ."""
    return x @ (x.T @ x) if x.shape[0] > x.shape[1] else (x @ x.T) @ x


def soft_cap(reached: Tensor) -> Tensor:
    """The least α with which p(x) = y + α y³, y = x - α x³, is at most 1 for all x from 0 to `reached`: [] → [].

    With a = α · reached²: while a ≤ 1/3 the largest x ends highest, at reached · (1 - a) (1 + a (1 - a)²), which must be 1.
    From there on it is x = 1 / √(3 α), which ends at (62 / 81) / √(3 α).
    """
    missing = 1 - 1 / reached.clamp_min(1.0)  # a⁴ - 3 a³ + 3 a² must be this, and grows with a
    low, high = torch.zeros_like(missing), torch.full_like(missing, 1 / 3)
    for _ in range(52):
        middle = (low + high) / 2
        below = middle**2 * (middle**2 - 3 * middle + 3) < missing
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.maximum(high / reached.clamp_min(1.0) ** 2, torch.where(high < 1 / 3, 0.0, (62 / 81) ** 2 / 3))


CAP = (  # four odd polynomials a x + b x³ + c x⁵, near min(x, 1) up to x = 3 (Newhouse et al. 2025, released code)
    (0.805032, 0.206361, -0.019763),
    (0.649867, 0.162935, -0.011150),
    (1.810259, -0.200265, 0.008251),
    (1.004384, -0.183490, 0.014413),
)


def capped(x: Tensor, method: str) -> Tensor:
    """U min(S, 1) Vᵀ of X = U S Vᵀ [out, in]."""
    if method == "svd":
        u, s, v = torch.linalg.svd(finite_or_zero(x), full_matrices=False)
        return torch.where(torch.isfinite(x).all(), (u * s.clamp_max(1.0)) @ v, torch.nan)
    if method == "polynomial":
        for a, b, c in CAP:
            gram = x.T @ x if x.shape[0] > x.shape[1] else x @ x.T
            change = b * gram + c * gram @ gram
            x = a * x + (x @ change if x.shape[0] > x.shape[1] else change @ x)
        return x
    if method not in NEWTON_SCHULZ:
        raise BadInput(
            f"transform option method = {method!r}; allowed: {', '.join(('svd', 'polynomial', *NEWTON_SCHULZ))}"
        )
    tall = x.shape[0] > x.shape[1]
    wide = x.T if tall else x
    orthogonal = newton_schulz(wide, coefficients(method))
    sign = newton_schulz(
        torch.eye(len(wide), dtype=x.dtype, device=x.device) - orthogonal @ wide.T, coefficients(method)
    )
    result = (orthogonal + wide - sign @ (orthogonal - wide)) / 2
    return result.T if tall else result


NEWTON_SCHULZ = ("you6", "polar_express")


def _orthogonal(w: Tensor, h: Numbers) -> Tensor:
    if h.method not in ("svd", "you6"):
        raise BadInput(f"transform option method = {h.method!r}; allowed: svd, you6")
    return polar(w) if h.method == "svd" else newton_schulz(w, coefficients("you6"))


# --- rows and columns ---------------------------------------------------------------------------------------------------

AXES = {"rows": 1, "columns": 0, "none": None}  # over which a root mean square is taken


def _rms(w: Tensor, h: Numbers, role: Role) -> Tensor | None:
    """Of each row [out, 1] or column [1, in], as the option of this role says; None where it says none."""
    of = h[role.value]
    if of not in AXES:
        raise BadInput(f"transform option {role.value} = {of!r}; allowed: {', '.join(AXES)}")
    return None if AXES[of] is None else w.square().mean(AXES[of], keepdim=True).sqrt()


@constraint(on=None, bound=1.0, embedding="rows", hidden="none", head="none")
def rms_cap(w: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """No row (of an embedding: no token's vector) has a root mean square above the bound; those within it stay.

    row ← row / max(1, rms(row) / bound)

    `embedding`, `hidden`, `head`: "rows", "columns" or "none".
    Source: Newhouse et al. 2025, arXiv 2507.13338
    """
    rms = _rms(w, h, role)
    return w if rms is None else w / (rms / h.bound).clamp_min(1.0), state


@constraint(on=None, bound=1.0, embedding="rows", hidden="none", head="none")
def oblique(w: Tensor, state: State, h: Numbers, role: Role) -> tuple[Tensor, State]:
    """Every row has the bound as its root mean square: W stays on the (scaled) oblique manifold.

    row ← row · bound / rms(row)

    `embedding`, `hidden`, `head`: "rows", "columns" or "none".
    Source: Cesista 2025, leloykun.github.io/ponder/steepest-descent-stiefel
    """
    rms = _rms(w, h, role)
    return w if rms is None else w * h.bound / rms.clamp_min(torch.finfo(w.dtype).tiny), state
