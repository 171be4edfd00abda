"""`python -m grokking` and the console script `grokking`: exit codes and nothing else."""

import shlex
import signal
import sys
from types import FrameType

from grokking.errors import BadInput, Interrupted, Unwritable, notices_as_sentences


def main() -> None:
    """Run the command line; bad input exits with 2 and one sentence, an interrupt with 130 or 143, a failure with 1."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    notices_as_sentences()
    again = f"This continues:\n  {shlex.join(['grokking', *sys.argv[1:]])}"
    try:
        from grokking.cli import command_line

        code = command_line(sys.argv[1:])
    except BadInput as error:
        print(f"grokking: {error}", file=sys.stderr)
        code = 2
    except Interrupted as stop:
        print(f"\ngrokking: stopped; what was trained is saved. {again}", file=sys.stderr)
        code = stop.code
    except Unwritable as error:
        print(f"\ngrokking: {error}. What was stored is intact. Once it can be written: {again}", file=sys.stderr)
        code = 1
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(128 + number)


if __name__ == "__main__":
    main()
