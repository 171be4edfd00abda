"""Rules, transforms and schedules against implementations that others wrote (by hand where nobody has), in float64."""

import sys
import types

import lion_pytorch
import numpy as np
import pytest
import pytorch_optimizer
import scipy.linalg
import torch
import torch.nn.functional as F
from pytorch_optimizer.optimizer.scion import LMONorm
from tiny import BASE, arm

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.models import models
from grokking.optim import Numbers, State, optimizers
from grokking.optim.preconditioned import inverse_fourth_root
from grokking.optim.schedules import schedules
from grokking.optim.transforms import transforms
from grokking.roles import Role, declarations, initial_weights
from grokking.runs import run_spec

CPU = torch.device("cpu")
STEPS = 50


def real_model(spec):
    """The run's model outside of the engine: an ordinary module with its initial weights, in double precision."""
    model = models["transformer"].make(spec.setting.table(), **spec.setting.options("model")).double()
    model.load_state_dict(initial_weights(model, spec.seed, torch.float64), strict=False)
    return model


def worst_difference(arms, twins, change=lambda model, step: None):
    """Largest difference of any weight of any run after 50 steps: a cohort of `arms`, and a twin of each by others.

    The twin goes its own way from the same start: its own module, forward, gradients (which `change` may change) and
    weights.
    """
    specs = [run_spec(settings, seed) for seed, settings in enumerate(arms)]
    trainer, cohort = Trainer(specs[0].setting, CPU), start(specs, CPU, dtype=torch.float64)
    begin = {name: w.clone() for name, w in cohort.weights.items()}
    real = [real_model(spec) for spec in specs]
    optimizers_of = [twin(model) for twin, model in zip(twins, real, strict=True)]
    for step in range(STEPS):
        rows = trainer.data.batch(cohort)
        trainer.advance(cohort)
        for run, model in enumerate(real):
            model.zero_grad()
            F.cross_entropy(model.plain(trainer.data.tokens[rows[run]]), trainer.data.labels[rows[run]]).backward()
            change(model, step)
            for each in optimizers_of[run]:
                each.step()
    assert cohort.step == STEPS
    assert cohort.finite.all()
    worst = 0.0
    for name, w in cohort.weights.items():
        assert w.dtype == torch.float64
        if name.endswith("key.bias"):
            continue  # it shifts all scores of a query alike, so its gradient is rounding, which most rules blow up
        for run, model in enumerate(real):
            twin_w = dict(model.named_parameters())[name].detach()
            worst = max(worst, (w[run] - twin_w).abs().max().item())
            assert (w[run] - begin[name][run]).abs().max() > 1e-4, f"{name} of run {run} hardly moved"
    return worst


def whole(optimizer_class, **numbers):
    return lambda model: [optimizer_class(model.parameters(), **numbers)]


def matrices_and_vectors(model):
    """Parameters with two axes, and with one."""
    both = list(model.parameters())
    return [p for p in both if p.dim() == 2], [p for p in both if p.dim() == 1]


# --- every rule is its twin, lifted over runs with numbers of their own -------------------------------------------------

O, P = torch.optim, pytorch_optimizer  # noqa: E741
TWINS = {  # name → (static options, [numbers of a run], twin of such a run)
    "gradient_descent": [
        ({}, [dict(lr=0.3, weight_decay=1e-3), dict(lr=0.1, weight_decay=0.0)], lambda h: whole(O.SGD, **h)),
    ],
    "sgd": [
        (
            {"nesterov": nesterov},
            [
                dict(lr=0.1, momentum=0.9, weight_decay=1e-3),
                dict(lr=0.03, momentum=0.5, weight_decay=0.0),
                dict(lr=0.2, momentum=0.8, weight_decay=1e-2),
            ],
            lambda h, nesterov=nesterov: whole(O.SGD, nesterov=nesterov, **h),
        )
        for nesterov in (False, True)
    ]
    + [({}, [dict(lr=0.1, momentum=0.0, weight_decay=1e-3)], lambda h: whole(O.SGD, **h))],
    "heavy_ball": [
        (
            {},
            [dict(lr=0.1, momentum=0.9, weight_decay=1e-3), dict(lr=0.3, momentum=0.5, weight_decay=0.0)],
            lambda h: whole(O.SGD, **h),
        )
    ],
    "nesterov": [
        (
            {},
            [dict(lr=0.1, momentum=0.9, weight_decay=1e-3), dict(lr=0.3, momentum=0.5, weight_decay=0.0)],
            lambda h: whole(O.SGD, nesterov=True, **h),
        )
    ],
    "adagrad": [
        (
            {},
            [dict(lr=0.03, eps=1e-10, weight_decay=1e-3), dict(lr=0.01, eps=1e-4, weight_decay=0.0)],
            lambda h: whole(O.Adagrad, **h),
        )
    ],
    "rmsprop": [
        (
            {},
            [
                dict(lr=1e-3, alpha=0.99, eps=1e-8, weight_decay=1e-3),
                dict(lr=3e-3, alpha=0.9, eps=1e-6, weight_decay=0.0),
                dict(lr=1e-3, alpha=0.95, eps=1e-4, weight_decay=1e-2),
            ],
            lambda h: whole(O.RMSprop, **h),
        )
    ],
    "rmsprop_momentum": [
        (
            {"centered": centered},
            [
                dict(lr=1e-4, alpha=0.99, momentum=0.9, eps=1e-6, weight_decay=1e-3),
                dict(lr=1e-3, alpha=0.9, momentum=0.0, eps=1e-4, weight_decay=0.0),
            ],
            lambda h, centered=centered: whole(O.RMSprop, centered=centered, **h),
        )
        for centered in (False, True)
    ],
    "lion": [
        (
            {},
            [
                dict(lr=1e-3, beta1=0.9, beta2=0.98, weight_decay=1.0),
                dict(lr=3e-4, beta1=0.95, beta2=0.9, weight_decay=0.0),
            ],
            lambda h, lion=lion: whole(
                lion, lr=h["lr"], betas=(h["beta1"], h["beta2"]), weight_decay=h["weight_decay"]
            ),
        )
        for lion in (lion_pytorch.Lion, P.Lion)
    ],
}


