import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.func import functional_call, grad, vmap

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput
from grokking.hashing import mix
from grokking.models import distinct, models
from grokking.models.parts import ACTIVATIONS, Dropout, Norm, one_hot, pick, rotate
from grokking.models.transformer import CHOICES
from grokking.roles import initial_weights
from grokking.runs import run_spec
from grokking.seeding import stream
from grokking.tasks import Position, Table, tasks

CPU = torch.device("cpu")
SMALL = {"task.p": 7, "model.width": 8, "model.heads": 2, "model.mlp_ratio": 2, "train_fraction": 0.5, "batch_size": 16}


def layout(columns, first):
    """A table of one's own: columns of operand numbers (None: a constant), with these first tokens."""
    sizes = {operand: 3 + operand for operand in columns if operand is not None}
    grids = np.meshgrid(*(np.arange(size) for size in sizes.values()), indexing="ij")
    value = dict(zip(sizes, (g.ravel() for g in grids), strict=True))
    examples = math.prod(sizes.values())
    tokens = [f + value.get(operand, np.zeros(examples, dtype=int)) for operand, f in zip(columns, first, strict=True)]
    places = [Position(c, f, sizes.get(c, 1)) for c, f in zip(columns, first, strict=True)]
    labels = sum(value.values(), np.zeros(examples, dtype=int)) % 3
    return Table(np.stack(tokens, axis=1), labels, tuple("abcdefghijkl"), 3, tuple(places))


TABLES = {
    "mod_add(2)": tasks["mod_add"].make(p=2),
    "mod_add(5)": tasks["mod_add"].make(p=5),
    "mod_div(7)": tasks["mod_div"].make(p=7),
    "parity(2)": tasks["parity"].make(bits=2),
    "parity(4)": tasks["parity"].make(bits=4),
    "x y": layout([0, 1], [0, 2]),
    "x": layout([0], [1]),
    "x =": layout([0, None], [0, 9]),
    "= x": layout([None, 0], [9, 0]),
    "x + x y =": layout([0, None, 0, 1, None], [0, 8, 0, 3, 9]),
    "= y x y": layout([None, 1, 0, 1], [9, 0, 2, 5]),
    "x y z =": layout([0, 1, 2, None], [0, 0, 0, 9]),
    "= =": layout([None, None], [8, 9]),
}


def build(table, seed=0, dtype=torch.float64, spread=0.3, **options):
    """A real model with every parameter off its initial value: gains are not 1, biases are not 0."""
    model = models["transformer"].make(table, **options).to(dtype)
    weights = {
        name: w + spread * torch.from_numpy(stream(seed, "test", name).standard_normal(tuple(w.shape))).to(dtype)
        for name, w in initial_weights(model, seed, dtype).items()
    }
    model.load_state_dict(weights, strict=False)
    return model.eval()


def sample(table, examples, seed=0):
    """Tokens [example, position] and labels [example] of random rows."""
    rows = stream(seed, "test", "rows").integers(len(table.tokens), size=examples)
    return torch.from_numpy(table.tokens[rows]), torch.from_numpy(table.labels[rows])


def assert_close(actual, expected, relative=1e-12):
    """Equal up to rounding, measured against the largest entry of everything compared."""
    pairs = [(actual[k], expected[k]) for k in expected] if isinstance(expected, dict) else [(actual, expected)]
    scale = max(e.abs().max().item() for _, e in pairs)
    worst = max((a - e).abs().max().item() for a, e in pairs)
    assert all(a.shape == e.shape for a, e in pairs)
    assert worst <= relative * max(scale, 1e-3), f"{worst} at a scale of {scale}"


# --- the shortcut is the plain forward --------------------------------------------------------------------------------


@st.composite
def configurations(draw):
    options = {name: draw(st.sampled_from(allowed)) for name, allowed in CHOICES.items()}
    heads, channels = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    assume(options["positions"] != "rope" or channels % 2 == 0)
    return {
        **options,
        "depth": draw(st.integers(1, 3)),
        "heads": heads,
        "width": heads * channels,
        "mlp_ratio": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "tied": draw(st.booleans()),
    }


@given(
    options=configurations(),
    name=st.sampled_from(sorted(TABLES)),
    examples=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 30]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150)
