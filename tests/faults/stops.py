"""SIGTERM and SIGINT at random moments, and the proof that the comparison would see a bad checkpoint."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from faults.figure import Figure
from faults.victim import Victim, damaged


def stop(
    experiment: Path, folder: Path, expected: dict[str, bytes], times: int, latest: float, tick=lambda: None
) -> list[Figure]:
    """Stop it `times` times between one and `latest` seconds after its start, and continue."""
    draw = random.Random(4)
    stopped, different, broken, sweeps, wrong, took = 0, 0, 0, 0, 0, [0.0]
    while stopped < times:
        victim = Victim(experiment, folder / f"stop-{sweeps}", checkpoint_every=0)  # only when stopped
        sweeps += 1
        finished = False
        while stopped < times and not finished:
            number, code = [(signal.SIGTERM, 143), (signal.SIGINT, 130)][stopped % 2]
            process = victim.start()
            try:
                process.wait(draw.uniform(1.0, latest))
                finished = True
                continue
            except subprocess.TimeoutExpired:
                os.kill(process.pid, number)
            began = time.monotonic()
            wrong += victim.wait(process) != code
            took.append(time.monotonic() - began)
            broken += damaged(victim.store)
            stopped += 1
            tick()
        assert victim.finish() == 0, victim.heard()
        different += victim.tables() != expected
    return [
        Figure(
            "SIGTERM, SIGINT: longest time to the exit of all processes",
            stopped,
            f"{max(took):.1f} s",
            "5 s",
            max(took) <= 5,
        ),
        Figure("SIGTERM, SIGINT: exit codes other than 143, 130", stopped, f"{wrong}", "0", wrong == 0),
        Figure("SIGTERM, SIGINT: units damaged", stopped, f"{broken}", "0", broken == 0),
        Figure("SIGTERM, SIGINT: final tables that differ", sweeps, f"{different}", "0", different == 0),
    ]


def forget(experiment: Path, folder: Path, expected: dict[str, bytes], moment: float) -> Figure:
    """Negative control: continue without the optimizer's state, and with a step too few; both have to be seen."""
    seen = 0
    for what in ("state", "step"):
        victim = Victim(experiment, folder / f"forget-{what}", checkpoint_every=0)
        process = victim.start()
        until = time.monotonic() + 60
        while not any(event == "step" and step > 20 for _, _, event, _, step in victim.events()):
            assert time.monotonic() < until, victim.heard()
            time.sleep(0.05)
        time.sleep(moment)
        os.kill(process.pid, signal.SIGTERM)
        victim.wait(process)
        assert victim.finish(forget=what) == 0, victim.heard()
        seen += victim.tables() != expected
    return Figure(
        "negative control: a resume without optimizer state, or a step too few, is seen", 2, f"{seen}", "2", seen == 2
    )