def adams(**static):
    """Numbers and twins of the Adam family: a run with each."""
    rows = [(1e-3, 0.9, 0.98, 1e-8, 1e-3), (3e-3, 0.8, 0.999, 1e-6, 0.0), (2e-3, 0.0, 0.9, 1e-4, 1.0)]
    numbers = [dict(zip(("lr", "beta1", "beta2", "eps", "weight_decay"), row, strict=True)) for row in rows]

    def twin(optimizer_class, **more):
        def of(h):
            betas = (h["beta1"], h["beta2"])
            rest = {k: v for k, v in h.items() if k in ("momentum_decay",)}
            return whole(
                optimizer_class, lr=h["lr"], betas=betas, eps=h["eps"], weight_decay=h["weight_decay"], **rest, **more
            )

        return of

    return numbers, twin


NUMBERS, TWIN = adams()
TWINS["adam"] = [({}, NUMBERS, TWIN(O.Adam))]
TWINS["adamw"] = [({}, NUMBERS, TWIN(O.AdamW))]
TWINS["amsgrad"] = [
    ({"decoupled": True}, NUMBERS, TWIN(O.AdamW, amsgrad=True)),
    ({"decoupled": False}, NUMBERS, TWIN(O.Adam, amsgrad=True)),
]
TWINS["nadam"] = [
    (
        {"decoupled": decoupled},
        [{**NUMBERS[0], "momentum_decay": 4e-3}, {**NUMBERS[1], "momentum_decay": 0.1}],
        TWIN(O.NAdam, decoupled_weight_decay=decoupled),
    )
    for decoupled in (False, True)
]


@pytest.mark.parametrize(
    ("name", "static", "numbers", "twin"),
    [(name, *case) for name, cases in TWINS.items() for case in cases],
    ids=[f"{name}-{at}" for name, cases in TWINS.items() for at in range(len(cases))],
)
def test_the_rule_is_its_twin(monkeypatch, name, static, numbers, twin):
    # A product that torch keeps in float32, whatever the weights are in.
    monkeypatch.setattr(sys.modules["torch.optim.nadam"], "_get_scalar_dtype", lambda: torch.float64)
    arms = [arm(name, **static, **h) for h in numbers]
    if name == "gradient_descent":
        arms = [{**settings, "batch_size": 0} for settings in arms]
    assert worst_difference(arms, [twin(h) for h in numbers]) <= 1e-9


def test_every_rule_has_an_oracle_in_this_file():
    elsewhere = {"sign_sgd", "muon", "egd", "shampoo", "soap", "scion"}
    ours = {name for name in optimizers if optimizers[name].make.__module__.startswith("grokking.")}
    assert ours == set(TWINS) | elsewhere


