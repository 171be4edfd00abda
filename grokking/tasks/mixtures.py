"""Several operations learned at once, and labels that cannot be learned."""

import numpy as np

from grokking.errors import BadInput
from grokking.seeding import stream
from grokking.tasks import task, tasks
from grokking.tasks.table import Position, Table, binary_operation


@task
def random_labels(p: int = 59) -> Table:
    """x ∘ y with a label drawn once and for all: a control, which can be memorised and never generalises."""
    return binary_operation(p, lambda x, y: stream(0, "random labels", p).integers(p, size=len(x)))


@task
def mix(of: str = "mod_add,mod_mul", p: int = 59) -> Table:
    """Several binary operations at once, told apart by their token: `--task mix:mod_add,mod_mul`.

    The examples of all of them, with the same p; numbers are the same tokens in each.
    """
    names = [name.strip() for name in of.split(",")]
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadInput(f"of = {of!r}; allowed: two different tasks at least, such as mod_add,mod_mul")
    tables = []
    for name in names:
        if ":" in name:
            raise BadInput(
                f"of = {of!r}, but {name!r} has an option; parts of a mixture are names alone, such as mod_add,mod_mul"
            )
        entry = tasks[name]
        if "p" not in entry.defaults or name == "mix":
            raise BadInput(
                f"of = {of!r}, but {name!r} is no operation modulo p; allowed: such as mod_add, mod_x2y2, gcd"
            )
        table = entry.make(p=p)
        if table.tokens.shape[1] != 4 or table.classes != p:
            raise BadInput(f"of = {of!r}, but {name!r} is no operation on two numbers")
        tables.append(table)
    count = len(tables)
    symbols = [table.vocabulary[p] for table in tables]
    tokens = np.concatenate([table.tokens for table in tables])
    tokens[:, 1] = np.repeat(p + np.arange(count), [len(table.labels) for table in tables])
    tokens[:, 3] = p + count
    return Table(
        tokens=tokens,
        labels=np.concatenate([table.labels for table in tables]),
        vocabulary=(*map(str, range(p)), *(_told_apart(symbols, names)), "="),
        classes=p,
        positions=(Position(0, 0, p), Position(2, p, count), Position(1, 0, p), Position(None, p + count, 1)),
    )


def _told_apart(symbols: list[str], names: list[str]) -> list[str]:
    """The symbols, and the names in their place where two are alike."""
    return [symbol if symbols.count(symbol) == 1 else name for symbol, name in zip(symbols, names, strict=True)]
