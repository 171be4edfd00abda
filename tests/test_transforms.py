"""Transforms, schedules and range tests, where no library says what they should do."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import TINY, arm, runs

from grokking.cli import command_line
from grokking.engine.cohort import start
from grokking.engine.loop import begin, training
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput
from grokking.hashing import normal
from grokking.optim import Numbers, State
from grokking.optim.orthogonalize import coefficients, newton_schulz, over_spectral_norm, polar
from grokking.optim.schedules import schedules
from grokking.optim.transforms import norm, transforms
from grokking.range_test import findings, parse_range, sentence, settings_of_range, with_rates
from grokking.roles import Role
from grokking.runs import run_spec
from grokking.seeding import stream
from grokking.setting import check_versions
from grokking.testing import check_transform

CPU = torch.device("cpu")


def float64(value):
    return torch.tensor(value, dtype=torch.float64)


def transformed(name, tree, weights=None, state=None, **numbers):
    """What a transform makes of a tree."""
    weights = weights if weights is not None else {key: torch.ones_like(x) for key, x in tree.items()}
    h = {"step": 1.0, "lr": 0.1, **{n: v for n, v in transforms[name].defaults.items()}, **numbers}
    h = Numbers({n: float64(v) if isinstance(v, float) else v for n, v in h.items()})
    h["key"] = torch.tensor(int(numbers.get("key", 7)))
    state = state or {key: State() for key in tree}
    return transforms[name].make(tree, weights, state, h)[0]


# --- gradients ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 1e20])
def test_a_norm_neither_underflows_nor_overflows(size):
    tree = {"a": torch.full((3, 4), size), "b": torch.full((4,), size)}
    assert norm(tree).item() == pytest.approx(4 * size, rel=1e-5)
    assert norm({"a": torch.zeros(3)}).item() == 0
    scaled = transformed("normalize", tree, to=2.0)
    assert norm(scaled).item() == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("name", ["normalize", "clip_norm", "orthograd", "clip_value"])
def test_no_gradient_stays_none(name):
    tree = {"a": torch.zeros(3, 2)}
    assert torch.equal(transformed(name, tree)["a"], tree["a"])


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e18])
def test_orthograd_is_orthogonal_to_each_parameter_and_as_long_as_the_gradient(size):
    g, w = torch.from_numpy(stream(0, "test", "orthograd").standard_normal((2, 5, 3))).float()
    found = transformed("orthograd", {"a": size * g}, {"a": w})["a"] / size
    assert abs((found * w).sum()) < 1e-5 * found.norm() * w.norm()
    assert found.norm().item() == pytest.approx(g.norm().item(), rel=1e-5)


def test_the_mean_of_the_last_gradients_waits_until_it_has_them_all():
    state = {"a": State(last=torch.zeros(3, 1))}
    make, seen = transforms["grokfast_ma"].make, []
    for step in range(1, 6):
        h = Numbers({"step": float64(step), "window": 3, "lamb": float64(10.0)})
        tree, state = make({"a": torch.tensor([float(step)])}, {"a": torch.zeros(1)}, state, h)
        seen.append(tree["a"].item())
    assert seen == [1, 2, 3 + 10 * 2, 4 + 10 * 3, 5 + 10 * 4]


# --- freezing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_embeddings_and_head_stand_still_from_a_step_on_and_nothing_else_does(optimizer):
    """Every other parameter takes the very step that it takes without freezing, from the same place."""
    own = {**arm(optimizer), "model.bias": True, "model.norm": "layernorm"}
    frozen, free = (
        run_spec({**own, "transforms": "freeze", "transform.freeze.after": after}, 0) for after in (2.0, 99.0)
    )
    trainer, cohort = Trainer(frozen.setting, CPU), start([frozen, free], CPU)
    still = {name for name, role in trainer.roles.items() if role in (Role.EMBEDDING, Role.HEAD)}
    assert {trainer.roles[name] for name in set(trainer.roles) - still} == {Role.HIDDEN, Role.GAIN, Role.BIAS}
    for step in range(1, 6):
        before = {name: w.clone() for name, w in cohort.weights.items()}
        trainer.advance(cohort)
        moved = [(cohort.weights[name] != w).flatten(1).any(1).tolist() for name, w in before.items()]
        for name, (one, other) in zip(before, moved, strict=True):
            assert other, name
            assert one == (step <= 2 or name not in still), (name, step)
            if step <= 3 and name not in still:
                assert torch.equal(cohort.weights[name][0], cohort.weights[name][1]), (name, step)


def test_freezing_at_other_steps_splits_no_cohort_and_keeps_every_promise():
    one, other = (run_spec({"transforms": "freeze", "transform.freeze.after": after}, 0) for after in (10, 20))
    assert one.setting == other.setting
    assert one.run_id != other.run_id
    check_transform("freeze", transform__freeze__after=2.0)


# --- noise --------------------------------------------------------------------------------------------------------------


def test_noise_is_nearly_normal_and_a_function_of_its_key():
    x = normal(torch.tensor(5), torch.zeros(400, 500, dtype=torch.float64))
    n = x.numel()
    assert abs(x.mean()) < 4 / n**0.5
    assert abs(x.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs(((x**4).mean() / x.var() ** 2) - 2.9) < 0.05
    assert abs((x[:, 1:] * x[:, :-1]).mean()) < 4 / n**0.5
    assert x.abs().max() <= 6
    assert torch.equal(x, normal(torch.tensor(5), x))
    other = normal(torch.tensor(6), x)
    assert abs((x * other).mean()) < 4 / n**0.5


@pytest.mark.parametrize(
    ("name", "numbers", "std"),
    [
        ("gradient_noise", {"std": 0.5, "gamma": 0.55, "step": 1.0}, 0.5),
        ("gradient_noise", {"std": 0.5, "gamma": 0.55, "step": 16.0}, 0.5 / 16**0.275),
        ("update_noise", {"std": 0.5, "lr": 0.1}, 0.05),
        ("weight_noise", {"std": 0.25}, 0.25),
    ],
)
def test_noise_has_the_size_that_is_said_and_differs_between_parameters(name, numbers, std):
    tree = {"a": torch.zeros(200, 200), "b": torch.zeros(200, 200)}
    found = transformed(name, tree, **numbers)
    assert found["a"].std().item() == pytest.approx(std, rel=0.02)
    assert abs((found["a"] * found["b"]).mean()) < 4 * std**2 / 200
    assert not torch.equal(found["a"], transformed(name, tree, **numbers, key=8)["a"])


def test_weight_noise_leaves_the_weights_themselves_alone():
    """A rate of almost nothing moves them by almost nothing, though the gradient was taken elsewhere."""
    spec = run_spec({**arm("sgd", lr=1e-12), "transforms": "weight_noise", "transform.weight_noise.std": 0.5}, 0)
    trainer, cohort = Trainer(spec.setting, CPU), start([spec], CPU)
    before = {name: w.clone() for name, w in cohort.weights.items()}
    trainer.advance(cohort)
    assert all((w - before[name]).abs().max() < 1e-9 for name, w in cohort.weights.items())


# --- settings -----------------------------------------------------------------------------------------------------------


def test_transforms_are_part_of_the_run_in_their_order():
    plain, first, second = (
        run_spec({**TINY, "transforms": names}, 0) for names in ("none", "clip_norm,orthograd", "orthograd, clip_norm")
    )
    assert len({plain.run_id, first.run_id, second.run_id}) == 3
    assert "transforms" not in plain.row()
    assert second.row()["transforms"] == "orthograd,clip_norm"
    assert first.row()["transform.clip_norm.max_norm"] == 1.0
    assert dict(first.hyper)["transform.clip_norm.max_norm"] == 1.0
    check_versions(first.setting)


def test_numbers_of_schedules_and_transforms_split_no_cohort():
    one, other = (
        run_spec(
            {
                **TINY,
                "transforms": "clip_norm",
                "transform.clip_norm.max_norm": value,
                "schedule.name": "cosine",
                "schedule.floor": value / 2,
            },
            0,
        )
        for value in (0.5, 1.0)
    )
    assert one.setting == other.setting
    trainer = Trainer(one.setting, CPU)
    cohort = start([one, other], CPU)
    factors = trainer.factors(cohort.hyper, torch.tensor(16))
    assert factors[0] < factors[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transforms": "clip_nrom"}, "there is no 'clip_nrom'; did you mean clip_norm"),
        ({"transforms": "clip_norm,clip_norm"}, "has 'clip_norm' twice"),
        ({"transform.clip_norm.max_norm": 1}, "of a transform that is not in use; add transforms=clip_norm"),
        ({"transforms": "grokfast_ma", "transform.grokfast_ma.window": 0}, "window = 0; allowed: integers from 1 on"),
        ({"schedule.name": "cosine", "schedule.cycles": 0}, "schedule.cycles = 0; allowed: integers from 1 on"),
        (
            {"optimizer.name": "muon", "optimizer.orthogonalize": "you5", "optimizer.ns_steps": 4},
            "allowed with 'you5': 5",
        ),
        (
            {"optimizer.name": "muon", "optimizer.orthogonalize": "svd", "optimizer.ns_steps": 4},
            "allowed with 'svd': 0",
        ),
        ({"optimizer.name": "muon", "optimizer.ns_steps": -1}, "ns_steps = -1; allowed: integers from 0 on"),
        ({"optimizer.name": "muon", "optimizer.matrices": "heads"}, "matrices = 'heads'; allowed: hidden, hidden"),
        ({"optimizer.name": "muon", "optimizer.momentum_form": "mean"}, "momentum_form = 'mean'; allowed: ema, sum"),
        ({"optimizer.name": "gradient_descent", "batch_size": 5}, "batch_size = 5, but gradient_descent sees all 24"),
    ],
)
def test_mistakes_are_one_sentence_before_any_work(settings, message):
    with pytest.raises(BadInput, match=message):
        run_spec({**TINY, **settings}, 0)


def test_full_batch_gradient_descent_sees_every_example_at_every_step():
    spec = run_spec({**{k: v for k, v in TINY.items() if k != "batch_size"}, "optimizer.name": "gradient_descent"}, 0)
    trainer, cohort = Trainer(spec.setting, CPU), start([spec], CPU)
    rows = trainer.data.batch(cohort)[0]
    assert sorted(rows.tolist()) == sorted(trainer.data.split(0)[0].tolist())
    assert begin([spec], trainer).records[0].batch_size == len(rows)


def test_transforms_train_to_the_end_of_a_run():
    specs = runs(2, transforms="grokfast_ema,clip_norm")
    trainer = Trainer(specs[0].setting, CPU)
    unit = begin(specs, trainer)
    assert [snapshot.step for snapshot in training(unit, trainer)][-1] == 16


# --- schedules ----------------------------------------------------------------------------------------------------------


def test_warmup_stable_decay_has_its_three_parts():
    steps = torch.arange(1, 101, dtype=torch.float64)
    factor = schedules["warmup_stable_decay"].make(steps, 100, warmup=10, decay=0.2, floor=0.1)
    assert torch.allclose(factor[:10], steps[:10] / 10)
    assert torch.equal(factor[10:81], torch.ones(71, dtype=torch.float64))
    assert torch.allclose(factor[80:], 1 - 0.9 * torch.arange(20, dtype=torch.float64) / 20)


@pytest.mark.parametrize("name", sorted(schedules))
def test_every_schedule_peaks_at_one_and_stays_positive_until_the_last_update(name):
    factor = schedules[name].make(torch.arange(1, 201, dtype=torch.float64), 200)
    assert factor.max() == pytest.approx(1.0, abs=1e-3)
    assert (factor > 0).all()
    assert schedules[name].make(float64(1.0), 1).shape == ()


def test_the_rate_of_a_range_test_is_geometric_between_its_ends():
    factor = schedules["exponential_rise"].make(torch.arange(1, 6, dtype=torch.float64), 5, first=1e-4)
    assert torch.allclose(factor, torch.tensor([1e-4, 1e-3, 1e-2, 1e-1, 1.0], dtype=torch.float64))


# --- range tests --------------------------------------------------------------------------------------------------------


def test_what_a_range_test_finds_in_a_curve_that_is_known():
    """A loss that falls as a Gaussian step at 1e-3, is least at 1e-2, and leaves at 1e-1."""
    lr = np.geomspace(1e-6, 1, 201)
    x = np.log10(lr)
    loss = 3 - 2.5 / (1 + np.exp(-(x + 3) * 4)) + np.maximum(0, x + 1) * 5 + 0.01 * (x + 2) ** 2
    loss[-10:] = np.nan
    found = findings(pd.DataFrame({"run_id": "a", "seed": 3, "lr": lr, "train_loss": loss})).iloc[0]
    assert 5e-4 < found["fastest"] < 4e-3
    assert 5e-3 < found["least"] < 5e-2
    assert 0.1 < found["leaves"] < 0.2
    calm = findings(pd.DataFrame({"run_id": "a", "seed": 3, "lr": lr, "train_loss": np.linspace(3, 1, 201)})).iloc[0]
    assert math.isnan(calm["leaves"])


def test_a_run_that_went_non_finite_has_left_whatever_its_frozen_weights_say():
    runs = pd.DataFrame(
        {"run_id": "a", "optimizer.name": "sgd", "seed": 3, "optimizer.lr": 1.0, "schedule.first": 1e-4, "steps": 100}
        | {"diverged_at": pd.array([60], dtype="Int64")}
    )
    steps = np.arange(10, 101, 10)
    curves = pd.DataFrame({"run_id": "a", "step": steps, "train_loss": np.linspace(3, 2, 10)})
    table = with_rates(runs, curves)
    assert table["lr"].tolist() == pytest.approx(1e-4 ** (1 - (steps - 1) / 99))
    found = findings(table).iloc[0]
    assert found["leaves"] == pytest.approx(table["lr"][5])
    curves["train_loss"] = np.inf
    assert "is finite at none of these rates" in sentence(findings(with_rates(runs, curves)).iloc[0], "sgd")


@pytest.mark.parametrize("text", ["1", "1:0.1", "0:1", "a:b", "1e-3:inf", "", "1e-300:1", "1:1e20"])
def test_a_range_that_is_none_is_refused(text):
    with pytest.raises(BadInput, match="allowed: two numbers from 1e-12 to"):
        parse_range(text)


def test_other_rates_keep_their_ratio_and_what_the_test_sets_is_refused():
    defaults = {"lr": 0.06, "adamw_lr": 0.003, "momentum": 0.9}
    found = settings_of_range({"optimizer.name": "muon"}, defaults, 1e-5, 6.0)
    assert found["optimizer.adamw_lr"] == pytest.approx(0.3)
    assert found["schedule.first"] == pytest.approx(1e-5 / 6)
    with pytest.raises(BadInput, match=r"--lr-range sets optimizer\.lr itself"):
        settings_of_range({"optimizer.name": "muon", "optimizer.lr": 1}, defaults, 1e-5, 6.0)


@pytest.mark.parses
def test_a_range_test_says_and_draws_what_it_found(tmp_path, capsys):
    small = ["task.p=7", "model.width=16", "model.heads=2", "batch_size=16"]
    call = ["run", "--optimizer", "sgd", "--lr-range", "1e-4:1e3", "--steps", "60", "--seeds", "0:2", "--device", "cpu"]
    places = ["--out", str(tmp_path / "out"), "--figures", str(tmp_path / "figures"), "--workers", "1"]
    assert command_line([*call, *places, "--set", *small]) == 0
    said = capsys.readouterr().out
    assert said.count("training loss falls fastest at lr ") == 2
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == [f"lr_range_mod_add_sgd{end}" for end in (".csv", ".png", ".svg", "_found.csv")]
    table = pd.read_csv(tmp_path / "figures" / "lr_range_mod_add_sgd.csv")
    assert table["lr"].min() == pytest.approx(1e-4)
    assert table["lr"].max() <= 1e3 * (1 + 1e-9)
    assert json.loads(table.to_json())


# --- singular values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps", "low", "high"),
    [
        ("jordan", 0, 0.682, 1.2024),
        ("you5", 0, 0.978, 1.1450),
        ("you6", 0, 0.9956, 0.9993),
        ("polar_express", 5, 0.870, 1.124),
        ("polar_express", 0, 0.99999, 1.00001),
    ],
)
def test_singular_values_from_a_hundredth_to_one_end_in_the_published_range(name, steps, low, high):
    """Of the polynomials, and of matrices with those singular values after division by the Frobenius norm."""
    begin = torch.logspace(
        -8, 0, 100_001, dtype=torch.float64
    )  # the upper end: from any singular value, not only these
    x = begin
    for a, b, c in coefficients(name, steps):
        x = a * x + b * x**3 + c * x**5
    assert low - 1e-3 <= x[begin >= 0.01].min() <= low + 0.01
    assert high - 0.01 <= x.max() <= high + 1e-3
    for shape in ((12, 12), (24, 12), (12, 24)):
        values = torch.logspace(0, -1.3, 12, dtype=torch.float64)  # over their norm from about 0.5 to 0.026
        u, _, v = torch.linalg.svd(
            torch.from_numpy(stream(0, "test", "sv").standard_normal(shape)), full_matrices=False
        )
        found = torch.linalg.svdvals(newton_schulz((u * values) @ v, coefficients(name, steps)))
        assert low - 1e-3 <= found.min()
        assert found.max() <= high + 1e-4


def test_the_polar_factor_leaves_out_where_the_matrix_vanishes():
    u, _, v = torch.linalg.svd(
        torch.from_numpy(stream(0, "test", "polar").standard_normal((6, 4))), full_matrices=False
    )
    values = torch.tensor([3.0, 1e-9, 0.0, 0.0], dtype=torch.float64)
    found = polar((u * values) @ v)
    assert torch.linalg.svdvals(found).tolist() == pytest.approx([1, 1, 0, 0], abs=1e-6)
    assert not polar(torch.zeros(3, 5)).any()
    assert torch.isnan(polar(torch.tensor([[1.0, math.nan]]))).all()
    assert torch.linalg.svdvals(over_spectral_norm((u * values) @ v)).max().item() == pytest.approx(1)