class AverageThenSign(torch.optim.Optimizer):
    """Signum by its paper: nobody ships it with an averaging momentum and decoupled decay."""

    def __init__(self, params, lr, momentum, weight_decay):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.mul_(group["momentum"]).add_(p.grad, alpha=1 - group["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(torch.sign(m), alpha=-group["lr"])


def test_sign_sgd_is_signum_and_without_momentum_pytorch_optimizers():
    numbers = [dict(lr=1e-3, momentum=0.9, weight_decay=1.0), dict(lr=3e-4, momentum=0.5, weight_decay=0.0)]
    assert (
        worst_difference([arm("sign_sgd", **h) for h in numbers], [whole(AverageThenSign, **h) for h in numbers])
        <= 1e-9
    )
    plain = [dict(lr=1e-3, momentum=0.0, weight_decay=d) for d in (1.0, 0.0)]
    assert worst_difference([arm("sign_sgd", **h) for h in plain], [whole(P.SignSGD, **h) for h in plain]) <= 1e-9


def test_rmsprop_with_nesterov_momentum_looks_ahead():
    """The same velocity, applied once more: torch has no such option, so by hand, on one number."""
    h = dict(lr=1e-2, alpha=0.9, momentum=0.8, eps=1e-3, weight_decay=0.1)
    rule, w = optimizers["rmsprop_momentum"].make, torch.tensor([2.0], dtype=torch.float64)
    numbers = {name: torch.tensor(value, dtype=torch.float64) for name, value in h.items()}
    state = optimizers["rmsprop_momentum"].extra["slots"](Role.GAIN, {})
    state, hand = State({name: start(w) for name, start in state.items()}), 2.0
    square = velocity = 0.0
    for step in range(1, 51):
        w, state = rule(
            w, 3 * w, state, Numbers({**numbers, "centered": False, "nesterov": True, "step": step}), Role.GAIN
        )
        g = 3 * hand + h["weight_decay"] * hand
        square = h["alpha"] * square + (1 - h["alpha"]) * g * g
        direction = g / (square**0.5 + h["eps"])
        velocity = h["momentum"] * velocity + direction
        hand -= h["lr"] * (direction + h["momentum"] * velocity)
        assert abs(w.item() - hand) <= 1e-12


@pytest.mark.parametrize(("name", "ahead"), [("heavy_ball", False), ("nesterov", True)])
def test_a_velocity_with_the_learning_rate_inside_keeps_its_speed_when_the_rate_changes(name, ahead):
    rule, w = optimizers[name].make, torch.tensor([2.0], dtype=torch.float64)
    state, point, velocity, seen = State(velocity=torch.zeros_like(w)), 2.0, 0.0, []
    for step in range(1, 51):
        lr = 0.1 / step
        numbers = {"lr": lr, "momentum": 0.9, "weight_decay": 0.0}
        numbers = {key: torch.tensor(value, dtype=torch.float64) for key, value in numbers.items()}
        w, state = rule(w, 3 * w, state, Numbers({**numbers, "step": step}), Role.GAIN)
        # In Nesterov's own variables the gradient is taken at `point + momentum · velocity`, which is what w is here.
        at = point + 0.9 * velocity if ahead else point
        velocity = 0.9 * velocity - lr * 3 * at
        point += velocity
        seen.append(abs(w.item() - (point + 0.9 * velocity if ahead else point)))
    assert max(seen) <= 1e-9


# --- Muon ---------------------------------------------------------------------------------------------------------------


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


MUON = ("lr", "momentum", "weight_decay", *(f"adamw_{n}" for n in ("lr", "beta1", "beta2", "eps", "weight_decay")))
MUONS = [(0.02, 0.95, 0.1, 1e-3, 0.9, 0.98, 1e-8, 1.0), (0.005, 0.8, 0.0, 3e-3, 0.8, 0.999, 1e-6, 0.1)]


def torchs_muon(row, roles, nesterov=True, scale="original"):
    lr, momentum, decay, adamw_lr, beta1, beta2, eps, adamw_decay = row

    def make(model):
        own = {name for name, law in declarations(model).items() if law.role in roles}
        assert {tuple(dict(model.named_parameters())[name].shape) for name in own} >= {(16, 16), (64, 16), (16, 64)}
        muon = torch.optim.Muon(
            [p for name, p in model.named_parameters() if name in own],
            lr=lr,
            momentum=momentum,
            weight_decay=decay,
            nesterov=nesterov,
            adjust_lr_fn=scale,
        )
        rest = [p for name, p in model.named_parameters() if name not in own]
        return [muon, torch.optim.AdamW(rest, adamw_lr, (beta1, beta2), eps, adamw_decay)]

    return make


def muon_difference(static, roles, **torchs):
    arms = [arm("muon", **static, **dict(zip(MUON, row, strict=True))) for row in MUONS]
    return worst_difference(arms, [torchs_muon(row, roles, **torchs) for row in MUONS])


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
def test_muon_is_torchs_on_hidden_matrices_and_adamw_on_the_rest(monkeypatch, scale, nesterov):
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", newton_schulz_in_double)
    static = {"scale": scale, "nesterov": nesterov}
    assert muon_difference(static, {Role.HIDDEN}, scale=scale, nesterov=nesterov) <= 1e-9


@pytest.mark.parametrize(
    ("matrices", "roles"),
    [
        ("hidden+head", {Role.HIDDEN, Role.HEAD}),
        ("hidden+embedding", {Role.HIDDEN, Role.EMBEDDING}),
        ("all", {Role.HIDDEN, Role.EMBEDDING, Role.HEAD}),
    ],
)
def test_muon_takes_the_matrices_that_it_is_told_to(monkeypatch, matrices, roles):
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", newton_schulz_in_double)
    assert muon_difference({"matrices": matrices}, roles) <= 1e-9


def muon_numbers(**changed):
    """All numbers of Muon, in float64."""
    numbers = {**optimizers["muon"].defaults, "step": 1.0, **changed}
    return Numbers({k: torch.tensor(v, dtype=torch.float64) if type(v) is float else v for k, v in numbers.items()})


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
def test_muon_by_singular_values_is_muon_with_scipys_polar_factor(shape):
    """On least squares, where gradients have full rank: of others the polar factor is not unique."""
    random = np.random.default_rng(0)
    target, w = random.standard_normal(shape), random.standard_normal(shape)
    ours, state = torch.from_numpy(w.copy()), State(momentum=torch.zeros(shape, dtype=torch.float64))
    momentum = np.zeros(shape)
    for _ in range(STEPS):
        h = muon_numbers(lr=0.02, momentum=0.9, weight_decay=0.1, orthogonalize="svd")
        ours, state = optimizers["muon"].make(ours, ours - torch.from_numpy(target), state, h, Role.HIDDEN)
        g = w - target
        momentum = 0.9 * momentum + 0.1 * g
        step = 0.02 * max(1, shape[0] / shape[1]) ** 0.5
        w = (1 - 0.02 * 0.1) * w - step * scipy.linalg.polar(0.9 * momentum + 0.1 * g)[0]
    assert np.abs(ours.numpy() - w).max() <= 1e-9


def test_muon_with_a_sum_of_gradients_is_muon_with_an_average():
    specs = [run_spec(arm("muon", momentum_form=form), 3) for form in ("ema", "sum")]
    ends = []
    for spec in specs:
        trainer, cohort = Trainer(spec.setting, CPU), start([spec], CPU, dtype=torch.float64)
        for _ in range(STEPS):
            trainer.advance(cohort)
        ends.append(cohort.weights)
    assert all((ends[0][name] - ends[1][name]).abs().max() <= 1e-9 for name in ends[0] if not name.endswith("key.bias"))


@pytest.mark.parametrize("shape", [(128, 128), (512, 128), (128, 512)])
def test_torchs_muon_collapses_where_gradients_are_tiny_and_ours_does_not(shape):
    """torch.optim.Muon divides by max(‖G‖, 1e-7): at ‖G‖ = 1e-9 five iterations leave the update far from orthogonal."""

    def norms(size):
        g = torch.from_numpy(np.random.default_rng(0).standard_normal(shape))
        g = (size * g / g.norm()).float()
        theirs = torch.nn.Parameter(torch.zeros(shape))
        theirs.grad = g.clone()
        torch.optim.Muon([theirs], lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0).step()
        h, zero = muon_numbers(lr=1.0, momentum=0.0, weight_decay=0.0, nesterov=False), torch.zeros(shape)
        ours, _ = optimizers["muon"].make(zero, g, State(momentum=zero), h, Role.HIDDEN)
        orthogonal = max(1, shape[0] / shape[1]) ** 0.5 * min(shape) ** 0.5
        return theirs.detach().norm().item() / orthogonal, ours.norm().item() / orthogonal

    usual, tiny = norms(1.0), norms(1e-9)
    assert 0.8 < usual[0] < 1.1
    assert tiny[0] < 0.5
    assert tiny[1] == pytest.approx(usual[1], rel=1e-4)
    assert norms(1e-11)[0] < 0.01


# --- egd --------------------------------------------------------------------------------------------------------------


class Egalitarian(torch.optim.Optimizer):
    """EGD as its authors' code has it (mod_add.py), by NumPy: U max(S, eps)⁻¹ Uᵀ G on one parameter, or plain SGD."""

    def __init__(self, params, lr, weight_decay, eps, equalizes):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, eps=eps, equalizes=equalizes))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                g = p.grad + group["weight_decay"] * p
                if group["equalizes"]:
                    u, s, _ = np.linalg.svd(g.numpy(), full_matrices=False)
                    g = torch.from_numpy(u / np.maximum(s, group["eps"]) @ u.T) @ g
                p.sub_(group["lr"] * g)


