"""The settings with which addition is learned in the fewest steps, published ones and ours (RECORDS.md)."""

from grokking.recipes.book import CONSTANT, FULL_BATCH, PERCEPTRON, Recipe
from grokking.registry import Settings

SUM: Settings = {
    **{"task.name": "mod_add", "task.p": 113, "train_fraction": 0.4, **FULL_BATCH},
    **{"evaluation.every": 1, "evaluation.growth": 0.0},
}
SPHERES: Settings = {  # Cesista's: embeddings and head on spheres, matrices in spectral balls
    **PERCEPTRON,
    **{"model.inputs": "concatenated", "model.embedding": 113, "model.activation": "gelu_1", "init.name": "orthogonal"},
    **{"optimizer.name": "scion", "optimizer.weight_decay": 0.0, "optimizer.tangent": True},
    **{"transforms": "spectral_normalize,oblique"},
}

RECORDS: dict[str, Recipe] = {
    "chou2025_orthograd": Recipe(
        source="Chou 2025, Grokking Baseline Revisited; EIFY/grokking-at-the-edge-of-numerical-stability",
        settings={
            **SUM,
            **PERCEPTRON,
            **CONSTANT,
            **{"steps": 400, "transforms": "orthograd", "optimizer.name": "adamw", "optimizer.lr": 0.01},
            **{"optimizer.beta2": 0.99, "optimizer.eps": 1e-25, "optimizer.weight_decay": 0.0, "threshold": 1.0},
        },
        stated="two hidden layers of 200 on one-hot codes, no biases; ⊥AdamW .01; first epoch at 100 %",
        open="β₂, ε, and that nothing decays: as in its code",
        published="epoch 124, counted from 0 after the step: 125 steps, the best cell of a grid, one seed",
        within=(125, 125),
        parameters=226 * 200 + 200 * 200 + 200 * 113,
    ),
    "muon_norm_cap2026": Recipe(
        source="PeterPonyu/muon-norm-cap-grokking 2026, runs of addition",
        settings={
            **SUM,
            **CONSTANT,
            **{"task.p": 97, "steps": 300, "prompt": "operands", "model.name": "transformer", "model.depth": 2},
            **{"model.width": 128, "model.heads": 4, "model.norm": "layernorm", "model.positions": "learned"},
            **{"model.activation": "gelu", "model.attention": "causal", "model.bias": True, "model.biased": "norms"},
            **{"init.name": "normal", "optimizer.name": "muon", "optimizer.lr": 0.02, "optimizer.momentum": 0.95},
            **{"optimizer.weight_decay": 1.0, "optimizer.adamw_lr": 1e-3, "optimizer.adamw_weight_decay": 1.0},
            **{"optimizer.adamw_beta1": 0.9, "optimizer.adamw_beta2": 0.98},
        },
        stated="two layers, width 128, 4 heads, GELU, norms before; p = 97, 40 %, full batch; Muon .02, momentum .95; AdamW 1e-3 on the rest",
        open="the decay, as it has runs with 0 and 1: 1 for both, with which it is soonest",
        published="between two evaluations 25 steps apart: 26 to 75 (3 seeds)",
        within=(26, 75),
    ),
}
