"""Registries: read-only mappings from a name to a described thing, filled by decorators."""

import difflib
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from grokking.errors import BadInput

Scalar = bool | int | float | str
Settings = Mapping[str, Scalar]  # by dotted name


class Share(float):
    """The default of an option that is a number from 0 to 1."""


@dataclass(frozen=True)
class Entry:
    """One registered thing.

    `defaults` holds every option with its default value; the type of a default is the type of the option.
    `version` is written into every run that uses the entry: a counter for what the package ships (raised when its
    results change), a hash of the source for a user's own function, so that an edited function is a new run.
    """

    name: str
    make: Callable[..., Any]
    defaults: dict[str, Scalar]
    summary: str
    version: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def formula(self) -> str:
        """The docstring's paragraph with an arrow, on one line; empty where there is none."""
        paragraphs = inspect.cleandoc(self.make.__doc__ or "").split("\n\n")
        return next((" ".join(text.split()) for text in paragraphs if "←" in text), "")

    @property
    def source(self) -> str:
        """What the docstring says after `Source:`; empty where it does not."""
        lines = inspect.cleandoc(self.make.__doc__ or "").splitlines()
        return next((line.removeprefix("Source: ") for line in lines if line.startswith("Source: ")), "")


def is_rate(option: str) -> bool:
    """Whether an option of an optimizer is a learning rate, which the schedule multiplies: `lr`, or `…_lr`."""
    return option == "lr" or option.endswith("_lr")


def suggest(name: str, allowed: list[str]) -> str:
    """` Did you mean …? Allowed: …` for the end of an error sentence."""
    close = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{guess}allowed: {', '.join(allowed)}"


def listed(setting: str, names: str, there: "Registry") -> list[str]:
    """`"clip_norm,grokfast_ema"` → these names, "none" → none; `BadInput` where one is not registered, or there twice."""
    found = [name.strip() for name in names.split(",") if name.strip() not in ("", "none")]
    for name in found:
        if name not in there:
            raise BadInput(f"{setting} = {names!r}, but there is no {name!r}; {suggest(name, sorted(there))}")
        if found.count(name) > 1:
            raise BadInput(f"{setting} = {names!r} has {name!r} twice; allowed: each once")
    return found


class Registry(Mapping[str, Entry]):
    """Entries of one kind ("task", "optimizer", …); a second entry of the same name is refused.

    `elsewhere` finds what has a dotted name (`torch.optim.NAdam`) and is registered nowhere.
    """

    def __init__(self, kind: str, elsewhere: Callable[[str], Entry] | None = None) -> None:
        self.kind, self.elsewhere = kind, elsewhere
        self._entries: dict[str, Entry] = {}

    def __getitem__(self, name: str) -> Entry:
        if self.elsewhere is not None and "." in name:
            return self.elsewhere(name)
        if name not in self._entries:
            raise BadInput(f"unknown {self.kind} {name!r}; {suggest(name, sorted(self._entries))}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self,
        make: Callable[..., Any],
        defaults: Mapping[str, Scalar],
        version: int = 1,
        **extra: Any,
    ) -> None:
        """Register `make` under its own name; its docstring's first line becomes the description."""
        name = make.__name__
        if name in self._entries:
            where = self._entries[name].make.__module__
            raise BadInput(f"{self.kind} {name!r} is registered already, in {where}; choose another name")
        if not make.__doc__:
            raise BadInput(f"{self.kind} {name!r} has no docstring; its first line is what `grokking list` shows")
        for option, default in defaults.items():
            if not isinstance(default, (bool, int, float, str)):
                raise BadInput(
                    f"option {option!r} of {self.kind} {name!r} has the default {default!r}; "
                    "a default must be a bool, int, float or str"
                )
        summary = make.__doc__.strip().splitlines()[0]
        self._entries[name] = Entry(name, make, dict(defaults), summary, _version(make, version), extra)


def _version(make: Callable[..., Any], version: int) -> str:
    if make.__module__.startswith("grokking."):
        return str(version)
    return source_version(make)


def source_version(made: Any) -> str:
    """The version of what a user wrote: a hash of the file that it stands in, with all that it may use there."""
    module = inspect.getmodule(made)
    source = inspect.getsource(made if module is None or module.__name__ == "__main__" else module)
    return "source:" + hashlib.sha256(source.encode()).hexdigest()[:12]


def options(function: Callable[..., Any], skip: int = 0) -> dict[str, Scalar]:
    """The options of a function: its parameters after the first `skip`, every one of which needs a default."""
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    for parameter in parameters:
        if parameter.default is parameter.empty:
            raise BadInput(f"parameter {parameter.name!r} of {function.__name__!r} needs a default value")
    return {parameter.name: parameter.default for parameter in parameters}