@pytest.mark.parametrize(
    ("matrices", "roles"),
    [
        ("embedding", {Role.EMBEDDING}),
        ("hidden", {Role.HIDDEN}),
        ("all", {Role.HIDDEN, Role.EMBEDDING, Role.HEAD}),
        ("none", set()),
    ],
)
def test_egd_is_its_authors_on_the_matrices_that_it_is_told_to_and_sgd_on_the_rest(matrices, roles):
    numbers = [dict(lr=0.02, weight_decay=1e-2, eps=1e-6), dict(lr=0.05, weight_decay=1e-3, eps=1e-2)]

    def twin(h):
        def make(model):
            role = {name: law.role for name, law in declarations(model).items()}
            return [
                Egalitarian([p], h["lr"], h["weight_decay"] if p.dim() == 2 else 0.0, h["eps"], role[name] in roles)
                for name, p in model.named_parameters()
            ]

        return make

    arms = [arm("egd", matrices=matrices, **h) for h in numbers]
    assert worst_difference(arms, [twin(h) for h in numbers]) <= 1e-9


def egd_step(g, role=Role.EMBEDDING, **numbers):
    """What one step of rate 1 takes from weights 0."""
    h = {**optimizers["egd"].defaults, "lr": 1.0, **numbers}
    h = Numbers({k: torch.tensor(v, dtype=torch.float64) if type(v) is float else v for k, v in h.items()})
    return -optimizers["egd"].make(torch.zeros_like(g), g, State(), h, role)[0]


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_egd_makes_singular_values_one_and_those_below_eps_a_share_of_it(shape):
    u, _, v = np.linalg.svd(np.random.default_rng(0).standard_normal(shape), full_matrices=False)
    g = torch.from_numpy(u * [3.0, 1e-2, 1e-6, 0.0] @ v)
    for eps, expected in ((1e-5, [1, 1, 0.1, 0]), (1e-8, [1, 1, 1, 0])):
        step = egd_step(g, eps=eps).numpy()
        assert np.abs(u.T @ step @ v.T - np.diag(expected)).max() <= 1e-7


