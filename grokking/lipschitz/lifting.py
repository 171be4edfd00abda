"""How a function of one matrix becomes a transform of all the matrices that it holds on."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from grokking.errors import BadInput
from grokking.optim import NO_STATE, Numbers, Slots, State
from grokking.optim.transforms import States, Tree, transform
from grokking.registry import Scalar
from grokking.roles import Role

Constraint = Callable[[Tensor, State, Numbers, Role], tuple[Tensor, State]]

ROLES = {  # what a constraint holds on, by its option `on`
    "hidden": {Role.HIDDEN},
    "embedding": {Role.EMBEDDING},
    "head": {Role.HEAD},
    "hidden+head": {Role.HIDDEN, Role.HEAD},
    "embedding+head": {Role.EMBEDDING, Role.HEAD},
    "all": {Role.HIDDEN, Role.EMBEDDING, Role.HEAD},
}


def constraint(
    state: Slots = NO_STATE, on: str | None = "hidden", version: int = 1, **numbers: Scalar
) -> Callable[[Constraint], Constraint]:
    """Register a constraint `f(w, state, h, role) -> (w, state)` on one matrix, with its numbers and their defaults.

    It is used as a transform of that name (`--set transforms=spectral_cap`), on the matrices whose roles its option `on` names; with
    on=None it has no such option, and is given all.
    `h` has the numbers, the optimizer's `h.lr` (scheduled) and `h.weight_decay`, and `h.step`. `state`: as of an optimizer's rule.
    """

    def register(function: Constraint) -> Constraint:
        @functools.wraps(function)
        def lifted(tree: Tree, weights: Tree, states: States, h: Numbers) -> tuple[Tree, States]:
            new, after = dict(tree), dict(states)
            for names in _alike(tree, h):
                role = h.roles[names[0]]

                def one(w: Tensor, slots: dict[str, Tensor], role: Role = role) -> tuple[Tensor, dict[str, Tensor]]:
                    kept, own = function(w, State(slots), h, role)
                    return kept, dict(own)

                stacked = {slot: torch.stack([states[name][slot] for name in names]) for slot in states[names[0]]}
                kept, own = vmap(one)(torch.stack([tree[name] for name in names]), stacked)
                for at, name in enumerate(names):
                    new[name], after[name] = kept[at], State({slot: s[at] for slot, s in own.items()})
            return new, after

        slots = {name: functools.partial(_of_matrix, start) for name, start in state.items()}
        where: dict[str, Scalar] = {} if on is None else {"on": on}
        transform(at="after", state=slots, version=version, **where, **numbers)(lifted)
        return function

    return register


def _of_matrix(start: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
    return start(w) if w.dim() == 2 else w.new_zeros(0)


def _alike(tree: Tree, h: Numbers) -> list[list[str]]:
    """Names of the matrices that are constrained; those of one role and shape together."""
    on = h.get("on", "all")
    if on not in ROLES:
        raise BadInput(f"transform option on = {on!r}; allowed: {', '.join(ROLES)}")
    groups: dict[tuple[Role, torch.Size], list[str]] = {}
    for name, w in tree.items():
        if h.roles[name] in ROLES[on]:
            groups.setdefault((h.roles[name], w.shape), []).append(name)
    return list(groups.values())
