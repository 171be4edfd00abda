"""How much memory a cohort takes, and how wide it may be."""

import math

import pytest
import torch
from tiny import TINY, runs

from grokking.engine import memory
from grokking.engine.cohort import compiled_width, never_alone, power_of_two, start
from grokking.engine.memory import Traced, ample, bytes_per_run, fitting, free_memory, peak
from grokking.engine.trainer import Trainer
from grokking.runs import run_spec
from grokking.study import plan


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_alive_at_once_is_counted_once(device):
    with Traced() as traced:
        a = torch.zeros(1000, device=device)
        b = a + 1
        view = b[10:].view(-1, 10)
        assert traced.peak == 8000
        del a, view
        c = b * 2
        del b
        assert traced.peak == 8000
        d = c.square().exp()  # the square is still there while the exponential is made
        assert traced.peak == 12000
    assert d.shape == (1000,)


def test_what_autograd_keeps_for_the_way_back_is_counted():
    with Traced() as traced:
        x = torch.zeros(1000, device="meta", requires_grad=True)
        y = x
        for _ in range(5):
            y = y.exp()
        assert traced.peak == 6 * 4000
        y.sum().backward()
    assert traced.peak > 6 * 4000


def test_a_run_takes_its_weights_state_and_activations_and_twice_the_batch_takes_more():
    (small,), (large,) = runs(1), runs(1, batch_size=24)
    parameters = sum(w.numel() for w in small.setting.model().parameters())
    assert bytes_per_run(small) > 4 * 3 * parameters  # weights and both moments, without a step's activations
    assert bytes_per_run(large) > bytes_per_run(small)
    assert peak(small, 6) - peak(small, 4) == pytest.approx(2 * bytes_per_run(small), rel=0.05)


def test_the_default_run_takes_what_its_largest_tensors_say():
    """At p = 59, batch 512: the step holds several of hidden [512, 512], the evaluation of 1,024 examples likewise."""
    spec = run_spec({"task.p": 59, "optimizer.name": "adamw"}, 0)
    hidden = 4 * 512 * 512
    assert 4 * hidden < bytes_per_run(spec) < 40 * hidden


def test_a_cohort_is_as_wide_as_fits_but_never_empty():
    (spec,) = runs(1)
    one = bytes_per_run(spec)
    assert fitting(spec, 8, 3.5 * one / (1 - memory.SPARE), never_alone) == 3
    assert fitting(spec, 2, 3.5 * one / (1 - memory.SPARE), never_alone) == 2
    assert fitting(spec, 8, one / 2, never_alone) == 1
    assert fitting(spec, 8, math.inf, never_alone) == 8


def test_places_count_not_runs():
    (spec,) = runs(1)
    for_three = 3.5 * bytes_per_run(spec) / (1 - memory.SPARE)
    assert fitting(spec, 4, for_three, compiled_width) == 2  # three would take four places
    assert fitting(spec, 256, 2 * for_three, power_of_two) == 4  # five would take eight


def test_on_cuda_a_block_of_steps_a_single_one_and_an_evaluation_have_memory_of_their_own():
    """But nothing is recorded of steps that wait for the host."""
    spec = run_spec({"model.width": 256}, 0)
    one, recorded = bytes_per_run(spec), bytes_per_run(spec, "cuda")
    parameters = sum(w.numel() for w in spec.setting.model().parameters())
    assert 2 * one + 4 * parameters < recorded <= 3 * one  # the evaluation has weights of its own, too
    for_eight = 8.5 * one / (1 - memory.SPARE)
    assert [fitting(spec, 8, for_eight, power_of_two, device) for device in ("cpu", "cuda")] == [8, 2]
    (waiting,) = runs(1, optimizer__name="shampoo")
    assert bytes_per_run(waiting, "cuda") == bytes_per_run(waiting)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"task.p": 97, "model.depth": 2, "batch_size": 4_000},
        {
            "task.name": "parity",
            "task.bits": 12,
            "model.depth": 2,
            "model.width": 32,
            "model.heads": 4,
            "batch_size": 2_000,
        },
        {"optimizer.name": "muon", "model.width": 256, "batch_size": 16},
        {"model.attention": "bidirectional", "model.dropout": 0.1, "batch_size": 2_000},
    ],
)
def test_a_run_takes_less_than_ample(settings, monkeypatch):
    spec = run_spec(settings, 0)
    assert bytes_per_run(spec) < ample(spec) * (1 - memory.SPARE) / 1.5
    assert bytes_per_run(spec, "cuda") < 2 * ample(spec) * (1 - memory.SPARE)
    monkeypatch.setattr(memory, "bytes_per_run", lambda spec, device: 1 / 0)
    assert fitting(spec, 8, 8 * ample(spec) + 1, never_alone) == 8  # so it need not be traced
    assert fitting(spec, 8, 16 * ample(spec) + 1, power_of_two, "cuda") == 8


