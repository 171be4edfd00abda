import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import arm

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput
from grokking.optim import Numbers, State, optimizer, optimizers, zeros
from grokking.optim.orthogonalize import JORDAN, newton_schulz
from grokking.optim.schedules import schedules
from grokking.optim.spectral import shape_factor
from grokking.roles import Role
from grokking.runs import run_spec
from grokking.seeding import stream

CPU = torch.device("cpu")


# --- the numbers of a rule ------------------------------------------------------------------------------------------


def updated(settings, steps=1):
    """Weights of one run after so many steps."""
    spec = run_spec(settings, 3)
    trainer, cohort = Trainer(spec.setting, CPU), start([spec], CPU, dtype=torch.float64)
    for _ in range(steps):
        trainer.advance(cohort)
    return cohort.weights


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw", "muon"])
def test_warm_up_scales_every_learning_rate_and_nothing_else(name):
    rates = {key: value for key, value in optimizers[name].defaults.items() if key == "lr" or key.endswith("_lr")}
    assert rates
    assert rates.keys() == ({"lr", "adamw_lr"} if name == "muon" else {"lr"})
    warming = updated({**arm(name), "schedule.warmup": 8})
    slower = updated(arm(name, **{key: value / 8 for key, value in rates.items()}))
    full = updated(arm(name))
    for key, w in warming.items():
        assert (w - slower[key]).abs().max() <= 1e-14, key
        assert key.endswith("key.bias") or (w - full[key]).abs().max() > 1e-6, key


def test_linear_warm_up_rises_to_one_and_stays_there():
    factor = schedules["linear_warmup"].make
    steps = torch.arange(1, 15, dtype=torch.float64)
    expected = torch.tensor([min(1.0, step / 10) for step in range(1, 15)], dtype=torch.float64)
    assert torch.equal(factor(steps, 100, warmup=10), expected)
    assert torch.equal(factor(steps, 5, warmup=10), expected)
    assert torch.equal(factor(steps, 100), expected)
    for warmup in (0, 1):
        assert torch.equal(factor(steps, 100, warmup=warmup), torch.ones(14, dtype=torch.float64))


def test_state_replaces_what_is_named_in_a_copy_and_nothing_else():
    mean, square, new = torch.ones(2), torch.full((2,), 4.0), torch.zeros(2)
    state = State(mean=mean, square=square)
    changed = state(square=new)
    assert changed.mean is mean
    assert changed.square is new
    assert list(changed) == ["mean", "square"]
    assert isinstance(changed, State)
    assert state.square is square
    assert state() == state


def test_numbers_under_a_prefix_replace_those_without_it_and_leave_the_others():
    numbers = Numbers(lr=1, momentum=2, adamw_lr=3, adamw_beta1=4, step=5)
    under = numbers.under("adamw_")
    assert (under.lr, under.beta1, under.momentum, under.step) == (3, 4, 2, 5)
    assert numbers.lr == 1
    assert "beta1" not in numbers


def test_state_starts_at_zero_with_the_slots_of_the_role():
    slots, options = optimizers["muon"].extra["slots"], {"matrices": "hidden"}
    assert set(slots(Role.HIDDEN, options)) == {"momentum"}
    for role in set(Role) - {Role.HIDDEN}:
        assert set(slots(role, options)) == {"mean", "square"}
    assert set(slots(Role.HEAD, {"matrices": "all"})) == {"momentum"}
    spec = run_spec(arm("muon"), 0)
    cohort = start([spec, spec], CPU)
    for name, tensors in cohort.state.items():
        for tensor in tensors.values():
            assert tensor.shape == cohort.weights[name].shape
            assert not tensor.any()
    assert zeros("a", "b")["b"](torch.ones(2, 3)).tolist() == [[0.0] * 3] * 2


def test_a_rule_and_its_numbers_are_registered_and_run_by_name():
    try:

        @optimizer(lr=0.5, damping=2.0, state=zeros())
        def sign_descent(w, grad, state, h, role):
            """Follow the sign."""
            return w - h.lr * grad.sign() / h.damping, state

        specs = [run_spec(arm("sign_descent", damping=damping), 3) for damping in (2.0, 5.0)]
        trainer, cohort = Trainer(specs[0].setting, CPU), start(specs, CPU, dtype=torch.float64)
        gradients, _ = trainer.gradients(
            cohort.weights, {}, *(x[trainer.data.batch(cohort)] for x in (trainer.data.tokens, trainer.data.labels))
        )
        before = cohort.weights["head.weight"]
        trainer.advance(cohort)
        step = torch.tensor([0.25, 0.1], dtype=torch.float64)[:, None, None] * gradients["head.weight"].sign()
        assert (cohort.weights["head.weight"] - (before - step)).abs().max() <= 1e-15
    finally:
        optimizers._entries.pop("sign_descent", None)


