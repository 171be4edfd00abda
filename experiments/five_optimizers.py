"""The runs that several experiments look at: five optimizers, at their defaults and without weight decay."""

from grokking.runs import Settings, Study

OPTIMIZERS = ("sgd", "rmsprop", "adam", "adamw", "muon")
DECAYED: list[Settings] = [{"optimizer.name": name} for name in OPTIMIZERS]
UNDECAYED: list[Settings] = [{"optimizer.name": name, "optimizer.weight_decay": 0.0} for name in OPTIMIZERS[:-1]]
UNDECAYED += [{"optimizer.name": "muon", "optimizer.weight_decay": 0.0, "optimizer.adamw_weight_decay": 0.0}]
ARMS = [*DECAYED, *UNDECAYED]
BUDGET = 2_000
SMOKE: Settings = {"task.p": 31, "train_fraction": 0.5, "model.width": 64, "steps": 1_500}

STUDIES = {
    "smoke": Study(SMOKE, ARMS, range(2)),
    "laptop": Study({"steps": BUDGET}, ARMS, range(5)),
    "paper": Study({"steps": BUDGET}, ARMS, range(10)),
}
