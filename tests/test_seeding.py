import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grokking.engine.batches import Batches
from grokking.errors import BadInput
from grokking.models import models
from grokking.roles import Declaring, Role, declarations, initial_weights
from grokking.runs import run_spec
from grokking.seeding import stream
from grokking.tasks import split, tasks

# Changing one of these breaks every stored comparison: raise grokking.setting.ENGINE_VERSION when it must be.
GOLDEN_INTEGERS = [2211097846624183132, 8123448247372295946, 297590696266258794]
GOLDEN_NORMALS = "640974c89477c1bf011866eb4350d0bf"
GOLDEN_PERMUTATION = [4, 8, 3, 2, 0, 7, 1, 5, 6, 9]
GOLDEN_TRAINING = [3204, 3079, 3477, 2745, 1549, 509, 3478, 118]
GOLDEN_SPLIT = "ae23988cfba6be673cdc8bf5df64a22287be90d0fe7e6cb100475ae8cf8170c3"
GOLDEN_BATCH = [587, 710, 1107, 64, 181, 640, 601, 895]
GOLDEN_BATCHES = "461be3eba18af1fa1645b4ed16b41ea023e31b22a7c8af53f5dfc27af1b7864d"
GOLDEN_WEIGHTS = {
    "blocks.0.attention.key.weight": "4197a0457b454a14",
    "blocks.0.attention.out.weight": "943b352815531723",
    "blocks.0.attention.query.weight": "a464c46297f342a1",
    "blocks.0.attention.value.weight": "256ab229b25dd55c",
    "blocks.0.attention_norm.gain": "02722f124d0f1736",
    "blocks.0.mlp.down.weight": "0a53c1b04a307218",
    "blocks.0.mlp.up.weight": "9e789b430bf6ddad",
    "blocks.0.mlp_norm.gain": "02722f124d0f1736",
    "embedding.weight": "73a8ae50f05e648e",
    "final_norm.gain": "02722f124d0f1736",
    "head.weight": "9cd01720980606de",
    "position_embedding.weight": "997faabbdf9e6ed6",
}


def fingerprint(*arrays):
    """sha256 of the arrays' bytes, little-endian, one after the other."""
    joined = b"".join(np.ascontiguousarray(a).astype(a.dtype.newbyteorder("<")).tobytes() for a in arrays)
    return hashlib.sha256(joined).hexdigest()


def default_weights(seed):
    model = run_spec({"task.name": "mod_add", "task.p": 59}, seed).setting.model()
    return {name: w.numpy() for name, w in sorted(initial_weights(model, seed).items())}


# --- promise L1: on every machine the same streams, splits, batches and initial weights, bit for bit ------------------


def test_golden_streams():
    assert stream(3, "split").integers(2**63, size=3).tolist() == GOLDEN_INTEGERS
    assert stream(3, "weights", "head.weight").standard_normal(2).tobytes().hex() == GOLDEN_NORMALS
    assert stream(0, "batch", 0).permutation(10).tolist() == GOLDEN_PERMUTATION


def test_golden_split():
    training, validation = split(3481, 0.4, 3)
    assert training[:8].tolist() == GOLDEN_TRAINING
    assert fingerprint(training, validation) == GOLDEN_SPLIT


def test_golden_batches():
    batches = Batches(3, 1392, 512)
    assert batches.at(0)[:8].tolist() == GOLDEN_BATCH
    assert fingerprint(*(batches.at(step) for step in range(8))) == GOLDEN_BATCHES


def test_golden_initial_weights():
    weights = default_weights(3)
    assert {name: fingerprint(w)[:16] for name, w in weights.items()} == GOLDEN_WEIGHTS


# --- streams ----------------------------------------------------------------------------------------------------------


