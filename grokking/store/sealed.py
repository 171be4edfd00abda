"""A sealed directory: its files are put into place together or not at all, and every bit of them is checked.

`DONE` holds the sha256 of every other file, so `sha256sum --check DONE` says the same as this module.
"""

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from grokking.errors import Unwritable

DONE = "DONE"
LINE = re.compile(r"[0-9a-f]{64}  [^/\0]+")  # of DONE
# Errors that say nothing about the directory: another process, or this one later, may read it well.
PASSING = {
    errno.EMFILE,
    errno.ENFILE,
    errno.EACCES,
    errno.EPERM,
    errno.ENOMEM,
    errno.EAGAIN,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
TEMPORARY = re.compile(r"\.tmp-(?P<node>.*)-(?P<process>[0-9]{1,9})-[0-9a-f]{32}")
ABANDONED = 86_400  # seconds after which a temporary directory of another machine counts as left behind


class Damaged(Exception):
    """A sealed directory is not what was once put there; the message says what is wrong."""


Content = Mapping[str, bytes]  # file name → bytes


def seal(directory: Path, files: Content, accept: Callable[[Content], object] = lambda content: None) -> None:
    """Put `files` into place as `directory`, or raise `Unwritable` and leave nothing half-written; its parent has to exist.

    Written to a temporary sibling, synced to disk, then renamed, and the rename synced: if only that last fails, the whole
    directory is in place and `Unwritable` is raised nevertheless, as a power failure might take it away. If an intact `directory` is there already, or somebody
    else puts one there first, that one stands. A damaged one, or one that `accept` finds `Damaged`, is moved aside.
    """
    temporary = temporary_beside(directory)
    try:
        temporary.mkdir()
        for name, content in {**files, DONE: _done(files).encode()}.items():
            _write(temporary / name, content)
        sync(temporary)
        if not _put(temporary, directory, accept):
            shutil.rmtree(temporary)
        sync(directory.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise Unwritable(f"cannot write {str(directory)!r}: {error.strerror or error}") from error
        raise


def _put(temporary: Path, directory: Path, accept: Callable[[Content], object]) -> bool:
    """Rename into place; False where an intact directory stands there already."""
    for _ in range(3):  # once more where it was damaged, and once more where somebody else was as quick
        try:
            temporary.rename(directory)
            return True
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        try:
            accept(read(directory))
            return False
        except Damaged:
            set_aside(directory)
    raise OSError(errno.EEXIST, "something else writes there")


def set_aside(directory: Path) -> Path:
    """Move a damaged directory out of the way, to `.damaged-…` beside it; its bytes are kept for whoever looks."""
    aside = directory.with_name(f".damaged-{directory.name}-{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(FileNotFoundError):  # somebody else did
        directory.rename(aside)
    return aside


def read(directory: Path) -> dict[str, bytes]:
    """The content of every file, all of it checked; raises `Damaged`, or `OSError` where it cannot be read just now."""
    try:
        done = (directory / DONE).read_bytes().decode("ascii")
        names = [line[66:] for line in done.splitlines() if LINE.fullmatch(line)]
        if not names or len(names) != len(done.splitlines()):
            raise Damaged(f"{DONE} has changed")
        if extra := {name for name in os.listdir(directory) if not name.startswith(".")} - {DONE, *names}:
            raise Damaged(f"{DONE} does not name {' and '.join(sorted(extra))}")
        content = {name: (directory / name).read_bytes() for name in names}
    except FileNotFoundError as error:
        raise Damaged(f"{Path(str(error.filename)).name} is missing") from None
    except NotADirectoryError:
        raise Damaged("it is a file, not a directory") from None
    except IsADirectoryError as error:
        raise Damaged(f"{Path(str(error.filename)).name} is a directory") from None
    except UnicodeDecodeError:
        raise Damaged(f"{DONE} has changed") from None
    except OSError as error:
        if error.errno in PASSING:
            raise
        raise Damaged(f"it cannot be read: {error.strerror}") from None
    if done == _done(content):
        return content
    lines = set(done.splitlines())
    changed = [name for name, bytes_ in content.items() if _line(name, bytes_) not in lines]
    raise Damaged(f"{' and '.join(changed) or DONE} has changed")


def check(content: Content, needed: tuple[str, ...]) -> None:
    """Raise `Damaged` unless exactly these files are there."""
    if set(content) != set(needed):
        raise Damaged(f"it holds {', '.join(sorted(content))} where {', '.join(sorted(needed))} belong")


def signature(directory: Path, names: tuple[str, ...]) -> list[int]:
    """Sizes and times of change of these files and of DONE: equal only if nobody touched them. Raises `OSError`.

    The time of the last change of status (ctime) cannot be set back by a program, so what is equal is what was read.
    """
    found = []
    for name in (*names, DONE):
        facts = os.stat(f"{directory}/{name}")  # tens of thousands of them: a Path would double the time
        found += [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
    return found


def temporary_beside(path: Path) -> Path:
    """A name in the same folder that tells whose it is, for `clear_abandoned`."""
    return path.with_name(f".tmp-{platform.node()}-{os.getpid()}-{uuid.uuid4().hex}")


def clear_abandoned(folder: Path) -> None:
    """Remove temporary files and directories whose writer is gone (killed between writing and renaming)."""
    for path in folder.glob(".tmp-*"):
        named = TEMPORARY.fullmatch(path.name)
        here = named is not None and named["node"] == platform.node()
        with contextlib.suppress(OSError):  # somebody else's to remove, or removed by somebody else
            gone = (
                not _alive(int(named["process"])) if named and here else time.time() - path.stat().st_mtime > ABANDONED
            )
            if gone and path.is_dir():
                shutil.rmtree(path)
            elif gone:
                path.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _line(name: str, content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()}  {name}"


def _done(files: Content) -> str:
    return "".join(f"{_line(name, content)}\n" for name, content in files.items())


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Have the names in `folder` on disk: a rename survives a power failure only then."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
