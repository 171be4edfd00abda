"""The folder of a store: units/, checkpoints/ and failures/."""

import uuid
from pathlib import Path

from grokking.errors import BadInput
from grokking.store.sealed import clear_abandoned


def prepare(folder: Path) -> None:
    """Create the store, or say in one sentence why nothing can be written there."""
    probe = folder / "units" / f".probe-{uuid.uuid4().hex}"
    try:
        for part in ("units", "checkpoints", "failures"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInput(
            f"cannot write results to {str(folder)!r}: {error.strerror or error}; name a writable folder"
        ) from None
    clear_abandoned(folder)
    clear_abandoned(folder / "units")
