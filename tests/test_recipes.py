"""Recipes: their models have the parameters of their sources, and every one of them trains."""

import pytest

from grokking.cli import command_line
from grokking.errors import BadInput
from grokking.recipes import RECIPES, of_recipe, recipe
from grokking.runs import run_spec
from grokking.tasks import tasks


def parameters(name):
    """How many parameters the recipe's model has, but for those that its source does not count."""
    own = recipe(name)
    model = run_spec(own.settings, 0).setting.model()
    return sum(p.numel() for key, p in model.named_parameters() if not key.startswith(own.excluded or ("nothing",)))


STATED = {  # by the paper or by its code, with where the number comes from
    "power2022": 394_240,  # openai/grok without embeddings: 2 · (4 · 128² + 8 · 128² + 4 · 128)
    "power2022_fig1": 394_240,
    "nanda2023": 226_816,  # 114 · 128 + 3 · 128 + 4 · 128² + 8 · 128² + 512 + 128 + 128 · 114
    "gromov2023": 145_500,  # 2 · 97 · 500 + 500 · 97
    "prieto2025": 107_800,  # 226 · 200 + 200² + 200 · 113
    "tveit2025": 550_272,  # stockeh/mlx-grokking
    "janati2026": 226_048,  # the paper
    "chou2025": 88_250,  # 113 · 50 + 100 · 200 + 200² + 200 · 113
}


@pytest.mark.parametrize("name", STATED)
def test_a_recipes_model_has_the_parameters_that_its_source_has(name):
    assert parameters(name) == recipe(name).parameters == STATED[name]


def test_the_recipes_are_those_of_the_papers_and_each_says_what_it_is():
    assert set(RECIPES) == {
        *("power2022", "power2022_fig1", "nanda2023", "gromov2023", "omnigrok2023", "grokfast2024", "prieto2025"),
        *("tveit2025", "wang2026", "janati2026", "chou2025", "cesista2025", "lipschitz2025"),
    }
    for name, own in RECIPES.items():
        assert own.source
        assert own.stated
        assert own.open or own.code, name
        assert (own.parameters is None) == (name not in STATED)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_on_its_own_task_without_a_warning(name, tmp_path):
    """With pytest, a warning is an error."""
    from grokking.commands.arguments import Where
    from grokking.commands.train import train
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
    from grokking.commands.train import train
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


@pytest.mark.parses
def test_recipes_are_listed_and_run_by_name(capsys, tmp_path):
    assert command_line(["list", "recipes"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in RECIPES)
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
