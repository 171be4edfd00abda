"""Trying an optimizer, a schedule or a transform before any work: one update of stand-ins that have no values.

So a bad static option or a broken rule shows now, and whoever branches on a value fails here, not when it is compiled.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from grokking.errors import BadInput, words
from grokking.optim import Numbers, State
from grokking.optim.transforms import SHOWN
from grokking.registry import Entry, Scalar
from grokking.roles import Role

Options = Mapping[str, Scalar]  # the static ones


def try_optimizer(entry: Entry, options: Options) -> None:
    """Raise `BadInput` where the rule fails on a parameter of some role, changes a shape or writes into what it is given."""
    for role in Role:
        with _trying(f"optimizer {entry.name!r} fails on a parameter with the role {role.value}"):
            w, grad = _stand_ins(role)
            state = _state(w, entry.extra["slots"](role, options))
            before = [tensor._version for tensor in (w, grad, *state.values())]
            new, after = _pair(entry.make(w, grad, state, _numbers(entry, options), role), Tensor, "w, state")
            if new.shape != w.shape or set(after) != set(state):
                raise BadInput(f"optimizer {entry.name!r} changes the shape of its parameter or the names of its state")
            if not new.is_floating_point() or new.is_complex():
                raise BadInput(f"optimizer {entry.name!r} returns weights of {new.dtype}; they were {w.dtype}")
            if changed := [name for name in state if after[name].shape != state[name].shape]:
                raise BadInput(f"optimizer {entry.name!r} changes the shape of its state: {', '.join(changed)}")
            if before != [tensor._version for tensor in (w, grad, *state.values())]:
                raise BadInput(f"optimizer {entry.name!r} writes into a tensor that it was given; return new tensors")


def waits_for_host(rule: Entry, options: Options, transforms: Sequence[tuple[Entry, Options]] = ()) -> bool:
    """Whether a step decomposes a matrix: on CUDA the host looks whether that succeeded, which no CUDA graph can hold."""
    with _Operators() as seen:
        try_optimizer(rule, options)
        for entry, own in transforms:
            try_transform(entry, own, rule)
    names = [call.__name__ for call in seen.called]
    return any("linalg" in name and "vector_norm" not in name for name in names)


def try_schedule(entry: Entry, options: Options, steps: int) -> None:
    """Raise `BadInput` where the schedule fails."""
    h = _numbers(entry, options)
    step = h.pop("step")
    with _trying(f"schedule {entry.name!r} fails"):
        factor = entry.make(step, steps, **h)
        if not isinstance(factor, Tensor) or factor.shape != ():
            raise BadInput(f"schedule {entry.name!r} returns {factor!r}; a schedule returns one number, as a tensor")


def try_transform(entry: Entry, options: Options, optimizer: Entry) -> None:
    """Raise `BadInput` where the transform fails beside this optimizer, or changes a name or a shape."""
    with _trying(f"transform {entry.name!r} fails"):
        pairs = {role.value: _stand_ins(role) for role in Role}
        weights, tree = ({name: pair[at] for name, pair in pairs.items()} for at in (0, 1))
        state = {name: _state(w, entry.extra["slots"](options)) for name, w in weights.items()}
        h = _numbers(entry, options)
        h["key"] = torch.zeros((), dtype=torch.int64, device="meta")
        h["roles"] = {role.value: role for role in Role}
        h |= {name: h["step"] for name in SHOWN if name in optimizer.defaults}
        given = [*tree.values(), *weights.values(), *(slot for slots in state.values() for slot in slots.values())]
        before = [tensor._version for tensor in given]
        new, after = _pair(entry.make(dict(tree), weights, state, h), dict, "tree, state")
        if {name: x.shape for name, x in new.items()} != {name: x.shape for name, x in tree.items()}:
            raise BadInput(f"transform {entry.name!r} changes the names or shapes of what it is given")
        if {name: set(slots) for name, slots in after.items()} != {name: set(slots) for name, slots in state.items()}:
            raise BadInput(f"transform {entry.name!r} changes the names of its state")
        if any(
            after[name][slot].shape != first.shape for name, slots in state.items() for slot, first in slots.items()
        ):
            raise BadInput(f"transform {entry.name!r} changes the shape of its state")
        if before != [tensor._version for tensor in given]:
            raise BadInput(f"transform {entry.name!r} writes into a tensor that it was given; return new tensors")


def _pair(returned: object, first: type, words: str) -> tuple[Any, Any]:
    """What was returned, if it is a pair of these types; `BadInput` otherwise."""
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], first)):
        raise _Returned(f"it returns {_described(returned)}; return ({words})")
    if not isinstance(returned[1], dict):
        raise _Returned(f"it returns {_described(returned[1])} as its state; return ({words})")
    return returned


def _described(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(type(part).__name__ for part in value)})"
    return "nothing" if value is None else f"one {type(value).__name__}"


class _Returned(Exception):
    """A rule or transform returns what it must not."""


def _stand_ins(role: Role) -> tuple[Tensor, Tensor]:
    """A parameter of this role and its gradient."""
    shape = (2,) if role in (Role.GAIN, Role.BIAS) else (2, 2)
    w, grad = torch.empty(2, *shape, device="meta").unbind()
    return w, grad


def _state(w: Tensor, slots: Mapping[str, object]) -> State:
    """The declared state of this parameter at its start."""
    state = {}
    for name, start in slots.items():
        first = start(w) if callable(start) else start
        if not isinstance(first, Tensor):
            raise BadInput(
                f"state {name!r} starts as {first!r}; declare it by zeros({name!r}) or a function of w that returns a tensor"
            )
        state[name] = first.to("meta")
    return State(state)


def _numbers(entry: Entry, options: Options) -> Numbers:
    """The numbers of an entry, and a step."""
    number = torch.ones((), dtype=torch.float64, device="meta")
    floats = {name: number for name, default in entry.defaults.items() if isinstance(default, float)}
    return Numbers({**options, **floats, "step": number})


class _Operators(TorchDispatchMode):
    """The operators that are called within."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[torch._ops.OpOverload] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called.add(func)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _trying(what: str) -> Iterator[None]:
    """Every error within as one `BadInput` sentence."""
    seen = _Operators()
    try:
        with seen, torch.random.fork_rng(devices=[]):
            yield
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        text = str(error) if isinstance(error, _Returned) else words(error)
        if "meta tensors" in text:  # what PyTorch says to whoever asks a tensor for its value
            text = "it looks at the value of a tensor (if, while, float(…), .item()); use torch.where, for one"
        raise BadInput(f"{what}: {_drawn(seen) or text}") from error
    if drawn := _drawn(seen):
        raise BadInput(f"{what}: {drawn}")


def _drawn(seen: _Operators) -> str:
    """A sentence if any of these operators draws random numbers."""
    random = [call.__name__ for call in seen.called if torch.Tag.nondeterministic_seeded in call.tags]
    allowed = "allowed: grokking.hashing.normal(h.key, …), in a transform"
    return f"{random[0]} draws from a generator that all runs share; {allowed}" if random else ""
