"""What ends a command early, and what is only worth a sentence."""

import sys
import warnings
from typing import TextIO


class BadInput(ValueError):
    """Names the bad value and what is allowed, before any work; the command line prints it and exits with code 2."""


class Unwritable(OSError):
    """The store cannot be written (disk full, quota, read-only, removed); the command line exits with code 1."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM stopped the work; `code` is the exit code 130 or 143."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Notice(UserWarning):
    """Something the user should know and the work goes on: a damaged unit, an unequal duplicate."""


def words(error: BaseException) -> str:
    """What went wrong in someone's code, on one line."""
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r})"
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def notices_as_sentences() -> None:
    """From now on this process prints a `Notice` as one line on stderr, once each, instead of as Python warnings."""
    usual = warnings.showwarning
    told: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, Notice):
            usual(message, category, filename, lineno, file, line)
        elif str(message) not in told:
            told.add(str(message))
            print(f"grokking: {message}", file=sys.stderr)

    warnings.showwarning = show
