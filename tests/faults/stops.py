"""SIGTERM and SIGINT at random moments, and the proof that the comparison would see a bad checkpoint."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from faults.finding import Finding
from faults.victim import Victim, damaged


def stop(
    experiment: Path, folder: Path, expected: dict[str, bytes], times: int, latest: float, tick=lambda: None
) -> list[Finding]:
    """Stop it `times` times between one and `latest` seconds after its start, and continue."""
    draw = random.Random(4)
    stopped, different, broken, sweeps, wrong, took, saved, lost = 0, 0, 0, 0, 0, [0.0], 0, 0
    while stopped < times:
        victim = Victim(experiment, folder / f"stop-{sweeps}", checkpoint_every=0)  # only when stopped
        sweeps += 1
        finished = False
        while stopped < times and not finished:
            number, code = [(signal.SIGTERM, 143), (signal.SIGINT, 130)][stopped % 2]
            seen = len(victim.events())
            process = victim.start()
            moment = draw.uniform(1.0, latest)
            if stopped % 4 >= 2:  # half of them while it certainly trains, the others at any moment, start-up included
                victim.wait_for("step", seen)
                moment = draw.uniform(0.0, latest / 4)
            try:
                assert process.wait(moment) == 0, victim.heard()
                finished = True
                continue
            except subprocess.TimeoutExpired:
                # As a terminal does it, Ctrl-C reaches the workers too; SIGTERM comes from a scheduler to the parent.
                os.killpg(process.pid, number) if number == signal.SIGINT else os.kill(process.pid, number)
            began = time.monotonic()
            if (ended := victim.wait(process)) != code:
                wrong += 1
                print(f"exit code {ended}, not {code}:\n{victim.heard()}", file=sys.stderr)
            took.append(time.monotonic() - began)
            broken += damaged(victim.store)
            stopped += 1
            tick()
        if not finished:
            assert victim.finish() == 0, victim.heard()
        different += victim.tables() != expected
        own = resumes(victim.events())
        saved += sum(resumed > 0 for _, resumed in own)
        lost += sum(made - resumed for made, resumed in own)
    name = "SIGTERM, SIGINT:"
    longest = max(took)
    return [
        Finding(f"{name} longest time to the exit of all processes", stopped, f"{longest:.1f} s", "5 s", longest <= 5),
        Finding(f"{name} exit codes other than 143, 130", stopped, f"{wrong}", "0", wrong == 0),
        Finding(f"{name} steps lost by the {saved} units under way", stopped, f"{lost}", "0", lost == 0 and saved > 0),
        Finding(f"{name} units damaged", stopped, f"{broken}", "0", broken == 0),
        Finding(f"{name} final tables that differ", sweeps, f"{different}", "0", different == 0),
    ]


def resumes(events: list[tuple[float, int, str, str, int]]) -> list[tuple[int, int]]:
    """For each unit that went on: the last step made before, and the step from which it continued."""
    made: dict[str, int] = {}
    found = []
    for _, _, event, unit, step in events:
        if event == "resumed" and made.get(unit):
            found.append((made[unit], step))
        if event in ("step", "resumed"):
            made[unit] = step
    return found


def forget(experiment: Path, folder: Path, expected: dict[str, bytes]) -> Finding:
    """Negative control: continue without the optimizer's state, and with a step too few; both have to be seen."""
    seen = 0
    for what in ("state", "step"):
        victim = Victim(experiment, folder / f"forget-{what}", checkpoint_every=0)
        process = victim.start()
        victim.wait_for("step")
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGTERM)
        victim.wait(process)
        assert victim.finish(forget=what) == 0, victim.heard()
        seen += victim.tables() != expected
    return Finding(
        "negative control: a resume without optimizer state, or a step too few, is seen", 2, f"{seen}", "2", seen == 2
    )
