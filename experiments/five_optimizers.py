"""The runs that several experiments look at: five optimizers at their defaults, at their best, and without decay."""

from grokking.registry import Settings

OPTIMIZERS = ("sgd", "rmsprop", "adam", "adamw", "muon")
BUDGET = 2_000
CHOSEN = {  # optimizer: (learning rate, weight decay), the best cell of figures/published/optimizers_grid.csv
    "sgd": (0.03, 1e-2),
    "rmsprop": (3e-3, 3e-3),
    "adam": (3e-3, 3e-3),
    "adamw": (3e-3, 3.0),
    "muon": (0.06, 1.0),
}


def arm(name: str) -> Settings:
    """The optimizer as the grid tuned it: SGD with momentum, everything else at its other defaults."""
    return {"optimizer.name": name} | ({"optimizer.momentum": 0.9} if name == "sgd" else {})


def without_decay(settings: Settings) -> Settings:
    """The same without weight decay; Muon has two."""
    second = {"optimizer.adamw_weight_decay": 0.0} if settings["optimizer.name"] == "muon" else {}
    return {**settings, "optimizer.weight_decay": 0.0, **second}


# What `grokking run` does: learning rates as below (plain SGD apart), and less decay, so that memorising and
# generalising lie far apart.
DEFAULTS: list[Settings] = [{"optimizer.name": name} for name in OPTIMIZERS]
DEFAULTS_UNDECAYED = [without_decay(settings) for settings in DEFAULTS]
BEST: list[Settings] = [
    {**arm(name), "optimizer.lr": lr, "optimizer.weight_decay": decay} for name, (lr, decay) in CHOSEN.items()
]
BEST_UNDECAYED = [without_decay(settings) for settings in BEST]
REAL: Settings = {"steps": BUDGET}
SMALL: Settings = {"steps": 1_000, "task.p": 31, "train_fraction": 0.6, "model.width": 64}
