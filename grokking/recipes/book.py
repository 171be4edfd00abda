"""The settings of papers by name: what their text states, what it leaves open, and what their code does.

Three things are ours in all of them. The training set has round(share · n) examples, where codes take the floor: one more, in
four of them. Warm-up begins with a factor of 1 / 10, where codes begin with an update of size 0. Batches are cut from passes laid
end to end, where codes end each pass with a smaller one.
"""

import math
from dataclasses import dataclass

from grokking.registry import Settings


@dataclass(frozen=True)
class Recipe:
    """One published setting. All that `settings` does not name is at its default here."""

    source: str
    settings: Settings
    stated: str  # what the text states, and so stands here
    open: str  # what it leaves open, and what stands here in its place
    code: str = ""  # what its code does otherwise
    published: str = ""  # steps to generalise, as published
    within: tuple[float, float] | None = None  # the first and the last of these steps
    parameters: int | None = None  # how many the model has, as the source states it or its code has it
    excluded: tuple[str, ...] = ()  # beginnings of names of parameters that are not counted in it


ADAMW: Settings = {"optimizer.name": "adamw", "optimizer.lr": 1e-3, "optimizer.beta1": 0.9, "optimizer.beta2": 0.98}
FULL_BATCH: Settings = {"batch_size": 0}
CONSTANT: Settings = {"schedule.name": "constant"}
DECODER: Settings = {  # openai/grok
    "prompt": "eos",
    "model.name": "transformer",
    "model.depth": 2,
    "model.width": 128,
    "model.heads": 4,
    "model.norm": "layernorm",
    "model.norm_placement": "post",
    "model.positions": "sinusoidal",
    "model.activation": "relu",
    "model.attention": "causal",
    "model.bias": True,
    "model.biased": "norms",
    "init.name": "pytorch",
}
ONE_LAYER: Settings = {  # Nanda's: no norm, learned positions
    "prompt": "operands",
    "model.name": "transformer",
    "model.depth": 1,
    "model.width": 128,
    "model.heads": 4,
    "model.norm": "none",
    "model.positions": "learned",
    "model.activation": "relu",
    "model.attention": "causal",
}
MEAN_FIELD = (2 * 97 * 500) ** (-1 / 3)  # Gromov's factor 1 / (2 p N) before f, as a share of each of three weights
WANG: Settings = {
    **{"task.name": "mod_add", "task.p": 97, "train_fraction": 0.4, "steps": 10_000, **ONE_LAYER, **FULL_BATCH},
    **{"model.norm": "layernorm", "model.bias": True, **CONSTANT},
}
PERCEPTRON: Settings = {  # Prieto's
    "model.name": "mlp",
    "model.depth": 2,
    "model.width": 200,
    "model.inputs": "one_hot",
    "model.activation": "relu",
    "init.name": "pytorch",
}
EGALITARIAN: Settings = {  # Saheb Pasand & Dohmatob's, but for the matrices that are equalized
    **{"task.name": "mod_add", "task.p": 97, "train_fraction": 0.5, "batch_size": 512, "steps": 15_000 * 9},
    **{
        "model.name": "mlp",
        "model.depth": 1,
        "model.width": 512,
        "model.inputs": "one_hot",
        "model.activation": "relu",
    },
    **{"model.bias": True, "model.biased": "hidden", "init.scale": 2**0.5, **CONSTANT},
    **{"optimizer.name": "egd", "optimizer.lr": 0.7, "optimizer.weight_decay": 1e-4, "optimizer.eps": 1e-6},
}

