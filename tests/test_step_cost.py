"""What a step of Muon costs over one of AdamW: which is divided by which, and what the published table says."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grokking.publish import PUBLISHED

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import step_cost  # noqa: E402  (experiments are found by the line above)


def test_a_step_costs_what_the_other_optimizer_does_in_its_time(monkeypatch):
    """AdamW takes two steps, or three, where Muon takes one."""
    monkeypatch.setattr(
        step_cost, "turning", lambda specs, compile: [dict(spec.row())["optimizer.name"] for spec in specs]
    )
    seen = []

    def turns(forms, rounds):
        seen.extend(forms)
        return [[200.0, 100.0], [300.0, 100.0], [210.0, 100.0]][:rounds]

    monkeypatch.setattr(step_cost, "take_turns", turns)
    line = step_cost.cost("parity", 3).iloc[0]
    assert seen == [["adamw"] * step_cost.SIDE_BY_SIDE, ["muon"] * step_cost.SIDE_BY_SIDE]
    assert tuple(line[["time", "time_least", "time_most"]]) == pytest.approx((2.1, 2.0, 3.0))
    assert line["operations"] == line["operations_muon"] / line["operations_adamw"] > 1.5  # Newton–Schulz iterations
    assert (line["run_steps_per_second_adamw"], line["run_steps_per_second_muon"]) == (210, 100)


def test_a_ratio_in_steps_is_divided_by_what_a_step_costs():
    cost = pd.DataFrame({"task": ["mod_add", "gcd"], "operations": [2.0, 8.0], "time": [1.5, 6.0]})
    cost = cost.assign(time_least=1.0, time_most=9.0)
    compared = pd.DataFrame({"task": ["mod_add", "gcd", "all"], "ratio": [3.0, 12.0, 6.0]})
    compared = compared.assign(first_mean_epochs=40.0, second_mean_epochs=10.0)
    rows = step_cost.markdown(cost, compared).splitlines()[2:]
    assert rows[0] == "| x + y | 2.00× | 1.50× [1.00, 9.00] | 3.00 | 1.50 | 2.00 | 40 | 10 |"
    assert rows[1] == "| gcd(x, y) | 8.00× | 6.00× [1.00, 9.00] | 12.00 | 1.50 | 2.00 | 40 | 10 |"
    assert rows[2] == "| all tasks | 4.00× | 3.00× | 6.00 | 1.50 | 2.00 | – | – |"  # geometric means


def test_the_published_table_is_that_of_the_published_measurement():
    cost, compared = (pd.read_csv(ROOT / PUBLISHED / f"{name}.csv") for name in ("step_cost", "muon_vs_adamw"))
    assert (ROOT / PUBLISHED / "step_cost.md").read_text() == step_cost.markdown(cost, compared) + "\n"
    both = cost.merge(compared, on="task")
    assert np.allclose(both["operations"], both["step_cost"])  # two ways to the same count
    assert both["time"].between(both["time_least"], both["time_most"]).all()
