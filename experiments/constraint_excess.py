"""By how much a constrained matrix exceeds its bound, whatever the learning rate.

    .venv/bin/python experiments/constraint_excess.py [--figures figures] [--publish]

Claim      Newhouse et al. 2025 (arXiv 2507.13338): with Muon soft cap, hard cap, normalisation and Stiefel keep singular values within
           a bound in training; weight decay of the largest one, and the hammer, do not promise to.
Here       A perceptron on embeddings side by side (12 numbers each, two hidden layers of 24), x + y (mod 7), full batch, 200 steps at
           ten learning rates from 0.001 to 1 (AdamW: to 0.1) side by side; decay 0.1 for Muon, none for AdamW. Both hidden matrices begin with
           norm 0.7 and have bound 1.
Definition Excess: the largest norm of a hidden matrix after any step, by SVD in float64, over the bound, less 1.
           A promise is kept where that is at most 1e-5 at every rate.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from tqdm import tqdm

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.plotting import label
from grokking.publish import PUBLISHED, markdown_table, rewrite_documents
from grokking.registry import Settings
from grokking.roles import Role
from grokking.runs import run_spec
from grokking.store.export import write_table

RATES = {"muon": np.geomspace(1e-3, 1, 10), "adamw": np.geomspace(1e-3, 0.1, 10)}
STEPS = 200
PROMISED = 1e-5  # of a bound that is promised: rounding, in float32
PERCEPTRON: Settings = {
    **{"task.name": "mod_add", "task.p": 7, "batch_size": 0, "schedule.name": "constant"},
    **{"model.name": "mlp", "model.inputs": "concatenated", "model.embedding": 12, "model.width": 24},
    **{"init.name": "orthogonal", "init.scale": 0.7},
}
OPTIMIZERS: dict[str, Settings] = {
    "muon": {"optimizer.name": "muon", "optimizer.scale": "spectral", "optimizer.weight_decay": 0.1},
    "adamw": {"optimizer.name": "adamw", "optimizer.weight_decay": 0.0},
}
# constraint, its options, and the optimizers with which its bound is a promise
CASES: list[tuple[str, Settings, tuple[str, ...]]] = [
    ("spectral_cap", {}, ("muon", "adamw")),
    ("spectral_cap", {"method": "polar_express"}, ()),
    ("spectral_cap", {"method": "you6"}, ()),
    ("spectral_cap", {"method": "polynomial"}, ()),
    ("stiefel", {}, ("muon", "adamw")),
    ("stiefel", {"method": "you6"}, ("muon", "adamw")),
    ("spectral_soft_cap", {"inflation": 1.21}, ("muon",)),
    ("spectral_normalize", {}, ()),
    ("spectral_normalize", {"iterations": 20}, ()),
    ("clipped_decay", {}, ()),
    ("spectral_hammer", {}, ()),
    ("spectral_decay", {}, ()),
    ("none", {}, ()),
]


def excess(constraint: str, options: Settings, optimizer: str) -> pd.DataFrame:
    """One line per learning rate: the largest norm of a hidden matrix after any step, less the bound of 1."""
    own: Settings = {f"transform.{constraint}.{name}": value for name, value in options.items()}
    settings = {**PERCEPTRON, **OPTIMIZERS[optimizer], "transforms": constraint, **own}
    specs = [run_spec({**settings, "optimizer.lr": float(rate)}, 0) for rate in RATES[optimizer]]
    trainer = Trainer(specs[0].setting, torch.device("cpu"))
    cohort, most = start(specs, torch.device("cpu"), places=trainer.places), np.zeros(len(specs))
    for _ in range(STEPS):
        trainer.advance(cohort, 1)
        for name, w in cohort.weights.items():
            if trainer.roles[name] is Role.HIDDEN:
                norms = torch.linalg.matrix_norm(w.double(), ord=2) * math.sqrt(w.shape[2] / w.shape[1])
                most = np.maximum(most, norms.numpy())
    line = {"constraint": constraint, "options": _words(options), "optimizer": optimizer}
    return pd.DataFrame([{**line, "lr": lr, "excess": m - 1} for lr, m in zip(RATES[optimizer], most, strict=True)])


def measured() -> pd.DataFrame:
    """All cases with both optimizers."""
    cases = [(name, options, kind) for name, options, _ in CASES for kind in OPTIMIZERS]
    return pd.concat([excess(*case) for case in tqdm(cases, desc="constraints")], ignore_index=True)


def markdown(table: pd.DataFrame) -> str:
    """A line a constraint: the largest excess at any rate with each optimizer, and what is promised."""
    rows = []
    for name, options, promised in CASES:
        own = table[(table["constraint"] == name) & (table["options"].fillna("") == _words(options))]
        most = own.groupby("optimizer")["excess"].max()
        found = [_shown(most[kind], kind in promised) for kind in OPTIMIZERS]
        rows.append((" ".join([name, _words(options)]).strip(), *found))
    return markdown_table(("constraint", *map(label, OPTIMIZERS)), rows)


def _words(options: Settings) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _shown(most: float, promised: bool) -> str:
    if promised:
        return "promised, " + ("kept" if most <= PROMISED else f"and broken by {most:.1e}")
    return (
        "none seen" if most <= PROMISED else f"{100 * most:.2g} %" if most < 1 else f"{1 + most:,.1f} times the bound"
    )


def main(figures: Path = Path("figures"), publish: bool = False) -> None:
    """Measure, and print the largest excess of each constraint.

    Args:
        figures: folder of the table.
        publish: maintainers: also to figures/published, and rewrite the documents.
    """
    figures.mkdir(parents=True, exist_ok=True)
    table = measured()
    words = markdown(table)
    for folder in (figures, PUBLISHED) if publish else (figures,):
        write_table(table, folder / "constraint_excess.csv")
    print(words)
    if publish:
        (PUBLISHED / "constraint_excess.md").write_text(words + "\n")
        rewrite_documents()


if __name__ == "__main__":
    tyro.cli(main)
