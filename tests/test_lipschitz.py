"""Constraints hold what they promise, certificates what attacks cannot break, and released-style bounds are broken."""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput
from grokking.lipschitz.attack import accuracy, attacked, certified_accuracy, size, steepest, within
from grokking.lipschitz.certificate import certificate, norm
from grokking.lipschitz.constraints import TOP, capped, soft_cap, top
from grokking.lipschitz.lifting import constraint
from grokking.measures import largest_entry
from grokking.optim import Numbers, State
from grokking.optim.transforms import transform, transforms
from grokking.roles import Role
from grokking.runs import run_spec

CPU, ROOT = torch.device("cpu"), Path(__file__).parents[1]
RATES = np.geomspace(1e-3, 1.0, 10)
PERCEPTRON = {
    **{"model.name": "mlp", "model.inputs": "concatenated", "model.embedding": 12, "model.width": 24, "task.p": 7},
    **{"batch_size": 0, "init.name": "orthogonal"},
}
MUON = {"optimizer.name": "muon", "optimizer.scale": "spectral", "optimizer.weight_decay": 0.1}


def greatest(settings, rates, steps=200, role=Role.HIDDEN):
    """Of each rate: the largest ‖W‖ of a matrix of this role after any step, by SVD in float64."""
    specs = [run_spec({**PERCEPTRON, **settings, "optimizer.lr": rate}, 0) for rate in rates]
    trainer = Trainer(specs[0].setting, CPU)
    cohort, most = start(specs, CPU, places=trainer.places), np.zeros(len(specs))
    for _ in range(steps):
        trainer.advance(cohort, 1)
        for name, w in cohort.weights.items():
            if trainer.roles[name] is role:
                norms = torch.linalg.matrix_norm(w.double(), ord=2) * math.sqrt(w.shape[2] / w.shape[1])
                most = np.maximum(most, norms[: len(specs)].numpy())
    assert cohort.finite.all()
    return most


@pytest.mark.parametrize("bound", [0.5, 2.0])
@pytest.mark.parametrize(
    ("constraint", "options", "optimizer"),
    [
        ("spectral_cap", {}, {**MUON, "optimizer.orthogonalize": "jordan"}),
        ("spectral_cap", {}, {"optimizer.name": "adamw"}),
        ("stiefel", {}, MUON),
        ("stiefel", {"method": "you6"}, {"optimizer.name": "adamw"}),
        ("spectral_soft_cap", {}, {**MUON, "optimizer.orthogonalize": "svd"}),
        ("spectral_soft_cap", {"inflation": 1.21}, {**MUON, "optimizer.orthogonalize": "jordan"}),
    ],
)
def test_no_step_at_any_rate_exceeds_a_bound_that_is_promised(constraint, options, optimizer, bound):
    own = {f"transform.{constraint}.{name}": value for name, value in {"bound": bound, **options}.items()}
    rates = RATES * min(1.0, bound)  # of the soft cap, whose promise ends where a step is longer than 1.6 bounds
    start_within = {"init.scale": 0.7 * bound}  # of [24, 24] and [24, 24]: orthogonal ones have norm 1
    most = greatest({**start_within, **optimizer, "transforms": constraint, **own}, rates)
    assert (most <= bound * (1 + 1e-5)).all(), most
    if constraint != "spectral_cap" or optimizer is MUON:
        assert most.max() > 0.9 * bound  # and the bound is reached, so that there was something to hold


def test_without_a_constraint_the_bound_is_exceeded_at_once():
    assert greatest({**MUON, "optimizer.weight_decay": 0.0}, [0.1], steps=20)[0] > 1.5


@pytest.mark.parametrize(("optimizer", "most"), [(MUON, 1.25), ({"optimizer.name": "adamw"}, 1.25)])
def test_the_power_method_exceeds_its_bound_by_a_little(optimizer, most):
    """Measured, not promised: of steps from 0.001 to 0.1."""
    found = greatest({**optimizer, "transforms": "spectral_normalize"}, RATES[:7])
    assert 1 < found.max() <= most, found


def test_clipped_decay_settles_where_it_says():
    """At bound + η (1 - decay) / decay, with updates of norm η = lr that point outwards; here they do not all."""
    own = {"transforms": "clipped_decay", "transform.clipped_decay.decay": 0.2, "optimizer.weight_decay": 0.0}
    found = greatest({**MUON, **own, "optimizer.orthogonalize": "svd"}, RATES)
    limit = 1 + RATES * 0.8 / 0.2
    assert (found <= limit * (1 + 1e-5)).all(), found / limit
    assert (found > 1 + 0.5 * (limit - 1))[3:].all()


