"""Transforms of gradients, updates and weights, lifted over the run axis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from grokking.engine.cohort import Tensors
from grokking.optim import Numbers, State
from grokking.optim.transforms import SHOWN, At
from grokking.registry import Entry, Scalar, is_rate
from grokking.roles import Role

States = dict[str, Tensors]  # parameter → slot → [run, …]


@dataclass(frozen=True)
class Transforming:
    """The transforms of a setting at one step of a cohort."""

    transforms: Sequence[tuple[Entry, dict[str, Scalar]]]  # in order, each with its static options
    hyper: Tensors
    factors: Tensor  # of the schedule, [run] or []
    keys: Tensor  # [run]
    clock: Tensor
    roles: Mapping[str, Role]  # of every parameter by its name

    def applied(self, at: At, tree: Tensors, weights: Tensors, state: States) -> tuple[Tensors, States]:
        """`tree` [run, …] of every parameter after all transforms of this kind, one after the other, and their state."""
        for entry, static in self.transforms:
            if entry.extra["at"] == at:
                tree, state = self._one(entry, static, tree, weights, state)
        return tree, state

    def updated(self, before: Tensors, after: Tensors, state: States) -> tuple[Tensors, States]:
        """The weights after the transforms of what the rule has changed, and of what came of that."""
        if any(entry.extra["at"] == "updates" for entry, _ in self.transforms):
            updates = {name: after[name] - w for name, w in before.items()}
            updates, state = self.applied("updates", updates, before, state)
            after = {name: w + updates[name] for name, w in before.items()}
        return self.applied("after", after, before, state)

    def _one(
        self, entry: Entry, static: dict[str, Scalar], tree: Tensors, weights: Tensors, state: States
    ) -> tuple[Tensors, States]:
        prefix, own = f"{entry.name}.", f"transform.{entry.name}."
        numbers = {name.removeprefix(own): x for name, x in self.hyper.items() if name.startswith(own)}
        numbers["key"] = self.keys
        for name in SHOWN:
            if name in self.hyper:  # else a transform that reads it is told that the optimizer has none
                numbers[name] = self.hyper[name] * self.factors if is_rate(name) else self.hyper[name]
        common = {"step": self.clock.to(torch.float64), "roles": self.roles}

        def transform(tree: Tensors, weights: Tensors, slots: States, h: dict[str, Any]) -> tuple[Tensors, States]:
            states = {name: State(own) for name, own in slots.items()}
            new, after = entry.make(tree, weights, states, Numbers({**static, **h, **common}))
            return dict(new), {name: dict(own) for name, own in after.items()}

        slots = {
            name: {slot.removeprefix(prefix): s for slot, s in own.items() if slot.startswith(prefix)}
            for name, own in state.items()
        }
        new, after = vmap(transform)(tree, weights, slots, numbers)
        return (
            {name: new[name].to(x.dtype).contiguous() for name, x in tree.items()},
            {
                name: {
                    **own,
                    **{prefix + slot: s.to(own[prefix + slot].dtype).contiguous() for slot, s in after[name].items()},
                }
                for name, own in state.items()
            },
        )
