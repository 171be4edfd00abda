"""Runs that were published: the tables in figures/published, read as if they were stored here."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from grokking.errors import BadInput
from grokking.store.units import read_runs


@dataclass(frozen=True, eq=False)
class Source:
    """A published pair of tables."""

    runs: pd.DataFrame  # indexed by run_id
    curves: dict[str, pd.DataFrame]
    machine: str
    core_seconds: float  # of all its runs

    def seconds(self, run_id: str) -> float:
        """The run's part of the core-seconds, in proportion to its steps."""
        return float(self.core_seconds * self.runs["steps_trained"][run_id] / self.runs["steps_trained"].sum())


def adopted(folder: Path | None) -> dict[str, Source]:
    """The source of each run in a folder of published tables: NAME_runs.csv, NAME.json, and curves in NAME.csv."""
    if folder is None:
        return {}
    if not folder.is_dir():
        raise BadInput(f"adopt = {str(folder)!r} is no folder; name one that holds published tables (*_runs.csv)")
    found: dict[str, Source] = {}
    for path in sorted(folder.glob("*_runs.csv")):
        name = path.name.removesuffix("_runs.csv")
        for needed in (f"{name}.csv", f"{name}.json"):
            if not (folder / needed).is_file():
                raise BadInput(f"{folder} holds {path.name} but not {needed}; copy the published files together")
        reading = path
        try:
            table = read_runs(path).set_index("run_id", drop=False)
            reading = folder / f"{name}.csv"
            main = pd.read_csv(reading, dtype={"run_id": str})
            columns = ["run_id", "step", *(metric for metric in main if f"final_{metric}" in table)]
            curves = dict(list(main[columns].groupby("run_id"))) if {"run_id", "step"} <= set(main.columns) else {}
            reading = folder / f"{name}.json"
            facts = json.loads(reading.read_text())
            source = Source(table, curves, facts["machine"], 60.0 * facts["core_minutes"])
        except (OSError, ValueError, KeyError, TypeError):
            raise BadInput(f"{reading} is damaged; copy the published files together") from None
        found |= {run_id: source for run_id in table.index if run_id not in found or curves}
    if not found:
        raise BadInput(f"adopt = {str(folder)!r} holds no published runs; name a folder with *_runs.csv in it")
    return found
