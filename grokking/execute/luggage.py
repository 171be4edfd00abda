"""A user's own files, carried to machines that do not have them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from grokking.errors import BadInput
from grokking.execute.scratch import scratch
from grokking.extensions import import_extensions

HEAVIEST = 10 * 2**20  # bytes: a folder of Python files is far lighter


@dataclass(frozen=True)
class Luggage:
    """What is imported before anything is trained: modules by name, which every machine must have, and files with neighbours.

    A file may import the modules and packages beside it, as locally; they come along.
    """

    imports: tuple[str, ...]  # as they are named there: `0/my_rule.py` for a file
    files: tuple[tuple[str, bytes], ...]

    def unpack(self) -> None:
        """Import everything here, once in a process."""
        _imported(self)


def packed(imports: Sequence[str]) -> Luggage:
    """Everything that these imports need; `BadInput` where a file is not there or its folder holds too much."""
    names: list[str] = []
    files: dict[str, bytes] = {}
    places: dict[Path, int] = {}
    for name in imports:
        if not name.endswith(".py"):
            names.append(name)
            continue
        path = Path(name).resolve()
        if not path.is_file():
            raise BadInput(f"no file {name!r}; name a .py file or an installed module")
        number = places.setdefault(path.parent, len(places))
        names.append(f"{number}/{path.name}")
        files |= {
            f"{number}/{there.relative_to(path.parent).as_posix()}": there.read_bytes() for there in _beside(path)
        }
    if sum(len(content) for content in files.values()) > HEAVIEST:
        raise BadInput(
            f"the Python files beside {', '.join(imports)} are over {HEAVIEST >> 20} MB, too much to carry to every worker; "
            "move yours to a folder of their own"
        )
    return Luggage(tuple(names), tuple(files.items()))


def _beside(path: Path) -> Iterator[Path]:
    """The file, the modules beside it, and all of the packages beside it."""
    yield path
    for there in sorted(path.parent.iterdir()):
        if there.suffix == ".py" and there.is_file() and there != path:
            yield there
        elif (there / "__init__.py").is_file():
            yield from (inside for inside in sorted(there.rglob("*.py")) if inside.is_file())


@lru_cache(maxsize=1)
def _imported(luggage: Luggage) -> Path:
    """The folder that they were imported from; it stays for as long as the process."""
    place = Path(scratch())
    for name, content in luggage.files:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    import_extensions([str(place / name) if name.endswith(".py") else name for name in luggage.imports])
    return place