def test_egd_of_no_gradient_is_no_step_and_of_one_that_is_not_finite_is_nan():
    assert not egd_step(torch.zeros(3, 5)).any()
    assert egd_step(torch.tensor([[1.0, torch.inf], [0.0, 1.0]])).isnan().all()


# --- scion --------------------------------------------------------------------------------------------------------------


def one_step(name, w, g, role, **numbers):
    """What the second of two steps with this gradient makes of w."""
    entry = optimizers[name]
    h = {**entry.defaults, **numbers}
    h = Numbers({k: torch.tensor(v, dtype=torch.float64) if type(v) is float else v for k, v in h.items()})
    state = State({slot: first(w) for slot, first in entry.extra["slots"](role, h).items()})
    for _ in range(2):
        w, state = entry.make(w, g, state, h, role)
    return w


@pytest.mark.parametrize(
    ("role", "norm", "theirs"),
    [
        (Role.EMBEDDING, "rows", dict(norm_type=LMONorm.COL, norm_kwargs={"transpose": True})),
        (Role.HEAD, "columns", dict(norm_type=LMONorm.COL)),
        (Role.HEAD, "sign", dict(norm_type=LMONorm.SIGN, norm_kwargs={"normalize": False})),
        (Role.GAIN, "rows", dict(norm_type=LMONorm.BIAS)),
    ],
)
def test_scion_is_pytorch_optimizers_on_all_but_hidden_matrices(role, norm, theirs):
    w, g = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 5, 3)))
    w, g = (x[0] for x in (w, g)) if role is Role.GAIN else (w, g)
    twin = torch.nn.Parameter(w.clone())
    twin.grad = g.clone()
    scion = P.SCION([twin], lr=0.1, momentum=0.3, weight_decay=0.5, foreach=False, **theirs)
    for _ in range(2):
        scion.step()
    numbers = dict(lr=0.1, embedding_lr=0.1, head_lr=0.1, momentum=0.7, weight_decay=0.5, nesterov=False)
    ours = one_step("scion", w, g, role, embedding=norm, head=norm, **numbers)
    assert float((ours - twin.detach()).abs().max()) <= 1e-7  # theirs adds 1e-8 to what it divides by


@pytest.mark.parametrize("nesterov", [True, False])
def test_scion_is_muon_on_hidden_matrices(nesterov):
    w, g = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 5, 3)))
    numbers = dict(lr=0.1, momentum=0.7, weight_decay=0.5, nesterov=nesterov)
    muon = one_step("muon", w, g, Role.HIDDEN, scale="spectral", **numbers)
    assert torch.allclose(one_step("scion", w, g, Role.HIDDEN, **numbers), muon, rtol=0, atol=1e-12)
    head = one_step("scion", w, g, Role.HEAD, head="spectral", head_lr=0.1, **{**numbers, "lr": 9.0})
    assert torch.allclose(head, muon, rtol=0, atol=1e-12)


