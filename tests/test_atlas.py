"""The atlas: its losses are what they say, its paths those of the rules, and its pictures come from its tables alone."""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch.func import grad, vmap

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

import atlas_figure
import optimizer_atlas as atlas
from atlas_problems import ELEMENTWISE, FAMILIES, MATRIX_ARMS, SURFACES, valley

from grokking.plotting import COLORS, DASHES, TITLES, Drawing, save

PUBLISHED = Path(__file__).parent.parent / "figures" / "published"
SIGNS = FAMILIES["signs of the entries"]
ALONG = FAMILIES["along the gradient"]


@pytest.fixture(scope="module")
def quadratic():
    return atlas.tables({"quadratic": SURFACES["quadratic"]})


@pytest.fixture(scope="module")
def matrix():
    return atlas.tables({"matrix": dataclasses.replace(atlas.MATRIX, steps=20)})


def turned(angle, w):
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64) @ w


@pytest.mark.parametrize("problem", [*SURFACES.values(), atlas.MATRIX], ids=lambda problem: problem.title)
def test_gradients_are_finite_differences(problem):
    w = problem.start + 0.3
    found, h = grad(problem.loss)(w).flatten(), 1e-6
    for k, unit in enumerate(torch.eye(w.numel(), dtype=torch.float64)):
        step = h * unit.view(w.shape)
        assert (problem.loss(w + step) - problem.loss(w - step)) / (2 * h) == pytest.approx(found[k].item(), rel=1e-5)


@pytest.mark.parametrize(("surface", "problem"), SURFACES.items())
def test_minima_are_where_they_are_drawn(surface, problem):
    left, right, low, high = problem.box
    for minimum in problem.minima:
        at = torch.tensor(minimum, dtype=torch.float64)
        assert problem.loss(at) == 0
        assert grad(problem.loss)(at).abs().max() == 0
        assert left < at[0] < right and low < at[1] < high
    grid = torch.cartesian_prod(torch.linspace(left, right, 80).double(), torch.linspace(low, high, 80).double())
    height = vmap(problem.loss)(grid)
    assert height.min() >= 0
    near = min((grid[height.argmin()] - torch.tensor(minimum)).norm().item() for minimum in problem.minima)
    assert near < (0.3 if surface == "rosenbrock" else 0.05)  # a grid's lowest point lies anywhere in that valley


@pytest.mark.parametrize(("loss", "condition"), [(SURFACES["quadratic"].loss, 2), (valley, 100)])
def test_quadratics_have_their_condition(loss, condition):
    curvature = torch.autograd.functional.hessian(loss, torch.zeros(2, dtype=torch.float64))
    assert torch.linalg.cond(curvature).item() == pytest.approx(condition)


def test_the_matrix_problem_has_its_condition_and_a_solution():
    size = 64
    curvature = torch.autograd.functional.hessian(atlas.MATRIX.loss, atlas.MATRIX.start).reshape(size, size)
    assert torch.linalg.cond(curvature).item() == pytest.approx(30.0**4, rel=1e-6)
    solution = -torch.linalg.solve(curvature, grad(atlas.MATRIX.loss)(atlas.MATRIX.start).flatten())
    assert atlas.MATRIX.loss(solution.view(8, 8)) < 1e-16


def test_the_condition_2_is_easy_but_for_fixed_steps(quadratic):
    paths = quadratic[""].groupby("optimizer")["loss"]
    ratio = paths.last() / paths.first()
    assert (ratio.drop(list(SIGNS)) < 1e-8).all()
    late = quadratic["rates"].query("chosen").set_index("optimizer")["loss"]
    assert (late[list(SIGNS)] > 1e-5).all()


def test_gradient_descent_makes_the_steps_of_its_formula():
    problem = SURFACES["valley"]
    weights, losses = atlas.descend(problem, "gradient_descent")
    curvature = torch.autograd.functional.hessian(valley, problem.start)
    for k in (0, 8):
        shrink = torch.eye(2, dtype=torch.float64) - atlas.RATES[k] * curvature
        expected = torch.linalg.matrix_power(shrink, 50) @ problem.start
        assert torch.allclose(weights[50, k], expected, rtol=1e-9, atol=1e-12)
        assert losses[50, k].item() == pytest.approx(valley(expected).item())


def test_weights_do_not_decay():
    flat = dataclasses.replace(SURFACES["valley"], loss=lambda w: 0.0 * w.sum(), steps=3)
    still = dataclasses.replace(atlas.MATRIX, loss=lambda w: 0.0 * w.sum(), start=torch.eye(8).double(), steps=3)
    for problem in (flat, still):
        for arm in problem.arms:
            weights, _ = atlas.descend(problem, arm)
            assert torch.equal(weights[-1], weights[0]), arm


