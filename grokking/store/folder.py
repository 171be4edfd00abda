"""The folder of a store: units/, checkpoints/ and failures/."""

import uuid
from pathlib import Path

from grokking.errors import BadInput
from grokking.store.sealed import clear_abandoned


def prepare(folder: Path) -> None:
    """Create the store, or say in one sentence why nothing can be written there."""
    for part in ("units", "checkpoints", "failures"):
        make_writable(folder / part, "results", folder)
    clear_abandoned(folder)
    clear_abandoned(folder / "units")


def make_writable(folder: Path, what: str, named: Path | None = None) -> None:
    """Create a folder, or raise `BadInput` that names it (or whatever was `named`) where nothing can be written."""
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInput(
            f"cannot write {what} to {str(named or folder)!r}: {error.strerror or error}; name a writable folder"
        ) from None
