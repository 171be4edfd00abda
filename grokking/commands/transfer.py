"""`grokking transfer`: tune the learning rate of a narrow model, and say, and try, what it is for a wide one."""

import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grokking.commands.arguments import HERE, Imports, Set, Where, on_recipe, parse_seeds, told, told_beside
from grokking.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from grokking.registry import Scalar
    from grokking.runs import RunSpec

FLAGS = {  # setting → which flag says it
    "model.width": "--to (of the narrow model --base)",
    "scaling.name": "--scaling",
    "scaling.base_width": "--base",
}


def transfer(
    to: int,
    base: int = 64,
    task: str | None = None,
    optimizer: str | None = None,
    recipe: str | None = None,
    scaling: str = "mup",
    factors: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    seeds: str = "1000:1003",
    seed: int = 0,
    settings: Set = (),
    steps: int | None = None,
    imports: Imports = (),
    where: Where = HERE,
) -> int:
    """Tune the learning rate at the base width, say which settings a wide model has with it, predict, and check one run.

    Exit code 1: nothing generalises at the base width, or the wide run takes longer than was predicted.

    Args:
        to: the width of the wide model (model.width).
        base: the width at which is tuned.
        task: see `grokking list tasks`; mod_add if nothing says otherwise.
        optimizer: see `grokking list optimizers`; adamw if nothing says otherwise.
        recipe: the setting of a paper (see `grokking list recipes`); --task, --optimizer and --set change it.
        scaling: the rule by which numbers change with the width (see `grokking list scaling`).
        factors: what the learning rate in use is multiplied by; every rate of the optimizer is, so that their ratio stays.
        seeds: the tuning seeds.
        seed: of the run that is checked, and none of those.
        settings: any setting by its dotted name, the same in all runs.
        steps: the budget of a run, short for --set steps=N.
        imports: what you wrote yourself (tasks, models, optimizers, …): .py files or modules.
        where: where, and how.
    """
    import contextlib

    from grokking.commands.training import train
    from grokking.extensions import import_extensions
    from grokking.runs import defaults_in_use, run_spec

    if not 1 <= base < to:
        raise BadInput(f"base = {base} and to = {to}; allowed: a base width of at least 1, and a wider one to go to")
    if scaling == "standard":
        raise BadInput(
            "scaling = 'standard' changes nothing with the width; allowed: mup, spectral, or one of your own"
        )
    if not factors or any(not 0 < factor < float("inf") for factor in factors):
        raise BadInput(f"factors = {' '.join(map(str, factors))}; allowed: positive numbers, at least one")
    told_beside(settings, FLAGS)
    tuning = parse_seeds(seeds)
    if seed in tuning or len(tuning) < 2:
        raise BadInput(
            f"seeds = {seeds!r} and seed = {seed}; allowed: at least two to tune with, and another one to check"
        )
    with contextlib.redirect_stdout(sys.stderr):
        import_extensions(imports)
        flags = {"task.name": task, "optimizer.name": optimizer, "steps": steps}
        chosen = on_recipe(recipe, told(settings, flags))
        chosen |= {"scaling.name": scaling, "scaling.base_width": base}
        rates = _rates({**defaults_in_use(chosen), **chosen})
        tried = {
            factor: {**chosen, **{name: float(f"{rate * factor:.4g}") for name, rate in rates.items()}}
            for factor in factors
        }
        narrow = {
            factor: [run_spec({**own, "model.width": base}, one) for one in tuning] for factor, own in tried.items()
        }
        wide = {factor: run_spec({**own, "model.width": to}, seed) for factor, own in tried.items()}
        failed = train([spec for group in narrow.values() for spec in group], where, imports)
    if failed:
        return failed
    factor, runs = _best({factor: _load(specs, where) for factor, specs in narrow.items()})
    found = predict(runs)
    print(f"width {base}: {_said(tried[factor], rates)}: {found.words()}, tuned with {len(tuning)} seeds")
    if not found.generalized:
        print("nothing generalises there within the budget; more --steps, or other --factors?")
        return 1
    if factor in (min(factors), max(factors)):
        print("that is an end of what was tried, and a better rate may lie beyond it: other --factors would tell")
    own = {**tried[factor], "model.width": to}
    print(f"width {to}: {_said(own, {**rates, 'scaling.base_width': base})}; predicted: {found.words()}")
    with contextlib.redirect_stdout(sys.stderr):
        failed = train([wide[factor]], where, imports)
    if failed:
        return failed
    run = _load([wide[factor]], where).iloc[0]
    verdict, code = found.verdict(run)
    print(f"seed {seed}: {verdict}")
    print("more seeds of it:\n  " + _command(own, imports, where))
    return code


