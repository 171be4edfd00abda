"""Products in finite groups, each given as permutations."""

import itertools
import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from grokking.errors import BadInput
from grokking.tasks import task
from grokking.tasks.table import Integers, Table, operation_on

MOST = 1_000  # elements: the table of examples has their square
ALLOWED = "allowed: S3 (all permutations), A4 (even ones), D5 (symmetries of a polygon, from D3 on), C7 (rotations), and products such as S3xC2"


@task
def s5() -> Table:
    """x · y in the group S5 of permutations (Power et al. 2022): 14,400 examples."""
    return group("S5", "product")


@task
def s5conj() -> Table:
    """x · y · x⁻¹ in S5 (Power et al. 2022), under the name of openai/grok."""
    return group("S5", "conjugate")


@task
def s5aba() -> Table:
    """x · y · x in S5 (Power et al. 2022), under the name of openai/grok."""
    return group("S5", "aba")


@task
def group(of: str = "S5", operation: str = "product") -> Table:
    """A product in a group, S4, A5, D6, C7 or a product of such: `--task group:S3xC2`.

    `operation`: product x · y, conjugate x · y · x⁻¹, or aba x · y · x. As in SymPy, x · y is x first and then y.
    """
    products: dict[str, Callable[[Integers, Integers], Integers]] = {
        "product": lambda x, y: times[x, y],
        "conjugate": lambda x, y: times[times[x, y], inverse[x]],
        "aba": lambda x, y: times[times[x, y], x],
    }
    if operation not in products:
        raise BadInput(f"task.operation = {operation!r}; allowed: {', '.join(products)}")
    elements = members(of)
    times = products_of(elements)
    inverse = times.argmin(axis=1)  # element 0 is the neutral one
    symbol = {"product": "·", "conjugate": "conj", "aba": "aba"}[operation]
    return operation_on(len(elements), (0, 0), products[operation], symbol, [cycles(e) for e in elements.tolist()])


def members(of: str) -> Integers:
    """The elements of a group as permutations [element, point], the neutral one first; `BadInput` where there is no such."""
    parts = [re.fullmatch(r"([SADC])0*(\d{1,9})", part) for part in re.split("[x×]", of)]
    named = [(found[1], int(found[2])) for found in parts if found]
    if not all(parts) or not all(order(kind, n) for kind, n in named):
        raise BadInput(f"of = {of!r} is no group; {ALLOWED}")
    if (size := math.prod(order(kind, n) for kind, n in named)) > MOST or size < 2:
        raise BadInput(
            f"of = {of!r}: the group has {'one element' if size == 1 else f'{size:,} elements'}; allowed: 2 to {MOST:,}"
        )
    factors = [MEMBERS[kind](n) for kind, n in named]
    points = np.cumsum([0, *(len(factor[0]) for factor in factors)])
    return np.array(
        [
            [start + point for start, part in zip(points, element, strict=False) for point in part]
            for element in itertools.product(*factors)
        ]
    )


def order(kind: str, n: int) -> int:
    """How many elements it has (of factorials beyond 20!, 20!); 0 where there is no such group here."""
    factorial = math.factorial(min(n, 20))
    if n < (3 if kind == "D" else 1):
        return 0
    return {"S": factorial, "A": max(factorial // 2, 1), "D": 2 * n, "C": n}[kind]


def _alternating(n: int) -> list[Sequence[int]]:
    return [p for p in itertools.permutations(range(n)) if sum(a > b for a, b in itertools.combinations(p, 2)) % 2 == 0]


def _cyclic(n: int) -> list[Sequence[int]]:
    return [[(point + turn) % n for point in range(n)] for turn in range(n)]


def _dihedral(n: int) -> list[Sequence[int]]:
    return [*_cyclic(n), *([(turn - point) % n for point in range(n)] for turn in range(n))]


MEMBERS: dict[str, Callable[[int], list[Sequence[int]]]] = {
    "S": lambda n: list(itertools.permutations(range(n))),
    "A": _alternating,
    "D": _dihedral,
    "C": _cyclic,
}


def products_of(elements: Integers) -> Integers:
    """Number of x · y, x first and then y, at [x, y]."""
    number = {tuple(element): index for index, element in enumerate(elements.tolist())}
    return np.array([[number[tuple(y[x])] for y in elements] for x in elements])


def cycles(element: Sequence[int]) -> str:
    """A permutation as people write it, such as `(0 2 1)(3 4)`; the neutral one is `e`."""
    left, words = set(range(len(element))), []
    while left:
        cycle = [min(left)]
        while element[cycle[-1]] != cycle[0]:
            cycle.append(element[cycle[-1]])
        left -= set(cycle)
        words += [f"({' '.join(map(str, cycle))})"] * (len(cycle) > 1)
    return "".join(words) or "e"
