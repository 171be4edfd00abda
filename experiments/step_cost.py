"""What a step of Muon costs over one of AdamW on each task, in arithmetic and in time; and what that makes of their ratio in steps.

Here       The runs of experiments/muon_vs_adamw.py: four side by side in one process, one core, compiled steps where there is a
           compiler; the two optimizers of a task alternate, nothing else may run on the machine.
Definition Operations of matrix products a step, counted (grokking.engine.operations). Time: median over the rounds of the ratio of
           neighbouring turns, least and most in brackets. In operations, or in time, AdamW / Muon is the ratio in steps divided by
           what a step of Muon costs; evaluations are left out of both.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from muon_and_adamw import TASKS, TITLES
from throughput import Config, Form, take_turns
from tqdm import tqdm

from grokking.engine.cohort import start
from grokking.engine.compiled import obstacle
from grokking.engine.operations import operations
from grokking.engine.trainer import Trainer
from grokking.execute.unit import machine
from grokking.publish import PUBLISHED, markdown_table, rewrite_documents
from grokking.runs import RunSpec, run_spec

OPTIMIZERS = ("adamw", "muon")
SIDE_BY_SIDE = 4


def main(rounds: int = 7, measured: Path | None = None, publish: bool = False) -> None:
    """Measure, and print the table.

    Args:
        rounds: turns of each optimizer on each task.
        measured: a step_cost.csv of before: print that beside the ratios of now, and measure nothing.
        publish: maintainers: to figures/published, and rewrite the documents.
    """
    table = (
        pd.read_csv(measured)
        if measured
        else pd.concat([cost(task, rounds) for task in tqdm(TASKS, desc="tasks")], ignore_index=True)
    )
    print(table.to_string(index=False))
    if publish:
        table.to_csv(PUBLISHED / "step_cost.csv", index=False, lineterminator="\n")
        (PUBLISHED / "step_cost.md").write_text(markdown(table, pd.read_csv(PUBLISHED / "muon_vs_adamw.csv")) + "\n")
        rewrite_documents()


def cost(task: str, rounds: int) -> pd.DataFrame:
    """One line for this task."""
    compile = not obstacle()
    forms = [turning([_spec(task, name, seed) for seed in range(SIDE_BY_SIDE)], compile) for name in OPTIMIZERS]
    rates = np.array(take_turns(forms, rounds))  # [round, optimizer]
    ratios = rates[:, 0] / rates[:, 1]
    done = {f"operations_{name}": operations(_spec(task, name, 0)) for name in OPTIMIZERS}
    line: dict[str, Any] = {"task": task, **done, "operations": done["operations_muon"] / done["operations_adamw"]}
    line |= {
        f"run_steps_per_second_{name}": rate for name, rate in zip(OPTIMIZERS, np.median(rates, axis=0), strict=True)
    }
    line |= {"time": np.median(ratios), "time_least": ratios.min(), "time_most": ratios.max(), "rounds": rounds}
    return pd.DataFrame([{**line, "machine": f"{machine('cpu')}{', compiled steps' * compile}"}])


def _spec(task: str, optimizer: str, seed: int) -> RunSpec:
    return run_spec({**TASKS[task], "optimizer.name": optimizer, "steps": 10**9}, seed)


def turning(specs: list[RunSpec], compile: bool) -> Form:
    """These runs side by side, as many steps as are asked for."""
    trainer = Trainer(specs[0].setting, torch.device("cpu"), compile=compile)
    cohort = start(specs, torch.device("cpu"), places=trainer.places)

    def advance(steps: int) -> None:
        for _ in range(steps):
            trainer.advance(cohort)

    return Form("compiled" if compile else "cohort", Config(), len(specs), advance)


def markdown(cost: pd.DataFrame, compared: pd.DataFrame) -> str:
    """Steps, operations and time side by side, as it stands in a document; `compared` is the table of muon_vs_adamw."""
    head = (
        "task",
        "a step of Muon: operations",
        "time",
        "AdamW / Muon: steps",
        "operations",
        "time",
        "mean epochs, AdamW",
        "Muon",
    )
    costs = cost.set_index("task")
    rows = []
    for line in compared[compared["task"] != "all"].to_dict("records"):
        own = costs.loc[line["task"]]
        rows.append(
            (
                TITLES[line["task"]],
                f"{own['operations']:.2f}×",
                f"{own['time']:.2f}× [{own['time_least']:.2f}, {own['time_most']:.2f}]",
                *(f"{line['ratio'] / by:.2f}" for by in (1.0, own["operations"], own["time"])),
                *(f"{line[f'{side}_mean_epochs']:.0f}" for side in ("first", "second")),
            )
        )
    each = compared[compared["task"] != "all"].set_index("task")["ratio"].astype(float)
    over = {name: np.exp(np.log(costs[name].reindex(each.index)).mean()) for name in ("operations", "time")}
    ratio = float(np.exp(np.log(each).mean()))
    words = (
        f"{over['operations']:.2f}×",
        f"{over['time']:.2f}×",
        *(f"{ratio / by:.2f}" for by in (1.0, *over.values())),
    )
    return markdown_table(head, [*rows, (TITLES["all"], *words, "–", "–")])


if __name__ == "__main__":
    tyro.cli(main)
