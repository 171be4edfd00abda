"""Polynomials modulo p, by their formula: read by Python's parser, computed by what is allowed here, never evaluated."""

import ast
from collections.abc import Callable, Mapping

import numpy as np

from grokking.errors import BadInput
from grokking.tasks import task
from grokking.tasks.table import Integers, Table, operation_on

LONGEST = 200  # characters
VARIABLES = ("x", "y", "z", "w")
ALLOWED = "allowed: sums, differences, products and whole powers of x, y, z, w and whole numbers, such as x**2+x*y+y**2"
OPERATIONS: Mapping[type[ast.operator], Callable[[Integers, Integers], Integers]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
}


@task
def poly(formula: str = "x**2+x*y+y**2", p: int = 59) -> Table:
    """A polynomial in x, y, z, w (mod p), by its formula: `--task "poly:x**2+x*y+y**2"`."""
    return polynomial(formula, p)


@task
def mod_x2y2(p: int = 59) -> Table:
    """x² + y² (mod p)."""
    return polynomial("x**2+y**2", p)


@task
def mod_x2xyy2(p: int = 59) -> Table:
    """x² + xy + y² (mod p)."""
    return polynomial("x**2+x*y+y**2", p)


@task
def mod_x2xyy2x(p: int = 59) -> Table:
    """x² + xy + y² + x (mod p)."""
    return polynomial("x**2+x*y+y**2+x", p)


@task
def mod_x3xy(p: int = 59) -> Table:
    """x³ + xy (mod p)."""
    return polynomial("x**3+x*y", p)


@task
def mod_x3xy2y(p: int = 59) -> Table:
    """x³ + xy² + y (mod p), which never generalised in Power et al. 2022."""
    return polynomial("x**3+x*y**2+y", p)


def polynomial(formula: str, p: int) -> Table:
    """All values of the variables x, y, … up to the last one that the formula names, two at least."""
    if len(formula) > LONGEST:
        raise BadInput(f"formula has {len(formula)} characters; allowed: up to {LONGEST}")
    try:
        tree = ast.parse(formula.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadInput(f"formula = {formula!r} cannot be read; write 2*x for 2x and x**2 for x²; {ALLOWED}") from None
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    variables = VARIABLES[: max([2, *(VARIABLES.index(name) + 1 for name in found & set(VARIABLES))])]

    def operation(*operands: Integers) -> Integers:
        try:
            return value(tree, dict(zip(variables, operands, strict=True)), p) + 0 * operands[0]
        except Unreadable as part:
            raise BadInput(f"formula = {formula!r} has {part}; {ALLOWED}") from None

    return operation_on(p, [0] * len(variables), operation)


class Unreadable(Exception):
    """A part of a formula that is not allowed."""


def value(tree: ast.expr, variables: Mapping[str, Integers], p: int) -> Integers:
    """What a formula is for these values of its variables, in 0 … p - 1; every step is reduced, so none overflows."""
    match tree:
        case ast.Name(id=name) if name in variables:
            return variables[name] % p
        case ast.Constant(value=int(number)) if type(number) is int:
            return np.asarray(number % p)
        case ast.UnaryOp(op=ast.USub(), operand=part):
            return -value(part, variables, p) % p
        case ast.BinOp(left=base, op=ast.Pow(), right=ast.Constant(value=int(exponent))) if type(exponent) is int:
            return power(value(base, variables, p), exponent, p)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OPERATIONS:
            return OPERATIONS[type(operator)](value(left, variables, p), value(right, variables, p)) % p
    raise Unreadable(repr(ast.unparse(tree)))


def power(base: Integers, exponent: int, p: int) -> Integers:
    """base to the power of a whole number (mod p), by squaring; 0⁰ = 1."""
    result = 1 + 0 * base
    while exponent:
        if exponent % 2:
            result = result * base % p
        base = base * base % p
        exponent //= 2
    return result % p
