"""Disks that are full, read-only or gone, and a pickle where a checkpoint should be."""

import contextlib
import os
import pickle
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from faults.bits import copy_of, half_trained
from faults.finding import Finding
from faults.victim import Victim, damaged
from grokking.store.sealed import DONE, seal


@contextlib.contextmanager
def small_disk(at: Path, size: str) -> Iterator[bool]:
    """A tmpfs of this size; False where one may not be mounted."""
    at.mkdir(parents=True, exist_ok=True)
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at], capture_output=True, check=False
        ).returncode
        == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", at], check=True)


def _remount(at: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", at], check=True)


def _verdict(name: str, victim: Victim, code: int, word: str, expected: dict[str, bytes]) -> Finding:
    """It stopped with the word in its message and exit code 1, and the same command continues to the same tables."""
    told = code == 1 and word in victim.heard() and "Traceback" not in victim.heard()
    whole = damaged(victim.store) == 0 if victim.store.exists() else True
    continued = victim.finish() == 0 and victim.tables() == expected
    measured = f"{'one sentence' if told else 'NOT TOLD'}, {'same tables' if continued else 'NOT CONTINUED'}"
    return Finding(
        name, 1, measured, "one sentence, exit code 1, same tables once it can write", told and whole and continued
    )


def _could_not(name: str) -> Finding:
    return Finding(name, 0, "not tried: mounting needs root", "", None)


def full(experiment: Path, folder: Path, expected: dict[str, bytes]) -> Finding:
    """A disk of 1 MB that becomes a larger one."""
    name = "disk full (tmpfs of 1 MB)"
    victim = Victim(experiment, folder / "full", checkpoint_every=0.3, workers=1)
    with small_disk(victim.folder / "results", "1m") as mounted:
        if not mounted:
            return _could_not(name)
        (victim.store / "ballast").write_bytes(bytes(900_000))
        code = victim.finish()
        left = [path for path in victim.store.rglob(".tmp-*")]
        _remount(victim.store, "size=64m")
        figure = _verdict(name, victim, code, "No space left on device", expected)
        return figure if not left else Finding(name, 1, f"left {left}", figure.promised, False)


def read_only(experiment: Path, folder: Path, expected: dict[str, bytes]) -> Finding:
    """A disk that becomes read-only while the sweep runs."""
    name = "read-only while it runs"
    victim = Victim(experiment, folder / "read-only", checkpoint_every=0.3, workers=1)
    with small_disk(victim.folder / "results", "64m") as mounted:
        if not mounted:
            return _could_not(name)
        process = victim.start()
        victim.wait_for("saved")
        for _ in range(200):  # refused as busy while a checkpoint is being written
            with contextlib.suppress(subprocess.CalledProcessError):
                _remount(victim.store, "ro")
                break
            time.sleep(0.01)
        code = victim.wait(process)
        _remount(victim.store, "rw")
        return _verdict(name, victim, code, "Read-only file system", expected)


def removed(experiment: Path, folder: Path, expected: dict[str, bytes]) -> Finding:
    """The store is removed while the sweep runs."""
    victim = Victim(experiment, folder / "removed", checkpoint_every=0.3, workers=1)
    process = victim.start()
    victim.wait_for("saved")
    for _ in range(50):  # somebody else may write into it while it is being removed
        shutil.rmtree(victim.store, ignore_errors=True)
        if not victim.store.exists():
            break
    return _verdict("folder removed while it runs", victim, victim.wait(process), "No such file or directory", expected)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def malicious(folder: Path, expected: dict[str, bytes]) -> Finding:
    """A pickle in place of the weights of every checkpoint, with hashes that are right."""
    victim = copy_of(half_trained(folder / "half"), folder / "pickle")
    proof = folder / "executed"
    tried = 0
    for checkpoint in list((victim.store / "checkpoints").glob("*/[0-9]*")):
        files = {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.name != DONE}
        files["cohort.safetensors"] = pickle.dumps(Bomb(proof))
        shutil.rmtree(checkpoint)
        seal(checkpoint, files)
        tried += 1
    same = victim.finish() == 0 and victim.tables() == expected
    ran = "executed" if proof.exists() else "not executed"
    return Finding(
        "a pickle in place of a checkpoint's weights",
        tried,
        f"{ran}, {'same tables' if same else 'DIFFERENT TABLES'}",
        "not executed, same tables",
        tried > 0 and same and not proof.exists(),
    )
