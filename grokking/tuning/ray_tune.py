"""For those who live in Ray Tune: a search's configurations as its trials, each with all tuning seeds side by side.

    from ray import tune
    from ray.tune.search.optuna import OptunaSearch
    from grokking.tuning.ray_tune import MEAN, param_space, trainable

    found = tune.Tuner(
        trainable(definition, imports=["my_rule.py"]),
        param_space=param_space(definition),
        tune_config=tune.TuneConfig(metric=MEAN, mode="min", num_samples=40, search_alg=OptunaSearch(), reuse_actors=True),
    ).fit()
    found.get_best_result().config

Ray Tune decides what is tried and when; `grokking tune` is lighter, and keeps the runs. A trial takes seconds to start, which is
why one is a configuration and not a run.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from grokking.execute.local import widest
from grokking.execute.luggage import packed
from grokking.execute.signals import Stop
from grokking.execute.unit import Terms, train_unit
from grokking.registry import Scalar
from grokking.store import load, prepare
from grokking.study import plan
from grokking.tuning.definition import Definition
from grokking.tuning.space import Choices

MEAN = "mean_steps"  # what a trial reports, to be small: the definition's value


def param_space(definition: Definition) -> dict[str, Any]:
    """The definition's space in Ray Tune's words."""
    space: dict[str, Any] = {}
    for name, axis in definition.space:
        if isinstance(axis, Choices):
            space[name] = tune.choice(list(axis.values))
        elif axis.integer:  # there the upper end is left out
            space[name] = (tune.lograndint if axis.log else tune.randint)(int(axis.low), int(axis.high) + 1)
        else:
            space[name] = (tune.loguniform if axis.log else tune.uniform)(axis.low, axis.high)
    return space


def trainable(
    definition: Definition, imports: Sequence[str] = (), device: str = "cpu", compile: bool = False
) -> Callable[[Mapping[str, Scalar]], None]:
    """A function for `ray.tune.Tuner`: trains one configuration and reports once.

    It reports `mean_steps` (`Definition.value`), `low` and `high` (its t interval), `generalized` (how many seeds) and
    `spent` (run-steps). `imports` come along to the machines that train. Errors of training are those of the trial.
    """
    definition.check()
    luggage = packed(imports)

    def one_configuration(config: Mapping[str, Scalar]) -> None:
        luggage.unpack()
        with tempfile.TemporaryDirectory(prefix="grokking-") as place:
            folder = Path(place)
            prepare(folder)
            terms = Terms(folder, device, compile, checkpoint_every=0.0)
            specs = definition.runs(config)
            for cohort in plan(specs, widest(device, compile)):
                for _ in train_unit(cohort, terms, Stop()):
                    pass
            runs = load(folder, [spec.run_id for spec in specs], curves=False).runs
        value = definition.value(runs)
        found = {MEAN: value.value, "low": value.low, "high": value.high, "spent": int(runs["steps_trained"].sum())}
        tune.report({**found, "generalized": int(runs["steps_to_generalize"].notna().sum())})

    return one_configuration
