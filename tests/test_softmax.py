"""Softmax variants and the losses on them, against other implementations and against their definitions in float64."""

import math

import entmax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, jacrev, vmap

from grokking.losses import losses
from grokking.seeding import stream
from grokking.softmax import SOFTMAXES, log_stablemax, sparsemax

DOUBLE = torch.float64


def scores_of(seed, rows=6, classes=9, scale=3.0, dtype=DOUBLE):
    return torch.from_numpy(scale * stream(seed, "test", "scores").standard_normal((rows, classes))).to(dtype)


def projection(z):
    """The nearest point of the simplex, by bisection of τ in Σ max(z - τ, 0) = 1."""
    low, high = z.max() - 1, z.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (z - middle).clamp_min(0).sum() > 1 else (low, middle)
    return (z - low).clamp_min(0)


@pytest.mark.parametrize("name", losses)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_end_no_other_run(name, bad):
    z, labels = torch.stack([scores_of(0), scores_of(1)]), torch.tensor([[0, 3, 8, 2, 2, 5]] * 2)
    clean = vmap(losses[name].make)(z, labels)
    z[1, 2] = bad
    found = vmap(losses[name].make)(z, labels)
    assert found[0] == clean[0]
    assert not found[1].isfinite()
    assert not SOFTMAXES["sparsemax"](z)[1, 2].isfinite().all()


@pytest.mark.parametrize("name", sorted({"cross_entropy", "stablemax_cross_entropy", "sparsemax_loss"}))
def test_a_loss_in_double_precision_is_one(name):
    z, labels = scores_of(0, dtype=torch.float32), torch.tensor([0, 3, 8, 2, 2, 5])
    assert losses[name].make(z, labels).dtype == torch.float32
    assert losses[name].make(z, labels, float64=True).dtype == DOUBLE


def test_sparsemax_of_many_scores_of_bfloat16_sums_to_one():
    z = scores_of(0, classes=300, scale=0.01, dtype=torch.bfloat16)
    assert (SOFTMAXES["sparsemax"](z).double().sum(-1) - 1).abs().max() < 4e-3


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_sparsemax_is_the_projection_onto_the_simplex_and_entmaxs(scale):
    z = scores_of(0, scale=scale)
    assert torch.allclose(sparsemax(z), torch.stack([projection(row) for row in z]), atol=1e-12)
    assert torch.allclose(sparsemax(z), entmax.sparsemax(z, dim=-1), atol=1e-12)
    if scale == 10.0:
        assert (sparsemax(z) == 0).any()


def test_the_sparsemax_loss_is_entmaxs_and_its_gradient_the_difference():
    z, labels = scores_of(1), torch.tensor([0, 3, 8, 2, 2, 5])
    ours = losses["sparsemax_loss"].make
    theirs = entmax.sparsemax_loss(z.clone().requires_grad_(), labels)
    assert ours(z, labels).item() == pytest.approx(theirs.mean().item(), rel=1e-12)
    expected = (sparsemax(z) - torch.nn.functional.one_hot(labels, 9)) / 6
    assert torch.allclose(grad(ours)(z, labels), expected, atol=1e-12)
    assert ours(torch.tensor([[2.0, 0.9, 0.5]]), torch.tensor([0])).item() == 0.0  # the label leads by 1


def test_stablemax_is_its_definition():
    z = scores_of(2)
    size = torch.tensor([[1 + x if x >= 0 else 1 / (1 - x) for x in row] for row in z.tolist()], dtype=DOUBLE)
    assert torch.allclose(SOFTMAXES["stablemax"](z), size / size.sum(-1, keepdim=True), atol=1e-14)
    assert torch.allclose(log_stablemax(z), (size / size.sum(-1, keepdim=True)).log(), atol=1e-13)
    labels = torch.tensor([0, 3, 8, 2, 2, 5])
    found = losses["stablemax_cross_entropy"].make(z, labels)
    assert found.item() == pytest.approx(-(size / size.sum(-1, keepdim=True)).log()[range(6), labels].mean().item())


