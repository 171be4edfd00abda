"""Worker processes, one unit at a time each; that a worker dies is an answer like any other."""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from tqdm import tqdm

from grokking.errors import Interrupted, notices_as_sentences
from grokking.execute.signals import stoppable
from grokking.execute.unit import Advance, Outcome, Terms, attempt
from grokking.extensions import import_extensions
from grokking.runs import RunSpec
from grokking.setting import Setting


class Worker:
    """A process that trains what it is given, and our end of the pipe to it."""

    def __init__(self, terms: Terms, imports: Sequence[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, terms, tuple(imports)), daemon=True)
        # Ctrl-C reaches the whole group: a worker must not see it before it can ignore it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self.process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.settings: set[Setting] = set()  # of what it has been given
        self.last_words = _last_words(terms.folder, self.process.pid)

    def give(self, specs: Sequence[RunSpec]) -> None:
        """Have it train this unit."""
        self.settings.add(specs[0].setting)
        with contextlib.suppress(OSError):  # it died before: `hear` will say so
            self.connection.send(list(specs))

    def hear(self) -> list[Advance | Outcome]:
        """What it has said since: progress, and at last an outcome; "died" if it is no more."""
        said: list[Advance | Outcome] = []
        try:
            while self.connection.poll():
                said.append(self.connection.recv())
        except (EOFError, OSError):
            said.append(self._death())
        return said

    def _death(self) -> Outcome:
        self.process.join()
        code = self.process.exitcode or 0
        names = {number.value: number.name for number in signal.Signals}
        cause = f"by {names.get(-code, f'signal {-code}')}" if code < 0 else f"with exit code {code}"
        hint = " (out of memory, if nobody sent it)" if code == -signal.SIGKILL else ""
        words = self.last_words.read_text(errors="replace") if self.last_words.exists() else ""
        return Outcome("died", f"the worker process was ended {cause}{hint}\n{words}")

    def ask_to_stop(self) -> None:
        """Save the unit at the next step boundary and end."""
        self.process.terminate()

    def end(self) -> None:
        """Make sure that it is gone."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.last_words.unlink(missing_ok=True)


def anything_said(workers: Sequence[Worker], seconds: float) -> list[Worker]:
    """The workers that have something to say, waiting at most so long for the first."""
    ready = wait([worker.connection for worker in workers], seconds)
    return [worker for worker in workers if worker.connection in ready]


def _last_words(folder: Path, process: int | None) -> Path:
    return folder / "failures" / f".worker-{process}"


def _serve(connection: Connection, terms: Terms, imports: tuple[str, ...]) -> None:
    """The worker: SIGTERM (from our parent, or from a machine that is taken away) saves the unit and ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells us what to do
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    notices_as_sentences()
    # For bars of libraries: the usual lock is a semaphore, which would be reported as leaked when we are gone.
    tqdm.set_lock(threading.RLock())
    sys.stdout = sys.stderr  # what a user's rule prints; on stdout stand the parent's results
    try:
        last_words = _last_words(terms.folder, os.getpid()).open("w")
        faulthandler.enable(last_words)  # a crash in native code leaves its Python traceback there
    except OSError:
        pass
    with stoppable(signal.SIGTERM, signal.SIGHUP) as stop:
        try:
            import torch._dynamo  # noqa: F401  (seconds, which the first step would otherwise take, deaf to signals)

            import_extensions(imports)
            while True:
                stop.check()
                specs = connection.recv()
                for message in attempt(specs, terms, stop):
                    connection.send(message)
        except (Interrupted, EOFError, BrokenPipeError):
            os._exit(0)  # everything is on disk; taking an interpreter with PyTorch down takes a second


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
