"""The runs that several experiments look at: five optimizers at three settings each.

DEFAULTS  what `grokking run` does: chosen so that memorising and generalising lie far apart.
BEST      the best cell of the tuning grid (see optimizers.py).
UNDECAYED the same learning rate (it is one for both) without weight decay.
"""

from grokking.runs import Settings

OPTIMIZERS = ("sgd", "rmsprop", "adam", "adamw", "muon")
BUDGET = 2_000
CHOSEN = {  # optimizer: (learning rate, weight decay), the best cell of figures/published/optimizers_grid.csv
    "sgd": (0.03, 1e-2),
    "rmsprop": (3e-3, 3e-3),
    "adam": (3e-3, 3e-3),
    "adamw": (3e-3, 3.0),
    "muon": (0.06, 1.0),
}
DEFAULTS: list[Settings] = [{"optimizer.name": name} for name in OPTIMIZERS]
BEST: list[Settings] = [
    {"optimizer.name": name, "optimizer.lr": lr, "optimizer.weight_decay": decay}
    for name, (lr, decay) in CHOSEN.items()
]
UNDECAYED: list[Settings] = [
    {"optimizer.name": name, "optimizer.lr": lr, "optimizer.weight_decay": 0.0}
    | ({"optimizer.adamw_weight_decay": 0.0} if name == "muon" else {})
    for name, (lr, _) in CHOSEN.items()
]
REAL: Settings = {"steps": BUDGET}
SMALL: Settings = {"steps": 1_000, "task.p": 31, "train_fraction": 0.6, "model.width": 64}
