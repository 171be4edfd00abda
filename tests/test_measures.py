"""Measures: a column of the curves each, of the run's own weights, whatever trains beside it."""

import numpy as np
import pytest
import torch

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput
from grokking.execute.signals import Stop
from grokking.execute.unit import Terms, train_unit
from grokking.later import without_later
from grokking.lipschitz.attack import largest_entry, reach
from grokking.lipschitz.certificate import certificate, norm
from grokking.measures import measure, measures
from grokking.runs import run_spec
from grokking.store import load, prepare

CPU = torch.device("cpu")
NAMES = "certified_slope,steepest_slope,largest_norm,largest_entry"
SMALL = {
    **{"task.p": 7, "model.name": "lipschitz_transformer", "model.width": 8, "model.heads": 2, "steps": 30},
    **{"optimizer.name": "muon", "transforms": "spectral_cap", "init.name": "orthogonal", "measures": NAMES},
}


def test_curves_have_each_measure_of_the_runs_own_weights(tmp_path):
    specs = [run_spec(SMALL, seed) for seed in range(3)]
    prepare(tmp_path)
    for _ in train_unit(specs, Terms(tmp_path), Stop()):
        pass
    results = load(tmp_path, [spec.run_id for spec in specs])
    trainer = Trainer(specs[1].setting, CPU)
    cohort = start([specs[1]], CPU, places=trainer.places)
    while cohort.step < 10:
        trainer.advance(cohort, 1)
    model = specs[1].setting.model("cpu").eval()
    for name, parameter in model.named_parameters():
        parameter.data = cohort.weights[name][0]
    tokens = torch.as_tensor(specs[1].setting.table().tokens).long()
    row = results.curves[(results.curves["run_id"] == specs[1].run_id) & (results.curves["step"] == 10)].iloc[0]
    assert row["certified_slope"] == certificate(model, reach(model, tokens)).slope
    assert row["largest_entry"] == largest_entry(model, tokens)
    hidden = [norm(w.detach()) for name, w in model.named_parameters() if "blocks" in name or "head" in name]
    assert row["largest_norm"] == max(hidden)
    assert 0 < row["steepest_slope"] <= row["certified_slope"]
    last = results.curves.groupby("run_id").last()
    for name in NAMES.split(","):
        assert results.runs.set_index("run_id")[f"final_{name}"].equals(
            last[name].rename(f"final_{name}")[results.runs["run_id"]]
        )
        assert last[name].nunique() == 3


def test_what_is_measured_is_part_of_a_run_and_nothing_is_as_it_was():
    plain = run_spec({name: value for name, value in SMALL.items() if name != "measures"}, 0)
    assert "measures" not in plain.row()
    assert run_spec(SMALL, 0).run_id != plain.run_id
    assert run_spec({**SMALL, "measures": "none"}, 0).run_id == plain.run_id
    assert "measures" not in without_later(plain.setting.by_name)
    assert dict(run_spec(SMALL, 0).setting.versions)["measure.largest_norm"] == "1"


def test_weights_that_are_not_finite_have_no_measure():
    specs = [run_spec(SMALL, seed) for seed in range(2)]
    trainer = Trainer(specs[0].setting, CPU)
    cohort = start(specs, CPU, places=trainer.places)
    next(iter(cohort.weights.values()))[1] = torch.inf
    found = trainer.evaluate(cohort)
    assert all(np.isfinite(found[name][0]) and np.isnan(found[name][1]) for name in NAMES.split(","))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"measures": "slope"}, "there is no 'slope'"),
        ({"measures": "largest_norm,largest_norm"}, "'largest_norm' twice"),
        ({"model.name": "lstm", "measures": "steepest_slope"}, "measure 'steepest_slope': LSTM does not say"),
        ({"model.name": "transformer", "model.attention_softmax": "sparsemax"}, "measure 'certified_slope': no bound"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(change, said):
    own = {"task.p": 7, "measures": "certified_slope", **change}
    with pytest.raises(BadInput, match=said):
        run_spec(own, 0)


def test_a_measure_of_ones_own_is_a_function(monkeypatch):
    monkeypatch.setattr(measures, "_entries", dict(measures._entries))

    @measure
    def parameters(model, tokens):
        """How many there are."""
        return sum(w.numel() for w in model.parameters())

    spec = run_spec({**SMALL, "measures": "parameters"}, 0)
    trainer = Trainer(spec.setting, CPU)
    found = trainer.evaluate(start([spec], CPU, places=trainer.places))
    assert found["parameters"][0] == sum(w.numel() for w in spec.setting.model().parameters())
    assert dict(spec.setting.versions)["measure.parameters"].startswith("source:")