def test_stablemax_has_its_slope_where_a_score_is_zero():
    """Both halves of s meet at 0 with slope 1: a head that begins at 0 learns."""
    z, labels, h = torch.zeros(2, 4, dtype=DOUBLE), torch.tensor([0, 3]), 1e-6
    loss = losses["stablemax_cross_entropy"].make
    moves = h * torch.eye(8, dtype=DOUBLE).view(8, 2, 4)
    numeric = torch.stack([(loss(z + move, labels) - loss(z - move, labels)) / (2 * h) for move in moves]).view(2, 4)
    assert torch.allclose(grad(loss)(z, labels), numeric, atol=1e-6)
    share = SOFTMAXES["stablemax"]
    assert torch.allclose(jacrev(share)(z[0]), torch.eye(4, dtype=DOUBLE) / 4 - 1 / 16, atol=1e-12)


@given(
    seed=st.integers(0, 1000), dtype=st.sampled_from([torch.float32, DOUBLE]), size=st.sampled_from([1e-3, 1.0, 1e4])
)
@settings(max_examples=60)
def test_shares_are_finite_and_sum_to_one_and_losses_have_finite_gradients(seed, dtype, size):
    z, labels = scores_of(seed, scale=size, dtype=dtype), torch.tensor([0, 3, 8, 2, 2, 5])
    for name, shares in SOFTMAXES.items():
        found = shares(z)
        assert (found >= 0).all(), name
        assert torch.allclose(found.sum(-1), torch.ones((), dtype=dtype), atol=1e-5), name
    for name, entry in losses.items():
        value, slope = entry.make(z, labels), grad(entry.make)(z, labels)
        assert math.isfinite(value.item()), name
        assert torch.isfinite(slope).all(), name
        assert value.item() >= 0, name


@pytest.mark.parametrize("name", SOFTMAXES)
def test_what_is_masked_has_no_share_and_no_part_in_the_gradient(name):
    z = scores_of(3)
    masked = z.clone()
    masked[:, 4:] = -math.inf
    assert torch.allclose(SOFTMAXES[name](masked)[:, :4], SOFTMAXES[name](z[:, :4]), atol=1e-14)
    assert not SOFTMAXES[name](masked)[:, 4:].any()
    slope = grad(lambda x: (SOFTMAXES[name](x) * torch.arange(9)).sum())(masked)
    assert torch.isfinite(slope).all()
    assert not slope[:, 4:].any()


@pytest.mark.parametrize("name", losses)
def test_a_loss_of_many_runs_is_that_of_each(name):
    z, labels = torch.stack([scores_of(seed) for seed in range(3)]), torch.arange(18).view(3, 6) % 9
    lifted = vmap(grad(losses[name].make))(z, labels)
    for run in range(3):
        assert torch.allclose(lifted[run], grad(losses[name].make)(z[run], labels[run]), atol=1e-15)


def test_single_precision_loses_the_gradient_of_a_sure_network_and_double_does_not():
    """Softmax collapse (Prieto et al. 2025): the label leads by so much that 1 + exp(-lead) rounds to 1."""
    z, labels = torch.tensor([[30.0, 0.0, 0.0]]), torch.tensor([0])
    collapsed, kept = (grad(losses["cross_entropy"].make)(z, labels, float64=wide) for wide in (False, True))
    assert collapsed[0, 0] == 0
    assert kept[0, 0] < 0
    assert grad(losses["stablemax_cross_entropy"].make)(z, labels)[0, 0] < 0


@pytest.mark.parametrize("halved", [False, True])
def test_the_squared_error_is_torchs(halved):
    z, labels = scores_of(4), torch.tensor([0, 3, 8, 2, 2, 5])
    target = torch.nn.functional.one_hot(labels, 9).to(DOUBLE)
    expected = torch.nn.MSELoss()(z, target) * (0.5 if halved else 1)
    assert losses["squared_error"].make(z, labels, halved).item() == pytest.approx(expected.item(), rel=1e-14)
