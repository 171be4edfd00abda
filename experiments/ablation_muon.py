"""What in Muon makes it fast? One part changed at a time, each with learning rates of its own.

Claim      Wang 2026 (arXiv 2607.20512), five seeds each: 1,856 ± 118 steps for Muon, 1,744 ± 113 without the scale, 3,088 ± 1,107
           without Newton–Schulz steps, 2,372 ± 360 for AdamW. So the orthogonal direction matters, not the scale.
Here       x + y (mod 59), 40 % of the examples for training. From Muon at its best cell (experiments/optimizers.py): another
           orthogonalization, number of Newton–Schulz steps, scale, momentum, or choice of matrices.
Definition Steps to the first evaluation with validation accuracy >= 0.95; runs that do not get there count at the budget of
           2,000. Every variant has four learning rates a factor of about three apart, moved by what the change does to the size
           of a step, and a weight decay that keeps the decay per step (lr × weight decay) at the best cell's 0.06.
"""

from collections.abc import Sequence

from five_optimizers import CHOSEN, REAL, SMALL

from grokking.plotting import Drawing
from grokking.registry import Scalar
from grokking.runs import Settings
from grokking.store import Results
from grokking.study import Study

LR, DECAY = CHOSEN["muon"]
PER_STEP = LR * DECAY
VARIANTS: dict[str, dict[str, dict[str, Scalar]]] = {  # panel → variant → what is changed
    "orthogonalization": {
        "Jordan, 5 steps": {},
        "You, 5 steps": {"orthogonalize": "you5"},
        "You, 6 steps": {"orthogonalize": "you6"},
        "Polar Express, 8 steps": {"orthogonalize": "polar_express"},
        "exact (SVD)": {"orthogonalize": "svd"},
        "none, over its spectral norm": {"orthogonalize": "spectral_norm"},
        "none, over its Frobenius norm": {"orthogonalize": "frobenius_norm"},
    },
    "Newton–Schulz steps": {
        "10": {"ns_steps": 10},
        "5": {},
        "3": {"ns_steps": 3},
        "2": {"ns_steps": 2},
        "1": {"ns_steps": 1},
        "0": {"orthogonalize": "frobenius_norm"},
    },
    "scale": {
        "√max(1, out/in)": {},
        "√(out/in)": {"scale": "spectral"},
        "0.2 √max(out, in)": {"scale": "match_rms_adamw"},
        "none": {"scale": "none"},
    },
    "momentum": {
        "0.95, Nesterov": {},
        "0.95": {"nesterov": False},
        "0.99, Nesterov": {"momentum": 0.99},
        "0.8, Nesterov": {"momentum": 0.8},
        "none": {"momentum": 0.0},
    },
    "matrices": {
        "hidden": {},
        "hidden, head": {"matrices": "hidden+head"},
        "hidden, embeddings": {"matrices": "hidden+embedding"},
        "all": {"matrices": "all"},
    },
}
RATES = (0.02, 0.06, 0.2, 0.6)
FACTORS: dict[str, float] = {  # of the learning rates, where a step is smaller or larger by about so much
    "frobenius_norm": 10.0,  # ‖U Vᵀ‖_F = √128 = 11
    "spectral_norm": 3.0,
    "match_rms_adamw": 1 / 3,  # 0.2 √128 = 2.3, 0.2 √512 = 4.5
}


def arms(change: dict[str, Scalar]) -> list[Settings]:
    """A variant at its learning rates."""
    factor = next((FACTORS[str(value)] for value in change.values() if str(value) in FACTORS), 1.0)
    rates = [float(f"{rate * factor:.1g}") for rate in RATES]
    own = {f"optimizer.{name}": value for name, value in change.items()}
    return [
        {"optimizer.name": "muon", "optimizer.lr": lr, "optimizer.weight_decay": PER_STEP / lr, **own} for lr in rates
    ]


ALL = [arm for variants in VARIANTS.values() for change in variants.values() for arm in arms(change)]
FINE: Settings = {"evaluation.every": 5}  # the best cell takes about a hundred steps
STUDIES = {
    "smoke": [Study({**SMALL, "steps": 300}, ALL[::9], range(1))],
    "laptop": [Study({**REAL, **FINE}, ALL, range(5))],
}
COMPILE = ("laptop",)


def draw(results: Results) -> Sequence[Drawing]:
    """Time to generalise against the learning rate, a panel for each part."""
    return []
