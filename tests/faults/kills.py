"""kill -9 at random moments of a sweep, inside writes and renames too."""

import contextlib
import json
import os
import random
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from faults.finding import Finding
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
) -> list[Finding]:
    """Kill `times` times, each within `latest` seconds of its start, in as many sweeps as that takes; all continue."""
    draw = random.Random(3)
    killed, broken, different, sweeps, lost = 0, 0, 0, 0, Lost()
    while killed < times:
        victim = Victim(experiment, folder / f"kill-{sweeps}", every)
        sweeps += 1
        finished = False
        while killed < times and not finished:
            finished = not _killed(victim, draw, WAYS[killed % 3], latest)
            broken += damaged(victim.store) if (victim.store / "units").exists() else 0
            killed += not finished
            tick()
        if not finished:
            assert victim.finish() == 0, victim.heard()
        different += victim.tables() != expected or left_over(victim.store) > 0
        lost.add(victim.events())
    resumed = f"kill -9: of {lost.resumed} continued units, from other than their last checkpoint"
    return [
        Finding("kill -9: units damaged", killed, f"{broken}", "0", broken == 0),
        Finding(resumed, killed, f"{lost.wrong}", "0", lost.wrong == 0 and lost.resumed > 0),
        Finding(
            f"kill -9: most training of a unit lost by one (checkpoints every {every:g} s, or 19 times what one takes)",
            killed,
            f"{lost.most:.1f} s, with an interval of {lost.interval:.1f} s",
            "an interval, and the step and save under way",
            lost.overdue == 0,
        ),
        Finding(
            "kill -9: final tables that differ from the undisturbed one", sweeps, f"{different}", "0", different == 0
        ),
    ]


def left_over(store: Path) -> int:
    """Checkpoints of units that are stored: none may be left."""
    return len(list((store / "checkpoints").glob("[!.]*")))


def _killed(victim: Victim, draw: random.Random, way: str, latest: float) -> bool:
    """Start it and kill it in this way; False if it came to its end before."""
    told = {"die_at": draw.randint(1, 60)} if "inside" in way else {}
    moment = latest * (4 if told else draw.random())
    seen = len(victim.events())
    process = victim.start(**told)
    if "parent" in way:  # these while it certainly trains, the others at any moment, start-up included
        with contextlib.suppress(AssertionError):
            victim.wait_for("step", seen, timeout=latest)
        moment /= 4
    try:
        code = process.wait(moment)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL) if "parent" in way else os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    end_group(process.pid, wait=10)  # workers end with their parent
    assert code in (0, -signal.SIGKILL), victim.heard()
    return code != 0


def share(store: Path, every: float) -> Finding:
    """How much of an undisturbed sweep's time went into checkpoints."""
    facts = [json.loads(path.read_text()) for path in sorted((store / "units").glob("*/unit.json"))]
    worst = max(fact["checkpoint_seconds"] / fact["seconds"] for fact in facts)
    name = f"share of a unit's time that checkpoints take, at most (every {every:g} s)"
    return Finding(name, len(facts), f"{worst:.1%}", "5 %", worst <= 0.05)


@dataclass
class Attempt:
    """One process's work on one unit, from where it began or continued, as the probe logged it."""

    since: float  # when the last checkpoint was complete, or the attempt began
    saved: int  # step of the last complete checkpoint
    saving: int  # of the last that was begun: it is complete, too, if the kill came before the log
    last: float  # when it was last heard of
    interval: float = 0.0  # seconds from `since` until the next is due
    beyond: int = 0  # steps made since it was due
    stored: bool = False

    def hear(self, time: float, event: str, value: int) -> None:
        """Take in one event of the log."""
        self.last = time
        if event == "step":
            self.beyond += time > self.since + self.interval
        elif event == "saving":
            self.saving, self.beyond = value, 0
        elif event == "saved":
            self.saved = value
        elif event == "due":
            self.since, self.interval, self.beyond = time, value / 1000, 0
        elif event == "stored":
            self.stored = True


@dataclass
class Lost:
    """What kills cost, from what the probes logged."""

    most: float = 0.0  # seconds of one unit's training since its last checkpoint
    interval: float = 0.0  # until the next was due, at that time
    overdue: int = 0  # units killed after a checkpoint was due and more than the step under way had been made
    resumed: int = 0  # units that continued from a checkpoint
    wrong: int = 0  # that continued from other than their last

    def add(self, events: list[tuple[float, int, str, str, int]]) -> None:
        """Count all attempts at all units of one victim."""
        attempts: dict[str, Attempt] = {}
        for time, _, event, unit, value in events:
            if event != "resumed":
                attempts[unit].hear(time, event, value)
                continue
            before = attempts.get(unit)
            self.resumed += value > 0
            self.wrong += value not in ({before.saved, before.saving} if before else {0})
            if before is not None:
                self._killed(before)
            attempts[unit] = Attempt(time, value, value, time)

    def _killed(self, attempt: Attempt) -> None:
        if attempt.stored:
            return
        self.overdue += attempt.beyond > 1
        if (cost := attempt.last - attempt.since) > self.most:
            self.most, self.interval = cost, attempt.interval
