"""The transformer's forward pass with every distinct state computed once: plain algebra, no approximation.

A position whose past holds one operand x has as many distinct states as x has values (p, not one per example); the
first layer's keys and values depend on (token, position) alone; the last layer is wanted at the last position only.
Which of these holds follows from the task's declared layout and the static shapes, never from the data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grokking.models.parts import pick
from grokking.tasks import Position

if TYPE_CHECKING:
    from grokking.models.transformer import Attention, Block, Transformer

EVERY = -1  # the states differ from example to example: one row per example
NONE = None  # the state is the same for all examples: one row
Axis = int | None  # otherwise the operand that decides the state: one row per value of that operand


@dataclass(frozen=True)
class Group:
    """The states [row, position, …] of the positions that depend on the same `axis`."""

    axis: Axis
    positions: tuple[int, ...]
    x: Tensor


class Rows:
    """How rows of one axis become rows of another, for one batch of tokens [example, position]."""

    def __init__(self, layout: tuple[Position, ...], tokens: Tensor) -> None:
        self.examples = tokens.shape[0]
        # An operand with as many values as the batch has examples saves nothing: its positions are EVERY.
        self.axes: list[Axis] = [
            NONE if place.operand is None else place.operand if place.count < self.examples else EVERY
            for place in layout
        ]
        self.counts = {axis: place.count for axis, place in zip(self.axes, layout, strict=True)}
        self.values: dict[Axis, Tensor] = {}  # [example] of each operand, counted from 0
        for index, (axis, place) in enumerate(zip(self.axes, layout, strict=True)):
            if axis not in (NONE, EVERY) and axis not in self.values:
                self.values[axis] = tokens[:, index] - place.first

    def count(self, axis: Axis) -> int:
        """How many rows there are."""
        return 1 if axis is NONE else self.examples if axis == EVERY else self.counts[axis]

    def lift(self, x: Tensor, axis: Axis, to: Axis) -> Tensor:
        """The rows of `x` [row of axis, …] as rows of `to`, which must depend on everything that `axis` depends on."""
        if axis == to:
            return x
        if axis is NONE:
            return x.expand(self.count(to), *x.shape[1:])
        return pick(x.flatten(1), self.values[axis]).unflatten(1, x.shape[1:])


def join(*axes: Axis) -> Axis:
    """What depends on all of these depends on."""
    distinct = set(axes) - {NONE}
    return NONE if not distinct else distinct.pop() if len(distinct) == 1 else EVERY


def forward(model: "Transformer", tokens: Tensor) -> Tensor:
    """Class scores [example, class] of tokens [example, position]; equal to `model.plain(tokens)`."""
    rows = Rows(model.layout, tokens)
    groups = embed(model, rows, tokens)
    last = tokens.shape[1] - 1
    layers = model.layers()
    for layer, block in enumerate(layers):
        wanted = range(last, last + 1) if layer == len(layers) - 1 else range(last + 1)
        groups = advance(block, rows, groups, wanted, model.causal)
    (readout,) = groups
    return model.readout(rows.lift(readout.x, readout.axis, EVERY)[:, -1])


def embed(model: "Transformer", rows: Rows, tokens: Tensor) -> list[Group]:
    """The residual stream before the first layer, by what each position's token depends on."""
    groups = []
    for axis in dict.fromkeys(rows.axes):
        positions = tuple(index for index, other in enumerate(rows.axes) if other == axis)
        if axis == EVERY:
            here = at(tokens, positions)
        else:
            steps = torch.arange(rows.count(axis), device=tokens.device)
            here = torch.stack([model.layout[index].first + steps for index in positions], dim=1)
        groups.append(Group(axis, positions, model.embed(here, numbers(positions, tokens.device))))
    return groups


