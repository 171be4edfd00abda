"""The atlas's problems: losses that can be drawn, a matrix, and which rules are tried on them at which rates."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grokking.roles import Role
from grokking.seeding import stream

RATES = tuple(float(f"{10 ** (-4 + 5 * k / 24):.3g}") for k in range(25))  # 1e-4 … 10, a factor of 1.6 apart
FLOOR = 1e-12  # a loss below it counts as none: rounding shall choose no rate
FAR = 30.0  # a rate at which the loss is ever so many times its start is not chosen, however it ends
FAMILIES = {
    "along the gradient": ("gradient_descent", "heavy_ball", "nesterov"),
    "entries over their size": ("adagrad", "rmsprop", "adam", "nadam"),
    "signs of the entries": ("sign_sgd", "lion"),
}
ELEMENTWISE = tuple(name for names in FAMILIES.values() for name in names)
MATRIX_ARMS = ("sgd", "sgd, momentum 0.9", "adagrad", "adamw", "lion", "shampoo", "soap", "muon", "muon, exact")


@dataclass(frozen=True)
class Problem:
    """A loss of one parameter whose least value is 0, and where every arm starts."""

    title: str
    loss: Callable[[Tensor], Tensor]
    start: Tensor
    minima: tuple[tuple[float, float], ...] = ()  # of a surface
    box: tuple[float, float, float, float] = (0, 1, 0, 1)  # what is drawn of a surface: x from, to; y from, to
    role: Role = Role.BIAS
    arms: tuple[str, ...] = ELEMENTWISE
    steps: int = 200


def quadratic(w: Tensor) -> Tensor:
    """½ (x² + 2 y²)."""
    return 0.5 * (w[0] ** 2 + 2 * w[1] ** 2)


def valley(w: Tensor, turn: float = math.pi / 6) -> Tensor:
    """½ (u² + 100 v²), where the axes of u and v are those of x and y turned by so much."""
    cos, sin = math.cos(turn), math.sin(turn)
    return 0.5 * ((cos * w[0] + sin * w[1]) ** 2 + 100 * (cos * w[1] - sin * w[0]) ** 2)


def rosenbrock(w: Tensor) -> Tensor:
    """(1 - x)² + 100 (y - x²)²."""
    return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2


def saddle(w: Tensor) -> Tensor:
    """½ x² - ½ y² + ¼ y⁴ + ¼, as a sum of squares, which keeps its digits near 0."""
    return 0.5 * w[0] ** 2 + 0.25 * (w[1] ** 2 - 1) ** 2


def least_squares(size: int = 8, condition: float = 30.0) -> Callable[[Tensor], Tensor]:
    """½ ‖A W B - A W* B‖² with standard normal W*; A and B have singular values from 1 to 1 / condition, log-spaced."""
    draws = stream(0, "optimizer atlas")
    q = [np.linalg.qr(draws.standard_normal((size, size)))[0] for _ in range(4)]
    values = np.geomspace(1, 1 / condition, size)
    a, b = (torch.from_numpy(left * values @ right.T) for left, right in (q[:2], q[2:]))
    target = a @ torch.from_numpy(draws.standard_normal((size, size))) @ b
    return lambda w: 0.5 * (a @ w @ b - target).square().sum()


def _point(x: float, y: float) -> Tensor:
    return torch.tensor([x, y], dtype=torch.float64)


ORIGIN = ((0.0, 0.0),)
SURFACES = {
    "quadratic": Problem("Quadratic, condition 2", quadratic, _point(-1.7, 1.1), ORIGIN, (-2.1, 1.3, -1.5, 1.4)),
    "valley": Problem("Quadratic, condition 100", valley, _point(-1.77, -0.33), ORIGIN, (-2.1, 1.3, -1.6, 1.3)),
    "rosenbrock": Problem("Rosenbrock", rosenbrock, _point(-1.2, 1.0), ((1.0, 1.0),), (-1.9, 1.9, -0.84, 2.4)),
    "saddle": Problem("Saddle", saddle, _point(-1.6, 1e-6), ((0.0, -1.0), (0.0, 1.0)), (-2.0, 1.6, -1.3, 1.77)),
}
MATRIX = Problem(
    "Matrix", least_squares(), torch.zeros(8, 8, dtype=torch.float64), role=Role.HIDDEN, arms=MATRIX_ARMS, steps=300
)