def test_streams_of_different_seeds_or_purposes_are_different():
    purposes = [
        *[
            (3, "split"),
            (4, "split"),
            (3, "batch", 0),
            (3, "batch", 1),
            (4, "batch", 0),
            (3, "batch"),
            (3, "batch", "0"),
        ],
        *[(3, "batch", 10), (3, "batch1", 0), (3, "weights", "a.b"), (3, "weights", "a", "b"), (3, "weights.a", "b")],
        *[(0,), (1,), (2**31 - 1,), (1, 23), (12, 3), (123,), (3, ""), (3, '"split"'), (3, "weights", "batch")],
    ]
    drawn = {purpose: stream(*purpose).bytes(16) for purpose in purposes}
    assert len(set(drawn.values())) == len(purposes)


def test_a_stream_starts_anew_at_every_call_and_another_ones_draws_do_not_shift_it():
    first = stream(5, "weights", "a")
    expected = stream(5, "weights", "a").standard_normal(100)
    stream(5, "weights", "b").standard_normal(10_000)
    head = first.standard_normal(50)
    stream(5, "batch", 0).permutation(1000)
    assert np.array_equal(np.concatenate([head, first.standard_normal(50)]), expected)


def test_streams_of_neighbouring_seeds_and_purposes_are_uncorrelated():
    names = [
        (seed, *purpose) for seed in range(4) for purpose in (("split",), ("batch", 0), ("batch", 1), ("weights", "a"))
    ]
    draws = np.stack([stream(*name).standard_normal(20_000) for name in names])
    correlation = np.corrcoef(draws) - np.eye(len(names))
    assert abs(correlation).max() < 4.5 / 20_000**0.5


def test_the_split_depends_on_nothing_but_examples_fraction_and_seed():
    plain = {"task.p": 7, "model.width": 16}
    arms = [{"optimizer.name": "muon"}, {"optimizer.lr": 0.5}, {"model.depth": 2}, {"batch_size": 5}, {"steps": 3}]
    specs = [run_spec({**plain, **arm}, 3) for arm in arms]
    assert len({spec.run_id for spec in specs}) == len(arms)
    weights = [initial_weights(spec.setting.model(), spec.seed) for spec in specs]
    shared = [name for name in weights[0] if all(name in w for w in weights)]
    assert {"embedding.weight", "head.weight", "blocks.0.mlp.up.weight"} <= set(shared)
    for name in shared:  # also the second layer of one arm leaves what all have as it is
        assert all(torch.equal(w[name], weights[0][name]) for w in weights)


# --- batches ----------------------------------------------------------------------------------------------------------


