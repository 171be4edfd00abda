"""Precision: bfloat16 activations, with everything that is kept or summed in float32."""

import pytest
import torch
from tiny import runs

from grokking.commands.arguments import Where
from grokking.commands.training import train
from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput
from grokking.later import EVERYWHERE
from grokking.models.parts import Norm, rotate, sinusoidal
from grokking.runs import run_spec
from grokking.store import load

CPU = torch.device("cpu")


def gradients(spec, steps=0):
    trainer, cohort = Trainer(spec.setting, CPU), start([spec], CPU)
    for _ in range(steps):
        trainer.advance(cohort)
    rows = trainer.data.batch(cohort)
    trainer.model.train()
    return (
        *trainer.gradients(cohort.weights, {}, trainer.data.tokens[rows], trainer.data.labels[rows]),
        trainer,
        cohort,
    )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_bf16_rounds_activations_and_nothing_that_is_kept(optimizer):
    (full,), (half,) = (runs(1, optimizer__name=optimizer, precision=name) for name in ("fp32", "bf16"))
    exact, exact_loss, _, _ = gradients(full)
    rounded, loss, _, cohort = gradients(half)
    assert {t.dtype for t in (*rounded.values(), loss, *cohort.weights.values())} == {torch.float32}
    assert {s.dtype for slots in cohort.state.values() for s in slots.values()} == {torch.float32}
    assert float(loss[0]) == pytest.approx(float(exact_loss[0]), rel=0.02)
    assert float(loss[0]) != float(exact_loss[0])
    for name, g in exact.items():
        assert 0 < float((rounded[name] - g).norm() / g.norm()) < 0.1, name


def test_bf16_is_what_the_model_computes_with(monkeypatch):
    (half,) = runs(1, precision="bf16")
    seen = set()
    forward = Norm.forward

    def watched(self, x):
        seen.add(x.dtype)
        return forward(self, x)

    monkeypatch.setattr(Norm, "forward", watched)
    _, _, trainer, cohort = gradients(half)
    assert seen == {torch.bfloat16}
    seen.clear()
    trainer.evaluate(cohort)  # with the weights as they are: the same instrument for every precision
    assert seen == {torch.float32}


def test_a_run_in_bf16_is_another_run_and_one_in_fp32_the_same_as_before_there_was_a_choice():
    plain, full, half = run_spec({}, 0), run_spec({"precision": "fp32"}, 0), run_spec({"precision": "bf16"}, 0)
    assert plain.run_id == full.run_id != half.run_id
    assert "precision" not in full.description()["setting"]
    assert half.description()["setting"]["precision"] == "bf16"
    assert "precision" not in full.row()
    assert half.row()["precision"] == "bf16"


def test_every_run_of_a_table_has_a_precision(tmp_path):
    specs = [*runs(1), *runs(1, precision="bf16")]
    assert train(specs, Where(out=tmp_path, workers=1, device="cpu"), ()) == 0
    assert load(tmp_path).runs.set_index("run_id")["precision"].to_dict() == {
        specs[0].run_id: EVERYWHERE["precision"],
        specs[1].run_id: "bf16",
    }


def test_another_precision_is_refused_and_tf32_on_a_cpu_too(tmp_path):
    with pytest.raises(BadInput, match="precision = 'fp8'; allowed: fp32, tf32, bf16"):
        run_spec({"precision": "fp8"}, 0)
    with pytest.raises(BadInput, match="precision = 'tf32' exists on CUDA alone; allowed on a CPU: fp32, bf16"):
        train(runs(1, precision="tf32"), Where(out=tmp_path / "out", device="cpu"), ())
    assert not (tmp_path / "out").exists()


def test_what_is_small_is_computed_wide_and_rounded_once():
    x = torch.linspace(-3, 3, 64).bfloat16()
    norm = Norm("layernorm", 64, bias=False)
    norm.gain.data.fill_(1.0)
    exact = (x.double() - x.double().mean()) / (x.double().var(unbiased=False) + 1e-5).sqrt()
    assert norm(x).dtype == torch.float32  # its own gain is; a step casts it
    assert (norm(x).double() - exact).abs().max() < 2**-8 * 2
    places = torch.arange(200)
    assert torch.equal(sinusoidal(places, 8, torch.bfloat16), sinusoidal(places, 8, torch.float32).bfloat16())
    q = torch.ones(200, 1, 8, dtype=torch.bfloat16)
    assert (rotate(q, places).float() - rotate(q.float(), places)).abs().max() < 0.02
