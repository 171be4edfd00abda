"""The run axis: R runs with one setting, their weights stacked, and the single-run functions lifted over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from grokking.engine.batches import Batches
from grokking.errors import BadInput
from grokking.losses import losses
from grokking.models.parts import Dropout, mix
from grokking.optim import Numbers, State, optimizers
from grokking.optim.schedules import schedules
from grokking.roles import declarations, initial_weights
from grokking.runs import RunSpec, Setting
from grokking.tasks import split

Tensors = dict[str, Tensor]
TRAIN_ROWS = 1024  # training accuracy is taken on at most so many fixed training examples


@dataclass
class Cohort:
    """State of the runs that still train; the first axis of every tensor is the run.

    On a CPU a run that is alone trains beside a copy of itself. At width 1 the run axis vanishes from the strides, the
    matrix library is called with other layouts, and on some processors (AMD's) other layouts are other bits.
    """

    specs: list[RunSpec]
    step: int  # updates made so far
    weights: Tensors
    state: dict[str, Tensors]  # parameter → slot → tensor
    hyper: Tensors  # optimizer number → [run] float64
    finite: Tensor  # [run] bool: False from a non-finite loss or gradient on; such a run is frozen
    diverged_at: list[int | None]

    def keep(self, runs: list[int]) -> "Cohort":
        """The cohort without the other runs: what is left is not changed by a bit."""
        runs = not_alone(runs, self.finite.device)
        at = torch.tensor(runs, device=self.finite.device)
        return Cohort(
            [self.specs[run] for run in runs],
            self.step,
            {name: w[at] for name, w in self.weights.items()},
            {name: {slot: s[at] for slot, s in slots.items()} for name, slots in self.state.items()},
            {name: number[at] for name, number in self.hyper.items()},
            self.finite[at],
            [self.diverged_at[run] for run in runs],
        )


T = TypeVar("T")


def not_alone(runs: list[T], device: torch.device) -> list[T]:
    """The runs, and on a CPU a lone one twice."""
    return runs * 2 if len(runs) == 1 and device.type == "cpu" else runs


def start(specs: Sequence[RunSpec], device: torch.device, dtype: torch.dtype = torch.float32) -> Cohort:
    """The cohort before its first step: every run's weights from its own seed, optimizer state at its start."""
    specs = not_alone(list(specs), device)
    model = specs[0].setting.model()
    drawn = [initial_weights(model, spec.seed, dtype) for spec in specs]
    weights = {name: torch.stack([w[name] for w in drawn]).to(device) for name in drawn[0]}
    slots = optimizers[specs[0].setting.name("optimizer")].extra["slots"]
    state = {
        name: {slot: vmap(first)(weights[name]) for slot, first in slots(law.role).items()}
        for name, law in declarations(model).items()
    }
    columns = zip(*(spec.hyper for spec in specs), strict=True)
    hyper = {
        column[0][0].removeprefix("optimizer."): torch.tensor(
            [v for _, v in column], dtype=torch.float64, device=device
        )
        for column in columns
    }
    finite = torch.ones(len(specs), dtype=torch.bool, device=device)
    return Cohort(list(specs), 0, weights, state, hyper, finite, [None] * len(specs))


class Trainer:
    """One setting's functions, lifted over the run axis, and the data that they are applied to."""

    def __init__(self, setting: Setting, device: torch.device) -> None:
        table = setting.table()
        self.setting, self.device = setting, device
        self.tokens = torch.from_numpy(table.tokens).to(device)  # [example, position]
        self.labels = torch.from_numpy(table.labels).to(device)  # [example]
        self.model = setting.model()
        self.dropouts = [f"{n}.key" for n, module in self.model.named_modules() if isinstance(module, Dropout)]
        self.constants = dict.fromkeys(self.dropouts, torch.zeros((), dtype=torch.int64, device=device))
        if others := [name for name, _ in self.model.named_buffers() if name not in self.dropouts]:
            raise BadInput(f"the model has buffers ({', '.join(others)}); compute constants in forward instead")
        self.roles = {name: law.role for name, law in declarations(self.model).items()}
        self.loss = losses[setting.name("loss")].make
        self.rule = optimizers[setting.name("optimizer")].make
        self.schedule = schedules[setting.name("schedule")].make
        self._splits: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._batches: dict[int, Batches] = {}

    # --- one step -----------------------------------------------------------------------------------------------

    def advance(self, cohort: Cohort) -> None:
        """One update of every run; a run with a non-finite loss or gradient is frozen and costs its mates nothing."""
        rows = self.batch(cohort)
        self.model.train()
        gradients, loss = self.gradients(cohort, self.tokens[rows], self.labels[rows])
        healthy = torch.stack([loss.isfinite(), *(g.isfinite().flatten(1).all(1) for g in gradients.values())]).all(0)
        cohort.step += 1
        finite = cohort.finite & healthy
        if self.device.type == "cpu" and bool(finite.all()):
            cohort.weights, cohort.state = self.update(cohort, gradients)
            return
        for run in torch.nonzero(cohort.finite & ~finite).flatten().tolist():
            cohort.diverged_at[run] = cohort.step
        cohort.finite = finite
        safe = {name: where(finite, g, torch.zeros_like(g)) for name, g in gradients.items()}
        weights, state = self.update(cohort, safe)
        cohort.weights = {name: where(finite, w, cohort.weights[name]) for name, w in weights.items()}
        cohort.state = {
            name: {slot: where(finite, s, cohort.state[name][slot]) for slot, s in slots.items()}
            for name, slots in state.items()
        }

    def gradients(self, cohort: Cohort, tokens: Tensor, labels: Tensor) -> tuple[Tensors, Tensor]:
        """Gradient of each run's own loss, and that loss [run]; tokens [run, example, position]."""

        def loss(weights: Tensors, buffers: Tensors, tokens: Tensor, labels: Tensor) -> Tensor:
            scores = functional_call(self.model, {**weights, **buffers}, (tokens,))
            return self.loss(scores, labels, **self.setting.options("loss"))

        gradients, value = vmap(grad_and_value(loss))(cohort.weights, self.noise(cohort), tokens, labels)
        return gradients, value

    def update(self, cohort: Cohort, gradients: Tensors) -> tuple[Tensors, dict[str, Tensors]]:
        """The rule, applied to each parameter of each run with the run's own numbers."""
        step = torch.tensor(float(cohort.step), dtype=torch.float64, device=self.device)
        factor = self.schedule(step, self.setting.integer("steps"), **self.setting.options("schedule"))
        numbers = {
            name: value * factor if name == "lr" or name.endswith("_lr") else value
            for name, value in cohort.hyper.items()
        }
        static = {**self.setting.options("optimizer"), "step": step}
        weights, states = {}, {}
        for name, role in self.roles.items():

            def rule(w: Tensor, g: Tensor, state: Tensors, h: Tensors, role=role) -> tuple[Tensor, Tensors]:  # type: ignore[no-untyped-def]
                new, slots = self.rule(w, g, State(state), Numbers({**static, **h}), role)
                return new, dict(slots)

            new, slots = vmap(rule)(cohort.weights[name], gradients[name], cohort.state[name], numbers)
            # Strides decide how a matrix is multiplied, hence bits; a checkpoint keeps none, so neither do we. Nor does
            # state change its type on the way: a float64 number of `h` would turn a 0-d float32 slot into float64.
            weights[name] = new.to(cohort.weights[name].dtype).contiguous()
            states[name] = {
                slot: tensor.to(cohort.state[name][slot].dtype).contiguous() for slot, tensor in slots.items()
            }
        return weights, states

    # --- data ---------------------------------------------------------------------------------------------------

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Training and validation rows of a run with this seed."""
        if seed not in self._splits:
            self._splits[seed] = split(len(self.tokens), self.setting.number("train_fraction"), seed)
        return self._splits[seed]

    def batch(self, cohort: Cohort) -> Tensor:
        """Table rows [run, batch] of the next batch of each run."""
        rows = []
        for spec in cohort.specs:
            training, _ = self.split(spec.seed)
            if spec.seed not in self._batches:
                self._batches[spec.seed] = Batches(spec.seed, len(training), self.setting.integer("batch_size"))
            rows.append(training[self._batches[spec.seed].at(cohort.step)])
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def noise(self, cohort: Cohort) -> Tensors:
        """The dropout keys [run] of this step: a hash of (seed, step) for each run."""
        if not self.dropouts:
            return {}
        seeds = torch.tensor([spec.seed for spec in cohort.specs], device=self.device)
        key = mix(mix(seeds) + cohort.step)
        return dict.fromkeys(self.dropouts, key)

    # --- evaluation ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """Loss and accuracy [run] on the whole validation set and on the fixed training rows."""
        splits = [self.split(spec.seed) for spec in cohort.specs]
        seen = min(TRAIN_ROWS, len(splits[0][0]))
        rows = torch.from_numpy(np.stack([np.concatenate([train[:seen], val]) for train, val in splits])).to(
            self.device
        )
        labels = self.labels[rows]
        self.model.eval()

        def forward(weights: Tensors, tokens: Tensor) -> Tensor:
            return functional_call(self.model, {**weights, **self.constants}, (tokens,))

        scores = vmap(forward)(cohort.weights, self.tokens[rows])
        hits = (scores.argmax(-1) == labels).double()
        loss = vmap(lambda scores, labels: self.loss(scores, labels, **self.setting.options("loss")))
        return {
            "train_loss": loss(scores[:, :seen], labels[:, :seen]).double().cpu().numpy(),
            "validation_loss": loss(scores[:, seen:], labels[:, seen:]).double().cpu().numpy(),
            "train_accuracy": hits[:, :seen].mean(1).cpu().numpy(),
            "validation_accuracy": hits[:, seen:].mean(1).cpu().numpy(),
        }


def where(runs: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` for the runs [run] that are True, `no` for the others; yes, no [run, …]."""
    return torch.where(runs.view(-1, *[1] * (yes.dim() - 1)), yes, no)
