"""A search's journal: Optuna's, which survives that its writer is killed in the middle of a line."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from grokking.errors import BadInput, Unwritable


class Journal(JournalFileBackend):
    """Optuna's file of one JSON object a line; an unfinished last line is cut off before the next is written.

    Optuna would write on behind it, and nobody could read the journal any more. Whoever was killed there had not been told
    that it was written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, JournalFileSymlinkLock(str(path))
        super().__init__(str(path), self.lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append an object a line, on disk when this returns."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self.lock.acquire()
        try:
            with self.path.open("rb+") as file:
                _cut_unfinished(file)
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        finally:
            self.lock.release()


def _cut_unfinished(file: BinaryIO) -> None:
    """Leave the file at its end, behind its last whole line."""
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)


@contextlib.contextmanager
def journal_errors(path: Path) -> Iterator[None]:
    """Within, a journal that cannot be written is `Unwritable`, and one that cannot be read `BadInput`."""
    try:
        yield
    except Unwritable:
        raise
    except OSError as error:
        raise Unwritable(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path} is damaged ({error}): remove the line that is no JSON object, or the folder to search anew (what was "
            "trained is kept)"
        ) from None
