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

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from atlas_figure import matrix, surfaces
from atlas_problems import FAR, FLOOR, MATRIX, RATES, SURFACES, Problem
from torch import Tensor
from torch.func import grad_and_value, vmap

from grokking.optim import Numbers, State, optimizers
from grokking.plotting import save
from grokking.publish import PUBLISHED
from grokking.registry import Scalar
from grokking.roles import Role

OWN: dict[str, dict[str, Scalar]] = {"sgd, momentum 0.9": {"momentum": 0.9}, "muon, exact": {"orthogonalize": "svd"}}


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
