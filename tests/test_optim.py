import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput
from grokking.models import models
from grokking.optim import Numbers, State, optimizer, optimizers, zeros
from grokking.optim.orthogonalize import JORDAN, newton_schulz
from grokking.optim.schedules import schedules
from grokking.optim.spectral import shape_factor
from grokking.roles import Role, declarations, initial_weights
from grokking.runs import run_spec
from grokking.seeding import stream

CPU = torch.device("cpu")
STEPS = 50
BASE = {  # every role occurs: embeddings, matrices (square, tall and wide), head, gains, biases
    "task.name": "mod_add",
    "task.p": 7,
    "train_fraction": 0.6,
    "batch_size": 16,
    "model.depth": 1,
    "model.width": 16,
    "model.heads": 2,
    "model.norm": "layernorm",
    "model.bias": True,
    "schedule.warmup": 1,
}


def arm(name, **numbers):
    return {**BASE, "optimizer.name": name, **{f"optimizer.{key}": value for key, value in numbers.items()}}


def real_model(spec):
    """The run's model outside of the engine: an ordinary module with its initial weights, in double precision."""
    model = models["transformer"].make(spec.setting.table(), **spec.setting.options("model")).double()
    model.load_state_dict(initial_weights(model, spec.seed, torch.float64), strict=False)
    return model


def worst_difference(arms, twins):
    """Largest difference of any weight of any run after 50 steps: a cohort of `arms`, and a `torch.optim` twin each.

    The twin goes its own way from the same start: its own module, forward, gradients and weights.
    """
    specs = [run_spec(settings, seed) for seed, settings in enumerate(arms)]
    trainer, cohort = Trainer(specs[0].setting, CPU), start(specs, CPU, dtype=torch.float64)
    begin = {name: w.clone() for name, w in cohort.weights.items()}
    real = [real_model(spec) for spec in specs]
    optimizers_of = [twin(model) for twin, model in zip(twins, real, strict=True)]
    for _ in range(STEPS):
        rows = trainer.batch(cohort)
        trainer.advance(cohort)
        for run, model in enumerate(real):
            model.zero_grad()
            F.cross_entropy(model.plain(trainer.tokens[rows[run]]), trainer.labels[rows[run]]).backward()
            for each in optimizers_of[run]:
                each.step()
    assert cohort.step == STEPS
    assert cohort.finite.all()
    worst = 0.0
    for name, w in cohort.weights.items():
        assert w.dtype == torch.float64
        if name.endswith("key.bias"):
            continue  # it shifts all scores of a query alike, so its gradient is rounding, which Adam blows up
        for run, model in enumerate(real):
            twin_w = dict(model.named_parameters())[name].detach()
            worst = max(worst, (w[run] - twin_w).abs().max().item())
            assert (w[run] - begin[name][run]).abs().max() > 1e-4, f"{name} of run {run} hardly moved"
    return worst


def whole(optimizer_class, **numbers):
    return lambda model: [optimizer_class(model.parameters(), **numbers)]


# --- every rule is its torch.optim twin, on a real model, lifted over three runs with numbers of their own --------------


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torchs(nesterov):
    numbers = [(0.1, 0.9, 1e-3), (0.03, 0.5, 0.0), (0.2, 0.8, 1e-2)]
    arms = [arm("sgd", lr=lr, momentum=m, weight_decay=d, nesterov=nesterov) for lr, m, d in numbers]
    twins = [whole(torch.optim.SGD, lr=lr, momentum=m, weight_decay=d, nesterov=nesterov) for lr, m, d in numbers]
    assert worst_difference(arms, twins) <= 1e-9


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_without_momentum_is_torchs_plain_sgd(nesterov):
    arms = [arm("sgd", lr=lr, momentum=0.0, weight_decay=d, nesterov=nesterov) for lr, d in ((0.1, 1e-3), (0.3, 0.0))]
    twins = [whole(torch.optim.SGD, lr=lr, weight_decay=d) for lr, d in ((0.1, 1e-3), (0.3, 0.0))]
    assert worst_difference(arms, twins) <= 1e-9


def test_rmsprop_is_torchs():
    numbers = [(1e-3, 0.99, 1e-8, 1e-3), (3e-3, 0.9, 1e-6, 0.0), (1e-3, 0.95, 1e-4, 1e-2)]
    arms = [arm("rmsprop", lr=lr, alpha=a, eps=e, weight_decay=d) for lr, a, e, d in numbers]
    twins = [whole(torch.optim.RMSprop, lr=lr, alpha=a, eps=e, weight_decay=d) for lr, a, e, d in numbers]
    assert worst_difference(arms, twins) <= 1e-9


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_and_adamw_are_torchs(name):
    twin = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    numbers = [(1e-3, 0.9, 0.98, 1e-8, 1e-3), (3e-3, 0.8, 0.999, 1e-6, 0.0), (2e-3, 0.0, 0.9, 1e-4, 1.0)]
    arms = [arm(name, lr=lr, beta1=a, beta2=b, eps=e, weight_decay=d) for lr, a, b, e, d in numbers]
    twins = [whole(twin, lr=lr, betas=(a, b), eps=e, weight_decay=d) for lr, a, b, e, d in numbers]
    assert worst_difference(arms, twins) <= 1e-9


def newton_schulz_in_double(grad, ns_coefficients, ns_steps, eps):
    """torch.optim's iteration, but in float64: the original rounds to bfloat16."""
    assert grad.dtype == torch.float64
    a, b, c = ns_coefficients
    x = grad.mT if grad.size(0) > grad.size(1) else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(ns_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if grad.size(0) > grad.size(1) else x


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
def test_muon_is_torchs_on_hidden_matrices_and_adamw_on_the_rest(monkeypatch, scale, nesterov):
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", newton_schulz_in_double)
    numbers = [(0.02, 0.95, 0.1, 1e-3, 0.9, 0.98, 1e-8, 1.0), (0.005, 0.8, 0.0, 3e-3, 0.8, 0.999, 1e-6, 0.1)]
    keys = ("lr", "momentum", "weight_decay", *(f"adamw_{n}" for n in ("lr", "beta1", "beta2", "eps", "weight_decay")))
    arms = [arm("muon", scale=scale, nesterov=nesterov, **dict(zip(keys, row, strict=True))) for row in numbers]

    def twin(row):
        lr, momentum, decay, adamw_lr, beta1, beta2, eps, adamw_decay = row

        def make(model):
            hidden = {name for name, law in declarations(model).items() if law.role is Role.HIDDEN}
            assert {tuple(dict(model.named_parameters())[name].shape) for name in hidden} == {
                (16, 16),
                (64, 16),
                (16, 64),
            }
            own = [p for name, p in model.named_parameters() if name in hidden]
            rest = [p for name, p in model.named_parameters() if name not in hidden]
            muon = torch.optim.Muon(
                own, lr=lr, momentum=momentum, weight_decay=decay, nesterov=nesterov, adjust_lr_fn=scale
            )
            return [muon, torch.optim.AdamW(rest, adamw_lr, (beta1, beta2), eps, adamw_decay)]

        return make

    assert worst_difference(arms, [twin(row) for row in numbers]) <= 1e-9


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
    slots = optimizers["muon"].extra["slots"]
    assert set(slots(Role.HIDDEN)) == {"momentum"}
    for role in set(Role) - {Role.HIDDEN}:
        assert set(slots(role)) == {"mean", "square"}
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
            cohort.weights, {}, *(x[trainer.batch(cohort)] for x in (trainer.tokens, trainer.labels))
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
    numbers = {key: torch.tensor(v) for key, v in optimizers["muon"].defaults.items() if isinstance(v, float)}
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
