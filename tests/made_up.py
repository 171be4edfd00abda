"""Results that nobody trained: curves of runs that memorise and generalise when a test says, to see what is drawn of them."""

import numpy as np
import pandas as pd

from grokking.engine.evaluation_grid import evaluation_steps
from grokking.onset import onset, outcome
from grokking.store import Results


def made_up(specs, law):
    """`law(row, steps)` gives training and validation accuracy [evaluation]; runs end where the engine would end them."""
    rows, curves = [], []
    for spec in specs:
        setting, row = spec.setting, spec.row()
        every, growth = setting.integer("evaluation.every"), setting.number("evaluation.growth")
        grid = np.array(list(evaluation_steps(every, growth, setting.integer("steps"))))
        train, validation = law(row, grid)
        rules = setting.number("threshold"), setting.number("linger")
        for last in range(1, len(grid) + 1):
            found = onset(grid[:last], train[:last], validation[:last], *rules)
            if found.sustain is not None:
                break
        end = {"transforms": "none", **row, **outcome(found, None, int(grid[last - 1]), 512, 4096)}
        rows.append(end)
        parts = {"step": grid, "train_accuracy": train, "validation_accuracy": validation}
        curves.append(pd.DataFrame({"run_id": row["run_id"], **{name: x[:last] for name, x in parts.items()}}))
    runs = pd.DataFrame(rows)
    steps = [name for name in runs if name.startswith("steps_to_")] + ["delay", "diverged_at"]
    return Results(
        runs.astype(dict.fromkeys(steps, "Int64")), pd.concat(curves, ignore_index=True), ("a machine",), 0, 1.0, 0.1
    )


def rising(steps, at):
    """Accuracy that passes 95 % between the evaluation before `at` and the one at it, and is 1 from there on."""
    return np.where(steps >= at, 1.0, 0.02)
