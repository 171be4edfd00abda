"""What ends a command early: bad input, told in one sentence, or a signal."""


class BadInput(ValueError):
    """Names the bad value and what is allowed, before any work; the command line prints it and exits with code 2."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM stopped the work; `code` is the exit code 130 or 143."""

    again = "the same command goes on with the others."

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
