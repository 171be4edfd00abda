"""Arguments that several commands share, and reading them."""

from typing import Annotated

import tyro

from grokking.errors import BadInput

Files = Annotated[tuple[str, ...], tyro.conf.Positional]
Set = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE ...")]
Imports = Annotated[tuple[str, ...], tyro.conf.arg(name="import", metavar="FILE.py|MODULE ...")]
MOST_SEEDS = 10_000


def parse_seeds(text: str) -> list[int]:
    """`0:5,9` → [0, 1, 2, 3, 4, 9]; ranges are half-open."""
    seeds: list[int] = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        try:
            found = list(range(int(first), min(int(last), int(first) + MOST_SEEDS + 1))) if colon else [int(first)]
        except ValueError:
            found = []
        if not found:
            raise BadInput(
                f"seeds = {text!r}; allowed: numbers and ascending half-open ranges, such as 3 or 0:5 or 0:5,9"
            )
        seeds += found
        if len(seeds) > MOST_SEEDS:
            raise BadInput(f"seeds = {text!r} are more than {MOST_SEEDS:,}; train them in several calls")
    return list(dict.fromkeys(seeds))
