"""Tasks on strings of bits."""

import numpy as np

from grokking.errors import BadInput
from grokking.seeding import stream
from grokking.tasks import task
from grokking.tasks.table import MOST_EXAMPLES, Integers, Position, Table


@task
def parity(bits: int = 10) -> Table:
    """Parity of all the bits of a number with `bits` binary digits: 2^bits examples."""
    if not 2 <= bits <= 16:
        raise BadInput(f"bits = {bits} gives 2^{bits} examples; allowed: 2 to 16")
    numbers = np.arange(2**bits)[:, None] >> np.arange(bits)[::-1] & 1
    return _strings(numbers, numbers.sum(axis=1) % 2)


@task
def sparse_parity(bits: int = 40, relevant: int = 3, examples: int = 2000) -> Table:
    """Parity of the `relevant` ones of many bits; which they are, and `examples` different strings, are drawn once and for all.

    Prieto et al. 2025 have 3 of 43 bits and 2,000 examples.
    """
    if not 2 <= bits <= 60:
        raise BadInput(f"bits = {bits}; allowed: 2 to 60")
    if not 1 <= relevant <= bits:
        raise BadInput(f"relevant = {relevant} of {bits} bits; allowed: 1 to {bits}")
    if not 2 <= examples <= min(2**bits, MOST_EXAMPLES):
        raise BadInput(f"examples = {examples:,}; allowed: 2 to {min(2**bits, MOST_EXAMPLES):,}")
    draws = stream(0, "sparse parity", bits, relevant)
    places = draws.choice(bits, relevant, replace=False)
    numbers = draws.choice(2**bits, examples, replace=False)[:, None] >> np.arange(bits)[::-1] & 1
    return _strings(numbers, numbers[:, places].sum(axis=1) % 2)


def _strings(numbers: Integers, labels: Integers) -> Table:
    """Strings of bits [example, bit], then "=", and a bit as the answer."""
    examples, bits = numbers.shape
    return Table(
        tokens=np.concatenate([numbers, np.full((examples, 1), 2)], axis=1),
        labels=labels,
        vocabulary=("0", "1", "="),
        classes=2,
        positions=(*(Position(bit, 0, 2) for bit in range(bits)), Position(None, 2, 1)),
    )
