"""kill -9 at random moments of a sweep, inside writes and renames too."""

import contextlib
import os
import random
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from faults.figure import Figure
from faults.victim import Victim, damaged, end_group

WAYS = ("all of its processes, at a random time", "all, inside a write or rename", "the parent only, at a random time")


def kill(
    experiment: Path,
    folder: Path,
    expected: dict[str, bytes],
    times: int,
    latest: float,
    every: float,
    tick=lambda: None,
) -> list[Figure]:
    """Kill `times` times, each within `latest` seconds of its start, in as many sweeps as that takes; all continue."""
    draw = random.Random(3)
    killed, broken, different, sweeps, lost = 0, 0, 0, 0, Lost()
    while killed < times:
        victim = Victim(experiment, folder / f"kill-{sweeps}", every)
        sweeps += 1
        finished = False
        while killed < times and not finished:
            seen = len(victim.events())
            finished = not _killed(victim, draw, WAYS[killed % 3], latest)
            lost.add(victim.events(), seen)
            broken += damaged(victim.store) if (victim.store / "units").exists() else 0
            killed += not finished
            tick()
        assert victim.finish() == 0, victim.heard()
        different += victim.tables() != expected
    return [
        Figure("kill -9: units damaged", killed, f"{broken}", "0", broken == 0),
        Figure("kill -9: continued from other than the last checkpoint", killed, f"{lost.wrong}", "0", lost.wrong == 0),
        Figure(
            f"kill -9: most training lost by one (checkpoints every {every:g} s, or 19 times what one takes)",
            killed,
            f"{lost.most:.1f} s, with an interval of {lost.interval:.1f} s",
            "an interval, and the step and save under way",
            lost.overdue == 0,
        ),
        Figure(
            "kill -9: final tables that differ from the undisturbed one", sweeps, f"{different}", "0", different == 0
        ),
    ]


def _killed(victim: Victim, draw: random.Random, way: str, latest: float) -> bool:
    """Start it and kill it in this way; False if it came to its end before."""
    told = {"die_at": draw.randint(1, 60)} if "inside" in way else {}
    moment = latest * (4 if told else draw.random())
    process = victim.start(**told)
    try:
        if process.wait(moment) == 0:
            return False
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL) if "parent" in way else os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    end_group(process.pid, wait=10)  # workers end with their parent
    return True


@dataclass
class Lost:
    """What kills cost, from what the probes logged."""

    most: float = 0.0  # seconds of one unit's training since its last checkpoint
    interval: float = 0.0  # until the next was due, at that time
    overdue: int = 0  # units killed after a checkpoint was due and more than the step under way had been made
    wrong: int = 0  # continued from other than the last checkpoint

    def add(self, events: list[tuple[float, int, str, str, int]], seen: int) -> None:
        """Count what came after the first `seen` events: one attempt, and its resumes."""
        saved: dict[str, int] = {}  # step of each unit's last complete checkpoint
        begun: dict[str, int] = {}  # of the last that was begun: complete, too, if the kill came before the log
        since: dict[str, tuple[float, float]] = {}  # when that was, and how long until the next is due
        beyond: dict[str, int] = {}  # steps since the next was due
        last: dict[str, float] = {}
        for at, (time, _, event, unit, value) in enumerate(events):
            if event == "saving":
                begun[unit], beyond[unit], last[unit] = value, 0, time
            elif event == "saved":
                saved[unit] = value
            elif event == "resumed":
                self.wrong += at >= seen and value not in {saved.get(unit, 0), begun.get(unit, 0)}
                saved[unit] = begun[unit] = value
                last.pop(unit, None)
            elif event == "due":
                since[unit], beyond[unit] = (time, value / 1000), 0
            elif at >= seen:
                last[unit] = time
                beyond[unit] += time > sum(since[unit])
        self.overdue += sum(beyond[unit] > 1 for unit in last)
        for unit, time in last.items():
            if (cost := time - since[unit][0]) > self.most:
                self.most, self.interval = cost, since[unit][1]
