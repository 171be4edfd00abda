"""Recipes: their models have the parameters of their sources, and every one of them trains."""

import pytest
import torch
import torch.nn.functional as F

from grokking.cli import command_line
from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput
from grokking.recipes import RECIPES, of_recipe, recipe
from grokking.runs import run_spec
from grokking.tasks import tasks


def parameters(name):
    """How many parameters the recipe's model has, but for those that its source does not count."""
    own = recipe(name)
    model = run_spec(own.settings, 0).setting.model()
    return sum(p.numel() for key, p in model.named_parameters() if not key.startswith(own.excluded or ("nothing",)))


COUNTED = {  # by the paper, or from the shapes in its code
    "power2022": 2 * (4 * 128**2 + 8 * 128**2 + 4 * 128),  # openai/grok: no biases but those of norms; 394,240
    "power2022_fig1": 394_240,
    "nanda2023": 114 * 128 + 3 * 128 + 12 * 128**2 + 512 + 128 + 128 * 114,
    "gromov2023": 3 * 500 * 97,  # the paper: 3 N p
    "omnigrok2023": 226_816,  # nanda2023's
    "grokfast2024": 422_784 - 128,  # main.py prints the first; without its fifth position
    "prieto2025": 226 * 200 + 200**2 + 200 * 113,
    "tveit2025": 550_272,  # stockeh/mlx-grokking
    "egd2025": 2 * 97 * 512 + 512 + 512 * 97,
    "egd2025_sgd": 2 * 97 * 512 + 512 + 512 * 97,
    "janati2026": 226_048,  # the paper
    "chou2025": 113 * 50 + 100 * 200 + 200**2 + 200 * 113,
    "chou2025_orthograd": 226 * 200 + 200**2 + 200 * 113,
    "fewest_steps": 113 * 226 + 452 * 300 + 300**2 + 300 * 113,
    "cesista2025_stiefel": 113**2 + 226 * 200 + 200**2 + 200 * 113,
    "fewest_steps_symmetric": 113 * 226 + 226 * 200 + 200**2 + 200 * 113,
}


@pytest.mark.parametrize("name", COUNTED)
def test_a_recipes_model_has_the_parameters_that_its_source_has(name):
    assert parameters(name) == recipe(name).parameters == COUNTED[name]


STARTS = {  # standard deviations of initial weights in the sources' code
    "power2022": {
        "embedding.weight": 1.0,
        "blocks.0.mlp.up.weight": (3 * 128) ** -0.5,
        "head.weight": (3 * 128) ** -0.5,
    },
    "nanda2023": {"embedding.weight": 128**-0.5, "blocks.0.mlp.down.weight": 128**-0.5},
    "gromov2023": {"first.weight": 97_000 ** (-1 / 3), "head.weight": 97_000 ** (-1 / 3)},
    "omnigrok2023": {"blocks.0.mlp.down.weight": 128**-0.5},
    "grokfast2024": {"position_embedding.weight": 1.0, "blocks.1.mlp.down.weight": (3 * 512) ** -0.5},
    "prieto2025": {"first.weight": (3 * 226) ** -0.5, "hidden.0.weight": (3 * 200) ** -0.5},
    "tveit2025": {"embedding.weight": 1.0, "blocks.0.attention.query.weight": (3 * 128) ** -0.5},
    "egd2025": {"first.weight": (2 / 194) ** 0.5, "first.bias": 0.0, "head.weight": (2 / 512) ** 0.5},
    "janati2026": {"embedding.weight": 1.0, "head.weight": (3 * 128) ** -0.5},
    "chou2025": {"first.embedding.weight": 1.0, "hidden.0.weight": (3 * 100) ** -0.5},
}


@pytest.mark.parametrize("name", STARTS)
def test_initial_weights_are_as_wide_as_in_the_sources_code(name):
    weights = run_spec(recipe(name).settings, 0).setting.initial_weights(0)
    assert {key: float(weights[key].std()) for key in STARTS[name]} == pytest.approx(STARTS[name], rel=0.06)


def test_wangs_model_costs_what_the_paper_counts():
    """Operations a step of AdamW in three of its tables, each rounded to three digits: 6 · tokens · examples · parameters."""
    examples = 3_763  # 40 % of 97²
    for operations, steps in ((3.62e13, 2388), (3.60e13, 2372), (4.69e13, 3088)):
        assert 6 * 3 * examples * parameters("wang2026") == pytest.approx(operations / steps, rel=2e-3)


