"""Tasks on strings of bits."""

import numpy as np

from grokking.errors import BadInput
from grokking.tasks import task
from grokking.tasks.table import Position, Table


@task
def parity(bits: int = 10) -> Table:
    """Parity of all the bits of a number with `bits` binary digits: 2^bits examples."""
    if not 2 <= bits <= 16:
        raise BadInput(f"bits = {bits} gives 2^{bits} examples; allowed: 2 to 16")
    numbers = np.arange(2**bits)[:, None] >> np.arange(bits)[::-1] & 1
    return Table(
        tokens=np.concatenate([numbers, np.full((2**bits, 1), 2)], axis=1),
        labels=numbers.sum(axis=1) % 2,
        vocabulary=("0", "1", "="),
        classes=2,
        positions=(*(Position(bit, 0, 2) for bit in range(bits)), Position(None, 2, 1)),
    )
