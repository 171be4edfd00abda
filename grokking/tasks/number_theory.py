"""Number theory beyond modular arithmetic."""

import numpy as np

from grokking.tasks import task
from grokking.tasks.table import Table, binary_operation


@task
def gcd(p: int = 59) -> Table:
    """Greatest common divisor of x and y, both in 0 … p - 1, with gcd(x, 0) = x and gcd(0, 0) = 0.

    The conventions are those of Python's `math.gcd`. Tveit et al. call the task "gcd mod 97"; as gcd(x, y) < p, the
    modulus changes nothing.
    """
    return binary_operation(p, np.gcd, "gcd")