def test_a_tangent_step_of_scion_leaves_the_sphere_by_the_square_of_its_length():
    w, g = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 5, 3)))
    w = w / w.square().mean(1, keepdim=True).sqrt()
    new = w
    for lr in (1e-3, 1e-2):
        numbers = dict(embedding_lr=lr, momentum=0.0, weight_decay=0.0, tangent=True)
        new = one_step("scion", w, g, Role.EMBEDDING, **numbers)
        # The second step is tangent where the first one ended: rms² = (1 + lr²)² but for that
        assert (new.square().mean(1) - 1).abs().max() <= 3 * lr**2
        assert (new - w).square().mean(1).sqrt().min() >= 1.9 * lr


@pytest.mark.parametrize("tangent", [True, False])
def test_a_row_that_scion_has_not_seen_for_long_moves_no_farther_than_others(tangent):
    """Its momentum is so small that squares beside the largest underflow: it went 3 · 10¹² times as far."""
    w, g = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(3, 4)
    g[0], g[1] = torch.tensor([1.0, -1.0, 1.0, 1.0]) * 1e-24, 0.0
    numbers = dict(embedding_lr=0.1, momentum=0.0, weight_decay=0.0, tangent=tangent)
    moved = (one_step("scion", w, g, Role.EMBEDDING, **numbers) - w).square().mean(1).sqrt()
    assert moved[1] == 0 and moved[[0, 2]].min() > 0.19 and moved.max() <= 0.2 * (1 + 1e-5)


# --- preconditioned ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoupled", [False, True])
def test_shampoo_is_pytorch_optimizers_on_matrices_and_adagrad_on_vectors(decoupled):
    numbers = [dict(lr=0.1, eps=1e-4, weight_decay=1e-3), dict(lr=0.03, eps=1e-3, weight_decay=0.0)]

    def twin(h):
        def make(model):
            matrices, vectors = matrices_and_vectors(model)
            shampoo = P.Shampoo(
                matrices, lr=h["lr"], weight_decay=h["weight_decay"], weight_decouple=decoupled, matrix_eps=h["eps"]
            )
            if decoupled:
                decay = torch.optim.SGD(vectors, lr=h["lr"])  # of zero gradients below: only w ← (1 - lr · decay) w
                decay.step = lambda: [p.data.mul_(1 - h["lr"] * h["weight_decay"]) for p in vectors]
            own = 0.0 if decoupled else h["weight_decay"]
            adagrad = torch.optim.Adagrad(
                vectors, lr=h["lr"], eps=0, initial_accumulator_value=h["eps"], weight_decay=own
            )
            return [shampoo, decay, adagrad] if decoupled else [shampoo, adagrad]

        return make

    arms = [arm("shampoo", decoupled=decoupled, **h) for h in numbers]
    assert worst_difference(arms, [twin(h) for h in numbers]) <= 1e-9


def test_the_root_of_shampoo_sees_eigenvalues_a_million_times_smaller_than_the_largest():
    """Every entry is a float32 and the answer is known; eigenvalues found in float32 would be off by 6 %."""
    basis, values = scipy.linalg.hadamard(4) / 2, np.array([2.0**24, 16, 16, 16])
    ours = inverse_fourth_root(torch.from_numpy(basis * values @ basis).float(), torch.tensor(0.0))
    assert ours.dtype == torch.float32
    assert np.abs(ours.numpy() - basis * values**-0.25 @ basis).max() <= 1e-6


@pytest.mark.parametrize(("shape", "role"), [((4, 4), Role.HIDDEN), ((5,), Role.GAIN)])
def test_shampoo_forgets_at_the_rate_of_its_memory(shape, role):
    """By hand, with numpy's eigenvectors: pytorch_optimizer's only sums up."""
    random, entry = np.random.default_rng(0), optimizers["shampoo"]
    ours = torch.from_numpy(random.standard_normal(shape))
    state = State({name: first(ours) for name, first in entry.extra["slots"](role, {}).items()})
    numbers = {"lr": 0.1, "memory": 0.8, "eps": 1e-4, "weight_decay": 0.0, "step": 1.0}
    h = Numbers({**{n: torch.tensor(v, dtype=torch.float64) for n, v in numbers.items()}, "decoupled": False})
    hand, left, right, total = ours.numpy().copy(), 0.0, 0.0, 0.0

    def root(m):
        values, vectors = np.linalg.eigh(m)
        return (vectors * (values + 1e-4) ** -0.25) @ vectors.T

    for g in random.standard_normal((STEPS, *shape)):
        ours, state = entry.make(ours, torch.from_numpy(g), state, h, role)
        if role is Role.HIDDEN:
            left, right = 0.8 * left + g @ g.T, 0.8 * right + g.T @ g
            hand = hand - 0.1 * root(left) @ g @ root(right)
        else:
            total = 0.8 * total + g * g
            hand = hand - 0.1 * g / np.sqrt(total + 1e-4)
        assert np.abs(ours.numpy() - hand).max() <= 1e-9


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_without_bias_correction_keeps_the_bare_averages(name):
    h = {"lr": 0.1, "beta1": 0.9, "beta2": 0.98, "eps": 1e-8, "weight_decay": 0.0}
    h = Numbers({n: torch.tensor(v, dtype=torch.float64) for n, v in h.items()} | {"bias_correction": False})
    w, state = torch.tensor([2.0], dtype=torch.float64), State(mean=torch.zeros(1), square=torch.zeros(1))
    hand, mean, square = 2.0, 0.0, 0.0
    for step in range(1, STEPS + 1):
        w, state = optimizers[name].make(w, 3 * w, state, Numbers({**h, "step": step}), Role.GAIN)
        g = 3 * hand
        mean, square = 0.9 * mean + 0.1 * g, 0.98 * square + 0.02 * g * g
        hand -= 0.1 * mean / (square**0.5 + 1e-8)
        assert abs(w.item() - hand) <= 1e-9


