"""Runs trained by anyone's optimizer: one after the other, in plain steps, on the same data and with the same measures."""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from grokking.engine.cohort import Cohort, Moving, Places, Tensors
from grokking.engine.trainer import Trainer
from grokking.optim import optimizers
from grokking.optim.stepping import Contract, made, rates_of, set_rates, take_step
from grokking.runs import RunSpec
from grokking.seeding import stream
from grokking.setting import Setting, contract, optimizer_options


@dataclass(eq=False)
class Live:
    """A run's own module and optimizer; neither is ever saved."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rates: list[float | None]  # of its groups, before the schedule
    asks: Contract
    random: Tensor  # state of torch's CPU generator, as far as this optimizer has drawn from it

    def weights(self) -> Tensors:
        """Parameter → its value now."""
        return {name: p.detach() for name, p in self.model.named_parameters()}


def as_many(runs: int, before: int) -> int:
    """Places for so many runs: none needs company where nothing is lifted."""
    return runs


class ExternalTrainer:
    """What `Trainer` is, for optimizers that are objects with a state of their own."""

    resumable = False  # such a run is started again, not continued

    def __init__(self, setting: Setting, device: torch.device) -> None:
        self.setting, self.device = setting, device
        self.places: Places = as_many
        self.inner = Trainer(setting, device)
        self.entry = optimizers[setting.name("optimizer")]
        self.data, self.finish = self.inner.data, self.inner.finish
        self._live: dict[RunSpec, Live] = {}

    def advance(self, cohort: Cohort, most: int = 1) -> None:
        """Update every run once."""
        clock = torch.tensor(cohort.step + 1, device=self.device)
        rows, noise = self.data.batch(cohort), self.inner.noise(cohort.seeds, clock)
        labels = self.data.training_labels(cohort.seeds, rows)
        factors = self.inner.factors(cohort.hyper, clock).expand(len(cohort.specs))
        finite, frozen_at = cohort.moving.finite.clone(), cohort.moving.frozen_at.clone()
        weights = {name: w.clone() for name, w in cohort.weights.items()}
        for run, spec in enumerate(cohort.specs):
            if not finite[run]:
                continue
            live = self.live(spec, {name: w[run] for name, w in weights.items()})
            set_rates(live.optimizer, live.rates, float(factors[run]))
            keys = {name: key[run] for name, key in noise.items()}
            if self._step(live, keys, self.data.tokens[rows[run]], labels[run]):
                for name, w in live.weights().items():
                    weights[name][run] = w
            else:
                finite[run], frozen_at[run] = False, clock
        cohort.moving = Moving(weights, cohort.moving.state, finite, frozen_at)
        cohort.step += 1

    def live(self, spec: RunSpec, weights: Tensors) -> Live:
        """The run's module and optimizer, made at its first step from these weights."""
        if spec not in self._live:
            model = copy.deepcopy(self.inner.model).to_empty(device=self.device)
            for name, p in model.named_parameters():
                p.data = weights[name].clone()
            seed = int(stream(spec.seed, "optimizer").integers(2**62))
            with self._own_generator(torch.Generator().manual_seed(seed).get_state()) as generator:
                optimizer = made(self.entry, optimizer_options(self.setting, spec.hyper), model)
                rates, asks = rates_of(optimizer), contract(self.setting, spec.hyper)
            self._live[spec] = Live(model, optimizer, rates, asks, generator[0])
        return self._live[spec]

    def _step(self, live: Live, keys: Tensors, tokens: Tensor, labels: Tensor) -> bool:
        self.inner.model.train()
        weights: Tensors = dict(live.model.named_parameters())
        with self._own_generator(live.random) as generator:
            done = take_step(live.optimizer, live.asks, lambda: self.inner.run_loss(weights, keys, tokens, labels))
        live.random = generator[0]
        return done

    @staticmethod
    @contextlib.contextmanager
    def _own_generator(state: Tensor) -> Iterator[list[Tensor]]:
        """Within, torch's CPU generator is the run's own, in this state; its state afterwards is left in the list.

        Numpy's and Python's generators, and CUDA's, are not: an optimizer that draws from those is not reproducible.
        """
        after: list[Tensor] = []
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            yield after
            after.append(torch.get_rng_state())

    def evaluate(self, cohort: Cohort) -> dict[str, np.ndarray]:
        """As `Trainer.evaluate`, at the weights that the optimizer shows in its `eval` mode, if it has one."""
        shown = {name: w.clone() for name, w in cohort.weights.items()}
        for run, spec in enumerate(cohort.specs):
            if spec in self._live and callable(getattr(self._live[spec].optimizer, "eval", None)):
                live, optimizer = self._live[spec], cast(Any, self._live[spec].optimizer)
                before = {name: w.clone() for name, w in live.weights().items()}
                optimizer.eval()
                for name, w in live.weights().items():
                    shown[name][run] = w
                optimizer.train()
                for name, w in live.weights().items():
                    w.copy_(before[name])  # there and back differs by rounding: looking must change nothing
        return self.inner.evaluate(replace(cohort, moving=cohort.moving._replace(weights=shown)))
