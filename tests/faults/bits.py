"""Single bits flipped and files cut short, in units, checkpoints and the index."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from faults.finding import Finding
from faults.victim import Victim, tiny_experiment
from grokking.cli import command_line
from grokking.engine.checkpoint import Checkpoints, started
from grokking.engine.trainer import Trainer
from grokking.errors import BadInput, Notice
from grokking.execute.unit import Terms
from grokking.experiment import open_experiment
from grokking.store import index, load, units
from grokking.store.sealed import signature
from grokking.store.units import FILES


def half_trained(folder: Path) -> Victim:
    """A store with units and, of cohorts that were stopped, two checkpoints of one; anew until a stop comes between them."""
    for attempt in range(10):
        here = folder / str(attempt)
        victim = Victim(tiny_experiment(here), here, checkpoint_every=0.2)
        process = victim.start()
        while process.poll() is None and not (units(victim.store) and 2 in _saved(victim)):
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        victim.wait(process)
        if 2 in _saved(victim):
            return victim
    raise AssertionError(f"the sweep ended before it could be stopped, {attempt + 1} times")


def _saved(victim: Victim) -> list[int]:
    """How many checkpoints each cohort has that was started and has not ended."""
    return [len(list(unit.glob("[0-9]*"))) for unit in (victim.store / "checkpoints").glob("*")]


class Damage:
    """Spoils one file of a store at a time, and looks whether that is seen."""

    def __init__(self, victim: Victim) -> None:
        self.victim, self.store = victim, victim.store
        self.specs = {spec.run_id: spec for spec in open_experiment(str(victim.experiment)).specs("smoke")}
        self.intact = [unit.name for unit in units(self.store)]
        self.table = load(self.store)
        cohorts = [[self.specs[run_id] for run_id in run_ids] for run_ids in started(self.store)]
        places = {Terms(self.store).checkpoints(specs): specs for specs in cohorts}
        # A cohort that was stopped just after its start has one checkpoint only.
        self.checkpoints: Checkpoints = max(places, key=lambda found: len(list(found.place.glob("[0-9]*"))))
        specs = places[self.checkpoints]
        self.trainer = Trainer(specs[0].setting, torch.device("cpu"))
        self.files = sorted(
            [path for path in (self.store / "units").glob("[!.]*/*")]
            + [path for path in self.checkpoints.place.glob("[0-9]*/*")]
        )
        self.index = (self.store / "index.json").read_bytes().partition(b"\n")[2]
        self.older = min(int(path.name) for path in self.checkpoints.place.glob("[0-9]*"))
        assert self.intact and 0 < self.older < self.checkpoints.step()
        self.last = self.checkpoints.latest(self.trainer)[0].cohort.step
        self.crashes = self.drawn = 0

    @contextlib.contextmanager
    def spoilt(self, path: Path, content: bytes) -> Iterator[None]:
        """Within, `path` holds `content`."""
        whole = path.read_bytes()
        before = {aside for aside in path.parent.parent.glob(".damaged-*")}
        path.write_bytes(content)
        try:
            yield
        finally:
            for aside in set(path.parent.parent.glob(".damaged-*")) - before:
                aside.rename(path.parent)  # reading a damaged checkpoint sets it aside
            path.write_bytes(whole)

    def seen(self, path: Path) -> bool:
        """Whether reading finds that this file is spoilt, as often as it can be read."""
        if "checkpoints" in path.parts:
            return self._checkpoint_left_out(path)
        others = [name for name in self.intact if name != path.parent.name]
        fast = self._units() == others
        self._pretend_untouched(path.parent)
        believed = self._units() == self.intact  # or else this would not be a disk that rots without telling
        return fast and believed and self._units("full") == others

    def _units(self, verify: str = "fast") -> list[str]:
        return [unit.name for unit in self._quietly(lambda: units(self.store, verify)) or []]

    def _checkpoint_left_out(self, path: Path) -> bool:
        resumed = self._quietly(lambda: self.checkpoints.latest(self.trainer))
        step = resumed[0].cohort.step if resumed else 0
        newest = path.parent.name == f"{self.last:09d}"
        return step == self.older if newest else step == self.last and self._older_is_seen(path)

    def _older_is_seen(self, path: Path) -> bool:
        """The older checkpoint is read only where the newer one is gone."""
        newer = self.checkpoints.place / f"{self.last:09d}"
        away = newer.with_name("away")
        newer.rename(away)
        try:
            return self._quietly(lambda: self.checkpoints.latest(self.trainer)) is None
        finally:
            away.rename(newer)

    def _pretend_untouched(self, unit: Path) -> None:
        """As a disk that rots without telling: the index holds the sizes and times of the spoilt files."""
        entries = json.loads(self.index)
        for entry in entries:
            if entry["name"] == unit.name:
                entry["signature"] = signature(unit, FILES)
        index._write_index(self.store, [index.Unit(**entry) for entry in entries])

    def _quietly(self, look: Callable):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)
            try:
                return look()
            except BadInput:
                return None  # one sentence
            except Exception:
                self.crashes += 1
                traceback.print_exc()
                return None

    def commands(self, draw: bool) -> None:
        """`status` and `load`, and `draw`: a sentence is well, a traceback is not."""
        place = ["--scale", "smoke", "--out", str(self.store)]
        calls = [["status", "--out", str(self.store)], ["status", str(self.victim.experiment), *place]]
        if draw:
            self.drawn += 1
            calls.append(["draw", str(self.victim.experiment), *place, "--figures", str(self.store / "figures")])
        with contextlib.redirect_stdout(io.StringIO()):
            self._quietly(lambda: load(self.store))
            for call in calls:
                self._quietly(lambda call=call: command_line(call))


def spoil(folder: Path, flips: int, cuts: int, draw_every: int, tick=lambda: None) -> list[Finding]:
    """Flip `flips` random bits and cut files at `cuts` random places, one at a time."""
    damage, draw = Damage(half_trained(folder)), random.Random(5)
    found = {"flip": 0, "cut": 0}
    for at in range(flips + cuts):
        path = draw.choice(damage.files)
        content = bytearray(path.read_bytes())
        kind = "flip" if at < flips else "cut"
        if kind == "flip":
            bit = draw.randrange(8 * len(content))
            content[bit // 8] ^= 1 << bit % 8
        else:
            del content[draw.randrange(len(content)) :]
        with damage.spoilt(path, bytes(content)):
            found[kind] += damage.seen(path)
            damage.commands(draw=at % draw_every == 0)
        tick()
    assert [unit.name for unit in units(damage.store, "full")] == damage.intact
    survived = _index_flips(damage, draw, flips // 10)
    places = f"{len(damage.intact)} units and 2 checkpoints"
    return [
        Finding(
            f"bit flips in {places}: detected",
            flips,
            f"{found['flip'] / max(flips, 1):.1%}",
            "100 %",
            found["flip"] == flips,
        ),
        Finding(
            f"truncations in {places}: detected",
            cuts,
            f"{found['cut'] / max(cuts, 1):.1%}",
            "100 %",
            found["cut"] == cuts,
        ),
        Finding("bit flips in the index: tables unchanged", flips // 10, f"{survived}", "all", survived == flips // 10),
        Finding(
            f"crashes of `load`, `status` (and `draw`, {damage.drawn} times)",
            flips + cuts,
            f"{damage.crashes}",
            "0",
            damage.crashes == 0,
        ),
    ]


def _index_flips(damage: Damage, draw: random.Random, times: int) -> int:
    path, survived = damage.store / "index.json", 0
    for _ in range(times):
        load(damage.store)
        content = bytearray(path.read_bytes())
        bit = draw.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(content))
        again = load(damage.store)
        survived += again.runs.equals(damage.table.runs) and again.curves.equals(damage.table.curves)
    return survived


def copy_of(victim: Victim, folder: Path) -> Victim:
    """The same half-trained store elsewhere."""
    shutil.copytree(victim.store, folder / "results")
    return Victim(victim.experiment, folder, victim.checkpoint_every)
