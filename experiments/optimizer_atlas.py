"""Where do the optimizers go? Their rules, as registered, on losses that can be drawn; and on a matrix.

Not a sweep: no network is trained, and it takes less than a minute.

    .venv/bin/python experiments/optimizer_atlas.py

Claim      None: what the formulas do, seen. Gradients are exact, so nothing here is about noise or generalization; and with one
           start and one number of steps a problem, the order of the rules is no ranking.
Here       Elementwise rules on four losses of (x, y): quadratics of condition 2 and 100 (its axes turned by 30°), Rosenbrock's,
           and a saddle, from beside the ridge that leads to it. Matrix rules, and some of the others, on ½ ‖A W B - A W* B‖²
           with A and B of condition 30; its Hessian is a Kronecker product, which is what Shampoo and SOAP are made for.
Definition 200 steps (the matrix: 300) at a constant learning rate without decay, other numbers at their defaults, in float64.
           Every rule gets the best of the same 25 rates on every problem: where the largest loss of the last tenth of the steps
           is smallest (the very last would be luck where a rule oscillates); below 1e-12, where that is reached soonest. Never
           chosen are rates at which the loss is not finite (diverged, and counted), and those at which it is ever more than 30
           times its start: else RMSprop would solve the first quadratic by way of a point 70 times as far off as the start,
           where one huge gradient makes its later steps small.
Shows      (The largest loss of the last tenth.) Condition 2: gradient descent is below 1e-12 after 17 steps, RMSprop after 10;
           momentum 0.9 is too much, and the heavy ball ends at 4e-9, Adam at 1e-8. Condition 100: Nesterov ends at 2e-10, the
           heavy ball at 9e-8, gradient descent at 1e-3, however the axes lie; Adagrad at 3e-3 and RMSprop at 4e-4, but at less
           than 1e-60 where the axes are not turned. No sign rule ends below 6e-4 anywhere: steps of a fixed size cannot.
           Gradient descent is held up on the ridge and past the saddle after 37 steps, RMSprop after 22.
           Matrix, loss over its start: Shampoo 9e-8 (and less at rates that go too far), SOAP 5e-6, Muon with exact UVᵀ 2e-4
           and with Newton–Schulz 4e-4, SGD with momentum 3e-4, AdamW 3e-4, Lion 2e-3. The first gradient's singular values fall
           to 4e-7 of the largest. In the first update exact UVᵀ makes all eight equal; Newton–Schulz brings five to
           0.6 and more, the last to 2e-4; and the signs of the entries, Lion's update, are a matrix of rank 3.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor
from torch.func import grad_and_value, vmap

from grokking.optim import Numbers, State, optimizers
from grokking.plotting import COLORS, DASHES, Drawing, caption, label, save, style
from grokking.publish import PUBLISHED
from grokking.registry import Scalar
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
OWN: dict[str, dict[str, Scalar]] = {"sgd, momentum 0.9": {"momentum": 0.9}, "muon, exact": {"orthogonalize": "svd"}}
MATRIX_ARMS = ("sgd", "sgd, momentum 0.9", "adagrad", "adamw", "lion", "shampoo", "soap", "muon", "muon, exact")
DOTTED = 40  # first points of a path that are drawn

# --- what is minimised --------------------------------------------------------------------------------------------------


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

# --- from rules to tables -----------------------------------------------------------------------------------------------


def numbers(arm: str) -> dict[str, Scalar]:
    """An arm's numbers: the defaults of its optimizer but for what the arm is named for, and no decay."""
    defaults = optimizers[arm.split(",")[0]].defaults
    return {**defaults, **{name: 0.0 for name in defaults if name.endswith("weight_decay")}, **OWN.get(arm, {})}