def first_basis_by_iteration(mat):
    """Where SOAP's authors take eigenvectors once, we take a step of power iteration from the identity."""
    found = []
    for m in mat:
        if len(m) == 0:
            found.append([])
            continue
        order = torch.argsort(m.diagonal(), descending=True, stable=True)
        found.append(torch.linalg.qr(m.index_select(1, order))[0])
    return found


@pytest.mark.parametrize(("shape", "max_size"), [((6, 6), 6), ((9, 4), 4), ((4, 9), 4), ((4, 9), 3), ((7,), 9)])
def test_soap_is_pytorch_optimizers_with_a_basis_that_starts_at_the_identity(monkeypatch, shape, max_size):
    """On noisy least squares, where the statistics of the rotated sides have full rank: else a basis is not unique."""
    monkeypatch.setattr(P.SOAP, "get_orthogonal_matrix", staticmethod(first_basis_by_iteration))
    in_double = types.SimpleNamespace(**{**vars(torch), "float32": torch.float64})  # they round to float32 before QR
    monkeypatch.setattr(sys.modules[P.SOAP.__module__], "torch", in_double)
    numbers = dict(lr=3e-2, beta1=0.9, beta2=0.98, shampoo_beta=0.95, eps=1e-8, weight_decay=1.0)
    role = Role.HIDDEN if len(shape) == 2 else Role.GAIN
    entry = optimizers["soap"]
    start_, targets = (
        torch.from_numpy(np.random.default_rng(seed).standard_normal((n, *shape))) for seed, n in ((0, 1), (1, STEPS))
    )
    ours, theirs = start_[0], torch.nn.Parameter(start_[0].clone())
    state = State({name: first(ours) for name, first in entry.extra["slots"](role, {"max_size": max_size}).items()})
    twin = P.SOAP(
        [theirs],
        lr=numbers["lr"],
        betas=(numbers["beta1"], numbers["beta2"]),
        shampoo_beta=numbers["shampoo_beta"],
        eps=numbers["eps"],
        weight_decay=numbers["weight_decay"],
        precondition_frequency=1,
        max_precondition_dim=max_size,
    )
    for step, target in enumerate(targets, start=1):
        h = {name: torch.tensor(value, dtype=torch.float64) for name, value in {**numbers, "step": step}.items()}
        ours, state = entry.make(ours, ours - target, state, Numbers({**h, "max_size": max_size}), role)
        theirs.grad = (theirs - target).detach()
        twin.step()
        assert (ours - theirs.detach()).abs().max() <= 1e-9, step
    assert (ours - start_[0]).abs().max() > 0.1


# --- transforms ---------------------------------------------------------------------------------------------------------

SGD = dict(lr=0.03, momentum=0.9, weight_decay=0.0)  # calm: amplified gradients blow rounding up at larger rates


def transformed(names, **options):
    options = {f"transform.{name}": value for name, value in options.items()}
    return {**arm("sgd", **SGD), "transforms": names, **options}


def sgd_difference(arms, change):
    return worst_difference(arms, [whole(O.SGD, **SGD)] * len(arms), change)


def test_clipping_the_norm_is_torchs():
    settings = transformed("clip_norm", **{"clip_norm.max_norm": 0.3})
    assert sgd_difference([settings], lambda m, _: torch.nn.utils.clip_grad_norm_(m.parameters(), 0.3)) <= 1e-9


def test_clipping_values_is_torchs():
    settings = transformed("clip_value", **{"clip_value.max_value": 0.01})
    assert sgd_difference([settings], lambda m, _: torch.nn.utils.clip_grad_value_(m.parameters(), 0.01)) <= 1e-9