@dataclass(frozen=True)
class Prediction:
    """Steps that another run takes: the geometric mean of `n` runs, and the 95 % interval of one more."""

    mean: float
    low: float
    high: float
    generalized: int
    n: int

    def words(self) -> str:
        """`310 steps to generalise [250, 390]`."""
        if self.generalized < self.n:
            return f"{self.generalized} of {self.n} runs generalise"
        return f"{self.mean:,.0f} steps to generalise [{self.low:,.0f}, {self.high:,.0f}]"

    def verdict(self, run: "pd.Series") -> tuple[str, int]:
        """What is said of a run, and the exit code."""
        if run["status"] != "generalized":
            return f"does not generalise within {run['steps']:,} steps", 1
        steps = int(run["steps_to_generalize"])
        if self.generalized < self.n:
            return f"{steps:,} steps; no interval was predicted, as some runs did not generalise at the base width", 0
        if steps > self.high:
            return f"{steps:,} steps, later than predicted", 1
        return f"{steps:,} steps, {'sooner than' if steps < self.low else 'as'} predicted", 0


def predict(runs: "pd.DataFrame") -> Prediction:
    """From the runs of the base width: on the log of their steps, Student's t interval of one more run (1 + 1/n).

    Of the best of k rates that are equally good the mean is too early by what luck makes of k; the interval holds 93 % for k = 7.
    """
    import numpy as np
    from scipy import stats

    logs = np.log(runs["steps_to_generalize"].fillna(runs["steps"]).to_numpy(float))
    n = len(logs)
    half = stats.t.ppf(0.975, n - 1) * logs.std(ddof=1) * (1 + 1 / n) ** 0.5
    mean, low, high = (float(end) for end in np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]))
    return Prediction(mean, low, high, int((runs["status"] == "generalized").sum()), n)


def _rates(settings: "dict[str, Scalar]") -> dict[str, float]:
    """The optimizer's learning rates."""
    from grokking.registry import is_rate

    found = {
        name: float(value)
        for name, value in settings.items()
        if name.startswith("optimizer.") and is_rate(name.removeprefix("optimizer."))
    }
    if not found:
        raise BadInput(f"optimizer {settings['optimizer.name']!r} has no learning rate to tune")
    return found


def _load(specs: "list[RunSpec]", where: Where) -> "pd.DataFrame":
    from grokking.store import load

    return load(where.out, [spec.run_id for spec in specs], curves=False).runs


def _best(tried: "dict[float, pd.DataFrame]") -> "tuple[float, pd.DataFrame]":
    """The factor whose runs take the least steps in the geometric mean, those that never generalise at the budget."""
    factor = min(tried, key=lambda factor: predict(tried[factor]).mean)
    return factor, tried[factor]


def _said(settings: "dict[str, Scalar]", names: "dict[str, float]") -> str:
    width = "" if "model.width" not in settings else f"model.width={settings['model.width']} "
    shown = ["scaling.name", *names] if "scaling.base_width" in names else list(names)
    return width + " ".join(f"{name}={_short(settings[name])}" for name in shown)


def _short(value: "Scalar") -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _command(settings: "dict[str, Scalar]", imports: tuple[str, ...], where: Where) -> str:
    """The command that runs the wide model with other seeds."""
    words = ["grokking", "run", "--seeds", "0:10", *(["--import", *imports] if imports else [])]
    words += ["--out", str(where.out)] if where.out != HERE.out else []
    return shlex.join([*words, "--set", *(f"{name}={value}" for name, value in settings.items())])