def test_of_a_container_s_limit_files_in_the_cache_count_as_free(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "Path", lambda _: tmp_path)
    assert memory._allowed() == math.inf
    for name, text in (("max", "1000"), ("current", "900"), ("stat", "anon 100\ninactive_file 700\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory._allowed() == 800
    (tmp_path / "memory.max").write_text("max")
    assert memory._allowed() == math.inf


def test_some_memory_is_free_here_but_not_without_end():
    assert 1e8 < free_memory(torch.device("cpu")) < 1e14


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_estimate_is_near_what_cuda_says():
    cuda = torch.device("cuda")
    specs = [run_spec({"task.p": 59}, seed) for seed in range(64)]
    trainer = Trainer(specs[0].setting, cuda)
    trainer.records_steps = False
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cohort = start(specs, cuda)
    trainer.advance(cohort)
    trainer.evaluate(cohort)
    taken = torch.cuda.max_memory_allocated() - before
    assert taken == pytest.approx(64 * bytes_per_run(specs[0]), rel=0.3)


def test_what_a_transform_keeps_is_counted():
    (plain,), (window,) = runs(1), runs(1, transforms="grokfast_ma", transform__grokfast_ma__window=1000)
    parameters = sum(w.numel() for w in plain.setting.model().parameters())
    assert bytes_per_run(window) - bytes_per_run(plain) > 4 * 1000 * parameters
    assert bytes_per_run(window) < ample(window) * (1 - memory.SPARE) / 1.5


def perceptrons(width, seeds=9, **scaling):
    """Runs at this width."""
    return runs(seeds, model__name="mlp", model__width=width, **scaling)


def test_a_wide_model_goes_the_way_of_a_narrow_one_in_cohorts_as_wide_as_fit():
    mup = {"scaling__name": "mup", "scaling__base_width": 64}
    narrow, wide, (plain,) = perceptrons(64, **mup), perceptrons(1024, **mup), perceptrons(1024, 1)
    free = 3.5 * bytes_per_run(wide[0]) / (1 - memory.SPARE)
    assert ample(narrow[0]) * 8 < free < ample(wide[0])  # so that only the wide one is traced
    cohorts = plan([*narrow, *wide], 8, fitting=lambda spec: fitting(spec, 8, free, never_alone))
    assert [(len(cohort), cohort[0].setting.integer("model.width")) for cohort in cohorts] == [
        (4, 64),
        (5, 64),
        (3, 1024),
        (3, 1024),
        (3, 1024),
    ]
    assert bytes_per_run(wide[0]) == pytest.approx(bytes_per_run(plain), rel=1e-5)  # but for a number a parameter
    assert bytes_per_run(wide[0]) < ample(wide[0]) * (1 - memory.SPARE) / 1.5


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_wide_run_has_the_same_bits_in_a_cohort_and_alone(optimizer):
    own = {"model.width": 256, "scaling.name": "mup", "scaling.base_width": 16, "optimizer.name": optimizer}
    specs = [run_spec({**TINY, **own, "optimizer.lr": 0.01 / (seed + 1)}, seed) for seed in range(3)]

    def after(specs):
        trainer = Trainer(specs[0].setting, torch.device("cpu"))
        cohort = start(specs, torch.device("cpu"), places=trainer.places)
        while cohort.step < 4:
            trainer.advance(cohort)
        return cohort.weights

    beside, alone = after(specs), after(specs[1:2])
    assert all(torch.equal(w[1], alone[name][0]) for name, w in beside.items())