PAPERS: dict[str, Recipe] = {
    "power2022": Recipe(
        source="Power et al. 2022, arXiv 2201.02177, appendix A.1.2 (most experiments); openai/grok",
        settings={
            **{"task.name": "mod_div", "task.p": 97, "train_fraction": 0.5, "batch_size": 512, "steps": 100_000},
            **{**DECODER, **ADAMW, "optimizer.weight_decay": 1.0, "schedule.warmup": 10},
        },
        stated=(
            "decoder of 2 layers, width 128, 4 heads, about 4·10⁵ parameters without embeddings; AdamW 1e-3, decay 1, β .9 .98, warm-up "
            "10; batch 512 or half of the training set, if that is less; 10⁵ updates"
        ),
        open="initial weights, norms, positions: as in the code",
        code="loss and accuracy count the end token, too; one split for all seeds (random_state 0); one vocabulary of 239 for all tasks",
        published="below the budget of 10⁵",
        within=(1, 100_000),
        parameters=394_240,
        excluded=("embedding", "head"),
    ),
    "power2022_fig1": Recipe(
        source="Power et al. 2022, figure 1: no weight decay",
        settings={
            **{"task.name": "mod_div", "task.p": 97, "train_fraction": 0.5, "batch_size": 512, "steps": 1_000_000},
            **{**DECODER, **ADAMW, "optimizer.name": "adam", "optimizer.weight_decay": 0.0, "schedule.warmup": 10},
        },
        stated="Adam without weight decay, 10⁶ updates, 50 % of x / y mod 97; else as power2022",
        open="as power2022",
        code="its default is no weight decay, too, but 5 % of the data",
        published="training accuracy 1 before 10³ steps; validation begins to rise at 10⁵ and is near 1 at 10⁶",
        within=(100_000, 1_000_000),
        parameters=394_240,
        excluded=("embedding", "head"),
    ),
    "nanda2023": Recipe(
        source="Nanda et al. 2023, arXiv 2301.05217; progress-measures-paper, transformers.py",
        settings={
            **{"task.name": "mod_add", "task.p": 113, "train_fraction": 0.3, "steps": 50_000, "loss.float64": True},
            **{**ONE_LAYER, **FULL_BATCH, **ADAMW, "optimizer.weight_decay": 1.0, "schedule.warmup": 10},
            **{"model.bias": True, "model.biased": "mlp", "model.outputs": "vocabulary"},
            **{"init.name": "normal", "init.std": 128**-0.5},
        },
        stated="1 layer, width 128, 4 heads, MLP 512, ReLU, no norm, untied; x + y mod 113, 30 %; full batch, AdamW 1e-3, decay 1",
        open="β, warm-up, budget: as in the code; the loss in float64, as low precision brings slingshots (appendix D.2)",
        code=(
            "biases in the MLP alone; 114 outputs; its loss is called one of high precision, and casts to float32; the unembedding is drawn "
            "N(0, 1 / 114), here N(0, 1 / 128)"
        ),
        published="about 10,000 (90 % in other hands: 10,017); with decay 1 between 5,000 and 10,000",
        within=(5_000, 10_000),
        parameters=226_816,
    ),
    "gromov2023": Recipe(
        source="Gromov 2023, arXiv 2301.02679",
        settings={
            **{"task.name": "mod_add", "task.p": 97, "train_fraction": 0.49, "batch_size": 0, "steps": 50_000},
            **{"model.name": "mlp", "model.depth": 1, "model.width": 500, "model.inputs": "one_hot"},
            **{"model.activation": "quadratic", "loss.name": "squared_error", **CONSTANT},
            **{"init.name": "normal", "init.std": MEAN_FIELD},  # f is as his, and so is every step of gradient descent
            **{"optimizer.name": "gradient_descent", "optimizer.lr": round(1e5 * MEAN_FIELD**2, 1)},
            **{"optimizer.weight_decay": 0.0},
        },
        stated="f(x) = W₂ (W₁ x)² / (2 p N) with weights N(0, 1), squared error, full-batch gradient descent, no regularisation, 49 %",
        open=(
            "width 500 (as in d-doshi/Grokking, of a co-author); learning rate: 10⁵ in this parametrisation, as in intsystems/2026-Project-202,"
            " where training takes 9,230 steps and validation 11,760; here weights are N(0, (2 p N)^-⅔), nothing stands before f, and the "
            "rate is 10⁵ (2 p N)^-⅔, which gives the same steps"
        ),
        published="about 20,000 in figure 1 and 1,000 in figure 4, as intsystems/2026-Project-202 reads them; the rate is not stated",
        within=(1_000, 20_000),
        parameters=2 * 97 * 500 + 500 * 97,
    ),
    "omnigrok2023": Recipe(
        source="Liu et al. 2023, arXiv 2210.01117, modular addition; KindXiaoming/Omnigrok, mod-addition/grokking",
        settings={
            **{"task.name": "mod_add", "task.p": 113, "train_fraction": 0.3, "steps": 15_000, "loss.float64": True},
            **{**ONE_LAYER, **FULL_BATCH, **ADAMW, "optimizer.weight_decay": 1.0, **CONSTANT, "init.scale": 1.0},
            **{"model.bias": True, "model.biased": "mlp", "model.outputs": "vocabulary"},
            **{"init.name": "normal", "init.std": 128**-0.5},
        },
        stated="1-layer transformer of width 128, 4 heads, MLP 512, ReLU; p = 113, 30 %; rate 1e-3, decay 1; `init.scale` is their α",
        open="β and budget: as in the code",
        code=(
            "all in float64, here the loss alone; else nanda2023 without warm-up. Figure 7b has no decay and holds the norm at 0.8 of its "
            "start in every step, which no setting here does"
        ),
        published="with the norm held at 0.8 of its start grokking is largely eliminated (figure 7b)",
        parameters=226_816,
    ),
    "grokfast2024": Recipe(
        source="Lee et al. 2024, arXiv 2405.20233; ironjr/grokfast, main.py",
        settings={
            **{"task.name": "mod_mul", "task.p": 97, "train_fraction": 0.5, "batch_size": 512, "steps": 300_000},
            **{"model.name": "transformer", "model.depth": 2, "model.width": 128, "model.heads": 4},
            **{
                "model.norm": "layernorm",
                "model.norm_placement": "stream",
                "model.positions": "learned",
                "model.activation": "gelu",
                "model.bias": True,
                "model.biased": "blocks",
            },
            **{"model.outputs": "vocabulary", "schedule.warmup": 10, "init.name": "pytorch"},
            **{"optimizer.name": "adam", "optimizer.lr": 1e-3, "optimizer.beta1": 0.9, "optimizer.beta2": 0.98},
            **{"optimizer.weight_decay": 0.005, "transforms": "grokfast_ema"},
            **{"transform.grokfast_ema.alpha": 0.98, "transform.grokfast_ema.lamb": 2.0},
        },
        stated="x · y mod 97, 50 %; decoder of 2 layers, width 128, 4 heads; Adam 1e-3, β .9 .98, warm-up 10; α .98, λ 2, decay .005",
        open="norms, biases, initial weights: as in the code",
        code=(
            "y begins at 1 (9,312 examples); attention reads a norm that also takes the place of the residual stream; attention begins "
            "Xavier with biases of 0, here as linear maps do; a fifth position that is never read; the baseline has no decay, Grokfast's "
            "rows have some"
        ),
        published="910 (EMA), 790 (MA), 39,890 (Adam without decay); one seed",
        within=(910, 910),
        parameters=99 * 128 + 4 * 128 + 2 * (12 * 128**2 + 13 * 128) + 256 + 99 * 128,
    ),
    "prieto2025": Recipe(
        source="Prieto et al. 2025, arXiv 2501.04697, figure 1; grokking-at-the-edge-of-numerical-stability",
        settings={
            **{
                "task.name": "mod_add",
                "task.p": 113,
                "train_fraction": 0.4,
                "steps": 80_000,
                **PERCEPTRON,
                **FULL_BATCH,
                **CONSTANT,
            },
            **{
                "loss.name": "stablemax_cross_entropy",
                "loss.float64": True,
                "optimizer.name": "adamw",
                "optimizer.lr": 0.01,
            },
            **{"optimizer.beta1": 0.9, "optimizer.beta2": 0.999, "optimizer.eps": 1e-25, "optimizer.weight_decay": 0.0},
        },
        stated="perceptron 226 → 200 → 200 → 113, ReLU; full batch, StableMax cross-entropy, no weight decay",
        open="rate, β₂ and ε: as in its scripts and defaults",
        code="no biases; figures 2a, 6b and 15a do not reproduce from its scripts (issues 6 to 11 of the repository)",
        published="within the 80,000 steps of figure 1",
        within=(1, 80_000),
        parameters=226 * 200 + 200 * 200 + 200 * 113,
    ),
    "tveit2025": Recipe(
        source="Tveit et al. 2025, arXiv 2504.16041, by the code that it cites (stockeh/mlx-grokking, atveit/torch_grokking)",
        settings={
            **{"task.name": "mod_div", "task.p": 97, "train_fraction": 0.8, "batch_size": 512, "steps": 15_000},
            **{
                "model.name": "transformer",
                "model.depth": 2,
                "model.width": 128,
                "model.heads": 1,
                "model.dropout": 0.2,
                "model.dropout_at": "hidden",
            },
            **{
                "model.norm": "rmsnorm",
                "model.positions": "rope",
                "model.rope_base": 1_000_000,
                "model.activation": "swiglu",
            },
            **{
                "model.outputs": "vocabulary",
                "init.name": "pytorch",
                **ADAMW,
                "optimizer.weight_decay": 1.0,
                "schedule.warmup": 10,
            },
        },
        stated=(
            "RoPE, RMSNorm, SiLU, dropout; AdamW with β .9 .98 or Muon; trained on 80 % of division and of addition, 70 % of "
            "exponentiation, 50 % of gcd, of multiplication and of the parity of 10 bits"
        ),
        open=(
            "depth, width, heads, dropout, batch, rates, decay, warm-up, initial weights: nothing is stated, the cited code stands in; number "
            "of runs; budget: about 1,000 epochs, at which figure 4 ends"
        ),
        code=(
            "50 % of division, 150 epochs; dropout in the feed-forward alone; rotary positions do nothing in the PyTorch port (the heads' "
            "axis is rotated), here they are as in the MLX original, whose embeddings begin N(0, 1 / 128) and whose AdamW corrects no bias"
        ),
        published=(
            "153.09 epochs (AdamW), 102.89 (Muon), mean of six tasks, and up to about 872 (AdamW): 12,700 steps of division; cited code, "
            "50 % of division: within 150 epochs (1,500 steps)"
        ),
        within=(1, 12_700),
        parameters=550_272,
    ),
    "egd2025": Recipe(
        source="Saheb Pasand & Dohmatob 2025, arXiv 2510.04930; asahebpa/Egalitarian-Gradient-Descent, main-results/mod_add.py",
        settings={**EGALITARIAN, "optimizer.matrices": "embedding"},
        stated=(
            "x + y mod 97, 50 %; perceptron of 2 layers, width 512, ReLU; batch 512, rate 0.7, decay 1e-4; exact singular value decomposition, "
            "no momentum; epochs to validation accuracy 95 %"
        ),
        open=(
            "what is equalized: the first layer's gradient alone, with its decay, singular values below 1e-6 less; one-hot codes; a bias in "
            "the hidden layer alone, which does not decay; weights N(0, 2 / fan_in); constant rate; budget: all as in the code. An epoch is 9 "
            "steps there (the last 96 of the 4,704 examples of a pass are dropped), here 9.19"
        ),
        code="from validation accuracy 95 % on it goes on by plain SGD, here by EGD; its p stands at 127",
        published="116 epochs of 9 steps; one seed",
        within=(116 * 9, 116 * 9),
        parameters=2 * 97 * 512 + 512 + 512 * 97,
    ),
    "egd2025_sgd": Recipe(
        source="Saheb Pasand & Dohmatob 2025, arXiv 2510.04930: the baseline, plain SGD",
        settings={**EGALITARIAN, "optimizer.matrices": "none"},
        stated="plain SGD; else as egd2025",
        open="as egd2025; `egd` with `matrices=none` is SGD without decay of the bias, as in the code",
        published="5,392 epochs of 9 steps; one seed",
        within=(5_392 * 9, 5_392 * 9),
        parameters=2 * 97 * 512 + 512 + 512 * 97,
    ),
    "wang2026": Recipe(
        source="Wang 2026, arXiv 2607.20512",
        settings={
            **WANG,
            **{
                "optimizer.name": "muon",
                "optimizer.lr": 1e-3,
                "optimizer.weight_decay": 1.0,
                "optimizer.nesterov": False,
            },
            **{"optimizer.momentum_form": "sum", "optimizer.adamw_lr": 1e-3, "optimizer.adamw_weight_decay": 1.0},
        },
        stated=(
            "x + y mod 97, 40 %, [a, b, =]; 1 layer, 4 heads, width 128, biases; Muon at 1e-3 without Nesterov on hidden matrices, with a scale "
            "of √max(1, out / in), AdamW on all else"
        ),
        open=(
            "batch and norm: by its count of 1.516e10 operations a step, about 6 · 3 tokens · 3,763 examples (all) · 224,000 parameters (here "
            "223,969); AdamW's rate 1e-3; decay 1 on all, β .9 .98, momentum .95, ReLU, initial weights"
        ),
        published="Muon 1,750 ± 206, AdamW 2,388 ± 302 (8 seeds); to stay 1,750 and 4,932",
        within=(1_544, 1_956),
    ),
    "wang2026_adamw": Recipe(
        source="Wang 2026, arXiv 2607.20512: AdamW alone",
        settings={**WANG, **ADAMW, "optimizer.weight_decay": 1.0},
        stated="AdamW at 1e-3 on all parameters; else as wang2026",
        open="decay 1, β .9 .98; else as wang2026",
        published="2,388 ± 302 (8 seeds); to stay 4,932",
        within=(2_086, 2_690),
    ),
    "janati2026": Recipe(
        source="Janati et al. 2026, arXiv 2608.07436; Na00s/muon-grokking",
        settings={
            **{"task.name": "mod_add", "task.p": 113, "train_fraction": 0.3, "steps": 100_000, "evaluation.every": 100},
            **{"evaluation.growth": 0.0, **ONE_LAYER, **FULL_BATCH, **CONSTANT, "init.name": "pytorch"},
            **{
                "optimizer.name": "muon",
                "optimizer.lr": 0.03,
                "optimizer.weight_decay": 0.1,
                "optimizer.momentum": 0.95,
            },
            **{"optimizer.adamw_lr": 1e-3, "optimizer.adamw_beta2": 0.999, "optimizer.adamw_weight_decay": 1.0},
        },
        stated=(
            "1 layer without norms and biases, 226,048 parameters; p = 113, 30 %, full batch; Muon .03, decay .1; AdamW on the rest, 1e-3 for "
            "embeddings and 2.5e-4 for the unembedding, decay 1; β .9 .999"
        ),
        open="initial weights: as in the code. Here the unembedding has the rate of the embeddings",
        code="query, key and value are one matrix of 384 rows, whose update is orthogonalized and scaled (√3) as one, here three",
        published="95 % at six evaluations in a row: 5,300 to 5,400 (Muon, 5 seeds), 4,000 to 11,700 (AdamW alone, decay 3)",
        within=(5_300, 5_400),
        parameters=226_048,
    ),
    "chou2025": Recipe(
        source="Chou 2025, Grokking Baseline Revisited; EIFY/grokking-at-the-edge-of-numerical-stability, branch talon, wd_experiments.sh",
        settings={
            **{"task.name": "mod_add", "task.p": 113, "train_fraction": 0.4, "steps": 400, "evaluation.every": 1},
            **{"evaluation.growth": 0.0, **PERCEPTRON, **FULL_BATCH, **CONSTANT, "model.inputs": "concatenated"},
            **{"model.embedding": 50, "optimizer.name": "adamw", "optimizer.lr": 0.05, "optimizer.weight_decay": 2.0},
            **{"optimizer.beta2": 0.99, "optimizer.eps": 1e-25, "threshold": 1.0},
        },
        stated="embeddings of 50 for each operand, two hidden layers of 200, no biases; AdamW .05, decay 2; first epoch at 100 %",
        open="β₂ and ε: the defaults of its code; decay acts on embeddings, too (--all_reg)",
        published="epoch 111, counted from 0 after the step: 112 steps, the best cell of a grid, one seed",
        within=(112, 112),
        parameters=113 * 50 + 100 * 200 + 200 * 200 + 200 * 113,
    ),
    "cesista2025": Recipe(
        source="Cesista 2025, Spectral clipping; leloykun.github.io",
        settings={
            **{"task.name": "mod_add", "task.p": 113, "train_fraction": 0.4, "steps": 1_000, "evaluation.every": 1},
            **{"evaluation.growth": 0.0, **PERCEPTRON, **FULL_BATCH, **CONSTANT, "model.inputs": "concatenated"},
            **{"model.embedding": 113, "model.activation": "gelu", "precision": "bf16", "init.name": "orthogonal"},
            **{
                "optimizer.name": "muon",
                "optimizer.scale": "spectral",
                "optimizer.matrices": "hidden+head",
                "optimizer.lr": 0.1,
                "optimizer.weight_decay": 0.0,
                "optimizer.adamw_weight_decay": 0.0,
            },
        },
        stated="embeddings of 113, concatenated, two hidden layers of 200, GELU, bfloat16, Muon on the linear layers; 64 seeds, 1,000 steps",
        open=(
            "share of the data: Prieto's 40 %; rates, momentum, initial weights, how embeddings are updated: ours; weights are stored in "
            "bfloat16, here in float32 with computation in bfloat16; here without decay or any other bound"
        ),
        published="without a bound on the weights not within 1,000 steps; with one 227 to 800 steps (median of 64 seeds)",
        within=(1_000, math.inf),
    ),
    "lipschitz2025": Recipe(
        source="Newhouse et al. 2025, arXiv 2507.13338, the Shakespeare transformer, on modular addition",
        settings={
            **{"task.name": "mod_add", "task.p": 113, "train_fraction": 0.4, "steps": 2_000},
            **{
                "model.name": "transformer",
                "model.depth": 3,
                "model.width": 256,
                "model.heads": 4,
                "model.norm": "none",
            },
            **{"model.positions": "rope", "model.activation": "gelu", "init.name": "orthogonal"},
            **{"optimizer.name": "muon", "optimizer.scale": "spectral", "optimizer.orthogonalize": "you5"},
            **{"optimizer.matrices": "hidden+head", "optimizer.weight_decay": 0.0},
        },
        stated="3 blocks of width 256, 4 heads, no norm, no biases, RoPE, GELU; Muon with You's five steps, also on the head",
        open="that is their language task: nothing is published on modular addition; batch, rates and warm-up are ours",
        code=(
            "residual streams (1 - a) x + a · block with a = 1 / 2L, attention with 1 / d and times a third, GELU / 1.1289, output matrices that "
            "begin at 0, embeddings normalised by column, batch 64, bounds on the weights: none of these is here"
        ),
    ),
}
