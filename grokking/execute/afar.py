"""A unit trained on another machine: in a store of its own, from which checkpoints and results travel to whoever asked.

Units and checkpoints are files that any store takes (see `grokking.store`), so what arrives is what would have been written
by a local worker, and is verified in the same way.
"""

import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grokking.errors import BadInput, Interrupted
from grokking.execute.luggage import Luggage
from grokking.execute.signals import Stop
from grokking.execute.unit import Advance, Outcome, Terms, attempt
from grokking.runs import RunSpec
from grokking.store import prepare
from grokking.store.sealed import Content, read


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
    """Train this unit from what was `saved`; progress, checkpoints and in the end the results, followed by the outcome.

    What was saved on another kind of machine is not continued, unless `terms` say so: the bits would be neither's. When
    `stop` is set, a last checkpoint is all that still comes.
    """
    sys.stdout = sys.stderr  # what a user's rule prints; on the driver's stdout stand its results
    with tempfile.TemporaryDirectory(prefix="grokking-") as place:
        folder = Path(place)
        prepare(folder)
        terms = replace(terms, folder=folder)
        checkpoints = terms.checkpoints(specs)
        try:
            luggage.unpack()
        except BadInput:
            yield Outcome("failed", traceback.format_exc())
            return
        if saved is not None:
            checkpoints.receive(saved.name, saved.files)
            try:
                checkpoints.refuse_unfit(terms.any_execution)
            except BadInput:
                checkpoints.clear()
        step = checkpoints.step()
        try:
            for message in attempt(specs, terms, stop):
                if checkpoints.step() > step:
                    step = checkpoints.step()
                    yield from _last(checkpoints.newest())
                if message == Outcome("stored"):
                    (unit,) = (folder / "units").glob("[!.]*")
                    yield Finished(unit.name, _files(unit))
                # A full disk here is no reason to end the whole sweep.
                if isinstance(message, Outcome) and message.end == "unwritable":
                    message = Outcome("died", f"on its machine: {message.text}")
                yield message
        except Interrupted:
            if checkpoints.step() > step:
                yield from _last(checkpoints.newest())


def _last(newest: tuple[str, Content] | None) -> Iterator[Saved]:
    if newest is not None:
        yield Saved(*newest)


def _files(directory: Path) -> Content:
    return {name: content for name, content in read(directory).items() if name != "DONE"}
