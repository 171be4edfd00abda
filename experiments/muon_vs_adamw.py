"""Does Muon grok faster than AdamW? The paper's six tasks and subtraction: at stated defaults, and tuned alike.

Claim      Tveit et al. 2025 (arXiv 2504.16041): Muon brings the mean epoch of generalization from AdamW's 153.09 to 102.89, a
           ratio of 1.49 (two-sample t-test over six tasks pooled; t = 5.0175 and p = 6.33e-8, which do not go together). Learning
           rates, decay, depth, width, batch, seeds and budget are not stated, and the cited code has no Muon. Essential AI 2025:
           the advantage disappears under wider tuning. Wang 2026 (arXiv 2607.20512): it shows in generalization that stays, and not
           on subtraction.
Here       The lean model (one layer, width 128) and the paper's tasks and splits, p = 97: gcd 50 %, addition and division 80 %,
           exponentiation 70 %, multiplication 50 %, parity of ten bits 50 %; and subtraction at the cited code's 50 %. In layers:
           `tuned`      each optimizer at the best configuration of a search of its own on each task (muon_vs_adamw_tuning.py: 30,000
                        run-steps each, two tuning seeds), on 30 other seeds.
           `thresholds` the same until every validation example is right, for the times to 90, 95, 99 and 100 %.
           `defaults`   AdamW as in the cited code (learning rate 1e-3, decay 1), Muon as its author has it (0.02, momentum 0.95), in
                        two readings of the paper's "equivalent weight decay strengths": the same number, and the same decay a step.
           `laptop`     what `make reproduce` runs of `tuned`: three tasks, five seeds.
Definition Steps to the first evaluation with validation accuracy >= 0.95 (first crossing), and to the first from which it stays there
           for half as long again (sustained). Runs that do not get there count at the budget in every number. Ratios are of
           restricted means, paired by seed; over all tasks, their geometric mean, a seed being one observation.
"""

from collections.abc import Sequence

from muon_and_adamw import TASKS
from muon_vs_adamw_figure import comparison, thresholds

from grokking.plotting import Drawing
from grokking.registry import Settings
from grokking.selection import split
from grokking.store import Results
from grokking.study import Study

CHOSEN: dict[str, dict[str, dict[str, float]]] = {}  # task → optimizer → the best of muon_vs_adamw_tuning.csv
BUDGET, DEFAULTS_BUDGET = 2_000, 4_000
FINE: Settings = {"steps": BUDGET, "evaluation.every": 5}
DEFAULTS: dict[str, Settings] = {
    "adamw": {"optimizer.name": "adamw", "optimizer.lr": 1e-3, "optimizer.weight_decay": 1.0},
    "muon, same decay a step": {"optimizer.name": "muon", "optimizer.lr": 0.02, "optimizer.weight_decay": 0.05},
    "muon, same decay": {"optimizer.name": "muon", "optimizer.lr": 0.02, "optimizer.weight_decay": 1.0},
}

READINGS = {name.removeprefix("muon, "): ("adamw", name) for name in DEFAULTS if name != "adamw"}


def tuned(task: str) -> list[Settings]:
    """Both optimizers at what their searches found on this task."""
    return [{"optimizer.name": name, **numbers} for name, numbers in CHOSEN.get(task, {}).items()]


def at_chosen(own: Settings, seeds: Sequence[int], tasks: Sequence[str] = tuple(TASKS)) -> list[Study]:
    """A study of each task with both optimizers as tuned there."""
    return [Study({**TASKS[task], **own}, tuned(task), seeds) for task in tasks]


STUDIES = {
    "smoke": [
        Study({"task.p": 31, "train_fraction": 0.6, "model.width": 64, "steps": 300}, [*DEFAULTS.values()], range(2)),
    ],
    "laptop": at_chosen(FINE, range(5), ("mod_add", "mod_sub", "mod_mul")),
    "tuned": at_chosen(FINE, range(30)),
    "thresholds": at_chosen({**FINE, "threshold": 1.0, "linger": 0.0}, range(10)),
    "defaults": [Study({**task, "steps": DEFAULTS_BUDGET}, [*DEFAULTS.values()], range(10)) for task in TASKS.values()],
}
COMPILE = ("laptop", "tuned", "thresholds", "defaults")


def draw(results: Results) -> Sequence[Drawing]:
    """A forest of ratios, task by task, for each layer that was run."""
    _, runs = split(results.runs)
    runs = runs.assign(arm=runs["optimizer.name"], task=runs["task.name"])
    if (runs["threshold"] == 1.0).all():
        return [thresholds(results, runs)]
    if (runs["optimizer.weight_decay"] == DEFAULTS["muon, same decay a step"]["optimizer.weight_decay"]).any():
        per_step = runs["optimizer.weight_decay"] < 1
        runs.loc[runs["arm"] == "muon", "arm"] = per_step.map(
            {True: "muon, same decay a step", False: "muon, same decay"}
        )
        return [comparison("muon_vs_adamw_defaults", results, runs, READINGS)]
    return [comparison("muon_vs_adamw", results, runs, {"muon": ("adamw", "muon")})]