@pytest.mark.parametrize("name", ["egd2025", "egd2025_sgd"])
def test_the_recipes_of_egalitarian_gradient_descent_take_the_steps_of_its_authors_code(name):
    """Forward, loss with its decay, and update of main-results/mod_add.py, in float64."""
    spec = run_spec({**recipe(name).settings, "task.p": 11, "batch_size": 40, "model.width": 16}, 0)
    cpu = torch.device("cpu")
    trainer, cohort = Trainer(spec.setting, cpu), start([spec], cpu, dtype=torch.float64)
    theirs = [cohort.weights[key][0].clone() for key in ("first.weight", "first.bias", "head.weight")]
    theirs[2] = theirs[2].T
    for _ in range(5):
        rows = trainer.data.batch(cohort)
        x, y = trainer.data.tokens[rows[0]], trainer.data.labels[rows[0]]
        first, last = (at for at, place in enumerate(spec.setting.table().positions) if place.operand is not None)
        codes = torch.cat([F.one_hot(x[:, first], 11), F.one_hot(x[:, last], 11)], 1).double()
        w1, b1, w2 = theirs = [w.detach().requires_grad_() for w in theirs]
        decay = 0.5 * 1e-4 * ((w1**2).sum() + (w2**2).sum())
        loss = F.cross_entropy((codes @ w1 + b1).relu() @ w2, y) + decay
        grads = list(torch.autograd.grad(loss, theirs))
        if name == "egd2025":
            u, s, _ = torch.linalg.svd(grads[0], full_matrices=False)
            grads[0] = (u / s.clamp_min(1e-6)) @ u.T @ grads[0]
        theirs = [w.detach() - 0.7 * g for w, g in zip(theirs, grads, strict=True)]
        trainer.advance(cohort)
    for key, w in zip(("first.weight", "first.bias"), theirs, strict=False):
        torch.testing.assert_close(cohort.weights[key][0], w, rtol=0, atol=1e-9)
    torch.testing.assert_close(cohort.weights["head.weight"][0], theirs[2].T, rtol=0, atol=1e-9)


def test_gromovs_recipe_takes_the_steps_of_his_parametrisation():
    """f(x) = W₂ (W₁ x)² / (2 p N) with weights N(0, 1) and gradient descent at rate 10⁵."""
    spec = run_spec(recipe("gromov2023").settings, 0)
    ours = [w.double() for w in spec.setting.initial_weights(0).values()]
    table = spec.setting.table()
    x, y = torch.from_numpy(table.tokens[::50]), torch.from_numpy(table.labels[::50])
    first, last = (place for place in range(len(table.positions)) if table.positions[place].operand is not None)
    pairs = torch.stack([x[:, first], 97 + x[:, last]], 1)

    def steps(weights, factor, rate):
        for _ in range(3):
            weights = [w.clone().requires_grad_() for w in weights]
            scores = factor * weights[0][pairs].sum(1).square() @ weights[1].T
            loss = F.mse_loss(scores, F.one_hot(y, 97).double())
            weights = [w.detach() - rate * g for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True)]
        return scores

    size = 2 * 97 * 500
    assert float(ours[0].std() * size ** (1 / 3)) == pytest.approx(1, rel=0.01)
    his = [w * size ** (1 / 3) for w in ours]
    torch.testing.assert_close(steps(ours, 1.0, 1e5 * size ** (-2 / 3)), steps(his, 1 / size, 1e5))
    assert dict(spec.hyper)["optimizer.lr"] == pytest.approx(1e5 * size ** (-2 / 3), rel=2e-3)


