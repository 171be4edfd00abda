"""Which of AdamW's own numbers matter? β₁, β₂, ε and the bias correction, one at a time.

Claim      Thilak et al. 2022 (arXiv 2206.04817): without weight decay, training with Adam is cyclic: long after it has memorised, a
           network falls back and recovers ("slingshots"), and ε governs it: a large one ends them.
Here       x + y (mod 59), 40 % of the examples for training. First AdamW at its best cell (experiments/optimizers.py), one number
           changed at a time. Then Adam without decay, carried on for 3,000 steps whatever it does, over ε.
Definition Steps to the first evaluation with validation accuracy >= 0.95; runs that do not get there count at the budget. A
           slingshot: after memorising (training accuracy >= 0.99), an evaluation with training accuracy below 0.9; a stretch of
           such evaluations counts once.
"""

from collections.abc import Sequence

from five_optimizers import CHOSEN, REAL, SMALL

from grokking.plotting import Drawing
from grokking.runs import Settings
from grokking.store import Results
from grokking.study import Study, grid

LR, DECAY = CHOSEN["adamw"]
BASE: Settings = {"optimizer.name": "adamw", "optimizer.lr": LR, "optimizer.weight_decay": DECAY}
VALUES: dict[str, tuple[float, ...]] = {
    "beta1": (0.0, 0.5, 0.8, 0.9, 0.95, 0.99),
    "beta2": (0.5, 0.9, 0.95, 0.98, 0.99, 0.999),
    "eps": (1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-3),
}
ONE_AT_A_TIME: Sequence[Settings] = [
    {**BASE, f"optimizer.{name}": value} for name, values in VALUES.items() for value in values
] + [{**BASE, "optimizer.bias_correction": False}]
UNDECAYED: Settings = {
    **{"optimizer.name": "adamw", "optimizer.weight_decay": 0.0, "optimizer.lr": LR},
    **{"steps": 3_000, "linger": 1e6, "evaluation.every": 20, "evaluation.growth": 0.0},
}
EPSILONS = grid(optimizer__eps=(1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2))
STUDIES = {
    "smoke": [
        Study(SMALL, ONE_AT_A_TIME[::4], range(1)),
        Study({**SMALL, **UNDECAYED, "steps": 500}, EPSILONS[:2], range(1)),
    ],
    "laptop": [Study(REAL, ONE_AT_A_TIME, range(5)), Study(UNDECAYED, EPSILONS, range(3))],
}
COMPILE = ("laptop",)


def draw(results: Results) -> Sequence[Drawing]:
    """Time to generalise over each number, and slingshots over ε."""
    return []