def descend(problem: Problem, arm: str) -> tuple[Tensor, Tensor]:
    """Weights [step, rate, …] and losses [step, rate] of one arm at all rates side by side, from step 0 on."""
    entry, own = optimizers[arm.split(",")[0]], numbers(arm)
    static = {name: value for name, value in own.items() if not isinstance(value, float)}
    floats = {name: _number(value) for name, value in own.items() if isinstance(value, float)}

    def update(
        w: Tensor, g: Tensor, state: Mapping[str, Tensor], lr: Tensor, step: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        new, after = entry.make(w, g, State(state), Numbers({**static, **floats, "lr": lr, "step": step}), problem.role)
        return new, dict(after)

    lrs = torch.tensor(RATES, dtype=torch.float64)
    w = problem.start.expand(len(RATES), *problem.start.shape)
    state = {slot: vmap(first)(w) for slot, first in entry.extra["slots"](problem.role, static).items()}
    weights, losses = [], []
    for step in range(1, problem.steps + 2):
        gradient, loss = vmap(grad_and_value(problem.loss))(w)
        weights.append(w)
        losses.append(loss)
        w, state = vmap(update, (0, 0, 0, 0, None))(w, gradient, state, lrs, _number(step))
    return torch.stack(weights), torch.stack(losses)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def tuned(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Of losses [step, rate]: the largest of the last tenth of the steps and of all steps [rate], and the rate to choose.

    A single last loss would be luck where a rule oscillates. NaN where a run is not finite. Of equals below the floor, the
    one that is there first.
    """
    late = losses[-(len(losses) // 10) :].max(0)
    late = np.where(np.isfinite(losses).all(0), late, np.nan)
    highest = np.where(np.isnan(late), np.nan, losses.max(0))
    there = np.where((losses < FLOOR).any(0), (losses < FLOOR).argmax(0), len(losses))
    allowed = highest <= FAR * losses[0]
    ranked = np.lexsort((there, np.where(allowed, np.maximum(late, FLOOR), np.inf)))
    return late, highest, int(ranked[0])


def last_step(losses: np.ndarray) -> int:
    """The step at which a run's loss comes below the floor for good; otherwise its last."""
    return min(int(np.flatnonzero(losses >= FLOOR)[-1]) + 1, len(losses) - 1)


def tables(problems: Mapping[str, Problem]) -> dict[str, pd.DataFrame]:
    """The paths of all arms at their chosen rates (""), every rate ("rates"), and first updates of matrices ("updates")."""
    paths, rates, updates = [], [], []
    for surface, problem in problems.items():
        for arm in problem.arms:
            weights, losses = (tensor.numpy() for tensor in descend(problem, arm))
            late, highest, best = tuned(losses)
            name: dict[str, Any] = {"surface": surface, "optimizer": arm}
            rates += [
                {**name, "lr": lr, "loss": late[k], "highest_loss": highest[k], "chosen": k == best}
                for k, lr in enumerate(RATES)
            ]
            name["lr"] = RATES[best]
            for step in range(last_step(losses[:, best]) + 1):
                x, y = weights[step, best] if weights[step, best].ndim == 1 else (np.nan, np.nan)
                paths.append({**name, "step": step, "x": x, "y": y, "loss": losses[step, best]})
            if problem.role is Role.HIDDEN:
                updates += [{**name, **line} for line in first_update(weights[:, best])]
    found = {"": paths, "rates": rates} | ({"updates": updates} if updates else {})
    return {part: rounded(pd.DataFrame(lines)) for part, lines in found.items()}


def first_update(weights: np.ndarray) -> list[dict[str, float]]:
    """Singular values, over their largest, of the first update of matrices [step, …] that is not 0 (SOAP's first is)."""
    changes = np.diff(weights[:3], axis=0)
    step = int(np.flatnonzero(np.abs(changes).max((1, 2)))[0])
    values = np.linalg.svd(changes[step], compute_uv=False)
    values = np.where(values > FLOOR * values[0], values / values[0], 0.0)  # what is left is rounding
    return [{"step": step + 1, "rank": k + 1, "singular_value": s} for k, s in enumerate(values)]


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Floats with four significant digits: enough to draw from, and a small CSV."""
    return table.apply(lambda c: c.map(lambda v: float(f"{v:.4g}")) if c.dtype == float else c)


# --- from tables to pictures --------------------------------------------------------------------------------------------

DEFINITION = (
    "Learning rate: for every rule and problem the best of the same {n} from {low:g} to {high:g}, by the largest loss in the last "
    "tenth of the steps; never one at which the loss ever exceeds {far:g} times its start. Not finite: {diverged} of {tried} runs. "
    "Constant rates, no decay, other numbers at their defaults, exact gradients: nothing here is about noise or generalization, and one start ranks nobody."
)


def surfaces(parts: Mapping[str, pd.DataFrame]) -> Drawing:
    """A row for every surface: paths on its contours, one family of rules a panel, and all losses by step."""
    paths = parts[""]
    with style():
        figure = Figure(figsize=(10.5, 9.4), layout="constrained")
        rows = figure.subplots(len(SURFACES), len(FAMILIES) + 1, width_ratios=(1, 1, 1, 1.3))
        for row, (surface, problem) in zip(rows, SURFACES.items(), strict=True):
            own = paths[paths["surface"] == surface]
            for axes, names in zip(row, FAMILIES.values(), strict=False):
                _contours(axes, problem)
                for name in names:
                    _path(axes, own[own["optimizer"] == name], name)
            row[0].set_title(problem.title, loc="left", fontweight="bold")
            row[0].set_ylabel("y")
            _losses(row[-1], own, problem)
        for axes, (family, names) in zip(rows[0], FAMILIES.items(), strict=False):
            _legend(axes, family, [_line(name, label=label(name)) for name in names])
        _legend(rows[0][-1], "all of them, by step", _marks())
        for axes in rows[-1][:-1]:
            axes.set_xlabel("x")
        rows[-1][-1].set_xlabel("steps")
        caption(
            figure,
            "Paths of the package's elementwise rules (as registered, in float64) from one start, 200 steps, on the contours of four "
            "losses (each level a third of the next), and right the loss by step. "
            f"Dots: the first {DOTTED} points. The least value of all four is 0, and a loss below {FLOOR:g} counts as 0. Condition "
            "100: its axes are turned by 30°. " + _definition(parts["rates"]),
        )
    return Drawing("optimizer_atlas", figure, dict(parts), 1)


def matrix(parts: Mapping[str, pd.DataFrame]) -> Drawing:
    """Loss by step, what first updates do to singular values, and the loss by learning rate."""
    paths, rates, updates = (parts[part] for part in ("", "rates", "updates"))
    with style():
        figure = Figure(figsize=(10.5, 4.1), layout="constrained")
        losses, values, grid = figure.subplots(1, 3)
        for arm in MATRIX_ARMS:
            own, tried, first = (table[table["optimizer"] == arm] for table in (paths, rates, updates))
            line = _style(arm)
            losses.plot(own["step"], own["loss"] / own["loss"].iloc[0], **line)
            values.plot(first["rank"], first["singular_value"], marker="o", ms=3, **line)
            start = own["loss"].iloc[0]
            grid.plot(tried["lr"], (tried["loss"] / start).clip(upper=100), **line)
            best = tried[tried["chosen"]]
            grid.plot(best["lr"], best["loss"] / start, "o", ms=5, color=line["color"])
        for axes in (losses, values, grid):
            axes.set_yscale("log")
        values.set_xticks(range(1, 9))
        losses.set(xlabel="steps", ylabel="loss over its start", title="Convergence", xlim=(0, MATRIX.steps))
        values.set(xlabel="rank", ylabel="singular value over the largest", title="First update", ylim=(1e-7, 3))
        grid.set(xscale="log", xlabel="learning rate", ylabel="loss at the end over its start", title="Tuning")
        grid.set_ylim(top=20)
        figure.legend(
            handles=[_line(arm, label=label(arm)) for arm in MATRIX_ARMS], loc="outside upper center", ncols=9
        )
        caption(
            figure,
            "½ ‖A W B − A W* B‖², W 8 × 8 from 0; A and B of condition 30; the package's rules as registered, in float64. Exact: UVᵀ by "
            "singular value decomposition in place of five Newton–Schulz iterations. Middle: singular values of the first update (of "
            "SOAP's second, its first is 0). Right: the largest loss of the last tenth of the steps, of every rate; dots: chosen. "
            + _definition(rates),
        )
    return Drawing("optimizer_atlas_matrix", figure, dict(parts), 1)


def _definition(rates: pd.DataFrame) -> str:
    counts = {"diverged": int(rates["loss"].isna().sum()), "tried": len(rates)}
    return DEFINITION.format(n=len(RATES), low=RATES[0], high=RATES[-1], far=FAR, **counts)


def _style(arm: str) -> dict[str, Any]:
    name, *own = arm.split(",")
    return {"color": COLORS[name], "ls": (0, (1, 1)) if own else DASHES.get(name, "-"), "lw": 1.4}


def _line(arm: str, label: str) -> Line2D:
    return Line2D([], [], label=label, **_style(arm))


def _marks() -> list[Line2D]:
    ends = {"start": ("o", 5), "minimum": ("*", 9)}
    return [
        Line2D([], [], ls="", marker=marker, ms=size, mfc="white", mec="black", label=words)
        for words, (marker, size) in ends.items()
    ]


def _contours(axes: Axes, problem: Problem) -> None:
    left, right, low, high = problem.box
    x, y = np.meshgrid(np.linspace(left, right, 97), np.linspace(low, high, 97))
    height = problem.loss(torch.from_numpy(np.stack([x, y]))).numpy()
    levels = height.max() / 3.0 ** np.arange(7, -1, -1)
    axes.contour(x, y, height, levels=levels, colors="#C4C4C4", linewidths=0.6)
    axes.plot(*problem.start, "o", ms=5, mfc="white", mec="black", zorder=4)
    for minimum in problem.minima:
        axes.plot(*minimum, "*", ms=9, mfc="white", mec="black", zorder=5)
    axes.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    axes.grid(visible=False)
    axes.tick_params(labelsize=7)


def _path(axes: Axes, path: pd.DataFrame, name: str) -> None:
    axes.plot(path["x"], path["y"], **{**_style(name), "lw": 0.9})
    first = path.head(DOTTED)
    axes.plot(first["x"], first["y"], ".", ms=2.5, color=COLORS[name])


def _losses(axes: Axes, paths: pd.DataFrame, problem: Problem) -> None:
    for name in problem.arms:
        own = paths[paths["optimizer"] == name]
        axes.plot(own["step"], own["loss"], **{**_style(name), "lw": 1.1})
    axes.set_yscale("log")
    axes.set_xticks(range(0, problem.steps + 1, 50))
    least, most = max(FLOOR, paths["loss"].min() / 2), 5 * paths["loss"].iloc[0]
    axes.set(xlim=(0, problem.steps), ylim=(least, most), ylabel="loss")
    axes.tick_params(labelsize=7)


def _legend(axes: Axes, title: str, handles: Sequence[Line2D]) -> None:
    axes.legend(handles=handles, title=title, loc="lower center", bbox_to_anchor=(0.5, 1.13), ncols=2, handlelength=2.6)


def main(measured: Path | None = None, publish: bool = False) -> None:
    """Minimise, and draw figures/optimizer_atlas.png and figures/optimizer_atlas_matrix.png.

    Args:
        measured: a folder with both figures' tables of before: draw those, and minimise nothing.
        publish: maintainers: also to figures/published.
    """
    torch.set_num_threads(1)
    for name, draw, problems in (
        ("optimizer_atlas", surfaces, SURFACES),
        ("optimizer_atlas_matrix", matrix, {"matrix": MATRIX}),
    ):
        parts = read(measured, name) if measured else tables(problems)
        for folder in (Path("figures"), *([PUBLISHED] if publish else [])):
            print("\n".join(save(draw(parts), folder)))


def read(folder: Path, name: str) -> dict[str, pd.DataFrame]:
    """The tables of a figure as they were saved."""
    files = {part: folder / f"{name}{part and f'_{part}'}.csv" for part in ("", "rates", "updates")}
    return {part: pd.read_csv(path) for part, path in files.items() if path.exists()}


if __name__ == "__main__":
    tyro.cli(main)
