"""How fast a model's scores do change with its embedded input: lower bounds, found by looking for the worst inputs.

Sizes are those of `grokking.lipschitz.certificate`: of inputs the largest root mean square of a position, of scores theirs. So what is
found here is at most the slope that is certified there, or that is wrong.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd import grad

from grokking.errors import BadInput

Through = Callable[[Tensor], Tensor]  # embedded inputs [example, (position,) width] → scores [example, class]


class Pairs(NamedTuple):
    """Two embedded inputs an example [example, (position,) width], and how far scores move for each step between them [example]."""

    x: Tensor
    y: Tensor
    slope: Tensor


def through(model: nn.Module) -> Through:
    """From embedded inputs to scores."""
    return cast(Through, _half(model, "through"))


def embedded(model: nn.Module, tokens: Tensor) -> Tensor:
    """Tokens [example, position] → embedded inputs [example, (position,) width]."""
    with torch.no_grad():
        return cast(Through, _half(model, "embedded"))(tokens)


def _half(model: nn.Module, name: str) -> object:
    if not hasattr(model, name):
        raise BadInput(
            f"{type(model).__name__} does not say what its embedded inputs are; Transformer and MLP do (methods embedded and through)"
        )
    return getattr(model, name)


def reach(model: nn.Module, tokens: Tensor) -> float:
    """The size of the largest embedded input among these examples."""
    return float(size(embedded(model, tokens)).max())


def size(x: Tensor) -> Tensor:
    """[example, (position,) width] → [example]: the largest root mean square of a position."""
    return _rms(x).flatten(1).amax(1) if x.dim() > 2 else _rms(x)


def _rms(x: Tensor) -> Tensor:
    """Along the last axis; never quite 0, where its gradient would be NaN."""
    return x.square().mean(-1).clamp_min(torch.finfo(x.dtype).tiny).sqrt()


def within(x: Tensor, reach: float) -> Tensor:
    """The nearest input of the domain: every position's root mean square is at most `reach`."""
    return x * (reach / _rms(x)[..., None]).clamp_max(1.0)


def steepest(f: Through, x: Tensor, iterations: int = 30) -> tuple[Tensor, Tensor]:
    """The direction δ of size 1 in which scores change fastest at each of the inputs x, nearly, and how fast: ‖J δ‖ [example].

    By power iteration: δ goes to where the gradient of ‖J δ‖² points, at every position by itself, as inputs of size 1 are
    those whose positions all have a root mean square of at most 1. ‖J δ‖ never falls on the way.
    """
    x = x.detach().requires_grad_()
    scores = f(x)
    u = torch.zeros_like(scores, requires_grad=True)
    (back,) = grad(scores, x, u, create_graph=True)  # Jᵀ u, whose derivative by u is J

    delta = _spread(torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype))
    for _ in range(iterations):
        (moved,) = grad(back, u, delta, retain_graph=True)
        delta = _spread(grad(scores, x, moved, retain_graph=True)[0])
    (moved,) = grad(back, u, delta)
    return delta, moved.square().mean(-1).sqrt()


def _spread(x: Tensor) -> Tensor:
    """Every position at root mean square 1, but for those that are 0."""
    return x / _rms(x)[..., None]


def attacked(f: Through, x: Tensor, reach: float, steps: int = 200, rate: float = 0.05) -> Pairs:
    """Pairs of inputs of the domain between which scores change fast, by projected gradient ascent from x and its steepest direction.

    All in float64. `rate`: of Adam, over the size of the domain.
    """
    x = within(x.double(), reach)
    delta, _ = steepest(f, x)
    first, second = (within(x + sign * 1e-3 * reach * delta, reach) for sign in (-1, 1))
    best = Pairs(*(part.detach() for part in _measured(f, first, second)))
    own = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    optimizer = torch.optim.Adam(own, lr=rate * reach)
    for _ in range(steps):
        optimizer.zero_grad()
        (-_measured(f, *own).slope.clamp_min(1e-300).log().sum()).backward()
        optimizer.step()
        with torch.no_grad():
            for each in own:
                each.copy_(within(each, reach))
            best = _better(best, _measured(f, *own))
    return best


def _measured(f: Through, x: Tensor, y: Tensor) -> Pairs:
    return Pairs(x, y, _rms(f(x) - f(y)) / size(x - y).clamp_min(1e-12))


def _better(a: Pairs, b: Pairs) -> Pairs:
    larger = b.slope > a.slope
    x, y = (
        torch.where(larger.view(-1, *[1] * (p.dim() - 1)), q.detach(), p) for p, q in zip(a[:2], b[:2], strict=True)
    )
    return Pairs(x, y, torch.where(larger, b.slope.detach(), a.slope))


def accuracy(f: Through, x: Tensor, labels: Tensor, radius: float, steps: int = 20) -> float:
    """Share of the examples whose answer stays right within this Euclidean distance of x, as far as an attack finds.

    By projected gradient ascent on the margin: the score of the best wrong class over that of the right one.
    """
    right = torch.nn.functional.one_hot(labels, f(x[:1]).shape[-1]).bool()
    moved = torch.zeros_like(x)
    stays = torch.ones(len(x), dtype=torch.bool)
    for step in range(steps + 1):
        moved.requires_grad_()
        scores = f(x + moved)
        margin = scores.masked_fill(right, -torch.inf).amax(-1) - scores[right]
        stays &= (margin < 0).detach()
        if step == steps or not radius:
            break
        (gradient,) = grad(margin.sum(), moved)
        with torch.no_grad():
            moved = moved + 2.5 * radius / steps * gradient / _length(gradient).clamp_min(1e-300)
            moved = moved * (radius / _length(moved).clamp_min(1e-300)).clamp_max(1.0)
    return float(stays.double().mean())


def _length(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))


def certified_accuracy(scores: Tensor, labels: Tensor, slope: float, radius: float, width: int) -> float:
    """Share of the examples whose answer cannot change within this Euclidean distance, by a certified slope.

    A Euclidean distance r is at most r / √width in size, whatever positions it is spread over; scores then move by slope · r / √width in
    root mean square, and the difference of two of them by at most √(2 · classes) as much. `slope` must hold that far from the examples:
    for a reach of theirs and r / √width.
    """
    right = scores.gather(1, labels[:, None])[:, 0]
    wrong = scores.scatter(1, labels[:, None], -torch.inf).amax(1)
    return float((right - wrong > (2 * scores.shape[1]) ** 0.5 * slope * radius / width**0.5).double().mean())
