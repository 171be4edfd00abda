"""Recipes by name: the settings of papers, whole or with something changed."""

import math

from grokking.errors import BadInput
from grokking.optim.transforms import named
from grokking.recipes.book import PAPERS, Recipe
from grokking.recipes.records import RECORDS
from grokking.registry import Scalar, Settings, suggest
from grokking.tasks import tasks

__all__ = ["PAPERS", "RECIPES", "Recipe", "of_recipe", "published_steps", "recipe"]

RECIPES = {**PAPERS, **RECORDS}


def recipe(name: str) -> Recipe:
    """The recipe of this name."""
    if name not in RECIPES:
        raise BadInput(f"unknown recipe {name!r}; {suggest(name, sorted(RECIPES))}")
    return RECIPES[name]


def published_steps(within: tuple[float, float] | None) -> str:
    """When a recipe generalises, as published, in words."""
    if within is None:
        return "–"
    first, last = (f"{step:,.0f}" for step in within)
    if first == last:
        return first
    if within[1] == math.inf:
        return f"after {first}"
    return f"by {last}" if within[0] == 1 else f"{first} to {last}"


def of_recipe(name: str, changed: Settings) -> dict[str, Scalar]:
    """The settings of a recipe, without the options of what is changed for something else: another optimizer has its own.

    Another task keeps those that it also has, such as p.
    """
    own = dict(recipe(name).settings)
    for setting, value in changed.items():
        kind = setting.removesuffix(".name")
        if setting.endswith(".name") and own.get(setting) != value:
            kept = _options_left(str(value)) if kind == "task" else []
            own = {k: v for k, v in own.items() if not k.startswith(f"{kind}.") or k.removeprefix(f"{kind}.") in kept}
    used = named(str(changed.get("transforms", own.get("transforms", "none"))))
    return {k: v for k, v in own.items() if not k.startswith("transform.") or k.split(".")[1] in used}


def _options_left(task: str) -> list[str]:
    """The options of a task that its name, such as mod_add:59, does not tell."""
    name, told, _ = task.partition(":")
    return list(tasks[name].defaults)[bool(told) :]
