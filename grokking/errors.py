"""The one exception that users meet: a sentence that names the bad value and what is allowed."""


class BadInput(ValueError):
    """Raised before any work starts; the command line prints it and exits with code 2."""
