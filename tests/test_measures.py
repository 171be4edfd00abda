"""Measures: a column of the curves each, of the run's own weights, whatever trains beside it."""

import copy

import numpy as np
import pytest
import torch

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput
from grokking.execute.signals import Stop
from grokking.execute.unit import Terms, train_unit
from grokking.later import without_later
from grokking.lipschitz.attack import reach
from grokking.lipschitz.certificate import certificate, norm
from grokking.measures import COLUMNS, largest_entry, measure, measured, measures
from grokking.runs import run_spec
from grokking.store import METRICS, load, prepare

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
    assert row["largest_entry"] == largest_entry(model, tokens)
    exact = copy.deepcopy(model).double()
    assert row["certified_slope"] == certificate(exact, reach(exact, tokens)).slope
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


def test_a_lower_bound_is_below_an_upper_one_though_weights_are_float32():
    own = {"task.p": 7, "model.name": "mlp", "model.inputs": "summed", "model.depth": 1, "model.width": 24}
    setting = run_spec(own, 0).setting
    tokens = torch.as_tensor(setting.table().tokens).long()
    for seed in range(5):  # one path that is open everywhere: both bounds are its slope
        model = setting.started_model()
        draws = torch.Generator().manual_seed(seed)
        between, first, last = (torch.rand(count, generator=draws) for count in (24, 128, 7))
        for w, value in zip(
            (model.first.embedding.weight, model.hidden[0].weight, model.head.weight),
            (
                model.first.embedding.weight.detach().abs(),
                torch.outer(between, first),
                torch.outer(last, between),
            ),
            strict=True,
        ):
            w.data = value
        found = measured(["certified_slope", "steepest_slope"], model, tokens)
        assert found["steepest_slope"] <= found["certified_slope"] <= found["steepest_slope"] * (1 + 1e-6)


def test_a_measure_that_changes_weights_does_not_change_the_run(monkeypatch):
    monkeypatch.setattr(measures, "_entries", dict(measures._entries))

    @measure
    def shaken(model, tokens):
        """How large the weights are made."""
        with torch.no_grad():
            return float(sum(w.mul_(2).sum() for w in model.parameters()))

    spec = run_spec({**SMALL, "measures": "shaken"}, 0)
    trainer = Trainer(spec.setting, CPU)
    cohort = start([spec], CPU, places=trainer.places)
    before = {name: w.clone() for name, w in cohort.weights.items()}
    trainer.evaluate(cohort)
    assert all(torch.equal(cohort.weights[name], w) for name, w in before.items())


def test_a_measure_cannot_take_the_place_of_a_column():
    def validation_accuracy(model, tokens):
        """One."""
        return 1.0

    with pytest.raises(BadInput, match="cannot have the name validation_accuracy"):
        measure(validation_accuracy)
    assert set(METRICS) < set(COLUMNS)