def test_the_recipes_are_those_of_the_papers_and_each_says_what_it_is():
    assert set(RECIPES) == {
        *("power2022", "power2022_fig1", "nanda2023", "gromov2023", "omnigrok2023", "grokfast2024", "prieto2025"),
        *(
            "egd2025",
            "egd2025_sgd",
            "tveit2025",
            "wang2026",
            "wang2026_adamw",
            "janati2026",
            "chou2025",
            "cesista2025",
            "lipschitz2025",
        ),
        *("fewest_steps", "fewest_steps_symmetric", "cesista2025_stiefel", "muon_norm_cap2026", "chou2025_orthograd"),
    }
    for name, own in RECIPES.items():
        assert own.source
        assert own.stated
        assert own.open or own.code, name
        assert (own.parameters is None) == (name not in COUNTED)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_on_its_own_task_without_a_warning(name, tmp_path):
    """With pytest, a warning is an error."""
    from grokking.commands.arguments import Where
    from grokking.commands.training import train
    from grokking.store import load

    small = {"task.p": 13} if "task.p" in recipe(name).settings else {}
    size = {"model.width": 16} if recipe(name).settings["model.name"] == "transformer" else {}
    specs = [run_spec({**recipe(name).settings, **small, **size, "steps": 20}, 0)]
    assert train(specs, Where(out=tmp_path, workers=1, device="cpu"), ()) == 0
    assert load(tmp_path).runs["steps_trained"].tolist() == [20]


SMALL = {  # where the default is large
    **{name: {} for name in ("s5", "s5conj", "s5aba")},
    **{"group": {"task.of": "S3xC2"}, "parity": {"task.bits": 6}, "mod_sum": {"task.p": 5}},
    **{"sparse_parity": {"task.examples": 200}, "text": {"task.examples": 200, "task.context": 5}},
}


@pytest.mark.parametrize("name", tasks)
def test_every_task_trains_by_a_recipe_without_a_warning(name, tmp_path):
    from grokking.commands.arguments import Where
    from grokking.commands.training import train
    from grokking.store import load

    own = {**of_recipe("tveit2025", {"task.name": name}), **SMALL.get(name, {"task.p": 13}), "task.name": name}
    specs = [run_spec({**own, "model.width": 16, "batch_size": 64, "steps": 20}, 0)]
    assert train(specs, Where(out=tmp_path, workers=1, device="cpu"), ()) == 0
    assert load(tmp_path).runs["steps_trained"].tolist() == [20]


def test_a_changed_optimizer_takes_its_own_options_and_leaves_the_rest():
    own = of_recipe("tveit2025", {"optimizer.name": "muon"})
    assert not [name for name in own if name.startswith("optimizer.")]
    assert own["model.rope_base"] == 1_000_000
    assert of_recipe("tveit2025", {"optimizer.name": "adamw"}) == dict(recipe("tveit2025").settings)
    assert "optimizer.lr" in of_recipe("tveit2025", {"task.name": "mod_add"})


def test_a_changed_task_keeps_the_options_that_it_also_has():
    assert of_recipe("tveit2025", {"task.name": "gcd"})["task.p"] == 97
    assert "task.p" not in of_recipe("tveit2025", {"task.name": "parity"})
    assert (
        run_spec({**of_recipe("tveit2025", {"task.name": "mod_add:31"}), "task.name": "mod_add:31"}, 0).setting.number(
            "task.p"
        )
        == 31
    )


def test_without_its_transform_a_recipe_has_none_of_its_options():
    for transforms in ("none", "grokfast_ma"):
        own = {**of_recipe("grokfast2024", {"transforms": transforms}), "transforms": transforms}
        assert run_spec(own, 0).setting.by_name["transforms"] == transforms
    assert "transform.grokfast_ema.lamb" in of_recipe("grokfast2024", {"transforms": "clip_norm,grokfast_ema"})


@pytest.mark.parses
def test_recipes_are_listed_and_run_by_name(capsys, tmp_path):
    assert command_line(["list", "recipes"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in RECIPES)
    assert "adam 0.001, 0.005 + grokfast_ema" in said
    assert len(said.splitlines()) == len(RECIPES) + 3
    assert command_line(["list", "recipes", "-v"]) == 0
    assert all(own.stated in (said := capsys.readouterr().out + said) for own in RECIPES.values())
    assert command_line(["list", "recipes", "tveit2025"]) == 0
    assert "model.rope_base=1000000" in capsys.readouterr().out
    call = [
        "run",
        "--recipe",
        "janati2026",
        "--steps",
        "2",
        "--workers",
        "1",
        "--out",
        str(tmp_path),
        "--json",
        "--set",
    ]
    assert command_line([*call, "task.p=7", "model.width=16", "optimizer.name=adamw", "batch_size=8"]) == 0
    assert '"optimizer.name": "adamw"' in capsys.readouterr().out
    with pytest.raises(BadInput, match="unknown recipe 'nanda'; did you mean nanda2023"):
        command_line(["run", "--recipe", "nanda"])
