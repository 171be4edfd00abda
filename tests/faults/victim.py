"""A sweep in a process group of its own, to be killed, stopped and continued, and its tables to compare."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from grokking.errors import Notice
from grokking.experiment import open_experiment
from grokking.store import load, units

PROBE = Path(__file__).with_name("probe.py")
ROOT = PROBE.parent.parent.parent

TINY = '''
"""Four short cohorts on two workers."""
from matplotlib.figure import Figure
from grokking.plotting import Drawing
from grokking.study import Study

BASE = {"task.p": 11, "model.width": 16, "model.heads": 2, "batch_size": 32, "train_fraction": 0.5, "steps": 150}
ARMS = [{"optimizer.name": name, "evaluation.every": every} for name in ("adamw", "sgd") for every in (10, 20)]
STUDIES = {"smoke": [Study({**BASE, "threshold": 0.2}, ARMS, range(2))]}

def draw(results):
    return [Drawing("tiny", Figure(figsize=(1, 1)), {"": results.curves, "runs": results.runs}, 2)]
'''


def tiny_experiment(folder: Path) -> Path:
    """An experiment of a few seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_fault.py"
    path.write_text(TINY)
    return path


@dataclass
class Victim:
    """One experiment, one store; `start` it as often as it takes."""

    experiment: Path
    folder: Path  # of this victim: its store, its log, what it said
    checkpoint_every: float = 1.0
    workers: int = 2

    @property
    def store(self) -> Path:
        return self.folder / "results"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self, **told) -> subprocess.Popen:
        """The sweep, in a session of its own; `told` goes to the probe."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["--scale", "smoke", "--out", str(self.store), "--checkpoint-every", str(self.checkpoint_every)]
        options += ["--workers", str(self.workers), "--import", str(PROBE)]
        with (self.folder / "said").open("ab") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "grokking", "sweep", str(self.experiment), *options],
                env={**os.environ, "PROBE": json.dumps({"log": str(self.log), **told})},
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
                cwd=ROOT,
            )
        return process

    def wait_for(self, event: str, seen: int = 0, timeout: float = 120) -> None:
        """Until the probe has logged this event, after the first `seen`."""
        until = time.monotonic() + timeout
        while not any(found == event for _, _, found, _, _ in self.events()[seen:]):
            assert time.monotonic() < until, self.heard()
            time.sleep(0.02)

    def finish(self, timeout: float = 600, **told) -> int:
        """Run it to its end; its exit code."""
        return self.wait(self.start(**told), timeout)

    def wait(self, process: subprocess.Popen, timeout: float = 600) -> int:
        """Wait for its end and for that of its workers; its exit code."""
        code = process.wait(timeout)
        end_group(process.pid, wait=10)
        return code

    def heard(self) -> str:
        """All that it has written to stderr."""
        path = self.folder / "said"
        return path.read_text() if path.exists() else ""

    def events(self) -> list[tuple[float, int, str, str, int]]:
        """What the probe logged: time, process, event, unit, step."""
        if not self.log.exists():
            return []
        lines = (line.split() for line in self.log.read_text().splitlines())
        return [(float(t), int(pid), event, unit, int(step)) for t, pid, event, unit, step in lines]

    def tables(self) -> dict[str, bytes]:
        """The tables as CSV, byte for byte, in the order of the study."""
        run_ids = [spec.run_id for spec in open_experiment(str(self.experiment)).specs("smoke")]
        results = load(self.store, run_ids, verify="full")
        assert results.missing == 0
        return {name: getattr(results, name).to_csv(index=False).encode() for name in ("runs", "curves")}


def end_group(group: int, wait: float) -> None:
    """Wait until no process of this group is left, and end what is left then."""
    until = time.monotonic() + wait
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def damaged(store: Path) -> int:
    """How many units are damaged, every byte of them hashed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        units(store, "full")
    return sum(issubclass(warning.category, Notice) for warning in caught)


def undisturbed(experiment: Path, folder: Path, workers: int = 2) -> dict[str, bytes]:
    """The tables of the experiment when nothing happens to it."""
    victim = Victim(experiment, folder, workers=workers)
    assert victim.finish() == 0, victim.heard()
    return victim.tables()
