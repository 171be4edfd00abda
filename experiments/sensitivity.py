"""Where does each optimizer work? Steps to generalise over learning rate and weight decay.

Claim      Whether, and when, a network generalises depends on learning rate and weight decay as much as on the rule (Power et
           al. 2022, arXiv 2201.02177, figure 2, for AdamW).
Here       x + y (mod 59), 40 % of the examples for training; ten optimizers, each with five learning rates × four weight
           decays a factor of about three apart, and tuning seeds that no other experiment reports.
Definition Steps to the first evaluation with validation accuracy >= 0.95. Runs that do not get there within the budget of
           2,000 steps count at the budget in every mean.
"""

from collections.abc import Sequence

from five_optimizers import REAL, SMALL

from grokking.plotting import Drawing
from grokking.runs import Settings
from grokking.store import Results
from grokking.study import Study, grid

SEEDS = range(1000, 1003)
THIRDS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
COUPLED, DECOUPLED = (3e-4, 1e-3, 3e-3, 1e-2), (0.3, 1.0, 3.0, 10.0)
GRIDS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # learning rates, weight decays
    "sgd": ((0.01, 0.03, 0.1, 0.3, 1.0), COUPLED),
    "adagrad": ((0.003, 0.01, 0.03, 0.1, 0.3), COUPLED),
    "rmsprop": (THIRDS, COUPLED),
    "adam": (THIRDS, COUPLED),
    "adamw": (THIRDS, DECOUPLED),
    "nadam": (THIRDS, DECOUPLED),
    "soap": (THIRDS, DECOUPLED),
    "sign_sgd": ((3e-5, 1e-4, 3e-4, 1e-3, 3e-3), (1.0, 3.0, 10.0, 30.0)),
    "lion": ((3e-5, 1e-4, 3e-4, 1e-3, 3e-3), (1.0, 3.0, 10.0, 30.0)),
    "muon": ((0.002, 0.006, 0.02, 0.06, 0.2), (0.1, 0.3, 1.0, 3.0)),
}


def arm(name: str) -> Settings:
    """The optimizer at its default numbers; SGD with momentum."""
    return {"optimizer.name": name} | ({"optimizer.momentum": 0.9} if name == "sgd" else {})


def cells(name: str) -> list[Settings]:
    """All settings of an optimizer's grid."""
    lrs, decays = GRIDS[name]
    return [{**arm(name), **cell} for cell in grid(optimizer__lr=lrs, optimizer__weight_decay=decays)]


STUDIES = {
    "smoke": [Study({**SMALL, "steps": 300}, [cell for name in GRIDS for cell in cells(name)[::7]], SEEDS[:1])],
    "laptop": [Study(REAL, cells(name), SEEDS) for name in GRIDS],
}
COMPILE = ("laptop",)


def draw(results: Results) -> Sequence[Drawing]:
    """Heat maps."""
    return []
