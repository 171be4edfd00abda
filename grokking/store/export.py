"""The tables as files for other programs: CSV, or Parquet for those who have pyarrow."""

import importlib.util
import uuid
from pathlib import Path

import pandas as pd

from grokking.errors import BadInput, Unwritable
from grokking.store.tables import Results

FORMATS = ("csv", "parquet")


def check_format(format: str) -> None:
    """Raise `BadInput` for a format that cannot be written here."""
    if format not in FORMATS:
        raise BadInput(f"format = {format!r}; allowed: {', '.join(FORMATS)}")
    if format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise BadInput("format = 'parquet' needs pyarrow, which is not installed; allowed here: csv")


def write_tables(results: Results, folder: Path, format: str) -> list[Path]:
    """Write the runs and the curves to `folder`, each file complete or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [
            write_table(table, folder / f"{name}.{format}")
            for name, table in (("runs", results.runs), ("curves", results.curves))
        ]
    except OSError as error:
        raise Unwritable(f"cannot write {str(folder)!r}: {error.strerror or error}") from error


def write_table(table: pd.DataFrame, path: Path) -> Path:
    """Write one table, by the path's suffix: complete or not at all."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False, lineterminator="\n")
        else:
            table.to_parquet(temporary, index=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