def advance(block: "Block", rows: Rows, groups: list[Group], wanted: range, causal: bool) -> list[Group]:
    """The residual stream behind one block, at the `wanted` positions."""
    axis_of = {index: group.axis for group in groups for index in group.positions}
    past = {i: [j for j in axis_of if j <= i or not causal] for i in wanted}
    target = {i: join(*(axis_of[j] for j in past[i])) for i in wanted}
    read = [Group(group.axis, group.positions, block.read(group.x)) for group in groups]
    behind = []
    for axis in dict.fromkeys(target.values()):
        parts = [narrow(group, [i for i in group.positions if target.get(i, ...) == axis]) for group in groups]
        queries = [narrow(group, [i for i in group.positions if target.get(i, ...) == axis]) for group in read]
        mixed = [attend(block.attention, rows, query, read, axis, causal) for query in queries if query.positions]
        x = side_by_side([rows.lift(part.x, part.axis, axis) for part in parts if part.positions])
        positions = tuple(i for part in parts for i in part.positions)
        behind.append(Group(axis, positions, block.write(x, side_by_side(mixed))))
    return behind


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Parts [row, position, …] of the same rows as one; a lone one as it is: PyTorch's compiler and its cat lay it out differently."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def narrow(group: Group, positions: list[int]) -> Group:
    """The group at some of its positions."""
    if len(positions) == len(group.positions):
        return group
    return Group(group.axis, tuple(positions), at(group.x, [group.positions.index(i) for i in positions]))


def at(x: Tensor, places: Sequence[int]) -> Tensor:
    """x [row, place, …] at some places. No index tensor: one would be copied to the device, in the middle of a step."""
    return torch.stack([x[:, place] for place in places], dim=1) if places else x[:, :0]


def numbers(values: Sequence[int], device: torch.device) -> Tensor:
    """These integers as a tensor [value], made on the device itself."""
    return torch.cat([torch.arange(value, value + 1, device=device) for value in values])


def attend(attention: "Attention", rows: Rows, query: Group, read: list[Group], axis: Axis, causal: bool) -> Tensor:
    """Attention of the query's positions over everything they see: [row of axis, position, head, channel].

    Scores are taken on the smallest axis that query and key share, and lifted: a score is one number per head, a key
    is `channel` of them.
    """
    queries_at = numbers(query.positions, query.x.device)
    q = attention.queries(query.x, queries_at)
    scores, values = [], []
    for group in read:
        seen = narrow(group, [j for j in group.positions if not causal or j <= max(query.positions)])
        if not seen.positions:
            continue
        keys_at = numbers(seen.positions, query.x.device)
        shared = join(query.axis, seen.axis)
        k = rows.lift(attention.keys(seen.x, keys_at), seen.axis, shared)
        s = rows.lift(score(rows.lift(q, query.axis, shared) if query.axis is not NONE else q, k), shared, axis)
        if causal and max(seen.positions) > min(query.positions):
            s = s.masked_fill((queries_at[:, None] < keys_at)[:, None, :], -math.inf)
        scores.append(s)
        v = attention.values(seen.x)
        values.append(v if seen.axis is NONE else rows.lift(v, seen.axis, axis))
    shares = attention.shares(torch.cat(scores, dim=-1)).split([v.shape[1] for v in values], dim=-1)
    return sum((blend(share, v) for share, v in zip(shares, values, strict=True)), start=q.new_zeros(()))


def score(q: Tensor, k: Tensor) -> Tensor:
    """q [row, i, head, channel] · k [row, j, head, channel] → [row, i, head, j]; q may have one row for all."""
    if q.shape[0] == 1:
        return torch.einsum("ihc,rjhc->rihj", q[0], k)
    return torch.einsum("rihc,rjhc->rihj", q, k)


def blend(share: Tensor, v: Tensor) -> Tensor:
    """share [row, i, head, j] of v [row, j, head, channel] → [row, i, head, channel]; v may have one row for all.

    A single position is multiplied, not contracted: thousands of 1 × 1 × channel products are slow as a batched matmul.
    """
    if v.shape[0] == 1:
        return torch.einsum("rihj,jhc->rihc", share, v[0])
    if v.shape[1] == 1:
        return share * v
    return torch.einsum("rihj,rjhc->rihc", share, v)