# --- muon's parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("out", "fan_in"), [(16, 16), (64, 16), (16, 64)])
def test_the_shape_factors_are_those_of_the_papers(out, fan_in):
    assert shape_factor("original", out, fan_in) == pytest.approx(math.sqrt(max(1, out / fan_in)), abs=1e-15)
    assert shape_factor("match_rms_adamw", out, fan_in) == pytest.approx(0.2 * math.sqrt(max(out, fan_in)), abs=1e-15)
    assert shape_factor("spectral", out, fan_in) == pytest.approx(math.sqrt(out / fan_in), abs=1e-15)
    assert shape_factor("none", out, fan_in) == 1.0


@pytest.mark.parametrize("scale", ["original", "match_rms_adamw", "spectral", "none"])
@pytest.mark.parametrize("shape", [(4, 4), (8, 2), (2, 8)])
def test_muons_first_step_is_the_scaled_orthogonal_matrix(scale, shape):
    w, g = torch.from_numpy(stream(0, "test", "muon").standard_normal((2, *shape)))
    numbers = {key: torch.tensor(v) if isinstance(v, float) else v for key, v in optimizers["muon"].defaults.items()}
    h = Numbers(
        {**numbers, "lr": torch.tensor(0.02), "weight_decay": torch.tensor(0.5), "scale": scale, "nesterov": False}
    )
    new, state = optimizers["muon"].make(w, g, State(momentum=torch.zeros_like(w)), h, Role.HIDDEN)
    expected = (1 - 0.02 * 0.5) * w - 0.02 * shape_factor(scale, *shape) * newton_schulz(g)
    assert (new - expected).abs().max() < 1e-7
    assert torch.allclose(state.momentum, 0.05 * g, rtol=1e-6)


@pytest.mark.parametrize("scale", ["orignal", "", "None"])
def test_an_unknown_scale_is_refused_before_training(scale):
    with pytest.raises(BadInput, match=rf"optimizer\.scale = '{scale}'; allowed: original, match_rms_adamw, spectral"):
        run_spec(arm("muon", scale=scale), 0)


def matrix(shape, singular_values, seed=0, dtype=torch.float32):
    """A matrix with these singular values and random singular vectors."""
    u, _, v = torch.linalg.svd(torch.from_numpy(stream(seed, "test", "matrix").standard_normal(shape)), False)
    return (u * singular_values @ v).to(dtype)


def spread(shape, smallest):
    return torch.logspace(0, math.log10(smallest), min(shape), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(16, 16), (64, 16), (16, 64), (1, 5), (5, 1)])
@pytest.mark.parametrize("size", [1e-12, 1e-20, 1e-30, 1e20, 1e35])
def test_newton_schulz_does_not_see_the_size_of_the_gradient(shape, size):
    g = matrix(shape, spread(shape, 0.1))
    expected = newton_schulz(g)
    actual = newton_schulz(g * size)
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4, 4), (8, 2), (2, 8)])
def test_newton_schulz_of_zero_is_zero(shape, dtype):
    result = newton_schulz(torch.zeros(shape, dtype=dtype))
    assert result.dtype == dtype
    assert torch.equal(result, torch.zeros(shape, dtype=dtype))


@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    smallest=st.floats(0.1, 1.0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_newton_schulz_keeps_the_singular_vectors_and_brings_the_singular_values_near_one(
    rows, columns, smallest, seed
):
    values = spread((rows, columns), smallest)
    g = matrix((rows, columns), values, seed, torch.float64)
    result = newton_schulz(g)
    found = torch.linalg.svdvals(result)
    assert 0.6 <= found.min() <= found.max() <= 1.3
    x = values / values.square().sum().sqrt()
    for a, b, c in JORDAN:
        x = a * x + b * x**3 + c * x**5
    assert (result - matrix((rows, columns), x, seed, torch.float64)).abs().max() < 1e-10


@pytest.mark.parametrize("shape", [(16, 16), (64, 16), (3, 20)])
def test_newton_schulz_of_the_transpose_is_the_transpose(shape):
    g = matrix(shape, spread(shape, 0.05), dtype=torch.float64)
    assert (newton_schulz(g.T) - newton_schulz(g).T).abs().max() < 1e-12


def test_the_coefficients_are_jordans():
    assert JORDAN == ((torch.optim._muon.DEFAULT_A, torch.optim._muon.DEFAULT_B, torch.optim._muon.DEFAULT_C),) * 5
