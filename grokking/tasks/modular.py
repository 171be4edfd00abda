"""Arithmetic modulo p: sums, differences, products, quotients, powers, and one operation that depends on an operand."""

import numpy as np

from grokking.errors import BadInput
from grokking.tasks import task
from grokking.tasks.table import Integers, Table, binary_operation, operation_on


@task
def mod_add(p: int = 59) -> Table:
    """x + y (mod p)."""
    return binary_operation(p, lambda x, y: (x + y) % p, "+")


@task
def mod_sub(p: int = 59) -> Table:
    """x - y (mod p)."""
    return binary_operation(p, lambda x, y: (x - y) % p, "-")


@task
def mod_mul(p: int = 59) -> Table:
    """x · y (mod p)."""
    return binary_operation(p, lambda x, y: (x * y) % p, "*")


@task
def mod_div(p: int = 59) -> Table:
    """x / y (mod p), p prime, y from 1 on: p(p - 1) examples.

    y = 0 is left out, as in openai/grok (which draws the quotient and multiplies) and in the code that Tveit et al.
    cite, although their table counts p² examples.
    """
    inverse = inverses(p)
    return binary_operation(p, lambda x, y: x * inverse[y] % p, "/", first_y=1)


@task
def mod_cond(p: int = 59) -> Table:
    """x / y (mod p) if y is odd, otherwise x - y (mod p); p prime (Power et al. 2022)."""
    inverse = inverses(p)
    return binary_operation(p, lambda x, y: np.where(y % 2, x * inverse[y], x - y) % p, "/-")


@task
def mod_exp(p: int = 59) -> Table:
    """x to the power y (mod p), with 0⁰ = 1.

    0⁰ = 1 is Python's and NumPy's convention; the papers do not state theirs, and no code for this task is public.
    """

    def power(x: Integers, y: Integers) -> Integers:
        return np.array([pow(a, b, p) for a, b in zip(x.tolist(), y.tolist(), strict=True)])

    return binary_operation(p, power, "**")


@task
def mod_sum(p: int = 17, terms: int = 3) -> Table:
    """Sum of several numbers (mod p): p^terms examples."""
    if not 1 <= terms <= 20:
        raise BadInput(f"terms = {terms}; allowed: 1 to 20")
    return operation_on(p, [0] * terms, lambda *x: np.sum(x, axis=0) % p, "+")


def inverses(p: int) -> Integers:
    """y⁻¹ (mod p) at [y], and 0 at [0]; `BadInput` unless p is prime."""
    if not is_prime(p):
        raise BadInput(f"p = {p} is not a prime, so division modulo p has no inverses; allowed: primes")
    return np.array([0, *(pow(y, -1, p) for y in range(1, p))])


def is_prime(number: int) -> bool:
    """By trial division; tasks are small."""
    return number >= 2 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
