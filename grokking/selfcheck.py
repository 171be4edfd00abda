"""Promises L0 and L1, tried on this machine: small runs, trained in every way that must not matter."""

import contextlib
import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from grokking.engine.batches import Batches
from grokking.errors import Interrupted
from grokking.execute.local import execute
from grokking.execute.signals import Stop
from grokking.execute.unit import Terms, train_unit
from grokking.runs import RunSpec, run_spec
from grokking.store import load, prepare
from grokking.tasks import split

SMALL = {"task.p": 11, "model.width": 32, "model.heads": 2, "batch_size": 32, "steps": 60, "evaluation.growth": 0.0}
# sha256 of the split, three batches and the initial weights of seed 3 at the defaults, float32, little-endian.
GOLDEN = "6a289ca2"


@dataclass(frozen=True)
class Promise:
    """What is promised, whether it held, and if not, what was seen."""

    text: str
    held: bool
    seen: str = ""


class Bench:
    """A folder for stores, and how runs are trained in them; the first training says what is expected of the others."""

    def __init__(self, terms: Terms) -> None:
        self.folder, self.terms = terms.folder, terms
        self.cohorts = [_runs("adamw"), _runs("muon")]
        self.expected = self.tables("expected", self.cohorts)

    def fresh(self, name: str, every: float = 0.0) -> Terms:
        """Terms of an empty store."""
        folder = self.folder / name
        prepare(folder)
        return replace(self.terms, folder=folder, checkpoint_every=every)

    def tables(self, name: str, cohorts: Sequence[list[RunSpec]], workers: int = 1) -> str:
        """All that is stored of the runs of `cohorts`, trained in a store of this name."""
        return self.train(self.fresh(name), cohorts, workers)

    def train(self, terms: Terms, cohorts: Sequence[list[RunSpec]], workers: int = 1) -> str:
        """The same in the store of `terms`: the runs and curves tables of our own runs, to the last digit."""
        if failures := execute(cohorts, terms, workers, ()):
            raise RuntimeError(f"a cohort cannot be trained at all: {failures[0].read_text().strip().splitlines()[-1]}")
        found = load(terms.folder, [spec.run_id for cohort in self.cohorts for spec in cohort])
        if found.missing:
            raise RuntimeError(f"{found.missing} runs are missing")
        return found.runs.to_csv() + found.curves.to_csv()

    def continued(self, name: str) -> list[int]:
        """The steps from which the units of this store were continued, but for those trained in one go."""
        infos = [json.loads(path.read_text()) for path in (self.folder / name).glob("units/*/unit.json")]
        return sorted(info["resumed_at_step"] for info in infos if info["resumed_at_step"])


def selfcheck(terms: Terms) -> Iterator[Promise]:
    """Try every promise, one after the other, in stores below the folder of `terms`."""
    yield _same("the same split, batches and initial weights as on any machine", golden(), GOLDEN)
    before = _generators()
    try:
        bench = Bench(terms)
    except RuntimeError as error:
        yield Promise("small runs can be trained", False, str(error))
        return
    for text, way in _ways(terms).items():
        try:
            yield _same(text, way(bench), bench.expected)
        except RuntimeError as error:
            yield Promise(text, False, str(error))
    yield Promise("no global random generator is drawn from or seeded", _generators() == before)


def promises(terms: Terms) -> int:
    """How many `selfcheck` tries."""
    return len(_ways(terms)) + 2


def _ways(terms: Terms) -> dict[str, Callable[["Bench"], str]]:
    """On CUDA a run's bits may depend on the width of its cohort, and one process trains unless several are asked for."""
    return {text: way for text, way in WAYS.items() if way not in (alone, in_workers) or terms.device == "cpu"}


def again(bench: Bench) -> str:
    """Once more."""
    return bench.tables("again", bench.cohorts)


def alone(bench: Bench) -> str:
    """Each run in a cohort of its own."""
    return bench.tables("alone", [[spec] for cohort in bench.cohorts for spec in cohort])