def test_normalizing_gives_every_gradient_one_norm():
    def change(model, step):
        norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
        for p in model.parameters():
            p.grad.mul_(0.5 / norm)

    assert sgd_difference([transformed("normalize", **{"normalize.to": 0.5})], change) <= 1e-9


@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("grokfast_ema", P.optimizer.grokfast.gradfilter_ema, {"alpha": 0.9, "lamb": 2.0}),
        ("grokfast_ma", P.optimizer.grokfast.gradfilter_ma, {"window_size": 7, "lamb": 0.5}),
    ],
)
def test_grokfast_is_pytorch_optimizers(name, theirs, options):
    kept = {}

    def change(model, step):
        kept["grads"] = theirs(model, grads=kept.get("grads"), **options)

    ours = {f"{name}.{key.replace('window_size', 'window')}": value for key, value in options.items()}
    assert sgd_difference([transformed(name, **ours)], change) <= 1e-9


def test_orthograd_is_pytorch_optimizers():
    def twin(model):
        return [P.OrthoGrad(torch.optim.SGD(model.parameters(), **SGD))]

    assert worst_difference([transformed("orthograd")], [twin]) <= 1e-9


def test_transforms_act_in_the_order_in_which_they_are_named():
    def clip(model):
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)

    def amplify(model, kept):
        kept["grads"] = P.optimizer.grokfast.gradfilter_ema(model, grads=kept.get("grads"))

    options = {"clip_norm.max_norm": 0.3}
    first, second = {}, {}
    assert (
        sgd_difference([transformed("clip_norm,grokfast_ema", **options)], lambda m, _: [clip(m), amplify(m, first)])
        <= 1e-9
    )
    assert (
        sgd_difference([transformed("grokfast_ema,clip_norm", **options)], lambda m, _: [amplify(m, second), clip(m)])
        <= 1e-9
    )


def test_decay_to_the_start_is_decay_of_what_was_added_to_it():
    """AdamW on w - w₀ with plain decay."""

    class Towards(torch.optim.AdamW):
        def step(self):
            for p, p0 in zip(self.param_groups[0]["params"], self.first, strict=True):
                p.data.sub_(p0)
            super().step()
            for p, p0 in zip(self.param_groups[0]["params"], self.first, strict=True):
                p.data.add_(p0)

    def twin(model):
        optimizer = Towards(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=2.0)
        optimizer.first = [p.detach().clone() for p in model.parameters()]
        return [optimizer]

    settings = {**arm("adamw", weight_decay=0.0), "transforms": "decay_to_start", "transform.decay_to_start.decay": 2.0}
    assert worst_difference([settings], [twin]) <= 1e-9


# --- schedules ----------------------------------------------------------------------------------------------------------

BUDGET = 40


def torchs(scheduler, **numbers):
    """The factors of torch's scheduler at every update."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    rates, schedule = [], scheduler(optimizer, **numbers)
    for _ in range(BUDGET):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return torch.tensor(rates, dtype=torch.float64)


S = torch.optim.lr_scheduler
SCHEDULES = [
    ("constant", {}, S.ConstantLR, {"factor": 1.0}),
    (
        "linear_decay",
        {"warmup": 0, "floor": 0.1},
        S.LinearLR,
        dict(start_factor=1.0, end_factor=0.1, total_iters=BUDGET),
    ),
    ("cosine", {"warmup": 0, "floor": 0.2}, S.CosineAnnealingLR, dict(T_max=BUDGET, eta_min=0.2)),
    ("cosine", {"warmup": 0, "cycles": 4}, S.CosineAnnealingWarmRestarts, dict(T_0=BUDGET // 4)),
    (
        "cyclical",
        {"low": 0.1, "cycles": 2},
        S.CyclicLR,
        dict(base_lr=0.1, max_lr=1.0, step_size_up=BUDGET // 4, cycle_momentum=False),
    ),
    ("one_cycle", {}, S.OneCycleLR, dict(max_lr=1.0, total_steps=BUDGET + 1, cycle_momentum=False)),
]


@pytest.mark.parametrize(("name", "options", "scheduler", "numbers"), SCHEDULES, ids=range(len(SCHEDULES)))
def test_the_schedule_is_torchs(name, options, scheduler, numbers):
    steps = BUDGET + 1 if name == "one_cycle" else BUDGET  # torch's would raise when stepped beyond its last
    factors = schedules[name].make(torch.arange(1, BUDGET + 1, dtype=torch.float64), steps, **options)
    assert (factors - torchs(scheduler, **numbers)).abs().max() <= 1e-9
    assert factors.max() <= 1 + 1e-12


def test_base_has_every_role():
    assert {law.role for law in declarations(run_spec(BASE, 0).setting.model()).values()} == set(Role)
    assert transforms