def test_the_shortcut_has_the_scores_and_gradients_of_the_plain_forward_alone_and_under_vmap(
    options, name, examples, seed
):
    table = TABLES[name]
    runs = [build(table, seed + run, **options) for run in range(2)]
    batches = [sample(table, examples, seed + run) for run in range(2)]
    tokens, labels = (torch.stack(parts) for parts in zip(*batches, strict=True))
    stacked = {n: torch.stack([dict(run.named_parameters())[n] for run in runs]).detach() for n in names(runs[0])}

    def scores(weights, tokens):
        return functional_call(runs[0], weights, (tokens,))

    def loss(weights, tokens, labels):
        return F.cross_entropy(scores(weights, tokens), labels)

    lifted = vmap(scores)(stacked, tokens)
    lifted_gradients = vmap(grad(loss))(stacked, tokens, labels)
    for run, model in enumerate(runs):
        weights = dict(model.named_parameters())
        plain = model.plain(tokens[run])
        assert_close(model(tokens[run]), plain)
        assert_close(lifted[run], plain)
        expected = gradients(F.cross_entropy(plain, labels[run]), weights)
        assert_close(gradients(F.cross_entropy(model(tokens[run]), labels[run]), weights), expected)
        assert_close({n: g[run] for n, g in lifted_gradients.items()}, expected)


def names(model):
    return [name for name, _ in model.named_parameters()]


def gradients(loss, weights):
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(weights.items(), found, strict=True)}


@pytest.mark.parametrize("examples", [1, 6, 7, 8, 42])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_shortcut_is_as_good_as_the_plain_forward_in_single_precision(depth, examples):
    table = TABLES["mod_div(7)"]
    exact = build(table, depth=depth, width=32)
    single = build(table, depth=depth, width=32, dtype=torch.float32)
    single.load_state_dict({name: w.float() for name, w in exact.state_dict().items()})
    tokens, _ = sample(table, examples)
    assert_close(single(tokens).double(), exact.plain(tokens), relative=1e-5)


def test_the_shortcut_computes_a_distinct_state_once():
    table = tasks["mod_add"].make(p=5)
    model = build(table, depth=2, width=8)
    tokens, _ = sample(table, 25)
    rows = {}
    for layer, block in enumerate(model.blocks):
        block.mlp.up.register_forward_hook(lambda _, x, y, layer=layer: rows.setdefault(layer, []).append(y.shape[:2]))
    model(tokens)
    # x and + depend on x alone: 5 rows of two positions; y and = on both operands; the last layer is wanted at = only.
    assert {layer: sorted(map(tuple, shapes)) for layer, shapes in rows.items()} == {0: [(5, 2), (25, 2)], 1: [(25, 1)]}


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_a_looked_up_row_is_the_one_that_a_one_hot_matrix_picks(channels):
    """On a CPU rows are looked up; elsewhere a product picks them: the same values, and the same gradient."""
    x = torch.linspace(-1, 1, 5 * channels, dtype=torch.float64).view(5, channels).requires_grad_()
    rows, weights = torch.tensor([4, 0, 0, 2, 4, 4]), torch.arange(6 * channels, dtype=torch.float64).view(6, channels)
    looked_up = pick(x, rows)
    picked = one_hot(rows, 5, torch.float64) @ x
    assert torch.equal(looked_up, picked)
    assert torch.equal(looked_up, x[rows])
    found, expected = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (looked_up, picked))
    assert torch.allclose(found, expected, rtol=1e-15)


def test_where_nothing_is_looked_up_the_shortcut_is_the_same(monkeypatch):
    table = tasks["mod_div"].make(p=7)
    model = build(table, depth=2, width=16)
    tokens, _ = sample(table, 42)
    expected = model(tokens)
    monkeypatch.setattr(distinct, "pick", lambda x, rows: one_hot(rows, len(x), x.dtype) @ x)
    assert_close(model(tokens), expected)


# --- the plain forward is the transformer of the papers ---------------------------------------------------------------


def reference_norm(kind, x, gain, bias):
    if kind == "none":
        return x
    if kind == "rmsnorm":
        return F.rms_norm(x, x.shape[-1:], gain, eps=1e-5)
    return F.layer_norm(x, x.shape[-1:], gain, bias, eps=1e-5)


