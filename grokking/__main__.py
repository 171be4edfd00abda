"""`python -m grokking` and the console script `grokking`: exit codes and nothing else."""

import contextlib
import os
import shlex
import signal
import sys
import threading
from types import FrameType
from typing import Any, TextIO

from grokking.errors import BadInput, Interrupted, Unwritable, notices_as_sentences

SAVING = ("run", "sweep", "tune")  # commands that go on where they were stopped
retries = 0
RETRY = 0.05  # seconds until a signal that came amid an import is looked at again
MOST_RETRIES = 80  # as patient as a step is given time to end


def main() -> None:
    """Run the command line; bad input exits with 2 and one sentence, an interrupt with 130 or 143, a failure with 1."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    sys.stderr = Tolerant(sys.stderr)
    notices_as_sentences()
    saving = sys.argv[1:2] and sys.argv[1] in SAVING
    words = "This continues from what was last saved" if saving else "This begins again"
    again = f"{words}:\n  {_command(sys.argv)}"
    try:
        from grokking.cli import command_line

        code = command_line(sys.argv[1:])
    except BadInput as error:
        print(f"grokking: {error}", file=sys.stderr)
        code = 2
    except Interrupted as stop:
        print(f"\ngrokking: stopped. {again}", file=sys.stderr)
        code = stop.code
    except Unwritable as error:
        print(f"\ngrokking: {error}. What was stored is intact. {again}", file=sys.stderr)
        code = 1
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    sys.exit(code)


class Tolerant:
    """stderr, for as long as there is one: a closed terminal must not end a sweep in the middle of a step."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.write(text)  # type: ignore[union-attr]
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()  # type: ignore[union-attr]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _command(arguments: list[str]) -> str:
    """The same call again, except that it does not throw away what it has saved."""
    program = [arguments[0]] if not arguments[0].endswith("__main__.py") else [sys.executable, "-m", "grokking"]
    again = list(arguments[1:])
    for at, word in enumerate(arguments[1:]):
        if word == "--resume=never" or (word == "--resume" and arguments[at + 2 : at + 3] == ["never"]):
            del again[at : at + (1 if "=" in word else 2)]
    return shlex.join([*program, *again])


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise, but not through an import: extensions abort the process then, or leave modules that cannot be loaded again."""
    global retries
    if _importing(frame):
        retries += 1
        if retries > MOST_RETRIES:  # a user's file that never ends
            print("\ngrokking: stopped in the middle of an import", file=sys.stderr, flush=True)
            os._exit(128 + number)
        again = threading.Timer(RETRY, signal.raise_signal, (number,))
        again.daemon = True
        again.start()
    else:
        raise Interrupted(128 + number)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
