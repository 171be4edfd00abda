"""The examples of a task, all of them, as token and label arrays; and the split into training and validation."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from grokking.errors import BadInput
from grokking.seeding import stream

Integers = NDArray[np.int64]
MOST_EXAMPLES = 1_000_000


@dataclass(frozen=True)
class Position:
    """What can stand at one place of the sequence: tokens first … first + count - 1, decided by one operand.

    `operand` is None where every example has the same token (count is 1 then). Models use this to compute each
    distinct state once; see `models/distinct.py`.
    """

    operand: int | None
    first: int
    count: int


@dataclass(frozen=True, eq=False)
class Table:
    """Every example of a task. A task owns its vocabulary: no other task shares or shifts its token numbers."""

    tokens: Integers  # [example, position], values in 0 … len(vocabulary) - 1
    labels: Integers  # [example], values in 0 … classes - 1
    vocabulary: tuple[str, ...]  # what each token number stands for
    classes: int  # size of the model's output; class c is token c
    positions: tuple[Position, ...]
    separator: str = " "  # between the tokens, where a person reads them

    def __post_init__(self) -> None:
        values: dict[int, Integers] = {}  # what an operand is in every example
        for name, array, axes in (("tokens", self.tokens, 2), ("labels", self.labels, 1)):
            if not (isinstance(array, np.ndarray) and array.dtype.kind == "i" and array.ndim == axes and len(array)):
                what = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
                wanted = "[example, position]" if axes == 2 else "[example]"
                raise BadInput(
                    f"{name} are {what}; a table has integers {wanted} as numpy arrays, one example at least"
                )
        if self.tokens.shape != (len(self.labels), len(self.positions)):
            raise BadInput(
                f"tokens have the shape {self.tokens.shape}, but there are {len(self.labels)} labels "
                f"and {len(self.positions)} positions"
            )
        if not 0 <= self.labels.min() <= self.labels.max() < self.classes <= len(self.vocabulary):
            raise BadInput(f"labels must lie in 0 … {self.classes - 1}, and every class must be a token")
        for index, (column, place) in enumerate(zip(self.tokens.T, self.positions, strict=True)):
            value = column - place.first
            known = values.setdefault(place.operand, value) if place.operand is not None else np.zeros_like(value)
            if value.min() < 0 or value.max() >= place.count or not np.array_equal(value, known):
                raise BadInput(f"the tokens at position {index} are not what {place} declares")

    def show(self, example: int) -> str:
        """The example as a person reads it, such as `3 + 5 = 1`."""
        words = [self.vocabulary[token] for token in self.tokens[example]]
        return self.separator.join([*words, self.vocabulary[self.labels[example]]])


PROMPTS = ("expression", "operands", "eos")


def prompted(table: Table, prompt: str) -> Table:
    """The table with its examples written otherwise: `x ∘ y =` (expression), `x y =` (operands) or `<eos> x ∘ y =` (eos).

    Papers differ here: Nanda et al. 2023 and many after them leave the operation out, openai/grok begins with a token of
    its own. "operands" drops all constant tokens but the last, and from the vocabulary what then stands nowhere.
    """
    if prompt not in PROMPTS:
        raise BadInput(f"prompt = {prompt!r}; allowed: {', '.join(PROMPTS)}")
    size, last = len(table.vocabulary), len(table.positions) - 1
    if prompt == "eos":
        first = np.full((len(table.labels), 1), size)
        return replace(
            table,
            tokens=np.concatenate([first, table.tokens], axis=1),
            vocabulary=(*table.vocabulary, "<eos>"),
            positions=(Position(None, size, 1), *table.positions),
        )
    if prompt == "expression":
        return table
    kept = [at for at, place in enumerate(table.positions) if place.operand is not None or at == last]
    standing = {
        token
        for at in kept
        for token in range(table.positions[at].first, table.positions[at].first + table.positions[at].count)
    }
    words = [token for token in range(size) if token in standing or token < table.classes]
    number = np.full(size, -1)
    number[words] = np.arange(len(words))
    return replace(
        table,
        tokens=number[table.tokens[:, kept]],
        vocabulary=tuple(table.vocabulary[token] for token in words),
        positions=tuple(
            replace(place, first=int(number[place.first])) for place in (table.positions[at] for at in kept)
        ),
    )


def binary_operation(
    p: int, operation: Callable[[Integers, Integers], Integers], symbol: str = "∘", first_y: int = 0
) -> Table:
    """All sequences `x symbol y =` with x in 0 … p-1 and y in first_y … p-1, labelled `operation(x, y)`.

    `operation` gets whole arrays [example] and returns labels in 0 … p-1. Tokens 0 … p-1 are the numbers,
    p is the operation, p + 1 is "=".
    """
    return operation_on(p, (0, first_y), operation, symbol)


def operation_on(
    p: int, firsts: Sequence[int], operation: Callable[..., Integers], symbol: str = "∘", names: Sequence[str] = ()
) -> Table:
    """All sequences `x symbol y symbol … =` of as many operands as `firsts`, each from its own first value to p - 1.

    `operation` gets an array [example] per operand and returns labels in 0 … p-1. Tokens as in `binary_operation`;
    `names` are what the numbers stand for, where they are no numbers.
    """
    rows = math.prod(max(p - first, 0) for first in firsts)
    if p < 2 or not 1 <= rows <= MOST_EXAMPLES:
        allowed = "2 to 1000 (the table of examples has p² rows)" if len(firsts) == 2 else "2 on"
        raise BadInput(f"p = {p}; allowed: {allowed}, and at most {MOST_EXAMPLES:,} examples, here {rows:,}")
    operands = [grid.ravel() for grid in np.meshgrid(*(np.arange(first, p) for first in firsts), indexing="ij")]
    labels = np.asarray(operation(*operands))
    if labels.dtype.kind not in "biu" or labels.shape != (rows,) or labels.min() < 0 or labels.max() >= p:
        raise BadInput(f"the operation {symbol!r} must return one label in 0 … {p - 1} for every example")
    columns, positions = [], []
    for index, (operand, first) in enumerate(zip(operands, firsts, strict=True)):
        last = index == len(firsts) - 1
        columns += [operand, np.full(rows, p + last)]
        positions += [Position(index, first, p - first), Position(None, p + last, 1)]
    return Table(
        tokens=np.stack(columns, axis=1),
        labels=labels.astype(np.int64),
        vocabulary=(*(names or map(str, range(p))), symbol, "="),
        classes=p,
        positions=tuple(positions),
    )


def split(examples: int, train_fraction: float, seed: int) -> tuple[Integers, Integers]:
    """Row numbers of the training and of the validation examples, each in random order.

    The split depends on (number of examples, fraction, seed) alone, so it is the same for every optimizer and model.
    """
    training = round(examples * train_fraction)
    if not 0 < training < examples:
        raise BadInput(
            f"train_fraction = {train_fraction} leaves {training} of {examples} examples for training; "
            "allowed: fractions strictly between 0 and 1 that leave some for either side"
        )
    order = stream(seed, "split").permutation(examples)
    return order[:training], order[training:]