@pytest.mark.parametrize(("of", "axis"), [("rows", 1), ("columns", 0)])
@pytest.mark.parametrize("constraint", ["oblique", "rms_cap"])
def test_rows_and_columns_are_kept(constraint, of, axis):
    own = {"transforms": constraint, f"transform.{constraint}.embedding": of, f"transform.{constraint}.bound": 0.29}
    spec = run_spec({**PERCEPTRON, **MUON, **own, "optimizer.lr": 0.1, "optimizer.adamw_lr": 1e-3}, 0)
    trainer = Trainer(spec.setting, CPU)
    cohort = start([spec], CPU, places=trainer.places)
    for _ in range(20):
        trainer.advance(cohort, 1)
    sizes = cohort.weights["first.embedding.weight"][0].double().square().mean(axis).sqrt()
    assert float(sizes.max()) <= 0.29 * (1 + 1e-5)
    assert float(sizes.min()) == pytest.approx(0.29) if constraint == "oblique" else float(sizes.min()) < 0.28


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_methods_of_capping_agree_with_the_singular_values(shape):
    """Exactly by SVD; by orthogonal factors within 1 %, and by the polynomials within 4 %, up to three times the bound."""
    u, _, v = np.linalg.svd(np.random.default_rng(0).standard_normal(shape), full_matrices=False)
    x = torch.from_numpy(u * [2.9, 1.2, 0.4, 0.1][: min(shape)] @ v)
    right = u * [1.0, 1.0, 0.4, 0.1][: min(shape)] @ v
    for method, off in {"svd": 1e-12, "polar_express": 0.01, "you6": 0.02, "polynomial": 0.04}.items():
        assert np.linalg.norm(capped(x, method).numpy() - right, 2) <= off, method
    far = {100.0: {"you6": (1.05, 1.2), "polar_express": (0.99, 1.01)}, 10.0: {"you6": (1.005, 1.02)}}
    for times, methods in far.items():
        for method, (low, high) in methods.items():
            wide = torch.from_numpy(u * np.linspace(times, 0, min(shape)) @ v)
            assert low <= float(torch.linalg.matrix_norm(capped(wide, method), ord=2)) <= high, (method, times)
    with pytest.raises(BadInput, match="allowed: svd, polynomial, you6, polar_express"):
        capped(x, "eigh")


def test_soft_cap_is_the_least_that_keeps_every_value_within_the_bound():
    """By brute force over all values that a step can reach; what solves for the largest value alone does not keep others within."""

    def ends(alpha, reached):
        x = np.linspace(0, reached, 200_001)
        y = x - alpha * x**3
        return np.abs(y + alpha * y**3).max()

    for reached in (1.0, 1.001, 1.1, 1.3, 1.4, 2.0, 2.6):
        alpha = float(soft_cap(torch.tensor(reached, dtype=torch.float64)))
        assert ends(alpha, reached) <= 1 + 1e-9
        assert reached == 1.0 or ends(0.99 * alpha, reached) > 1
    roots = np.roots([-(2.0**9), 3 * 2.0**7, -3 * 2.0**5, 0, 2.0 - 1])  # theirs, at k = 2, w_max = 1
    theirs = min(root.real for root in roots if abs(root.imag) < 1e-9 and root.real >= 0)
    assert ends(theirs, 2.0) > 1.1


def test_a_constraint_refuses_what_it_does_not_know():
    own = {**PERCEPTRON, **MUON, "transforms": "spectral_cap"}
    with pytest.raises(BadInput, match="on = 'gains'; allowed: hidden, embedding"):
        run_spec({**own, "transform.spectral_cap.on": "gains"}, 0)
    with pytest.raises(BadInput, match="iterations = 0; allowed: integers from 1 on"):
        run_spec({**own, "transforms": "spectral_hammer", "transform.spectral_hammer.iterations": 0}, 0)


