"""A search on its way: configurations asked for in batches, trained, judged and written down; several drivers at once.

    results/searches/NAME/   journal.log    every trial, as Optuna's journal: appended to, never rewritten
                             search.json    the definition
                             trials.csv     the trials as a table
                             drivers/       a file for each process that works on it, locked for as long as it lives

A batch is settled by going through it from its start, rung by rung: what is stored is not trained again and what was told
is not told again. So a batch whose driver died is settled by whoever comes next, as if nothing had happened.
"""

import contextlib
import fcntl
import json
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from grokking.errors import BadInput, Unwritable
from grokking.registry import Scalar
from grokking.runs import RunSpec
from grokking.seeding import stream
from grokking.store import load
from grokking.tuning.definition import Definition
from grokking.tuning.journal import Journal, journal_errors
from grokking.tuning.space import Axis, Choices, settings_at

STUDY = "search"
COUNTS = ("generalized", "sustained", "diverged")  # how many of the seeds
Train = Callable[[Sequence[RunSpec]], None]  # those of them that are not stored

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Search:
    """A search in a store, and this process as one of its drivers."""

    def __init__(self, out: Path, definition: Definition, train: Train) -> None:
        self.out, self.definition, self.train = out, definition, train
        self.folder = out / "searches" / definition.name
        self.journal = self.folder / "journal.log"
        self.distributions = {name: _distribution(axis) for name, axis in definition.space}

    def __enter__(self) -> "Search":
        self.held = contextlib.ExitStack()
        try:
            (self.folder / "drivers").mkdir(parents=True, exist_ok=True)
            self.own = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
            self.held.enter_context(_locked(self.folder / "drivers" / self.own))
            with self._alone():
                self._write("search.json", json.dumps(self.definition.described(), indent=1) + "\n")
                with journal_errors(self.journal):
                    self.storage = JournalStorage(Journal(self.journal))
                    self.study = optuna.create_study(
                        storage=self.storage, study_name=STUDY, direction="minimize", load_if_exists=True
                    )
        except OSError as error:
            raise BadInput(f"cannot write a search to {str(self.folder)!r}: {error.strerror or error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()

    def batch(self, trials: int | None, steps: int | None) -> list[FrozenTrial]:
        """The next configurations to try: those of a dead driver's batch first; none if `trials` or `steps` are spent."""
        with self._alone(), journal_errors(self.journal):
            if left := self._abandoned():
                key = left[0].user_attrs["batch"]
            elif steps is not None and sum(map(_spent, self._asked())) >= steps:
                return []
            else:
                key, left = f"{self.own}/{len(self._asked())}/{min(self.definition.batch, self._remaining(trials))}", []
            while len(left) < int(key.rpartition("/")[2]):  # as many as it was begun with, also after its driver died
                left.append(self._ask(key))
        return left

    def settle(self, batch: Sequence[FrozenTrial]) -> bool:
        """Train the configurations of a batch, the hopeless ones not to their end, and write down how good they are.

        False if none of them could be trained.
        """
        going = list(batch)
        for rung in self.definition.rungs:
            going = self._stop_hopeless(going, rung)
        for trial, runs in zip(going, self._tried(going, None), strict=True):
            if runs is not None:
                self._judge(trial, runs)
        self.record()
        ours = {trial.number for trial in batch}
        return any(trial.number in ours and trial.state != TrialState.FAIL for trial in self._asked())

    def record(self) -> None:
        """Write the table down."""
        self._write("trials.csv", self.table().to_csv(index=False, lineterminator="\n"))

    def _judge(self, trial: FrozenTrial, runs: pd.DataFrame) -> None:
        """Tell what a configuration is worth that was trained to the end."""
        value = self.definition.value(runs)
        self._note(
            trial,
            value=[value.value, value.low, value.high],
            generalized=int(runs["steps_to_generalize"].notna().sum()),
            sustained=int(runs["sustained"].sum()),
            diverged=int((runs["status"] == "diverged").sum()),
        )
        self._tell(trial, values=value.value)

    def _stop_hopeless(self, going: list[FrozenTrial], rung: int) -> list[FrozenTrial]:
        """Those that go on from this rung; the others are told, with how far they came."""
        tables = self._tried(going, rung)
        tried = [(trial, runs) for trial, runs in zip(going, tables, strict=True) if runs is not None]
        scores = [self.definition.score(runs) for _, runs in tried]
        on = self.definition.promoted(scores)
        for at, (trial, _) in enumerate(tried):
            if at not in on and not trial.state.is_finished():
                with journal_errors(self.journal):
                    self.storage.set_trial_intermediate_value(trial._trial_id, rung, scores[at])
                self._tell(trial, state=TrialState.PRUNED)
        return [tried[at][0] for at in on]

    def _tried(self, trials: Sequence[FrozenTrial], rung: int | None) -> list[pd.DataFrame | None]:
        """The runs table of each trial, trained to the rung or to the end; None where that failed, which is told."""
        specs = [self.definition.runs(trial.params, rung) for trial in trials]
        self.train(list({spec.run_id: spec for own in specs for spec in own}.values()))
        results = load(self.out, [spec.run_id for own in specs for spec in own], curves=False).runs
        tables: list[pd.DataFrame | None] = []
        for trial, own in zip(trials, specs, strict=True):
            runs = results[results["run_id"].isin([spec.run_id for spec in own])] if len(results) else results
            if len(runs) < len(own):
                self._tell(trial, state=TrialState.FAIL)
                tables.append(None)
                continue
            told = trial.user_attrs.setdefault("spent", {})
            told[str(rung or self.definition.horizon)] = int(runs["steps_trained"].sum())
            self._note(trial, spent=told)
            tables.append(runs)
        return tables

    def table(self) -> pd.DataFrame:
        """One line per trial: what was tried, how it ended, its value with its t interval, and the run-steps spent.

        `state`: complete, pruned (stopped at a rung, so without a value), fail (it could not be trained) or running.
        """
        lines = []
        for number, trial in enumerate(self._asked()):
            value, low, high = trial.user_attrs.get("value", (None, None, None))
            line: dict[str, Any] = {"trial": number, **settings_at(dict(self.definition.space), trial.params)}
            line |= {"state": trial.state.name.lower(), "value": value, "low": low, "high": high}
            line |= {name: trial.user_attrs.get(name) for name in COUNTS}
            lines.append(line | {"n": len(self.definition.seeds), "spent": _spent(trial)})
        columns = ["trial", *dict(self.definition.space), "state", "value", "low", "high", *COUNTS, "n", "spent"]
        return pd.DataFrame(lines, columns=columns).astype(dict.fromkeys(COUNTS, "Int64"))

    def so_far(self) -> str:
        """In words: how many trials, the best of them, and what they have cost."""
        table = self.table()
        done = table[table["state"] == "complete"].sort_values(["value", "trial"])
        counts = {state: int((table["state"] == state).sum()) for state in ("complete", "pruned", "running")}
        words = [f"{len(table) - counts['running']} trials"]
        words += [f"{counts['pruned']} of them stopped at a rung"] * bool(counts["pruned"])
        words += [f"{counts['running']} under way"] * bool(counts["running"])
        words += [f"{int(table['spent'].sum()):,} run-steps spent"]
        if len(done) and done.iloc[0]["generalized"]:
            numbers = " ".join(f"{name}={done.iloc[0][name]}" for name in dict(self.definition.space))
            words += [f"best {done.iloc[0]['value']:,.0f} steps at {numbers}"]
        elif len(done):
            words += ["none generalises so far"]
        return ", ".join(words)

    def _remaining(self, trials: int | None) -> int:
        """How many may still be asked for."""
        limit = self.definition.batch if trials is None else trials - len(self._asked())
        if self.definition.sampler == "grid":
            limit = min(limit, len(self._untried()))
        return max(0, limit)

    def _untried(self) -> list[dict[str, Scalar]]:
        """Points of the grid that nobody has asked for."""
        asked = [trial.params for trial in self._asked()]
        return [point for point in self.definition.grid() if point not in asked]

    def _abandoned(self) -> list[FrozenTrial]:
        """The whole of a batch that a dead driver left, finished trials included; its driver is this process from now on."""
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            if not self._complete(trial):  # its driver died while asking, as nobody else does now
                self._tell(trial, state=TrialState.FAIL)
        trials = self._asked()
        left = dict.fromkeys(trial.user_attrs["batch"] for trial in trials if trial.state == TrialState.RUNNING)
        for batch in left:
            driver = self.folder / "drivers" / batch.partition("/")[0]
            if driver.name != self.own and self._take(driver):
                return [trial for trial in trials if trial.user_attrs["batch"] == batch]
        return []

    def _take(self, driver: Path) -> bool:
        """Whether that driver is dead; its lock is then ours, so that nobody else takes its place."""
        try:
            self.held.enter_context(_locked(driver))
        except BlockingIOError:
            return False
        return True

    def _ask(self, batch: str) -> FrozenTrial:
        self.study.sampler = self._sampler(len(self._asked()))
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if self.definition.start and not self._asked() and not waiting:
            self.study.enqueue_trial(dict(self.definition.start))
        elif self.definition.sampler == "grid" and not waiting:
            self.study.enqueue_trial(self._untried()[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self.study.ask(fixed_distributions=dict(self.distributions))
        trial.set_user_attr("batch", batch)
        return self.storage.get_trial(trial._trial_id)

    def _sampler(self, number: int) -> BaseSampler:
        """A new one for every trial: what it draws depends on the trials before and on nothing that dies with a process."""
        seed = int(stream(self.definition.sampler_seed, "sampler", number).integers(2**31))
        if self.definition.sampler == "tpe":
            return TPESampler(seed=seed, multivariate=True, constant_liar=True)
        return RandomSampler(seed=seed)

    def _asked(self) -> list[FrozenTrial]:
        """All that were tried or are being tried, in order; not those whose driver died while it asked."""
        with journal_errors(self.journal):
            return [trial for trial in self.study.get_trials() if self._complete(trial)]

    def _complete(self, trial: FrozenTrial) -> bool:
        return "batch" in trial.user_attrs and set(trial.params) == set(self.distributions)

    def _note(self, trial: FrozenTrial, **said: Any) -> None:
        """Write this down with the trial, while it can be."""
        with journal_errors(self.journal):
            for name, value in said.items() if not trial.state.is_finished() else ():
                self.storage.set_trial_user_attr(trial._trial_id, name, value)

    def _tell(self, trial: FrozenTrial, values: float | None = None, state: TrialState | None = None) -> None:
        with journal_errors(self.journal):
            self.study.tell(trial.number, values, state, skip_if_finished=True)

    def _write(self, name: str, text: str) -> None:
        """A file of the search, complete or as it was."""
        temporary = self.folder / f".{name}-{self.own}"
        try:
            temporary.write_text(text)
            temporary.replace(self.folder / name)
        except OSError as error:
            raise Unwritable(f"cannot write {str(self.folder)!r}: {error.strerror or error}") from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While nobody else looks for what to do next."""
        with _locked(self.folder / "search.lock", wait=True):
            yield


@contextlib.contextmanager
def _locked(path: Path, wait: bool = False) -> Iterator[TextIO]:
    """Hold a lock on this file, which the system lets go of when the process ends, however it ends.

    Raises `BlockingIOError` where somebody else holds it and we do not `wait`.
    """
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file


def paid(table: pd.DataFrame, budget: float | None) -> pd.DataFrame:
    """The trials that a budget of run-steps pays for, in the order in which they were asked for; a last batch goes beyond it."""
    return table if budget is None else table[table["spent"].cumsum() <= budget]


def _distribution(axis: Axis) -> BaseDistribution:
    if isinstance(axis, Choices):
        return CategoricalDistribution(axis.values)
    if axis.integer:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _spent(trial: FrozenTrial) -> int:
    return int(np.sum(list(trial.user_attrs.get("spent", {}).values()), dtype=int))