def reference(model, tokens, heads, norm="rmsnorm", placement="pre", activation="relu", causal=True, lipschitz=False):
    """Scores at every position [example, position, class], from PyTorch's own functions and the model's weights."""
    w = model.state_dict()
    act = {"relu": torch.relu, "gelu": F.gelu, "gelu_1": lambda x: F.gelu(x) / 1.129, "silu": F.silu, "swiglu": F.silu}
    act, alpha = act[activation], 1 / (2 * len(model.blocks))

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def normed(name, x):
        return reference_norm(norm, x, w.get(f"{name}.gain"), w.get(f"{name}.bias"))

    def attention(name, x):
        n, length, width = x.shape
        q, k, v = (
            linear(f"{name}.{part}", x).view(n, length, heads, width // heads).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=heads / width if lipschitz else None)
        return linear(f"{name}.out", mixed.transpose(1, 2).reshape(n, length, width)) / (3 if lipschitz else 1)

    def mlp(name, x):
        up = linear(f"{name}.up", x)
        return linear(f"{name}.down", act(linear(f"{name}.gate", x)) * up if activation == "swiglu" else act(up))

    x = w["embedding.weight"][tokens] + w["position_embedding.weight"]
    for layer in range(len(model.blocks)):
        block = f"blocks.{layer}"
        if placement == "stream":  # ironjr/grokfast, main.py
            x = normed(f"{block}.attention_norm", x)
            x = x + attention(f"{block}.attention", x)
            x = x + mlp(f"{block}.mlp", normed(f"{block}.mlp_norm", x))
        elif placement == "pre":
            for part, name in ((attention, "attention"), (mlp, "mlp")):
                brought = part(f"{block}.{name}", normed(f"{block}.{name}_norm", x))
                x = (1 - alpha) * x + alpha * brought if lipschitz else x + brought
        else:
            x = normed(f"{block}.attention_norm", x + attention(f"{block}.attention", x))
            x = normed(f"{block}.mlp_norm", x + mlp(f"{block}.mlp", x))
    x = x if placement == "post" else normed("final_norm", x)
    return linear("head", x) if "head.weight" in w else x @ w["embedding.weight"][: model.outputs].T


def test_the_lipschitz_forward_equals_one_written_with_pytorchs_functions():
    own = {
        "residual": "convex",
        "attention_form": "lipschitz",
        "activation": "gelu_1",
        "norm": "none",
        "logit_scale": 5.0,
    }
    table = TABLES["mod_div(7)"]
    model = build(table, depth=3, heads=2, width=12, **own)
    tokens, _ = sample(table, 20)
    expected = 5 * reference(model, tokens, 2, norm="none", activation="gelu_1", lipschitz=True)[:, -1]
    assert_close(model(tokens), expected)
    assert_close(model.plain(tokens), expected)


@pytest.mark.parametrize("norm", CHOICES["norm"])
@pytest.mark.parametrize("placement", CHOICES["norm_placement"])
@pytest.mark.parametrize("activation", CHOICES["activation"])
@pytest.mark.parametrize("attention", CHOICES["attention"])
def test_the_plain_forward_equals_one_written_with_pytorchs_functions(norm, placement, activation, attention):
    table = TABLES["mod_div(7)"]
    for depth, bias, tied in ((1, False, False), (2, True, True)):
        options = {"norm": norm, "norm_placement": placement, "activation": activation, "attention": attention}
        model = build(table, depth=depth, width=12, heads=3, bias=bias, tied=tied, **options)
        tokens, _ = sample(table, 20)
        expected = reference(model, tokens, 3, norm, placement, activation, attention == "causal")
        assert_close(model.plain(tokens), expected[:, -1])


def test_the_default_transformer_equals_one_written_with_pytorchs_functions():
    table = tasks["mod_add"].make(p=59)
    model = build(table, spread=0.0)
    tokens, _ = sample(table, 100)
    assert_close(model.plain(tokens), reference(model, tokens, heads=4)[:, -1])
    assert names(model)[:2] == ["embedding.weight", "position_embedding.weight"]
    assert sum(parameter.numel() for parameter in model.parameters()) == 128 * (61 + 4 + 12 * 128 + 3 + 59)


def record_streams(model, tokens):
    """The residual stream [example, position, width] behind each block of the plain forward."""
    behind = []
    for block in model.blocks:
        write = type(block).write

        def recorded(x, mixed, block=block, write=write):
            behind.append(write(block, x, mixed))
            return behind[-1]

        block.write = recorded
    model.plain(tokens)
    for block in model.blocks:
        del block.write
    return behind


@pytest.mark.parametrize("attention", CHOICES["attention"])
def test_a_later_token_changes_earlier_positions_only_without_a_causal_mask(attention):
    table = TABLES["mod_add(5)"]
    model = build(table, depth=2, width=8, heads=2, attention=attention)
    tokens = torch.tensor([[1, 5, 2, 6]])
    before, after = record_streams(model, tokens), record_streams(model, torch.tensor([[1, 5, 4, 6]]))
    for x, y in zip(before, after, strict=True):
        changed = (x != y).any(-1)[0].tolist()
        assert changed == ([False, False, True, True] if attention == "causal" else [True] * 4)


@pytest.mark.parametrize("forward", ["plain", "__call__"])
@pytest.mark.parametrize("attention", CHOICES["attention"])
def test_without_positions_the_order_of_the_operands_is_invisible_to_one_layer(attention, forward):
    table = TABLES["mod_add(5)"]
    tokens, _ = sample(table, 25)
    swapped = tokens[:, [2, 1, 0, 3]]
    scores = {}
    for positions in CHOICES["positions"]:
        run = getattr(build(table, width=8, heads=2, positions=positions, attention=attention), forward)
        scores[positions] = (run(tokens), run(swapped))
    assert_close(*scores.pop("none"))
    different = (tokens[:, 0] != tokens[:, 2])[:, None]
    assert len(scores) == 3
    for mine, other in scores.values():
        assert ((mine - other).abs() > 1e-6)[different.expand_as(mine)].float().mean() > 0.9


def test_sinusoidal_positions_are_those_of_vaswani_et_al():
    table, width = TABLES["parity(4)"], 6
    model = build(table, width=width, heads=1, positions="sinusoidal")
    tokens, _ = sample(table, 3)
    added = model.embed(tokens, torch.arange(5)) - model.embedding.weight[tokens]
    for position in range(5):
        angles = [position / 10_000 ** (2 * pair / width) for pair in range(width // 2)]
        expected = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)
        assert (added[:, position] - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    "option",
    [{name: value} for name, allowed in CHOICES.items() for value in allowed]
    + [{"depth": 3}, {"heads": 1}, {"bias": True}, {"tied": True}, {"dropout": 0.5}],
    ids=lambda option: "-".join(map(str, *option.items())),
)
def test_every_option_trains_and_evaluates_through_the_engine(option):
    specs = [run_spec({**SMALL, **{f"model.{name}": value for name, value in option.items()}}, seed) for seed in (0, 1)]
    trainer, cohort = Trainer(specs[0].setting, CPU), start(specs, CPU)
    before = dict(cohort.weights)
    for _ in range(12):
        trainer.advance(cohort)
    assert cohort.finite.all()
    changed = {name for name, w in cohort.weights.items() if (before[name] != w).any()}
    idle = {name for name in before if name.endswith("key.bias")}  # shifts all scores of a query alike
    assert changed >= set(before) - idle
    assert np.isfinite(trainer.evaluate(cohort)["validation_loss"]).all()


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize(("spread", "mean"), [(1.0, 0.0), (1e-3, 0.0), (30.0, 5.0), (0.0, 0.0)])
def test_norms_are_pytorchs(kind, bias, spread, mean):
    layer = Norm(kind, 12, bias).double()
    numbers = stream(0, "test", "norm")
    for parameter in layer.parameters():
        parameter.data = torch.from_numpy(numbers.standard_normal(12))
    x = mean + spread * torch.from_numpy(numbers.standard_normal((5, 3, 12)))
    has_bias = kind == "layernorm" and bias
    assert (layer.bias is not None) == has_bias
    assert_close(layer(x), reference_norm(kind, x, layer.gain, layer.bias))


def test_activations_are_pytorchs():
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    erf = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    expected = {
        "relu": x.clamp_min(0),
        "gelu": erf,
        "gelu_1": erf / 1.129,
        "silu": x * x.sigmoid(),
        "swiglu": x * x.sigmoid(),
    }
    assert set(expected) == set(CHOICES["activation"])
    expected |= {"tanh": x.tanh(), "quadratic": x**2}
    assert set(ACTIVATIONS) == set(expected)
    for name, y in expected.items():
        assert_close(ACTIVATIONS[name](x), y, relative=1e-14)


@given(shift=st.integers(0, 40), half=st.integers(1, 4), seed=st.integers(0, 100))
@settings(max_examples=30)
def test_rotated_queries_and_keys_score_by_their_distance_alone(shift, half, seed):
    q, k = torch.from_numpy(stream(seed, "test", "rope").standard_normal((2, 6, 2, 2 * half)))
    here = torch.arange(6)

    def scores(shift):
        return torch.einsum("ihc,jhc->hij", rotate(q, here + shift), rotate(k, here + shift))

    assert_close(scores(shift), scores(0), relative=1e-11)
    same = torch.einsum("ihc,jhc->hij", rotate(q, torch.full((6,), shift)), rotate(k, torch.full((6,), shift)))
    assert_close(same, torch.einsum("ihc,jhc->hij", q, k))
    assert (scores(0) - same).abs().max() > 1e-3


@pytest.mark.parametrize("base", [10_000, 1_000_000, 50])
def test_rotation_multiplies_pairs_of_channels_by_a_phase(base):
    x = torch.from_numpy(stream(0, "test", "rope").standard_normal((5, 2, 6)))
    z = torch.complex(x[..., :3], x[..., 3:])
    frequency = torch.tensor([float(base) ** (-pair / 3) for pair in range(3)], dtype=torch.float64)
    phase = torch.polar(torch.ones(5, 3, dtype=torch.float64), torch.arange(5)[:, None] * frequency)
    turned = z * phase[:, None]
    assert_close(rotate(x, torch.arange(5), base), torch.cat([turned.real, turned.imag], dim=-1))
    assert torch.equal(rotate(x, torch.arange(5), base)[0], x[0])
    model = (
        models["transformer"].make(TABLES["mod_add(5)"], width=6, heads=1, positions="rope", rope_base=base).double()
    )
    attention = model.blocks[0].attention
    attention.query.weight.data = torch.eye(6, dtype=torch.float64)
    expected = rotate(x[:, :1] * 6**-0.5, torch.arange(5), base)
    assert_close(attention.queries(x[:, 0], torch.arange(5)), expected)


# --- dropout ----------------------------------------------------------------------------------------------------------


def masks(key, site=0, rate=0.3, shape=(200, 100)):
    """What dropout keeps, [*key.shape, *shape] bool."""
    dropout = Dropout(rate, site).train()

    def one(key):
        return functional_call(dropout, {"key": key}, (torch.ones(shape),)) != 0

    return vmap(one)(key) if key.dim() else one(key)


def keys(seeds, step):
    specs = [run_spec({**SMALL, "model.dropout": 0.3}, seed) for seed in seeds]
    trainer, cohort = Trainer(specs[0].setting, CPU), start(specs, CPU)
    cohort.step = step
    noise = trainer.noise(cohort.seeds, torch.tensor(cohort.step + 1))
    assert sorted(noise) == sorted(f"blocks.0.{at}dropout.key" for at in ("mlp.", "attention_", "mlp_"))
    return next(iter(noise.values()))


@given(numbers=st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
@settings(max_examples=50)
def test_the_hash_is_lowbias32(numbers):
    def lowbias32(x):
        x %= 2**32
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    assert mix(torch.tensor(numbers)).tolist() == [lowbias32(number) for number in numbers]


@pytest.mark.parametrize("step", [0, 1, 9999])
def test_a_runs_dropout_masks_are_the_same_alone_and_in_any_cohort(step):
    together = masks(keys([5, 3, 9], step))
    assert torch.equal(masks(keys([3], step))[0], together[1])
    assert torch.equal(masks(keys([3, 5], step))[0], together[1])
    assert torch.equal(masks(keys([3], step)[0]), together[1])


def test_a_runs_gradients_with_dropout_are_the_same_alone_and_in_a_cohort():
    specs = [run_spec({**SMALL, "model.dropout": 0.3, "model.depth": 2}, seed) for seed in (5, 3, 9)]
    trainer = Trainer(specs[0].setting, CPU)
    alone, together = start(specs[1:2], CPU), start(specs, CPU)
    for _ in range(3):
        trainer.advance(alone)
        trainer.advance(together)
    for name, w in alone.weights.items():
        assert torch.equal(w[0], together.weights[name][1])


def test_dropout_masks_of_other_runs_steps_and_sites_are_unrelated():
    seen = {
        (seed, step, site): masks(keys([seed], step)[0], site).float().flatten()
        for seed in (0, 1, 2)
        for step in (0, 1, 2)
        for site in (0, 1, 2)
    }
    centred = torch.stack(list(seen.values())) - 0.7
    correlation = centred @ centred.T / (centred.shape[1] * 0.3 * 0.7) - torch.eye(len(seen))
    assert correlation.abs().max() < 5 / centred.shape[1] ** 0.5


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_dropout_keeps_the_declared_share_of_every_row_and_column(rate):
    kept = masks(keys([3], 7)[0], rate=rate).double()
    error = (rate * (1 - rate)) ** 0.5
    assert abs(kept.mean() - (1 - rate)) < 4 * error / kept.numel() ** 0.5
    for axis in (0, 1):
        assert (kept.mean(axis) - (1 - rate)).abs().max() < 5 * error / kept.shape[axis] ** 0.5


def test_dropout_scales_what_it_keeps_and_passes_gradients_through_it_alone():
    dropout = Dropout(0.25, 0).train()
    x = torch.from_numpy(stream(0, "test", "dropout").standard_normal((50, 8))).requires_grad_()
    y = dropout(x)
    kept = y != 0
    assert 0 < kept.sum() < kept.numel()
    assert_close(y[kept], x[kept] / 0.75, relative=1e-15)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert_close(gradient, kept / torch.tensor(0.75, dtype=torch.float64), relative=1e-15)


def test_dropout_is_the_identity_in_evaluation_and_at_rate_zero():
    x = torch.linspace(-1, 1, 30)
    assert Dropout(0.5, 0).eval()(x) is x
    assert Dropout(0.0, 0).train()(x) is x
    assert not torch.equal(Dropout(0.5, 0).train()(x), x)


def test_the_model_drops_at_every_site_in_training_and_nowhere_in_evaluation():
    table = TABLES["mod_add(5)"]
    options = {"depth": 2, "width": 8, "heads": 2}
    model, without = build(table, dropout=0.4, **options), build(table, **options)
    tokens, _ = sample(table, 20)
    assert_close(model(tokens), without.plain(tokens))
    sites = [module for module in model.modules() if isinstance(module, Dropout)]
    assert sorted(site.site for site in sites) == list(range(6))
    every = model.train()(tokens)
    for site in sites:
        site.eval()
        assert (model(tokens) - every).abs().max() > 1e-6, f"site {site.site} does nothing"
        site.train()
    assert torch.equal(model(tokens), every)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"norm": "batchnorm"}, r"model\.norm = 'batchnorm'; allowed: none, layernorm, rmsnorm"),
        ({"norm_placement": "middle"}, r"model\.norm_placement = 'middle'; allowed: pre, post, stream"),
        ({"positions": "alibi"}, r"model\.positions = 'alibi'; allowed: learned, sinusoidal, rope, none"),
        ({"activation": "tanh"}, r"model\.activation = 'tanh'; allowed: relu, gelu, gelu_1, silu, swiglu"),
        ({"attention": "linear"}, r"model\.attention = 'linear'; allowed: causal, bidirectional"),
        *(({name: n}, rf"model\.{name} = {n}; ") for name in ("depth", "width", "heads") for n in (0, -2)),
        ({"mlp_ratio": -1}, r"model\.mlp_ratio = -1; allowed: integers from 0 on"),
        ({"width": 10, "heads": 4}, r"model\.width = 10 is not a multiple of model\.heads = 4"),
        ({"width": 12, "heads": 4, "positions": "rope"}, r"'rope' needs an even width per head, but 12 / 4 is odd"),
        *(({"dropout": rate}, rf"model\.dropout = {rate}; ") for rate in (-0.1, 1.0, 1.5, math.nan)),
    ],
)
def test_a_bad_option_is_refused_by_name_and_value_before_anything_is_built(options, sentence):
    with pytest.raises(BadInput, match=sentence):
        models["transformer"].make(TABLES["mod_add(5)"], **options)
    with pytest.raises(BadInput, match=sentence):
        run_spec({f"model.{name}": value for name, value in options.items()}, 0)