@given(examples=st.integers(1, 60), batch_size=st.integers(1, 80), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=60)
def test_every_pass_is_a_permutation_and_batches_are_the_passes_laid_end_to_end_and_cut(examples, batch_size, seed):
    batches = Batches(seed, examples, batch_size)
    size = min(batch_size, examples)
    steps = 4 * examples // size + 2
    seen = [batches.at(step) for step in range(steps)]
    assert all(batch.shape == (size,) for batch in seen)
    laid = np.concatenate(seen)
    for start in range(0, len(laid) - examples + 1, examples):
        assert sorted(laid[start : start + examples]) == list(range(examples))
    passes = [stream(seed, "batch", number).permutation(examples) for number in range(len(laid) // examples + 1)]
    assert np.array_equal(laid, np.concatenate(passes)[: len(laid)])


@given(
    examples=st.integers(1, 60),
    batch_size=st.integers(1, 80),
    order=st.lists(st.integers(0, 300), min_size=1, max_size=8),
)
@settings(max_examples=60)
def test_a_batch_depends_on_the_step_and_not_on_what_was_asked_before(examples, batch_size, order):
    asked_before = Batches(7, examples, batch_size)
    for step in order:
        assert np.array_equal(asked_before.at(step), Batches(7, examples, batch_size).at(step))


def test_passes_and_seeds_have_orders_of_their_own():
    first, second, other = Batches(3, 50, 50).at(0), Batches(3, 50, 50).at(1), Batches(4, 50, 50).at(0)
    assert len({tuple(order) for order in (first, second, other)}) == 3


def test_a_batch_larger_than_the_training_set_is_one_whole_pass():
    assert sorted(Batches(3, 20, 512).at(9)) == list(range(20))


# --- initial weights --------------------------------------------------------------------------------------------------


def test_every_role_has_the_mean_and_spread_that_it_should():
    width, ratio, p = 64, 3, 97
    options = {"depth": 2, "width": width, "mlp_ratio": ratio, "bias": True, "norm": "layernorm"}
    with torch.device("meta"):
        model = models["transformer"].make(tasks["mod_add"].make(p=p), **options)
    fan_in = {"down.weight": ratio * width}  # all other matrices read the residual stream
    weights = initial_weights(model, 11, torch.float64)
    roles = {name: law.role for name, law in declarations(model).items()}
    assert set(roles.values()) == set(Role)
    for name, w in weights.items():
        if roles[name] is Role.GAIN:
            assert torch.equal(w, torch.ones(width, dtype=torch.float64)), name
        elif roles[name] is Role.BIAS:
            assert not w.any(), name
        else:
            std = next((n for suffix, n in fan_in.items() if name.endswith(suffix)), width) ** -0.5
            assert w.mean().abs().item() < 4.5 * std / w.numel() ** 0.5, name
            assert abs(w.std().item() / std - 1) < 4.5 / (2 * w.numel()) ** 0.5, name
            assert 2 < (w / std).pow(4).mean() < 4, name  # a normal's kurtosis is 3


def test_roles_are_those_of_the_parts():
    with torch.device("meta"):
        model = models["transformer"].make(tasks["mod_add"].make(p=5), bias=True, norm="layernorm")
    expected = {
        Role.EMBEDDING: {"embedding.weight", "position_embedding.weight"},
        Role.HEAD: {"head.weight"},
        Role.HIDDEN: {f"blocks.0.attention.{part}.weight" for part in ("query", "key", "value", "out")}
        | {f"blocks.0.mlp.{part}.weight" for part in ("up", "down")},
        Role.GAIN: {"blocks.0.attention_norm.gain", "blocks.0.mlp_norm.gain", "final_norm.gain"},
    }
    laws = declarations(model)
    assert list(laws) == [name for name, _ in model.named_parameters()]
    for role, names in expected.items():
        assert {name for name, law in laws.items() if law.role is role} == names
    assert {name for name, law in laws.items() if law.role is Role.BIAS} == {n for n in laws if n.endswith("bias")}


def test_parameters_of_one_shape_are_drawn_apart():
    weights = {name: w for name, w in default_weights(3).items() if w.std()}
    for a, b in itertools.combinations(weights, 2):
        size = min(weights[a].size, weights[b].size)
        correlation = np.corrcoef(weights[a].ravel()[:size], weights[b].ravel()[:size])[0, 1]
        assert abs(correlation) < 5 / size**0.5, (a, b)


def test_weights_are_drawn_in_double_precision_and_then_rounded():
    model = run_spec({"task.p": 7, "model.width": 16}, 3).setting.model()
    single, double = (initial_weights(model, 3, dtype) for dtype in (torch.float32, torch.float64))
    for name in double:
        assert torch.equal(single[name], double[name].float())
        assert double[name].dtype == torch.float64
    assert not torch.equal(single["head.weight"].double(), double["head.weight"])


def test_another_seed_has_other_weights():
    mine, other = default_weights(3), default_weights(4)
    assert all((mine[name] != other[name]).all() for name in mine if mine[name].std())


def test_a_model_on_the_meta_device_gets_the_same_weights_as_a_real_one():
    table = tasks["mod_add"].make(p=7)
    with torch.device("meta"):
        meta = models["transformer"].make(table, width=16)
    real = models["transformer"].make(table, width=16)
    assert next(meta.parameters()).is_meta
    drawn = [initial_weights(model, 3) for model in (meta, real)]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[1])


def test_a_parameter_without_a_role_is_refused_by_name():
    class Stray(Declaring):
        def __init__(self):
            super().__init__()
            self.declare("known", (2, 2), Role.HIDDEN, std=1.0)
            self.stray = torch.nn.Parameter(torch.zeros(2))

    with pytest.raises(BadInput, match="without a role: stray;"):
        declarations(Stray())