@pytest.mark.parametrize("name", ["nesterov", "adagrad", "rmsprop", "sign_sgd"])
def test_only_rules_along_the_gradient_do_not_see_how_the_axes_are_turned(name):
    problem = SURFACES["valley"]
    start, angle = problem.start, math.pi / 6
    straight = dataclasses.replace(problem, loss=lambda w: valley(w, 0.0), start=turned(angle, start), steps=50)
    (_, mine), (_, other) = atlas.descend(dataclasses.replace(problem, steps=50), name), atlas.descend(straight, name)
    alike = torch.allclose(mine[:, :9], other[:, :9], rtol=1e-6)
    assert alike == (name in ALONG)


def test_the_chosen_rate_is_finite_stays_near_and_is_the_best_at_the_end():
    losses = np.full((20, 5), 1.0)
    losses[5:, 0] = [1e-3] * 14 + [1e-9]  # the best, if the last loss alone decided
    losses[5:, 1] = 1e-6
    losses[3, 2], losses[5:, 2] = 31.0, 0.0  # went too far
    losses[7:, 3] = np.nan
    late, highest, best = atlas.tuned(losses)
    assert best == 1
    assert late[0] == 1e-3
    assert np.isnan(late[3]) and np.isnan(highest[3])
    losses[4:, 4] = 1e-14
    losses[3:, 1] = 1e-13  # both are none; this one is sooner
    assert atlas.tuned(losses)[2] == 1
    assert atlas.last_step(losses[:, 1]) == 3
    assert atlas.last_step(losses[:, 0]) == 19


def test_first_updates(matrix):
    values = matrix["updates"].pivot(index="optimizer", columns="rank", values="singular_value")
    assert (values[1] == 1).all()
    assert values.loc["muon, exact", 8] == 1
    assert values.loc["muon", 5] > 0.6 > 0.5 > values.loc["sgd", 2]
    assert values.loc["lion", 3] > 0.1 and values.loc["lion", 4] == 0  # a matrix of signs, of rank 3
    steps = matrix["updates"].groupby("optimizer")["step"].first()
    assert steps["soap"] == 2 and (steps.drop("soap") == 1).all()
    assert values.loc["sgd"].equals(values.loc["sgd, momentum 0.9"])


def test_pictures_are_drawn_from_the_tables_that_are_saved(quadratic, matrix, tmp_path, monkeypatch):
    save(atlas.matrix(matrix), tmp_path)
    save(Drawing("optimizer_atlas", Figure(), quadratic, 1), tmp_path)
    for name, parts in (("optimizer_atlas", quadratic), ("optimizer_atlas_matrix", matrix)):
        again = atlas.read(tmp_path, name)
        assert set(again) == set(parts)
        for part, table in parts.items():
            pd.testing.assert_frame_equal(again[part], table, check_exact=True)
    problem = SURFACES["quadratic"]
    monkeypatch.setattr(atlas_figure, "SURFACES", {"quadratic": problem, "again": problem})
    monkeypatch.setattr(atlas, "descend", None)  # drawing never trains
    parts = {part: pd.concat([table, table.assign(surface="again")]) for part, table in quadratic.items()}
    drawn = atlas.surfaces(parts).figure.axes
    assert len(drawn) == 8
    line = drawn[0].lines[-2]  # the last rule of the first family, before its dots
    own = quadratic[""].query("optimizer == 'nesterov'")
    assert np.array_equal(np.asarray(line.get_xydata()), own[["x", "y"]].to_numpy())


def test_every_arm_has_a_title_and_a_look_of_its_own():
    assert set(COLORS) == set(TITLES) <= set(atlas.optimizers)
    looks = [(color, DASHES.get(name, "-")) for name, color in COLORS.items()]
    assert len(set(looks)) == len(looks)
    assert {arm.split(",")[0] for arm in (*ELEMENTWISE, *MATRIX_ARMS)} <= set(COLORS)


def test_the_published_tables_are_what_is_computed(quadratic):
    rates = pd.read_csv(PUBLISHED / "optimizer_atlas_rates.csv")
    mine = quadratic["rates"]
    theirs = rates[rates["surface"] == "quadratic"].reset_index(drop=True)
    assert mine[["optimizer", "lr", "chosen"]].equals(theirs[["optimizer", "lr", "chosen"]])
    above = mine["loss"] > 1e-10
    assert np.allclose(mine["loss"][above], theirs["loss"][above], rtol=1e-2)
    assert (PUBLISHED / "optimizer_atlas.csv").stat().st_size < 300_000
