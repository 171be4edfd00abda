"""The coordinate check: do layers give out, and do steps change, numbers as large at every width as maximal updates have it?

A scaling rule is right where the slope of log size against log width is what theory says (Yang et al. 2022, arXiv 2203.03466,
appendix D). Theory is of the limit: slopes are of the widest three widths, as narrower ones may be farther from it (the slope of Adam's
update of a transformer's keys is 0.11 from width 64 to 128, and 0.03 from there to 512, experiments/mup_stages.py). Sizes are taken of
each named layer, with a few examples only: an update is a sum over examples, and theory holds where widths are many times their number.

start    root mean square of what a layer gives out, before the first step
change   root mean square of what the steps changed in it, where head and queries begin at 0
update   the change of a parameter as it acts: of a matrix [out, in] its largest singular value times √(in / out), of the head times
         √in and what its input is multiplied by; of everything else its root mean square
rest     the same of a parameter that its first gradient pulls, over and over, until weight decay holds it: what a wrong decay does
         shows in long training only
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call, vmap

from grokking.engine.cohort import Tensors, start, state_of
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput
from grokking.registry import Settings
from grokking.roles import Role
from grokking.runs import RunSpec, run_spec
from grokking.scaling import Place

ALLOWED = 0.1  # between a slope and theory
WIDEST = 3  # widths of which slopes are
AT_ONCE = 4  # seeds: wide models of more of them leave the memory that is kept from step to step
CPU = torch.device("cpu")
FEW: Settings = {  # examples, so that even a narrow model is wide beside their number; and one operand that attention has to find
    **{"task.name": "poly:x", "task.p": 3, "train_fraction": 0.67, "batch_size": 0},
    **{"schedule.name": "constant", "evaluation.every": 1_000},
}
UNSEEN = "key.bias"  # adds the same to all scores of a query, which softmax does not see: its gradient is rounding
QUERY = "query.weight"
BY_ITSELF = -0.5  # what random weights make of the scores, and of those of attention: they go with 1 / √width


def coordinates(settings: Settings, widths: Sequence[int], seeds: Sequence[int], steps: int = 10) -> pd.DataFrame:
    """Sizes of a model with these settings at each width: columns width, seed, name, what ("start", "change", "update"), size.

    With 0 `steps` there is only the start.
    """
    parts = [seeds[first : first + AT_ONCE] for first in range(0, len(seeds), AT_ONCE)]
    return pd.concat([_at_width(settings, width, part, steps) for width in widths for part in parts], ignore_index=True)


def specs_of(settings: Settings, width: int, seeds: Sequence[int], steps: int) -> list[RunSpec]:
    """What is measured at one width: these settings on a few examples; `BadInput` where they are none."""
    specs = [run_spec({**FEW, **settings, "model.width": width, "steps": max(steps, 1)}, seed) for seed in seeds]
    if specs[0].setting.external:
        name = specs[0].setting.name("optimizer")
        raise BadInput(
            f"optimizer {name!r} trains run by run, which is not measured; take one of `grokking list optimizers`"
        )
    return specs


def _at_width(settings: Settings, width: int, seeds: Sequence[int], steps: int) -> pd.DataFrame:
    specs = specs_of(settings, width, seeds, steps)
    trainer = Trainer(specs[0].setting, CPU)
    cohort = start(specs, CPU, places=trainer.places)
    tokens = trainer.data.tokens[trainer.data.batch(cohort)]
    found = {"start": {name: _rms(x) for name, x in outputs(trainer, cohort.weights, tokens).items()}}
    weights = quiet(trainer, cohort.weights)
    cohort.moving = cohort.moving._replace(weights=weights, state=state_of(trainer.setting, weights))
    before = outputs(trainer, weights, tokens)
    while cohort.step < steps:
        trainer.advance(cohort, steps - cohort.step)
    if steps:
        after = outputs(trainer, cohort.weights, tokens)
        found["change"] = {name: _rms(after[name] - x) for name, x in before.items()}
        found["update"] = acting(trainer, {name: cohort.weights[name] - w for name, w in weights.items()})
    return _lines(width, specs, found)


def quiet(trainer: Trainer, weights: Tensors) -> Tensors:
    """The weights with head and queries at 0.

    Otherwise what random ones do to scores, and to the gradients of attention, goes with 1 / √width, and at widths that can be
    measured hides what is learned in so few steps (Yang et al. 2022, appendix D.2).
    """
    silent = {name for name, role in trainer.roles.items() if role is Role.HEAD or name.endswith(QUERY)}
    return {name: torch.zeros_like(w) if name in silent else w for name, w in weights.items()}


def at_rest(settings: Settings, widths: Sequence[int], seeds: Sequence[int], steps: int) -> pd.DataFrame:
    """The same table with "rest": where each parameter is after so many steps with its first gradient, weight decay at work."""
    return pd.concat([_rest(settings, width, seeds, steps) for width in widths], ignore_index=True)


def _rest(settings: Settings, width: int, seeds: Sequence[int], steps: int) -> pd.DataFrame:
    specs = specs_of(settings, width, seeds, steps)
    trainer = Trainer(specs[0].setting, CPU)
    cohort = start(specs, CPU, places=trainer.places)
    rows = trainer.data.batch(cohort)
    gradients, _ = trainer.gradients(
        cohort.weights,
        trainer.noise(cohort.seeds, torch.tensor(1)),
        trainer.data.tokens[rows],
        trainer.data.training_labels(cohort.seeds, rows),
    )
    weights, state = cohort.weights, cohort.state
    for step in range(1, steps + 1):
        clock = torch.tensor(step)
        weights, state = trainer.update(weights, gradients, state, cohort.hyper, torch.tensor(1.0), clock)
    return _lines(width, specs, {"rest": acting(trainer, weights)})


def outputs(trainer: Trainer, weights: Tensors, tokens: Tensor) -> Tensors:
    """What every named layer gives out: weights {parameter: [run, …]}, tokens [run, example, position] → {layer: [run, …]}.

    Layers are modules with parameters of their own, and those that stand for nothing else (`nn.Identity`); the last is "scores".
    """
    model, found = _Plain(trainer.model.eval()), dict[str, Tensor]()
    layers = {
        name: module
        for name, module in trainer.model.named_modules()
        if isinstance(module, nn.Identity) or next(module.parameters(recurse=False), None) is not None
    }

    def keep(name: str):  # type: ignore[no-untyped-def]
        return lambda module, inputs, output: found.__setitem__(name, output)

    def run(weights: Tensors, tokens: Tensor) -> Tensors:
        found.clear()
        scores = functional_call(model, {f"model.{name}": w for name, w in weights.items()}, (tokens,))
        return {**found, "scores": scores}

    handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    try:
        constants = {name: value.expand(len(tokens), *value.shape) for name, value in trainer.constants.items()}
        return vmap(run)({**constants, **weights}, tokens)
    finally:
        for handle in handles:
            handle.remove()


class _Plain(nn.Module):
    """The model's forward pass without shortcuts: every layer is called once, with every example."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = getattr(self.model, "plain", self.model)(tokens)
        return scores