def in_workers(bench: Bench) -> str:
    """In two worker processes."""
    return bench.tables("workers", bench.cohorts, workers=2)


def stopped(bench: Bench) -> str:
    """Stopped at an evaluation, as by a signal, and continued."""
    terms = bench.fresh("stopped")
    for cohort in bench.cohorts:
        stop = Stop()
        with contextlib.suppress(Interrupted):
            for _, _, trained in train_unit(cohort, terms, stop):
                stop.code = 143 if trained else 0
    return _continued(bench, "stopped", 2)


def killed(bench: Bench) -> str:
    """Killed behind its first checkpoint, and continued."""
    terms = bench.fresh("killed")
    command = [sys.executable, "-m", "grokking", "run", "--seeds", "0:3", "--optimizer", "muon", "--workers", "1"]
    command += ["--device", terms.device, "--compile", "on" if terms.compile else "off", "--checkpoint-every", "0.001"]
    command += ["--out", str(terms.folder), "--set", *(f"{name}={value}" for name, value in SMALL.items())]
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while victim.poll() is None and not list(terms.folder.glob("checkpoints/*/0*/DONE")):
        time.sleep(0.005)
    victim.kill()
    victim.wait()
    return _continued(bench, "killed", 1)


def _continued(bench: Bench, name: str, units: int) -> str:
    """The tables of a store in which so many units were begun, if they were continued indeed."""
    seen = bench.train(replace(bench.terms, folder=bench.folder / name), bench.cohorts)
    if len(bench.continued(name)) != units:
        raise RuntimeError(f"{units} units were begun, and those that were continued began at {bench.continued(name)}")
    return seen


def beside_an_overflow(bench: Bench) -> str:
    """Beside a run that overflows in its second step."""
    beside = [[*cohort, run_spec({**SMALL, **_named(cohort), **OVERFLOW}, 9)] for cohort in bench.cohorts]
    terms = bench.fresh("overflow")
    seen = bench.train(terms, beside)
    mates = load(terms.folder, [cohort[-1].run_id for cohort in beside]).runs
    if not (mates["status"] == "diverged").all():
        raise RuntimeError("the mate did not overflow")
    return seen


WAYS: dict[str, Callable[[Bench], str]] = {
    "the same bits, trained again": again,
    "the same bits alone and in a cohort": alone,
    "the same bits in one process and in two workers": in_workers,
    "the same bits after a stop, continued from its checkpoint": stopped,
    "the same bits after kill -9, continued from its checkpoint": killed,
    "the same bits beside a run that overflows": beside_an_overflow,
}
OVERFLOW = {"optimizer.lr": 1e30}


def golden() -> str:
    """Hash of the split, the first three batches and the initial weights of seed 3 at the defaults."""
    setting = run_spec({}, 3).setting
    training, validation = split(len(setting.table().tokens), setting.number("train_fraction"), 3)
    batches = Batches(3, len(training), setting.integer("batch_size"))
    arrays = [training, validation, *(batches.at(step) for step in range(3))]
    arrays += [w.numpy() for _, w in sorted(setting.initial_weights(3).items())]
    joined = b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays)
    return hashlib.sha256(joined).hexdigest()[:8]


def _runs(optimizer: str) -> list[RunSpec]:
    return [run_spec({**SMALL, "optimizer.name": optimizer}, seed) for seed in range(3)]


def _named(cohort: Sequence[RunSpec]) -> dict[str, str]:
    return {"optimizer.name": cohort[0].setting.name("optimizer")}


def _same(text: str, seen: str, expected: str) -> Promise:
    if seen == expected:
        return Promise(text, True)
    lines = zip(seen.splitlines(), expected.splitlines(), strict=False)
    first = next((f"{a}\n  instead of {b}" for a, b in lines if a != b), "runs are missing")
    return Promise(text, False, first)


def _generators() -> tuple[object, ...]:
    legacy = np.random.get_state()  # noqa: NPY002  (read, to see that nobody draws from it)
    return random.getstate(), legacy[1].tobytes(), legacy[2:], torch.get_rng_state().numpy().tobytes()  # type: ignore[index]
