"""How long do the soonest entries take on this machine, from nothing to the evaluation at which they are right?

    .venv/bin/python experiments/speedrun_clock.py [--entries fewest_steps_symmetric fewest_steps] [--runs 9] [--device cpu] [--publish]

Definition Seconds of one run by itself: drawing its examples and weights, steps, and the evaluations of all examples at which it is
           looked at, until 95 % of the validation set are right; without the start of the process, its imports, and one run before
           that warms the machine up. PyTorch's own number of threads.
"""

import time

import pandas as pd
import torch
import tyro

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.execute.unit import machine
from grokking.publish import PUBLISHED, markdown_table, rewrite_documents
from grokking.recipes import recipe
from grokking.registry import Settings
from grokking.runs import run_spec
from grokking.store.export import write_table


def clocked(settings: Settings, seed: int, device: torch.device) -> tuple[int, float]:
    """Steps and seconds until the threshold is reached, looked at after every step."""
    began = time.perf_counter()
    spec = run_spec(settings, seed)
    trainer = Trainer(spec.setting, device)
    cohort = start([spec], device, places=trainer.places)
    threshold = spec.setting.number("threshold")
    for step in range(1, spec.setting.integer("steps") + 1):
        trainer.advance(cohort)
        if trainer.evaluate(cohort)["validation_accuracy"][0] >= threshold:
            return step, time.perf_counter() - began
    raise RuntimeError(f"seed {seed} does not get there within {step} steps")


def markdown(table: pd.DataFrame) -> str:
    """A line for each machine and entry: median of the runs' seconds, and their range."""
    rows = []
    for (name, where, threads), own in table.groupby(["entry", "machine", "threads"], sort=False):
        seconds = own["seconds"]
        spread = f"{seconds.median():.2f} ({seconds.min():.2f} to {seconds.max():.2f})"
        rows.append((f"`{name}`", f"{where}, {threads} threads", str(len(own)), f"{own['steps'].median():.0f}", spread))
    return markdown_table(("entry", "machine", "n", "median steps", "seconds (first to last)"), rows)


def main(
    entries: tuple[str, ...] = ("fewest_steps_symmetric", "fewest_steps"),
    runs: int = 9,
    device: str = "cpu",
    publish: bool = False,
) -> None:
    """Clock runs one after the other, and print.

    Args:
        entries: recipes.
        runs: how many of each, with seeds from 0 on.
        device: cpu or cuda.
        publish: maintainers: also to figures/published, and rewrite the documents.
    """
    where, parts = torch.device(device), []
    for entry in entries:
        settings = {**recipe(entry).settings, "threshold": 0.95}
        clocked(settings, 1000, where)
        found = [clocked(settings, seed, where) for seed in range(runs)]
        parts.append(pd.DataFrame(found, columns=["steps", "seconds"]).assign(entry=entry, seed=range(runs)))
    table = pd.concat(parts, ignore_index=True).assign(machine=machine(device), threads=torch.get_num_threads())
    print(markdown(table))
    if publish:
        write_table(table, PUBLISHED / "speedrun_clock.csv")
        (PUBLISHED / "speedrun_clock.md").write_text(markdown(table) + "\n")
        rewrite_documents()


if __name__ == "__main__":
    tyro.cli(main)
