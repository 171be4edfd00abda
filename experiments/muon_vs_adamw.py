"""Does Muon grok faster than AdamW? The paper's six tasks and subtraction: at stated defaults, and tuned alike.

Claim      Tveit et al. 2025 (arXiv 2504.16041): Muon brings the mean epoch of generalization from AdamW's 153.09 to 102.89, a
           ratio of 1.49 (two-sample t-test over six tasks pooled; t = 5.0175 and p = 6.33e-8, which do not go together). Learning
           rates, decay, depth, width, batch, seeds and budget are not stated, and the cited code has no Muon. Essential AI 2025:
           the advantage disappears under wider tuning. Wang 2026 (arXiv 2607.20512): it shows in generalization that stays; that it
           does not on subtraction is said of that paper, and we found no source for it.
Here       The lean model (one layer, width 128) and the paper's tasks and splits, p = 97: gcd 50 %, addition and division 80 %,
           exponentiation 70 %, multiplication 50 %, parity of ten bits 50 %; and subtraction at the cited code's 50 %. In layers:
           `tuned`      each optimizer at the best configuration of a search of its own on each task (muon_vs_adamw_tuning.py: 100,000
                        run-steps each with two tuning seeds, what was best on the other tasks, a final on eight more), on thirty others.
           `thresholds` the same until every validation example is right, for the times to 90, 95, 99 and 100 %.
           `stated`     AdamW as in the cited code (learning rate 1e-3, decay 1), Muon as its author has it (0.02, momentum 0.95), in
                        two readings of the paper's "equivalent weight decay strengths": the same number, and the same decay a step.
           `softmaxes`  stated numbers (the same decay a step) with stablemax and sparsemax, in the loss and in attention, five seeds.
           `optimizers` SGD with momentum, RMSprop and Adam at the numbers of `grokking run` against AdamW at the stated ones, five seeds.
           `models`     stated numbers on the cited code's two layers with rotary positions and dropout, and on small BERT- and
                        GPT-2-like models, three seeds.
           `laptop`     what `make reproduce` runs of `tuned`: three tasks, five seeds.
Definition Steps to the first evaluation with validation accuracy >= 0.95 (first crossing), and to the first from which it stays there
           for half as long again (sustained). Runs that do not get there count at the budget in every number. Ratios are of
           restricted means, paired by seed; over all tasks, their geometric mean, a seed being one observation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from muon_and_adamw import SPACES, TASKS
from muon_vs_adamw_figure import Readings, comparison, thresholds

from grokking.plotting import Drawing
from grokking.recipes import RECIPES
from grokking.registry import Settings
from grokking.selection import split
from grokking.store import Results
from grokking.study import Study, names_of_runs

TRIALS = Path(__file__).parents[1] / "figures" / "published" / "muon_vs_adamw_tuning.csv"


def chosen() -> dict[str, dict[str, Settings]]:
    """Task → optimizer → the best of its published searches."""
    best = pd.read_csv(TRIALS).query("best").to_dict("records")
    return {
        task: {
            line["optimizer"]: {name: float(line[name]) for name in SPACES[line["optimizer"]]}
            for line in best
            if line["task"] == task
        }
        for task in TASKS
    }


CHOSEN = chosen()
BUDGET, STATED_BUDGET = 2_000, 4_000
ADAMW: Settings = {"optimizer.name": "adamw", "optimizer.lr": 1e-3, "optimizer.weight_decay": 1.0}
MUON: Settings = {"optimizer.name": "muon", "optimizer.lr": 0.02, "optimizer.weight_decay": 0.05}
STATED: dict[str, Settings] = {
    "adamw": ADAMW,
    "muon, same decay a step": MUON,
    "muon, same decay": {**MUON, "optimizer.weight_decay": 1.0},
}
SOFTMAXES: dict[str, Settings] = {
    "stablemax in the loss": {"loss.name": "stablemax_cross_entropy"},
    "sparsemax in the loss": {"loss.name": "sparsemax_loss"},
    "stablemax in attention": {"model.attention_softmax": "stablemax"},
    "sparsemax in attention": {"model.attention_softmax": "sparsemax"},
}
OTHERS: dict[str, Settings] = {
    "sgd": {"optimizer.name": "sgd", "optimizer.momentum": 0.9, "optimizer.lr": 0.1},
    "rmsprop": {"optimizer.name": "rmsprop"},
    "adam": {"optimizer.name": "adam"},
}
CITED = {
    name: value for name, value in RECIPES["tveit2025"].settings.items() if name.split(".")[0] in ("model", "init")
}
MODELS: dict[str, Settings] = {
    "cited code": CITED,
    "BERT-like": {"model.name": "bert"},
    "GPT-like": {"model.name": "gpt"},
}


@dataclass(frozen=True)
class Layer:
    """One comparison: its arms on each task, all with the same seeds and budget."""

    base: Settings
    arms: Callable[[str], Mapping[str, Settings]]  # of a task
    readings: Readings
    seeds: Sequence[int]

    def studies(self, seeds: Sequence[int] | None = None, tasks: Sequence[str] = tuple(TASKS)) -> list[Study]:
        """A study of each task."""
        own = self.seeds if seeds is None else seeds
        return [Study({**TASKS[task], **self.base}, [*self.arms(task).values()], own) for task in tasks]

    def arm_of(self) -> dict[str, str]:
        """The arm of each run of this layer by its run_id."""
        return names_of_runs(
            (arm, Study({**TASKS[task], **self.base}, [settings], self.seeds))
            for task in TASKS
            for arm, settings in self.arms(task).items()
        )


def tuned(task: str) -> dict[str, Settings]:
    """Both optimizers at what their searches found on this task."""
    return {name: {"optimizer.name": name, **numbers} for name, numbers in CHOSEN.get(task, {}).items()}


def both_with(variants: Mapping[str, Settings]) -> dict[str, Settings]:
    """AdamW and Muon at stated numbers, with each variant of something else."""
    rules = {"adamw": ADAMW, "muon": MUON}
    return {f"{name}, {what}": {**rule, **other} for what, other in variants.items() for name, rule in rules.items()}


def each(variants: Mapping[str, Settings]) -> Readings:
    """AdamW against Muon in each variant."""
    return {what: (f"adamw, {what}", f"muon, {what}") for what in variants}


FINE: Settings = {"steps": BUDGET, "evaluation.every": 5}
LONG: Settings = {"steps": STATED_BUDGET}
LAYERS = {
    "tuned": Layer(FINE, tuned, {"tuned": ("adamw", "muon")}, range(30)),
    "stated": Layer(
        LONG,
        lambda task: STATED,
        {name.removeprefix("muon, "): ("adamw", name) for name in STATED if name != "adamw"},
        range(10),
    ),
    "softmaxes": Layer(LONG, lambda task: both_with(SOFTMAXES), each(SOFTMAXES), range(5)),
    "optimizers": Layer(
        LONG, lambda task: {"adamw": ADAMW, **OTHERS}, {name: ("adamw", name) for name in OTHERS}, range(5)
    ),
    "models": Layer(LONG, lambda task: both_with(MODELS), each(MODELS), range(3)),
    "thresholds": Layer({**FINE, "threshold": 1.0, "linger": 0.0}, tuned, {"tuned": ("adamw", "muon")}, range(10)),
    "smoke": Layer(
        {"train_fraction": 0.5, "model.width": 32, "steps": 60},
        lambda task: STATED,
        {"smoke": ("adamw", "muon, same decay")},
        range(2),
    ),
}
STUDIES = {
    **{name: layer.studies() for name, layer in LAYERS.items() if name != "smoke"},
    "smoke": LAYERS["smoke"].studies(tasks=("parity", "gcd")),
    "laptop": LAYERS["tuned"].studies(range(5), ("mod_add", "mod_sub", "mod_mul")),
}
RUN_STEPS = {  # at most: the sum of all budgets
    **{"smoke": 720, "laptop": 60_000, "tuned": 840_000, "thresholds": 280_000, "stated": 840_000},
    **{"softmaxes": 1_120_000, "optimizers": 560_000, "models": 504_000},
}
COMPILE = tuple(name for name in STUDIES if name != "smoke")


def draw(results: Results) -> Sequence[Drawing]:
    """A forest of ratios, task by task, for the layer whose runs these are."""
    _, runs = split(results.runs)
    for name, layer in LAYERS.items():
        arm_of = layer.arm_of()
        if set(runs["run_id"]) <= set(arm_of):
            runs = runs.assign(arm=runs["run_id"].map(arm_of), task=runs["task.name"])
            if name == "thresholds":
                return [thresholds(results, runs)]
            title = "muon_vs_adamw" if name == "tuned" else f"muon_vs_adamw_{name}"
            return [comparison(title, results, runs, layer.readings)]
    raise AssertionError("runs of no layer")
