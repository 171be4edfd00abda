"""Language on the same bench: which character comes next."""

import hashlib
from pathlib import Path

import numpy as np

from grokking.errors import BadInput
from grokking.seeding import stream
from grokking.tasks import task
from grokking.tasks.table import MOST_EXAMPLES, Position, Table

LARGEST = 2**27  # bytes of a file


def _read(file: str) -> str:
    """The text of a file; by default the language reference that every CPython carries."""
    if not file:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    path = Path(file)
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"file = {file!r} is no regular file")
        if path.stat().st_size > LARGEST:
            raise BadInput(f"file = {file!r} has {path.stat().st_size:,} bytes; allowed: up to {LARGEST:,}")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"file = {file!r} cannot be read as text: {error}") from None


def content(file: str, **options: object) -> str:
    """A hash of the text, which is part of what a run is: the default text differs between versions of Python."""
    return hashlib.sha256(_read(file).encode()).hexdigest()[:12]


@task(reads=content)
def text(file: str = "", context: int = 16, examples: int = 8000) -> Table:
    """Next character of a text after `context` of them: `--task text:my_book.txt`; by default Python's language reference.

    Examples do not overlap, so no character of the training set stands in the validation set; which of all windows are
    taken, and their order, is drawn once and for all.
    """
    if not 1 <= context <= 256:
        raise BadInput(f"context = {context}; allowed: 1 to 256 characters")
    characters = _read(file)
    vocabulary = sorted(set(characters))
    number = {character: index for index, character in enumerate(vocabulary)}
    coded = np.array([number[character] for character in characters], dtype=np.int64)
    windows = len(coded) // (context + 1)
    if not 2 <= examples <= min(windows, MOST_EXAMPLES):
        most = min(windows, MOST_EXAMPLES)
        allowed = f"allowed: 2 to {most:,}" if most > 1 else "take a longer text, or a smaller task.context"
        raise BadInput(
            f"task.examples = {examples:,}, but the text of {file or 'Python'!r} has {windows:,} windows of {context} + 1 characters; "
            f"{allowed}"
        )
    chosen = coded[: windows * (context + 1)].reshape(windows, context + 1)[
        stream(0, "text").permutation(windows)[:examples]
    ]
    return Table(
        tokens=chosen[:, :-1],
        labels=chosen[:, -1],
        vocabulary=tuple(vocabulary),
        classes=len(vocabulary),
        positions=tuple(Position(index, 0, len(vocabulary)) for index in range(context)),
        separator="",
    )