def acting(trainer: Trainer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The size [run] of parameters, or of changes of them [run, …], as they act on what passes."""
    factors = trainer.setting.factors if trainer.setting.scaled else {}
    readout = factors[Place.READOUT.value].forward if factors else 1.0
    sizes = {}
    for name, tensor in tensors.items():
        role = trainer.roles[name]
        if role in (Role.HIDDEN, Role.HEAD):
            finite = torch.isfinite(tensor).flatten(1).all(1)  # a run that has diverged has no size
            norms = _largest(tensor.nan_to_num(0, 0, 0).double()).where(finite, torch.nan)
            fan_out, fan_in = tensor.shape[1:]
            sizes[name] = norms * (readout * fan_in**0.5 if role is Role.HEAD else (fan_in / fan_out) ** 0.5)
        else:
            sizes[name] = _rms(tensor)
    return sizes


def _largest(x: Tensor) -> Tensor:
    """The largest singular value of each matrix [run, out, in], which is all that is wanted of them: [run]."""
    gram = x @ x.mT if x.shape[1] < x.shape[2] else x.mT @ x
    return torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0).sqrt()


def _rms(x: Tensor) -> Tensor:
    """[run, …] → [run]."""
    return x.double().flatten(1).square().mean(1).sqrt()


def _lines(width: int, specs: Sequence[RunSpec], found: Mapping[str, Mapping[str, Tensor]]) -> pd.DataFrame:
    lines: Iterator[tuple[int, int, str, str, float]] = (
        (width, spec.seed, name, what, size)
        for what, sizes in found.items()
        for name, each in sizes.items()
        for spec, size in zip(specs, each.tolist(), strict=False)  # a lone run has a copy beside it
    )
    return pd.DataFrame(lines, columns=["width", "seed", "name", "what", "size"])


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """One line a size: its slope of log against log width (mean over seeds, 95 % t interval), theory's, and whether it `passes`.

    Of the widest three widths; `slope_all` is of all, and not judged.
    What is 0 at every width, as biases are at the start, has no slope and no line, nor has the bias of keys, whose gradient is rounding;
    what is 0 or not finite at some of them has a line, and passes nowhere.
    """
    lines = []
    for (what, name), own in table.groupby(["what", "name"], sort=False):
        grid = own.pivot(index="width", columns="seed", values="size")
        if (grid == 0).all(axis=None) or str(name).endswith(UNSEEN):
            continue
        logs = np.log(grid.where(grid != 0).to_numpy())
        each, every = np.full((2, grid.shape[1]), np.nan)
        if np.isfinite(logs).all():
            widths = np.log(grid.index.to_numpy(float))
            each, every = (np.polyfit(widths[-last:], logs[-last:], 1)[0] for last in (WIDEST, len(logs)))
        half = stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / len(each) ** 0.5 if len(each) > 1 else np.nan
        expected = BY_ITSELF if what == "start" and _by_itself(str(name)) else 0.0
        slope = float(each.mean())
        passes = abs(slope - expected) <= ALLOWED
        lines.append((what, name, slope, slope - half, slope + half, expected, every.mean(), len(each), passes))
    columns = ["what", "name", "slope", "slope_low", "slope_high", "expected", "slope_all", "n", "passes"]
    return pd.DataFrame(lines, columns=columns)


def _by_itself(name: str) -> bool:
    """Whether random weights make it smaller with the width: the model's scores, and attention's."""
    return name.split(".")[-1] in ("scores", "head")
