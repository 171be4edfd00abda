"""The plain loop that the package's speed is compared with trains the same run; and the table says what was measured."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.runs import run_spec

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

import throughput
from plain_loop import PlainLoop, plain_model

CPU = torch.device("cpu")


def ours(spec, steps):
    """Losses of the package's own training of this run."""
    trainer, cohort, losses = Trainer(spec.setting, CPU), start([spec], CPU), []
    for _ in range(steps):
        rows = trainer.batch(cohort)
        trainer.model.train()
        losses.append(float(trainer.gradients(cohort.weights, {}, trainer.tokens[rows], trainer.labels[rows])[1][0]))
        trainer.advance(cohort)
    return losses, cohort


@pytest.mark.parametrize(("depth", "batch"), [(1, 32), (2, 10_000)])
def test_the_plain_loop_trains_the_same_run(depth, batch):
    spec = run_spec({"task.p": 11, "model.width": 32, "model.depth": depth, "batch_size": batch, "steps": 100}, 3)
    expected, cohort = ours(spec, 25)
    loop = PlainLoop(spec, plain_model(spec), CPU)
    losses = [float(loop.advance()) for _ in range(25)]
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0] - 0.05
    assert torch.allclose(loop.model.head.weight, cohort.weights["head.weight"][0], atol=1e-4)


@pytest.mark.parametrize("name", ["plain", "shortcuts", "cohort"])
def test_every_form_trains_what_its_configuration_says(name):
    config = throughput.Config(p=11, depth=2, width=32, batch=16)
    form = throughput.form(name, config, CPU, runs=3)
    form.advance()
    assert form.runs == (3 if name == "cohort" else 1)
    setting = config.spec().setting
    assert (setting.integer("model.depth"), setting.integer("model.width"), setting.integer("batch_size")) == (
        2,
        32,
        16,
    )


def test_operations_are_those_that_the_shortcuts_leave():
    """By hand, for one layer of width w: forward, twice as much backward, but nothing behind the one-hot rows."""
    p, w, n = 97, 128, 512
    keys_and_values = 2 * (2 * p + 2) * w * w + w * w  # a, b and two constants; one query
    behind = n * w * w + 8 * n * w * w + n * w * p
    products = 3 * (keys_and_values + behind)
    lifted = 2 * (2 * n * p * w)  # values of a and b, forward and backward to the values alone
    assert throughput.operations(throughput.Config()) == pytest.approx(2 * (products + lifted), rel=0.02)


def test_a_ratio_is_that_of_the_same_round(monkeypatch):
    rates = iter([{"plain × 1": 10.0, "cohort × 4": 40.0}, {"plain × 1": 20.0, "cohort × 4": 60.0}] * 2)
    forms = [throughput.Form("plain", 1, None), throughput.Form("cohort", 4, None)]
    turns = [{**next(rates), "product × 1": 1e3} for _ in range(3)]
    monkeypatch.setattr(throughput, "take_turns", lambda *_: turns)
    plain, cohort = throughput.measure("x", throughput.Config(p=11, width=32, batch=16), forms, 3, CPU)
    assert plain["ratio_to_plain"] == 1.0
    assert (cohort["ratio_to_plain"], cohort["run_steps_per_second"]) == (4.0, 40.0)
    assert (cohort["least"], cohort["most"]) == (40.0, 60.0)
    assert cohort["share_of_product"] == pytest.approx(40 * cohort["operations"] / (1e3 * 2 * 1024**3))


def test_the_picture_and_the_table_are_made_from_any_measured_lines():
    lines = []
    for part, forms, configs in (
        ("ablation", throughput.FORMS, throughput.ABLATION),
        ("width", ("cohort", "captured"), [throughput.Config()]),
        ("cost", ("plain", "cohort"), throughput.COSTS),
    ):
        for config in configs:
            for place, form in enumerate(forms):
                rate = {"run_steps_per_second": 10.0 + place, "least": 9.0, "most": 12.0, "rounds": 5}
                own = {"part": part, "form": form, "cohort": 8, "ratio_to_plain": 1.0 + place, "share_of_product": 0.5}
                lines.append({**own, **vars(config), **rate})
    drawn = throughput.drawing(pd.DataFrame(lines), "an abacus")
    assert "an abacus" in drawn.markdown(drawn.tables[""])
    assert "| 2 layers, full, adamw | captured of 8 | 14.0 (9.0 to 12.0) | 5.00 | 50% |" in drawn.markdown(
        drawn.tables[""]
    )