def test_the_published_excesses_are_those_of_the_table_and_no_promise_is_broken():
    sys.path.append(str(ROOT / "experiments"))
    import constraint_excess

    found = pd.read_csv(ROOT / "figures" / "published" / "constraint_excess.csv")
    words = constraint_excess.markdown(found)
    assert words in (ROOT / "REPRODUCING.md").read_text()
    assert "broken" not in words
    assert words.count("promised, kept") == 7
    for name, options, _ in constraint_excess.CASES:
        own = found[(found["constraint"] == name) & (found["options"].fillna("") == constraint_excess._words(options))]
        assert len(own) == 2 * 10
    some = constraint_excess.excess("spectral_cap", {}, "muon")
    assert (some["excess"] <= constraint_excess.PROMISED).all()


def test_a_constraint_of_ones_own_is_a_function_of_one_matrix(monkeypatch):
    monkeypatch.setattr(transforms, "_entries", dict(transforms._entries))

    @constraint(on="head", limit=0.1)
    def clamped(w, state, h, role):
        """w ← min(max(w, -limit), limit)"""
        assert role is Role.HEAD
        return torch.minimum(torch.maximum(w, -h.limit), h.limit).to(w.dtype), state

    specs = [run_spec({**PERCEPTRON, "transforms": "clamped", "transform.clamped.limit": own}, 0) for own in (0.1, 0.2)]
    assert dict(specs[0].setting.versions)["transform.clamped"].startswith("source:")
    trainer = Trainer(specs[0].setting, CPU)
    cohort = start(specs, CPU, places=trainer.places)
    trainer.advance(cohort, 1)
    assert cohort.weights["head.weight"].abs().amax((1, 2)).tolist() == pytest.approx([0.1, 0.2])
    assert float(cohort.weights["hidden.0.weight"].abs().amax()) > 0.2


# --- certificate and attack ---------------------------------------------------------------------------------------------


def built(settings, seed=0):
    """A model in float64 with the initial weights of this seed, and embedded inputs of some examples."""
    setting = run_spec({"task.p": 7, **settings}, seed).setting
    model = setting.model("cpu").eval()
    for name, parameter in model.named_parameters():
        parameter.data = setting.initial_weights(seed)[name]
        parameter.requires_grad_(False)
    model = model.double()
    return model, model.embedded(torch.as_tensor(setting.table().tokens)[:8].long())


def a_network(seed):
    """Settings of a random network."""
    random = np.random.default_rng(seed)
    heads, depth = int(random.integers(1, 5)), int(random.integers(1, 7))
    pick = lambda *choices: choices[random.integers(len(choices))]  # noqa: E731
    shared = {"model.depth": depth, "init.scale": float(np.exp(random.uniform(-1.5, 1)))}
    if seed % 4 == 0:
        inner = {"model.width": int(random.integers(4, 20)), "model.embedding": 6, "model.bias": pick(True, False)}
        inputs, activation = pick("concatenated", "summed", "one_hot"), pick("relu", "gelu", "gelu_1", "tanh")
        return {**shared, **inner, "model.name": "mlp", "model.inputs": inputs, "model.activation": activation}
    own = {**shared, "model.heads": heads, "model.width": 4 * heads, "model.mlp_ratio": pick(0, 1, 3)}
    if seed % 4 == 1:
        return {**own, "model.name": "lipschitz_transformer"}
    own |= {"model.residual": pick("sum", "convex"), "model.attention_form": pick("usual", "lipschitz")}
    own |= {"model.attention": pick("causal", "bidirectional"), "model.positions": pick("rope", "learned")}
    own |= {"model.norm": pick("none", "none", "rmsnorm", "layernorm"), "model.norm_placement": pick("pre", "post")}
    return {
        **own,
        "model.bias": pick(True, False),
        "model.tied": pick(True, False),
        "model.activation": pick("relu", "gelu"),
    }


@pytest.mark.parametrize("seed", range(200))
def test_no_attack_on_a_random_network_exceeds_its_certificate(seed):
    model, x = built(a_network(seed), seed)
    reach = float(size(x).max()) * (1 + seed % 3)
    bound = certificate(model, reach)
    x = x[:4]
    found = attacked(model.through, x, reach, steps=15)
    assert float(found.slope.max()) <= bound.slope
    assert float(size(found.x).max()) <= reach * (1 + 1e-12)
    assert float(model.through(found.y).square().mean(-1).sqrt().max()) <= bound.size
    assert float(steepest(model.through, within(x, reach))[1].max()) <= bound.slope


