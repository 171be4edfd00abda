"""Arguments that several commands share, and reading them."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from grokking.errors import BadInput
from grokking.registry import Scalar, Settings

Files = Annotated[tuple[str, ...], tyro.conf.Positional]
Set = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE ...")]
Imports = Annotated[tuple[str, ...], tyro.conf.arg(name="import", metavar="FILE.py|MODULE ...")]
MOST_SEEDS = 10_000
RESUME = ("exact", "anyway", "never")


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Where:
    """Where and how runs are trained, which is no part of what they are."""

    device: str = "auto"
    """auto, cpu or cuda"""
    out: Path = Path("results")
    """folder of the results; what is stored there is not trained again"""
    workers: int = 0
    """worker processes; 0: one per CPU core, on CUDA one (more share the device, which fills it where cohorts are narrow)"""
    compile: Literal["declared", "on", "off"] = "declared"
    """compile the step of each setting (half a minute each, then faster; other bits than without): declared is where the
    experiment says that it pays, and never in `run`"""
    checkpoint_every: float = 60.0
    """seconds between checkpoints of a cohort (more, if they took over 5 % of the time); 0: only when stopped"""
    resume: str = "exact"
    """what to do with checkpoints: exact (continue; refuse those of another machine or PyTorch), anyway, never"""
    executor: Literal["local", "ray"] = "local"
    """who trains: worker processes of this machine, or the machines of a Ray cluster"""
    ray_address: str | None = None
    """of the cluster's head, such as 10.0.0.1:6379; without it (and without RAY_ADDRESS) Ray starts on this machine"""

    def check(self) -> None:
        """Raise `BadInput` where a value is not allowed."""
        if self.workers < 0:
            raise BadInput(f"workers = {self.workers}; allowed: integers from 0 on (0: one per CPU core, on CUDA one)")
        if not 0 <= self.checkpoint_every < float("inf"):
            raise BadInput(
                f"checkpoint_every = {self.checkpoint_every}; allowed: seconds from 0 on (0: only when stopped)"
            )
        if self.ray_address is not None and self.executor != "ray":
            raise BadInput(f"ray_address = {self.ray_address!r} is for --executor ray; say that too, or leave it out")
        if self.executor == "ray" and importlib.util.find_spec("ray") is None:
            raise BadInput(f"executor = 'ray' needs Ray, which is not installed; {install('ray')}")
        if self.resume not in RESUME:
            raise BadInput(f"resume = {self.resume!r}; allowed: {', '.join(RESUME)}")


HERE = Where()


def install(extra: str) -> str:
    """How to get what an extra of this package needs."""
    return f"pip install 'grokking-lab[{extra}]' (in a clone: pip install -e '.[{extra}]')"


def parse_seeds(text: str) -> list[int]:
    """`0:5,9` → [0, 1, 2, 3, 4, 9]; ranges are half-open."""
    seeds: list[int] = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        try:
            found = list(range(int(first), min(int(last), int(first) + MOST_SEEDS + 1))) if colon else [int(first)]
        except ValueError:
            found = []
        if not found:
            raise BadInput(
                f"seeds = {text!r}; allowed: numbers and ascending half-open ranges, such as 3 or 0:5 or 0:5,9"
            )
        seeds += found
        if len(seeds) > MOST_SEEDS:
            raise BadInput(f"seeds = {text!r} are more than {MOST_SEEDS:,}; train them in several calls")
    return list(dict.fromkeys(seeds))


def told(settings: Sequence[str], flags: Mapping[str, object]) -> dict[str, str]:
    """What flags of their own say (None: nothing), and what `--set` says: `name=value`, each once."""
    said = {name: str(value) for name, value in flags.items() if value is not None}
    found: dict[str, str] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--set {text!r} has no value; allowed: name=value, such as optimizer.lr=0.02")
        if name in found or said.get(name, value) != value:
            raise BadInput(
                f"--set {name} = {value!r}, but {found.get(name, said.get(name))!r} was said too; say it once"
            )
        found[name] = value
    return {**said, **found}


def told_beside(settings: Sequence[str], flags: Mapping[str, str]) -> dict[str, str]:
    """What `--set` says of everything but what `flags` (setting → its flag) say by themselves: those would overrule it."""
    found = told(settings, {})
    for name, flag in flags.items():
        if name in found:
            raise BadInput(f"--set {name} = {found[name]!r}, but here {flag} says it; say it there")
    return found


def on_recipe(recipe: str | None, changed: Settings) -> dict[str, Scalar]:
    """The settings of a recipe, if one is named, with what is `changed`; says which of its own no longer apply."""
    from grokking.recipes import RECIPES, of_recipe

    own = {} if recipe is None else of_recipe(recipe, changed)
    if recipe is not None and (dropped := sorted(set(RECIPES[recipe].settings) - set(own) - set(changed))):
        print(f"grokking: {recipe} without its {', '.join(dropped)}, which were of what is changed", file=sys.stderr)
    return {"task.name": "mod_add", "optimizer.name": "adamw", **own, **changed}
