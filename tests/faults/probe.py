"""Imported by the victims (`--import`): logs every step, checkpoint and resume, and dies or forgets where it is told to.

PROBE is a JSON object in the environment: `log`, a file; `die_at`, at which call of write, fsync, mkdir or rename inside
the store (counted in each process) the whole process group is killed; `forget`, "state" or "step", what a resume loses.
"""

import json
import os
import signal
import time

from grokking.engine import checkpoint
from grokking.engine.checkpoint import Checkpoints
from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.execute import unit as execution
from grokking.store import sealed

TOLD = json.loads(os.environ["PROBE"])
_log = os.open(TOLD["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_calls = 0


def log(event, unit, step):
    os.write(_log, f"{time.monotonic():.4f} {os.getpid()} {event} {unit} {step}\n".encode())


def die_here():
    """A fault point: the group dies at the call it was told to."""
    global _calls
    _calls += 1
    if _calls == TOLD.get("die_at"):
        os.killpg(0, signal.SIGKILL)


def faulty(function):
    def wrapped(*args, **kwargs):
        die_here()
        result = function(*args, **kwargs)
        die_here()
        return result

    return wrapped


def half_written(path, content):
    with path.open("wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        die_here()
        file.write(content[len(content) // 2 :])
        file.flush()
        os.fsync(file.fileno())


sealed._write = faulty(half_written)
sealed.sync = faulty(sealed.sync)
os.mkdir = faulty(os.mkdir)
os.rename = faulty(os.rename)

_write_unit = execution.write_unit
_advance, _save, _latest, _restored = Trainer.advance, Checkpoints.save, Checkpoints.latest, checkpoint._restored
_unit = {"name": ""}


def advance(self, cohort, most):
    _advance(self, cohort, most)
    log("step", _unit["name"], cohort.step)


def save(self, unit, seconds):
    log("saving", self.place.name, unit.cohort.step)
    _save(self, unit, seconds)
    log("saved", self.place.name, unit.cohort.step)
    log("due", self.place.name, round(1000 * (self.ready - time.monotonic())))


def latest(self, trainer, any_execution=False):
    found = _latest(self, trainer, any_execution)
    _unit["name"] = self.place.name
    log("resumed", self.place.name, found[0].cohort.step if found else 0)
    log("due", self.place.name, round(1000 * (self.ready - time.monotonic())))
    return found


def write_unit(*args):
    _write_unit(*args)
    log("stored", _unit["name"], 0)


def restored(specs, progress, tensors, trainer):
    unit = _restored(specs, progress, tensors, trainer)
    if TOLD.get("forget") == "state":
        unit.cohort.state = start(unit.cohort.specs, trainer.device).state
    if TOLD.get("forget") == "step":
        unit.cohort.step -= 1
    return unit


Trainer.advance, Checkpoints.save, Checkpoints.latest = advance, save, latest
checkpoint._restored = restored
execution.write_unit = write_unit