def test_attacks_find_the_slope_of_a_linear_map():
    """A perceptron whose activations are in their linear part: the certificate is its slope, which an attack finds to six digits."""
    model, x = built({**PERCEPTRON, "model.depth": 1, "model.activation": "relu"})
    model.hidden[0].weight.data.abs_()
    x = x.abs()
    _, slope = steepest(model.through, x, iterations=200)
    exact = norm(model.head.weight @ model.hidden[0].weight)
    assert float(slope.max()) == pytest.approx(exact, rel=1e-6)


def one_block(**options):
    """A transformer of one block that attends to all of three positions, with weights 0 but for the embedding."""
    model, x = built(
        {"model.name": "lipschitz_transformer", "model.depth": 1, "model.width": 8, "model.heads": 4, **options}
    )
    for name, w in model.named_parameters():
        if "embedding" not in name:
            w.zero_()
    torch.nn.init.eye_(model.head.weight)
    return model, x


def released_style(model, reach):
    """The bound of the released code: full matrices for heads, all of attention times its scale, GELU's slope divided by twice."""
    (block,) = model.layers()
    attention, a = block.attention, reach
    q, k, v, out = (norm(layer.weight) for layer in (attention.query, attention.key, attention.value, attention.out))
    s = attention.scale * attention.multiplier.factor * (attention.value.weight.shape[0] // attention.heads)
    slope = (1 - block.alpha) + block.alpha * out * v * (1 + 2 * s * a * a * q * k) * s / 3
    mlp = norm(block.mlp.down.weight) * norm(block.mlp.up.weight) / 1.1289
    return slope * ((1 - block.alpha) + block.alpha * mlp) * norm(model.head.weight)


def test_a_bound_on_full_matrices_is_exceeded_where_one_head_has_all_the_energy():
    model, _ = one_block()
    attention = model.layers()[0].attention
    for layer in (attention.query, attention.key, attention.value, attention.out):
        layer.weight[:2, :2] = torch.eye(2, dtype=torch.float64)  # head 0, of two channels of eight
    reach = 3.0
    x = torch.randn(32, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * reach
    x[..., 2:] = 0
    found = float(attacked(model.through, x, reach, steps=600).slope.max())
    assert released_style(model, reach) < found <= certificate(model, reach).slope


def test_a_bound_that_scales_all_of_attention_is_exceeded_where_scores_are_small():
    model, x = one_block()
    attention = model.layers()[0].attention
    torch.nn.init.eye_(attention.value.weight)
    attention.out.weight.copy_(8 * torch.eye(8))
    attention.multiplier.factor = 0.01
    found = float(attacked(model.through, x, 1.0).slope.max())
    assert released_style(model, 1.0) < found <= certificate(model, 1.0).slope


def test_a_bound_that_divides_by_the_slope_of_gelu_again_is_exceeded_where_gelu_is_steepest():
    model, _ = one_block(**{"model.mlp_ratio": 1})
    block = model.layers()[0]
    torch.nn.init.eye_(block.mlp.up.weight)
    torch.nn.init.eye_(block.mlp.down.weight)
    x = torch.full(
        (1, 3, 8), 2 * 2**0.5, dtype=torch.float64
    )  # of which attention, that brings nothing, leaves half: √2
    found = float(attacked(model.through, x, 3.0).slope.max())
    assert released_style(model, 3.0) < found <= certificate(model, 3.0).slope
    assert found == pytest.approx(certificate(model, 3.0).slope, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model.name": "lstm"}, "nothing is known of the slopes of"),
        ({"model.attention_softmax": "sparsemax"}, "attention without softmax"),
        ({"model.activation": "swiglu"}, "swiglu"),
        ({"model.name": "mlp", "model.activation": "quadratic"}, "quadratic"),
    ],
)
def test_where_nothing_is_provable_that_is_said(settings, said):
    setting = run_spec(settings, 0).setting
    with pytest.raises(BadInput, match=said):
        certificate(setting.started_model(), 1.0)


@pytest.mark.parametrize(
    "own", [{"model.norm": "rmsnorm", "model.depth": 60}, {"model.norm": "none", "model.depth": 2, "init.scale": 1e30}]
)
def test_a_bound_too_large_for_a_float_is_infinite_and_ends_no_sweep(own):
    setting = run_spec({"model.width": 4, "model.heads": 2, **own}, 0).setting
    model = setting.model("cpu")
    for name, parameter in model.named_parameters():
        parameter.data = setting.initial_weights(0)[name]
    assert certificate(model, 1.0).slope == math.inf


def test_of_weights_that_are_not_finite_nothing_is_certified():
    for where, bad in (("hidden.0.bias", math.nan), ("hidden.0.bias", math.inf), ("head.weight", math.inf)):
        model, _ = built({**PERCEPTRON, "model.bias": True})
        dict(model.named_parameters())[where].data.fill_(bad)
        bound = certificate(model, 1.0)
        assert math.isnan(bound.slope)
        assert math.isnan(bound.size)
    model, _ = built(PERCEPTRON)
    for reach in (-1.0, math.nan):
        with pytest.raises(BadInput, match="allowed: numbers from 0 on"):
            certificate(model, reach)


def test_no_answer_that_is_certified_is_changed_by_an_attack():
    model, x = built({**PERCEPTRON, "model.activation": "gelu_1", "init.scale": 1.5})
    scores = model.through(x)
    labels = scores.argmax(-1)
    slope = certificate(model, math.inf).slope
    assert accuracy(model.through, x, labels, 0.0) == 1
    shares = []
    for radius in (0.05, 0.2, 0.5, 2.0, 10.0):
        found = accuracy(model.through, x, labels, radius)
        shares.append((certified_accuracy(scores, labels, slope, radius, x.shape[-1]), found))
    assert all(certain <= found for certain, found in shares), shares
    assert shares[0][0] > 0 and shares[-1][1] < 1  # neither is empty


def test_the_largest_entry_is_that_of_all_modules():
    model, _ = built({"model.width": 8, "model.heads": 2})
    model.blocks[0].mlp.up.weight[3] = 0
    tokens = torch.zeros(2, 4, dtype=torch.long)
    before = largest_entry(model, tokens)
    model.blocks[0].mlp.up.weight.mul_(1e3)
    assert largest_entry(model, tokens) > 50 * before


def test_the_power_method_finds_what_was_zero_when_it_began():
    v = TOP["top"](torch.zeros(4, 3))
    _, s, v = top(torch.zeros(4, 3), v, 2)
    assert s == 0 and v.norm() == pytest.approx(1)
    w = torch.diag(torch.tensor([3.0, 1.0, 0.1]))
    assert float(top(w, v, 30)[1]) == pytest.approx(3)


def test_ascent_goes_on_where_scores_do_not_depend_on_a_position():
    """The gradient of a distance of 0 is none: it was NaN, and every step from there on nowhere."""
    model, x = one_block(**{"model.mlp_ratio": 1})
    block = model.layers()[0]
    torch.nn.init.eye_(block.mlp.up.weight)
    torch.nn.init.eye_(block.mlp.down.weight)
    x = torch.zeros_like(x)
    begun = float(steepest(model.through, x)[1].max())
    assert float(attacked(model.through, x, 3.0).slope.max()) > 1.15 * begun
    model.head.weight.zero_()
    assert float(steepest(model.float().through, x.float())[1].max()) == pytest.approx(0, abs=1e-12)


def test_a_subclass_has_no_certificate_as_its_scores_may_be_others():
    model, _ = one_block()
    model.__class__ = type(
        "Louder", (type(model),), {"through": lambda self, x: 1e6 * super(type(self), self).through(x)}
    )
    with pytest.raises(BadInput, match="nothing is known of the slopes of Louder"):
        certificate(model, 1.0)


@pytest.mark.parametrize("options", [{}, {"model.tied": True}])
def test_the_largest_entry_may_be_a_score_and_is_nan_where_one_is(options):
    model, _ = built(
        {"model.name": "transformer", "model.width": 8, "model.heads": 2, "model.logit_scale": 1e3, **options}
    )
    tokens = torch.as_tensor(run_spec({"task.p": 7}, 0).setting.table().tokens)[:8].long()
    assert largest_entry(model, tokens) == float(model.plain(tokens).abs().max())
    model.layers()[0].attention.query.weight.fill_(torch.nan)
    assert math.isnan(largest_entry(model, tokens))


@pytest.mark.parametrize("constraint", ["spectral_cap", "spectral_soft_cap", "oblique"])
def test_a_bound_of_nothing_is_refused(constraint):
    own = {"transforms": constraint, f"transform.{constraint}.bound": 0.0}
    with pytest.raises(BadInput, match=r"bound = 0\.0; allowed: positive finite numbers"):
        run_spec({**PERCEPTRON, **MUON, **own}, 0)


def by_hand(w, activation, residual=None, norm_of=None, scale=1.0, readout=1.0, scores=1.0, reach=1.0, mlp=True):
    """Size and slope of a transformer of one block of two heads, in numpy, by the formulas of the certificate's docstring."""

    def sigma(x):
        return np.linalg.svd(x, compute_uv=False)[0] * math.sqrt(x.shape[1] / x.shape[0])

    def linear(x, name, rows=slice(None)):
        bias = w.get(f"{name}.bias", np.zeros(len(w[f"{name}.weight"])))[rows]
        a = sigma(w[f"{name}.weight"][rows])
        return a * x[0] + math.sqrt(np.mean(bias**2)), a * x[1]

    def normed(x, name):
        if norm_of is None:
            return x
        gain, bias = np.abs(w[f"{name}.gain"]).max(), w.get(f"{name}.bias", np.zeros(1))
        steep = gain / math.sqrt(1e-5)
        return min(gain, x[0] * steep) + math.sqrt(np.mean(bias**2)), x[1] * steep

    def summed(x, y):
        kept, share = (1, 1) if residual is None else (1 - residual, residual)
        return tuple(kept * a + share * b for a, b in zip(x, y, strict=True))

    x = (reach, 1.0)
    seen = normed(x, "blocks.0.attention_norm")
    x = seen if norm_of == "stream" else x
    channels, heads = len(w["blocks.0.attention.value.weight"]) // 2, []
    for rows in (slice(0, channels), slice(channels, 2 * channels)):
        q, k, v = (linear(seen, f"blocks.0.attention.{part}", rows) for part in ("query", "key", "value"))
        change = scores * channels**0.5 * (q[0] * k[1] + q[1] * k[0])
        heads.append((v[0], v[1] + v[0] * change))
    mixed = tuple(math.sqrt((a**2 + b**2) / 2) for a, b in zip(*heads, strict=True))
    x = summed(x, linear(mixed, "blocks.0.attention.out"))
    if mlp:
        up = linear(normed(x, "blocks.0.mlp_norm"), "blocks.0.mlp.up")
        x = summed(x, linear(tuple(activation * a for a in up), "blocks.0.mlp.down"))
    x = normed(x, "final_norm")
    return tuple(scale * a for a in linear(tuple(readout * a for a in x), "head"))


@pytest.mark.parametrize(
    ("settings", "of"),
    [
        ({"model.norm": "none", "model.bias": True}, {}),
        ({"model.norm": "none", "model.residual": "convex", "model.bias": True}, {"residual": 0.5}),
        ({"model.norm_placement": "stream"}, {"norm_of": "stream"}),
        ({"model.norm": "layernorm", "model.bias": True}, {"norm_of": "pre"}),
        ({"model.norm": "none", "model.mlp_ratio": 0, "model.residual": "convex"}, {"residual": 1.0, "mlp": False}),
    ],
)
def test_the_certificate_is_what_its_derivation_says(settings, of):
    """Random networks are far from their certificates, which would hide a term that is missing."""
    own = {"model.width": 8, "model.heads": 2, "model.activation": "gelu", "model.logit_scale": 3.0}
    model, _ = built({"model.name": "transformer", **own, **settings})
    random = torch.Generator().manual_seed(0)
    for name, w in model.named_parameters():
        if "bias" in name or "gain" in name:
            w.copy_(torch.randn(w.shape, generator=random, dtype=w.dtype))
    model.multiplier.factor, model.layers()[0].attention.multiplier.factor = 0.25, 0.125
    weights = {name: w.numpy() for name, w in model.named_parameters()}
    size, slope = by_hand(weights, 1.129, scale=3.0, readout=0.25, scores=0.125, reach=2.0, **of)
    found = certificate(model, 2.0)
    assert found.size == pytest.approx(size, rel=1e-6)
    assert found.slope == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("inputs", ["one_hot", "concatenated"])
def test_the_certificate_of_a_perceptron_is_the_product_of_its_norms(inputs):
    own = {"model.inputs": inputs, "model.bias": True, "model.activation": "gelu", "model.logit_scale": 3.0}
    model, _ = built({**PERCEPTRON, **own})
    random = torch.Generator().manual_seed(0)
    size, slope = (2.0 * 1.129, 1.129) if inputs == "one_hot" else (2.0, 1.0)
    for layer in (*model.hidden, model.head):
        layer.bias.copy_(torch.randn(layer.bias.shape, generator=random, dtype=torch.float64))
        a = np.linalg.svd(layer.weight.numpy(), compute_uv=False)[0] * math.sqrt(np.divide(*layer.weight.shape[::-1]))
        factor = 3.0 if layer is model.head else 1.129
        size, slope = factor * (a * size + float(layer.bias.square().mean().sqrt())), factor * a * slope
    found = certificate(model, 2.0)
    assert (found.size, found.slope) == (pytest.approx(size, rel=1e-6), pytest.approx(slope, rel=1e-6))


def applied_once(name, w, lr=0.1, **numbers):
    """What a constraint makes of one matrix."""
    entry = transforms[name]
    h = {"lr": lr, "weight_decay": 0.5, **entry.defaults, **numbers}
    h = {k: torch.tensor(v, dtype=torch.float64) if type(v) is float else v for k, v in h.items()}
    state = {"w": State({slot: first(w) for slot, first in entry.extra["slots"](h).items()})}
    return entry.make({"w": w}, {"w": w}, state, Numbers({**h, "roles": {"w": Role.HIDDEN}}))[0]["w"]


@pytest.mark.parametrize(
    ("name", "numbers", "after"),
    [
        ("spectral_decay", {"decay": 0.25, "iterations": 99}, [2.25, 1.5, 0.5]),
        ("spectral_hammer", {"bound": 2.0, "iterations": 99}, [2.0, 1.5, 0.5]),
        ("spectral_hammer", {"bound": 4.0, "iterations": 99}, [4.0, 1.5, 0.5]),
        ("spectral_normalize", {"bound": 2.0, "iterations": 99}, [2.0, 1.0, 1 / 3]),
        ("spectral_normalize", {"bound": 4.0, "iterations": 99}, [3.0, 1.5, 0.5]),
        ("spectral_normalize", {"bound": 6.0, "iterations": 99, "sphere": True}, [6.0, 3.0, 1.0]),
        ("stiefel", {"bound": 2.0}, [2.0, 2.0, 2.0]),
        ("spectral_cap", {"bound": 2.0}, [2.0, 1.5, 0.5]),
        ("clipped_decay", {"bound": 2.0, "decay": 0.25}, [2.75, 1.5, 0.5]),
    ],
)
@pytest.mark.parametrize("shape", [(3, 12), (12, 3)])
def test_a_constraint_does_to_singular_values_what_it_says(name, numbers, after, shape):
    """Of matrices that are not square, and so in units of √(out / in)."""
    u, _, v = np.linalg.svd(np.random.default_rng(0).standard_normal(shape), full_matrices=False)
    unit = math.sqrt(shape[0] / shape[1])
    found = applied_once(name, torch.from_numpy(unit * u * [3.0, 1.5, 0.5] @ v), **numbers)
    assert np.abs(found.numpy() - unit * u * after @ v).max() <= 1e-9


def test_soft_cap_counts_on_the_decay_of_the_optimizer():
    """A matrix that was at the bound of 2, decayed by half of a tenth and took a step of 0.1 × 1.2, is back at the bound."""
    u, _, v = np.linalg.svd(np.random.default_rng(0).standard_normal((3, 12)), full_matrices=False)
    reached = 2.0 * (1 - 0.1 * 0.5) + 0.1 * 1.2
    w = torch.from_numpy(0.5 * u * [reached, 1.0, 0.1] @ v)
    found = applied_once("spectral_soft_cap", w, bound=2.0, inflation=1.2)
    assert norm(found) == pytest.approx(2.0, rel=1e-6)


def test_after_an_update_a_transform_is_shown_the_scheduled_rate_and_the_weights_before(monkeypatch):
    monkeypatch.setattr(transforms, "_entries", dict(transforms._entries))

    @transform(at="after")
    def told(tree, weights, state, h):
        """The weights before it, and once more the rate."""
        return {name: weights[name] + h.lr for name in tree}, state

    own = {**PERCEPTRON, **MUON, "schedule.name": "linear_warmup", "schedule.warmup": 10, "transforms": "told"}
    spec = run_spec({**own, "optimizer.lr": 0.5}, 0)
    trainer = Trainer(spec.setting, CPU)
    cohort = start([spec], CPU, places=trainer.places)
    before = {name: w.clone() for name, w in cohort.weights.items()}
    trainer.advance(cohort, 1)
    for name, w in cohort.weights.items():
        assert torch.allclose(w, before[name] + 0.05, rtol=0, atol=1e-6)
