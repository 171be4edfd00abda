"""SIGINT, SIGTERM and SIGHUP: looked at where work may stop, and never later than a few seconds after."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from grokking.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 4.0  # seconds between a signal and the end of a process that reached no step boundary


class Stop:
    """Whether a signal has asked this process to stop: `code` is 0, or 128 and the signal's number."""

    code = 0

    def check(self) -> None:
        """Raise `Interrupted` if so."""
        if self.code:
            raise Interrupted(self.code)


@contextlib.contextmanager
def stoppable(*numbers: int) -> Iterator[Stop]:
    """Within, these signals (by default SIGINT, SIGTERM and SIGHUP, a closed terminal) set the flag that is yielded.

    A process that does not come to look at the flag within `PATIENCE` seconds is ended: what was saved before is kept.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals; there, whoever called us does
        return
    watchdog: list[threading.Timer] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.code:
            return  # a group's signal reaches a worker twice, and impatience must not cost what is being saved
        stop.code = 128 + number
        watchdog.append(threading.Timer(PATIENCE, give_up))
        watchdog[0].daemon = True
        watchdog[0].start()

    def give_up() -> None:
        said = "\ngrokking: stopped in the middle of a step; the same command continues from what was last saved"
        print(said, file=sys.stderr, flush=True)
        os._exit(stop.code)

    before = {number: signal.signal(number, ask) for number in numbers or SIGNALS}
    try:
        yield stop
    finally:
        for timer in watchdog:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
