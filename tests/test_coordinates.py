"""The coordinate check: maximal updates pass, and planted mistakes do not."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from grokking.coordinates import FEW, acting, at_rest, coordinates, slopes
from grokking.engine.trainer import Trainer
from grokking.optim import ENTRYWISE, optimizers
from grokking.roles import Geometry, Role, Update
from grokking.runs import run_spec
from grokking.scaling import Place, mup, scaling, scalings

WIDTHS, SEEDS = (64, 128, 256), range(8)
PERCEPTRON = {"model.name": "mlp", "optimizer.lr": 1e-3}


@pytest.fixture
def planted():
    """A function that registers muP with a mistake, and gives the settings that name it."""
    names = []

    def plant(mistake):
        def wrong(part, base_width: int = 64):
            """A mistake."""
            return mistake(part, mup(part, base_width))

        wrong.__name__ = f"wrong{len(names)}"
        scaling(wrong)
        names.append(wrong.__name__)
        return {"scaling.name": wrong.__name__, "scaling.base_width": 64}

    yield plant
    for name in names:
        del scalings._entries[name]


RIGHT = {"scaling.name": "mup", "scaling.base_width": 64}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion"])
def test_mup_passes_and_standard_does_not(optimizer):
    settings = {**PERCEPTRON, "optimizer.name": optimizer, "optimizer.lr": 0.1 if optimizer == "sgd" else 1e-3}
    assert slopes(coordinates({**settings, **RIGHT}, WIDTHS, SEEDS))["passes"].all()
    table = slopes(coordinates(settings, WIDTHS, SEEDS)).set_index(["what", "name"])
    assert not table["passes"]["start", "scores"]
    assert not table["passes"]["change", "scores"]


@pytest.mark.parametrize(
    ("mistake", "seen"),
    [
        (lambda part, own: replace(own, forward=1.0) if part.role is Place.READOUT else own, ("start", "scores")),
        (lambda part, own: replace(own, lr=1.0) if part.role is Role.HIDDEN else own, ("update", "hidden.0.weight")),
        (
            lambda part, own: replace(own, lr=own.lr / part.width) if part.role is Role.HEAD else own,
            ("update", "head.weight"),
        ),
        (lambda part, own: replace(own, init=1.0) if part.role is Role.HEAD else own, ("start", "scores")),
    ],
    ids=[
        "no multiplier before the head",
        "no factor on hidden rates",
        "twice a factor at the head",
        "the head's initial values",
    ],
)
def test_a_planted_mistake_is_seen_where_it_was_made(planted, mistake, seen):
    table = slopes(coordinates({**PERCEPTRON, **planted(mistake)}, WIDTHS, SEEDS)).set_index(["what", "name"])
    assert not table["passes"][seen], table["slope"][seen]


def test_scores_over_the_root_of_channels_are_seen(planted):
    settings = {"model.name": "transformer", "model.heads": 2, "optimizer.lr": 1e-3}
    rooted = planted(lambda part, own: replace(own, forward=1.0) if part.role is Place.SCORES else own)
    at = ("start", "blocks.0.attention.scores")
    table = slopes(coordinates({**settings, **rooted}, WIDTHS, SEEDS, steps=2)).set_index(["what", "name"])
    assert table["slope"][at] == pytest.approx(0, abs=0.1)
    assert not table["passes"][at]
    right = slopes(coordinates({**settings, **RIGHT}, WIDTHS, SEEDS, steps=2)).set_index(["what", "name"])
    assert right["passes"][at]


@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 0.01), ("sgd", 0.1), ("adam", 0.01)])
def test_unscaled_decay_is_seen_at_rest_alone(planted, optimizer, lr):
    """A hidden matrix with λ where λ · width belongs (of Adam's, whose decay is in the gradient, the embedding)."""
    settings = {"model.name": "mlp", "optimizer.name": optimizer, "optimizer.lr": lr, "optimizer.weight_decay": 2.0}
    unscaled = {**settings, **planted(lambda part, own: replace(own, weight_decay=1.0))}
    right = slopes(at_rest({**settings, **RIGHT}, WIDTHS, SEEDS, 800)).set_index("name")
    assert right["passes"].all(), right["slope"]
    wrong = slopes(at_rest(unscaled, WIDTHS, SEEDS, 800)).set_index("name")
    assert not wrong["passes"].all(), wrong["slope"]


@pytest.mark.parametrize(
    ("update", "eps", "seen"),
    [
        (ENTRYWISE, 1e-8, ("change", "scores")),
        (Update(Geometry.SPECTRAL), 1e-8, ("update", "hidden.0.weight")),
        (Update(Geometry.SPECTRAL), 1e-4, None),
    ],
)
def test_why_soap_says_nothing_of_its_updates(update, eps, seen, monkeypatch):
    """No geometry holds at its default epsilon; where it is far above what gradients have beside their first directions, one does."""
    monkeypatch.setitem(optimizers["soap"].extra, "update", update)
    own = {**PERCEPTRON, **RIGHT, "train_fraction": 0.5, "optimizer.name": "soap", "optimizer.eps": eps}
    table = slopes(coordinates(own, WIDTHS, SEEDS)).set_index(["what", "name"])
    assert table["passes"].all() if seen is None else not table["passes"][seen], table["slope"]


def test_parameters_act_by_their_shapes():
    """Of ones [out, in] every number given out is a sum of `in` ones, whatever `out` is; the head's is multiplied on its way."""
    settings = {**FEW, "model.name": "transformer", "model.heads": 2, "model.width": 16, "steps": 1}
    trainer = Trainer(
        run_spec({**settings, "scaling.name": "mup", "scaling.base_width": 8}, 0).setting, torch.device("cpu")
    )
    shapes = {name: tuple(w.shape) for name, w in trainer.model.named_parameters()}
    sizes = acting(trainer, {name: torch.ones(1, *shape) for name, shape in shapes.items()})
    assert any(shape[0] > shape[1] for name, shape in shapes.items() if trainer.roles[name] is Role.HIDDEN)
    for name, shape in shapes.items():
        of_head = 0.5 * shape[1] * shape[0] ** 0.5 if trainer.roles[name] is Role.HEAD else None
        expected = {Role.HIDDEN: shape[-1], Role.HEAD: of_head}.get(trainer.roles[name], 1.0)
        assert float(sizes[name]) == pytest.approx(expected), name


def test_intervals_of_slopes_are_students_over_seeds():
    own = [-0.1, 0.0, 0.25]
    lines = [(width, seed, "w", "update", width**power) for width in WIDTHS for seed, power in enumerate(own)]
    line = slopes(pd.DataFrame(lines, columns=["width", "seed", "name", "what", "size"])).iloc[0]
    low, high = stats.t.interval(0.95, 2, np.mean(own), stats.sem(own))
    assert tuple(line[["slope", "slope_low", "slope_high"]]) == pytest.approx((0.05, low, high))


def test_slopes_of_made_up_sizes():
    """Exponents ±1/2 and 0 with a factor of each seed; what is 0 has no slope."""
    laws = {("start", "scores"): -0.5, ("change", "scores"): 0.5, ("update", "w"): 0.0}
    lines = [
        (width, seed, name, what, (1 + seed) * width**power)
        for (what, name), power in laws.items()
        for width in WIDTHS
        for seed in range(3)
    ]
    lines += [(width, seed, "bias", "start", 0.0) for width in WIDTHS for seed in range(3)]
    table = slopes(pd.DataFrame(lines, columns=["width", "seed", "name", "what", "size"]))
    np.testing.assert_allclose(table["slope"], list(laws.values()), atol=1e-12)
    assert list(table["passes"]) == [True, False, True]
    assert list(table["n"]) == [3, 3, 3]


def test_a_verdict_is_of_the_widest_three_widths_and_the_slope_of_all_stands_beside_it():
    """√width up to 128, flat from there on: as narrow models may be, of which theory says nothing."""
    sizes = {32: 1.0, 64: 2**0.5, 128: 2.0, 256: 2.0, 512: 2.0}
    lines = [(width, seed, "w", "update", size) for width, size in sizes.items() for seed in range(2)]
    line = slopes(pd.DataFrame(lines, columns=["width", "seed", "name", "what", "size"])).iloc[0]
    assert line["slope"] == pytest.approx(0)
    assert line["slope_all"] == pytest.approx(0.25)
    assert line["passes"]


def test_what_is_0_at_one_width_alone_passes_nowhere():
    """Such as a parameter that one width does not train: without a line it would be as if it had passed."""
    lines = [(width, seed, "w", "update", float(width != 128)) for width in WIDTHS for seed in range(2)]
    found = slopes(pd.DataFrame(lines, columns=["width", "seed", "name", "what", "size"]))
    assert found["slope"].isna().tolist() == [True]
    assert found["passes"].tolist() == [False]


@pytest.mark.parses
def test_the_command_says_pass_or_fail_and_draws(tmp_path, capsys):
    from grokking.cli import command_line

    words = [
        "coordinates",
        "--widths",
        "64,128,256",
        "--seeds",
        "0:6",
        "--set",
        "optimizer.lr=0.001",
        "--figures",
        str(tmp_path),
    ]
    assert command_line(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("pass: all 11 slopes")
    assert command_line([*words, "--scaling", "standard"]) == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("fail: ")
    assert "update of hidden.0.weight" in said
    assert {path.name for path in tmp_path.iterdir()} == {
        f"coordinates{end}" for end in (".png", ".svg", ".csv", "_slopes.csv")
    }


@pytest.mark.parses
@pytest.mark.parametrize(
    ("lr", "said"), [("1e-30", "change nothing that layers give out"), ("1e30", "overflow at width 16")]
)
def test_steps_that_show_nothing_are_no_verdict(lr, said, tmp_path):
    from grokking.cli import command_line
    from grokking.errors import BadInput

    words = ["coordinates", "--widths", "16,24,32", "--seeds", "0:2", "--figures", str(tmp_path)]
    with pytest.raises(BadInput, match=said):
        command_line([*words, "--set", f"optimizer.lr={lr}"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parses
def test_a_verdict_on_two_seeds_says_what_its_intervals_do_not_exclude(tmp_path, capsys):
    from grokking.cli import command_line

    words = ["coordinates", "--widths", "16,32,64", "--seeds", "0:2", "--figures", str(tmp_path)]
    assert command_line(words) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"of [1-9] of them the 95 % interval does not exclude theory; more --seeds would tell", last)


@pytest.mark.parses
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--widths", "64,x"], "widths = 'x'"),
        (["--widths", "64,128"], "three"),
        (["--steps", "0"], "steps = 0"),
        (["--set", "optimizer.name=muon"], "--set optimizer.name = 'muon', but here --optimizer says it"),
        (["--set", "model.width=7"], "--set model.width = '7', but here --widths says it"),
        (["--model", "transformer", "--widths", "64,128,130"], "model.width = 130 is not a multiple of"),
        (["--optimizer", "torch.optim.NAdam", "--scaling", "standard"], "'torch.optim.NAdam' trains run by run"),
        (["--figures", "/proc/nowhere"], "cannot write figures to '/proc/nowhere'"),
    ],
)
def test_what_the_command_cannot_measure_is_said_before_it_begins(words, said, monkeypatch):
    from grokking.cli import command_line
    from grokking.errors import BadInput

    def measured(*_):
        raise AssertionError("it has begun")

    monkeypatch.setattr("grokking.coordinates.coordinates", measured)
    with pytest.raises(BadInput, match=said):
        command_line(["coordinates", *words])


def test_a_line_is_dashed_where_its_slope_is_not_theory_s_and_a_weight_has_the_color_of_its_layer():
    from matplotlib.figure import Figure

    from grokking import coordinates_figure as drawn

    names = ["hidden.weight", "hidden", "head"]
    table = pd.DataFrame([{"name": name, "width": w, "size": 1.0} for name in [*names, "unfitted"] for w in (64, 128)])
    found = pd.DataFrame({"name": names, "passes": [True, False, True]})
    colors = drawn.layer_colors(names)
    assert list(colors) == ["hidden", "head"]
    axes = Figure().subplots()
    drawn.sizes(axes, table, found, colors)
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--", "-"]
    assert [line.get_label() for line in axes.lines] == ["hidden", "hidden", "head"]


def test_head_and_queries_begin_at_0_before_the_steps():
    """So the first step moves the head alone, as no gradient passes it."""
    settings = {"model.name": "transformer", "model.heads": 2, "optimizer.weight_decay": 0.0}
    table = coordinates(settings, (16,), range(2), steps=1)
    moved = table[(table["what"] == "update") & (table["size"] > 0)]
    assert set(moved["name"]) == {"head.weight"}
    later = coordinates(settings, (16,), range(2), steps=2)
    still = later[(later["what"] == "update") & (later["size"] == 0)]
    assert set(still["name"]) == {"blocks.0.attention.key.weight"}, "no gradient passes queries of 0"


def test_what_keeps_the_initial_weights_keeps_those_that_are_0():
    """Else the pull of the random ones would be measured as a change of the head."""
    pulled = {"transforms": "decay_to_start", "transform.decay_to_start.decay": 100.0, "optimizer.weight_decay": 0.0}
    head, lr = [], 1e-12
    for own in ({"optimizer.weight_decay": 0.0}, pulled):
        table = coordinates({**PERCEPTRON, "optimizer.lr": lr, **own}, (16,), range(2))
        head.append(table[(table["what"] == "update") & (table["name"] == "head.weight")]["size"].to_numpy())
    np.testing.assert_allclose(*head, rtol=1e-3)


def test_a_run_that_diverges_passes_nowhere_and_breaks_nothing():
    found = slopes(
        coordinates({**PERCEPTRON, "optimizer.name": "lion", "optimizer.lr": 3e38}, (8, 16), range(2), steps=5)
    )
    update = found[found["what"] == "update"]
    assert update["slope"].isna().any()
    assert not update.loc[update["slope"].isna(), "passes"].any()
    assert np.isfinite(found.loc[found["what"] == "start", "slope"]).all()


def test_the_bias_of_keys_has_no_slope_as_softmax_does_not_see_it():
    settings = {
        "model.name": "transformer",
        "model.heads": 2,
        "model.bias": True,
        "optimizer.name": "sgd",
        "optimizer.lr": 0.1,
    }
    table = coordinates(settings, (8, 16), range(2), steps=4)
    update = table[table["what"] == "update"].groupby("name")["size"].mean()
    assert update["blocks.0.attention.key.bias"] < 1e-6 * update["blocks.0.attention.query.bias"]
    assert "blocks.0.attention.query.bias" in set(slopes(table)["name"])
    assert "blocks.0.attention.key.bias" not in set(slopes(table)["name"])
