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
import throughput_figure
from plain_loop import PlainLoop, plain_model
from throughput import Config, Form

CPU = torch.device("cpu")
SMALL = Config(p=11, depth=2, width=32, batch=16)


def ours(spec, steps):
    """Losses of the package's own training of this run."""
    trainer, cohort, losses = Trainer(spec.setting, CPU), start([spec], CPU), []
    for _ in range(steps):
        rows = trainer.data.batch(cohort)
        trainer.model.train()
        losses.append(
            float(trainer.gradients(cohort.weights, {}, trainer.data.tokens[rows], trainer.data.labels[rows])[1][0])
        )
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
def test_every_form_makes_as_many_steps_as_it_is_asked_for(name, monkeypatch):
    steps = []
    for trainer in (PlainLoop, Trainer):
        advance = trainer.advance
        monkeypatch.setattr(trainer, "advance", lambda *given, advance=advance: (steps.append(1), advance(*given)))
    form = throughput.form(name, SMALL, CPU, runs=3)
    form.advance(4)
    assert (len(steps), form.runs) == (4, 3 if name == "cohort" else 1)
    setting = SMALL.spec().setting
    assert [setting.integer(n) for n in ("model.depth", "model.width", "batch_size")] == [2, 32, 16]


def test_workers_train_on_every_core_and_say_what_they_take():
    with throughput.Workers("cohort", SMALL, "cpu", 2) as workers:
        assert workers.runs == 2 * throughput.widest("cpu", compile=False)
        assert 1e6 < workers.memory < 2e9
        workers.advance(2)
    assert [process.exitcode for process in workers.processes] == [0, 0]


def test_operations_are_those_that_the_shortcuts_leave():
    """By hand, for one layer of width w: forward and twice as much backward; looking rows up multiplies nothing."""
    p, w, n = 97, 128, 512
    keys_and_values = 2 * (2 * p + 2) * w * w + w * w  # a, b and two constants; one query
    behind = n * w * w + 8 * n * w * w + n * w * p
    assert throughput.operations(Config().spec()) == pytest.approx(2 * 3 * (keys_and_values + behind), rel=0.02)


def test_a_ratio_is_that_of_the_same_round_and_of_as_many_cores(monkeypatch):
    config = Config(p=11, width=32, batch=16)
    forms = [
        Form("plain", config, 1, None),
        Form("cohort", config, 4, None),
        Form("plain", config, 1, None, cores=2, threads=2),
        Form("compiled", config, 8, None, cores=2),
    ]
    turns = [[10.0, 40.0, 15.0, 90.0, 1e3], [20.0, 60.0, 20.0, 100.0, 1e3], [10.0, 40.0, 15.0, 90.0, 1e3]]
    monkeypatch.setattr(throughput, "take_turns", lambda *_: turns)
    plain, cohort, plain_on_all, compiled_on_all = throughput.measure("x", forms, 3, CPU)
    assert (plain["ratio"], cohort["ratio"], plain_on_all["ratio"], compiled_on_all["ratio"]) == (1.0, 4.0, 1.0, 6.0)
    assert cohort["run_steps_per_second"] == 40.0
    assert (cohort["least"], cohort["most"]) == (40.0, 60.0)
    assert cohort["share_of_product"] == pytest.approx(40 * cohort["operations"] / (1e3 * 2 * 1024**3))
    assert "share_of_product" not in plain
    assert "share_of_product" not in compiled_on_all


def test_forms_take_turns_and_a_turn_is_as_long_for_all(monkeypatch):
    monkeypatch.setattr(throughput, "_rate", lambda form, steps: seen.append((form.name, steps)) or form.runs * 10.0)
    seen = []
    forms = [Form("a", SMALL, 1, None), Form("b", SMALL, 4, None)]
    assert throughput.take_turns(forms, 2) == [[10.0, 40.0], [10.0, 40.0]]
    steps, block = round(10 * throughput.LEAST_SECONDS), throughput.WARM_UP
    assert block > throughput.BLOCK  # recorded before anything is timed
    assert seen[:2] == [("a", block), ("b", block)]
    assert seen[2:] == [("a", 3), ("b", 3), ("a", steps), ("b", steps), ("a", steps), ("b", steps)]


