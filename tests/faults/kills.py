"""kill -9 at random moments of a sweep, inside writes and renames too."""

import contextlib
import os
import random
import signal
import subprocess
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
    killed, broken, different, losses, unused, sweeps = 0, 0, 0, [0.0], 0, 0
    while killed < times:
        victim = Victim(experiment, folder / f"kill-{sweeps}", every)
        sweeps += 1
        finished = False
        while killed < times and not finished:
            seen = len(victim.events())
            finished = not _killed(victim, draw, WAYS[killed % 3], latest)
            loss, wrong = _lost(victim, seen)
            losses.append(loss)
            unused += wrong
            broken += damaged(victim.store) if (victim.store / "units").exists() else 0
            killed += not finished
            tick()
        assert victim.finish() == 0, victim.heard()
        different += victim.tables() != expected
    kept = broken == 0 and unused == 0
    return [
        Figure("kill -9: units damaged", killed, f"{broken}", "0", broken == 0),
        Figure("kill -9: resumed from other than the last complete checkpoint", killed, f"{unused}", "0", kept),
        Figure(
            f"kill -9: most training lost by one (checkpoints every {every:g} s)",
            killed,
            f"{max(losses):.1f} s",
            "one interval, and the step or save that was under way",
            max(losses) <= every * 1.05 + SAVE,
        ),
        Figure(
            "kill -9: final tables that differ from the undisturbed one", sweeps, f"{different}", "0", different == 0
        ),
    ]


SAVE = 0.5  # seconds allowed for the step and the save that were under way


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


def _lost(victim: Victim, seen: int) -> tuple[float, int]:
    """The most seconds of training after the last complete checkpoint of any unit, and resumes from elsewhere."""
    events = victim.events()
    wrong, newest, made_at = 0, {}, {}
    for at, (time, _, event, unit, step) in enumerate(events):
        if event == "resumed":
            made_at[unit] = time
            # A kill between the rename and the log leaves a newer checkpoint than the log knows.
            started = {s for _, _, e, u, s in events[:at] if e == "saving" and u == unit}
            wrong += (at >= seen and step < newest.get(unit, 0)) or step not in {0, *started}
            newest[unit] = step
        elif event == "saved":
            newest[unit], made_at[unit] = step, time
    last = {unit: time for time, _, event, unit, _ in events[seen:] if event in ("step", "saving")}
    return max((time - made_at[unit] for unit, time in last.items()), default=0.0), wrong
