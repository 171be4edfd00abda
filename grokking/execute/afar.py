"""A unit trained on another machine: in a store of its own, from which checkpoints and results travel to whoever asked.

Units and checkpoints are files that any store takes (see `grokking.store`), so what arrives is what would have been written
by a local worker, and is verified in the same way.
"""

import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grokking.engine.checkpoint import Checkpoints
from grokking.errors import BadInput, Interrupted
from grokking.execute.luggage import Luggage
from grokking.execute.scratch import scratch
from grokking.execute.signals import Stop
from grokking.execute.unit import Advance, Outcome, Terms, attempt
from grokking.runs import RunSpec
from grokking.store import prepare
from grokking.store.sealed import DONE, Content, read


@dataclass(frozen=True)
class Saved:
    """A checkpoint: the name of its directory and its files."""

    name: str
    files: Content


@dataclass(frozen=True)
class Finished:
    """A trained unit: the name of its directory and its files."""

    name: str
    files: Content


Message = Advance | Saved | Finished | Outcome


def stream(
    specs: Sequence[RunSpec], terms: Terms, luggage: Luggage, saved: Saved | None, stop: Stop
) -> Iterator[Message]:
    """Train this unit from what was `saved`: progress and checkpoints, and in the end `Finished` or how else it ended.

    What was saved on another kind of machine is not continued, unless `terms` say so: the bits would be neither's. When
    `stop` is set, a last checkpoint is all that still comes. That a disk here is full is no end of the sweep, but of this attempt.
    """
    sys.stdout = sys.stderr  # what a user's rule prints; on the driver's stdout stand its results
    try:
        luggage.unpack()
        folder = Path(scratch())
    except BadInput:
        yield Outcome("failed", traceback.format_exc())
        return
    except OSError as error:
        yield Outcome("died", f"on its machine: {error}")
        return
    try:
        for message in _trained(specs, replace(terms, folder=folder), saved, stop):
            if isinstance(message, Outcome) and message.end == "unwritable":
                message = Outcome("died", f"on its machine: {message.text}")
            yield message
    except OSError as error:
        yield Outcome("died", f"on its machine: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trained(specs: Sequence[RunSpec], terms: Terms, saved: Saved | None, stop: Stop) -> Iterator[Message]:
    prepare(terms.folder)
    checkpoints = terms.checkpoints(specs)
    if saved is not None:
        checkpoints.receive(saved.name, saved.files)
        try:
            checkpoints.refuse_unfit(terms.any_execution)
        except BadInput:
            checkpoints.clear()
    sent = checkpoints.step()
    try:
        for message in attempt(specs, terms, stop):
            if checkpoints.step() > sent:
                sent = checkpoints.step()
                yield from _last(checkpoints)
            if message == Outcome("stored"):
                (unit,) = (terms.folder / "units").glob("[!.]*")
                yield Finished(unit.name, {name: file for name, file in read(unit).items() if name != DONE})
            else:
                yield message
    except Interrupted:
        if checkpoints.step() > sent:
            yield from _last(checkpoints)


def _last(checkpoints: Checkpoints) -> Iterator[Saved]:
    if (newest := checkpoints.newest()) is not None:
        yield Saved(*newest)