def test_the_picture_and_the_table_are_made_from_any_measured_lines():
    one, all_cores = ("plain", "shortcuts", "cohort", "compiled"), ("plain", "compiled")
    lines = []
    for part, configs, forms in (
        ("ablation", throughput.ABLATION, [*((name, 1) for name in one), *((name, 2) for name in all_cores)]),
        ("width", [Config()], [("cohort", 1), ("compiled", 1)]),
        ("precision", [Config(precision="bf16")], [("compiled", 1)]),
        ("cost", throughput.COSTS, [("plain", 1), ("compiled", 1)]),
    ):
        for config in configs:
            for place, (form, cores) in enumerate(forms):
                rate = {"run_steps_per_second": 10.0 + place, "least": 9.0, "most": 12.0, "rounds": 5}
                own = {"part": part, "form": form, "cohort": 8, "cores": cores, "ratio": 1.0 + place}
                extra = {"share_of_product": 0.5, "megabytes": 100.0} if cores == 1 else {}
                lines.append({**own, **vars(config), **rate, **extra})
    drawn = throughput_figure.drawing(pd.DataFrame(lines).assign(machine="an abacus"))
    text, short = drawn.markdown(drawn.tables[""]), throughput_figure.short(drawn.tables[""])
    assert "an abacus" in text
    assert "an abacus" in short
    assert "| 2 layers, full | 10.0 → 13.0 | 4.0 | 14.0 → 15.0 | 6.0 |" in short
    assert (
        "2 cores: 27 runs of 2,000 steps an hour while training; by the plain loop 25, or 36 if a process on each"
        in short
    )
    assert "| 2 layers, full, adamw | compiled of 8 | 13.0 (9.0 to 12.0) | 4.00 | 50% | 100 MB |" in text
    assert "| 2 layers, full, adamw | compiled of 8, 2 cores | 15.0 (9.0 to 12.0) | 6.00 | – | – |" in text
    assert "| 1 layer, 512, adamw, bf16 | compiled of 8 |" in text


def test_the_published_tables_are_those_of_the_published_measurements():
    published = Path(__file__).parent.parent / "figures" / "published"
    table = pd.read_csv(published / "throughput.csv")
    assert (published / "throughput.md").read_text() == throughput_figure.markdown(table) + "\n"
    assert (published / "throughput_short.md").read_text() == throughput_figure.short(table) + "\n"
    assert {"ablation", "width", "muon", "precision", "cost"} == set(table["part"])


@pytest.mark.parametrize("parts", [(), ("muon",), ("precision", "muon")])
def test_where_nothing_could_be_drawn_nothing_is_measured(parts, monkeypatch):
    monkeypatch.setattr(throughput, "everything", lambda *_: 1 / 0)
    with pytest.raises(SystemExit, match="nothing to draw; allowed: any that include one of ablation, cost, width"):
        throughput.main(parts=parts)


def test_a_part_alone_is_drawn_and_its_table_says_what_measured_it():
    table = pd.read_csv(Path(__file__).parent.parent / "figures" / "published" / "throughput.csv")
    for part, *_ in throughput_figure.PANELS:
        own = table[table["part"] == part].assign(rounds=2)
        assert len(throughput_figure.drawing(own).figure.axes) == 1
        assert f"`python experiments/throughput.py --rounds 2 --parts {part}`" in throughput_figure.markdown(own)
    muon = table[table["part"].isin(["width", "muon"])].assign(machine="NVIDIA H200, 16 cores")
    assert "throughput.py --device cuda --parts width muon`" in throughput_figure.markdown(muon)
