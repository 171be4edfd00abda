import errno
import importlib.util
import re

import numpy as np
import pandas as pd
import pytest
from test_store import curves_of, ids, load, put, rows_of

from grokking.errors import BadInput, Unwritable
from grokking.store.export import FORMATS, check_format, write_tables

VALUES = [0.1 + 0.2, 1 / 3, np.pi, 1e22, 5e-324, 1.7976931348623157e308, -0.0, float("nan"), float("inf")]


@pytest.fixture
def results(tmp_path):
    """Tables with gaps, floats at their limits, and units of different metrics."""
    a, b, c = ids(*"abc")
    short = {"train_loss": np.array([VALUES[:3], VALUES[3:6], VALUES[6:]])}
    put(tmp_path / "store", rows_of([c, a, "1234567890123456"]), short)
    put(tmp_path / "store", rows_of([b], note='a comma, a "quote" and é'), curves_of(1))
    return load(tmp_path / "store", [b, a, c, "1234567890123456"])


def as_read(path, like):
    read = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype={"run_id": str})
    return read.astype(dict(like.dtypes))


def refuse(format):
    with pytest.raises(BadInput) as refused:
        check_format(format)
    return str(refused.value)


@pytest.mark.parametrize("format", FORMATS)
def test_the_tables_of_a_file_are_those_that_were_loaded(tmp_path, results, format):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    check_format(format)
    paths = write_tables(results, tmp_path / "new" / "tables", format)
    assert [path.name for path in paths] == [f"runs.{format}", f"curves.{format}"]
    assert sorted(path.name for path in (tmp_path / "new" / "tables").iterdir()) == [
        f"curves.{format}",
        f"runs.{format}",
    ]
    for path, table in zip(paths, (results.runs, results.curves), strict=True):
        assert len(table) > 3
        pd.testing.assert_frame_equal(as_read(path, table), table, check_exact=True)


def test_csv_needs_nothing_but_a_reader_of_csv(tmp_path, results):
    runs, curves = (path.read_bytes() for path in write_tables(results, tmp_path, "csv"))
    assert b"\r" not in runs + curves
    assert runs.splitlines()[0].decode().split(",")[:3] == ["run_id", "model.norm", "optimizer.lr"]
    assert curves.splitlines()[0] == b"run_id,step,train_loss,validation_accuracy"
    assert (runs.count(b"\n"), curves.count(b"\n")) == (5, 13)


def test_the_same_tables_are_the_same_bytes_and_take_the_place_of_the_old_ones(tmp_path, results):
    first = [path.read_bytes() for path in write_tables(results, tmp_path / "x", "csv")]
    (tmp_path / "x" / "runs.csv").write_bytes(b"old")
    assert [path.read_bytes() for path in write_tables(results, tmp_path / "x", "csv")] == first
    assert len(list((tmp_path / "x").iterdir())) == 2


@pytest.mark.parametrize("format", ["xlsx", "CSV", "", "csv "])
def test_an_unknown_format_is_one_sentence_that_names_it_and_what_is_allowed(format):
    assert refuse(format) == f"format = {format!r}; allowed: csv, parquet"


def test_parquet_without_pyarrow_is_one_sentence_and_csv_still_works(monkeypatch):
    once = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else once(name))
    assert refuse("parquet") == "format = 'parquet' needs pyarrow, which is not installed; allowed here: csv"
    check_format("csv")


def test_with_pyarrow_parquet_is_allowed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    check_format("parquet")


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=type)
@pytest.mark.parametrize("when", ["while writing", "when putting it in place"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_temporary(tmp_path, monkeypatch, results, stop, when):
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "runs.csv").write_bytes(b"old")

    def half(self, path, **kwargs):
        path.write_bytes(b"run_id,")
        raise stop

    def refused(self, target):
        raise stop

    if when == "while writing":
        monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    else:
        monkeypatch.setattr("pathlib.Path.replace", refused)
    expected = Unwritable if isinstance(stop, OSError) else KeyboardInterrupt
    with pytest.raises(
        expected, match=f"^cannot write {re.escape(repr(str(folder)))}: No space" if stop.args else None
    ):
        write_tables(results, folder, "csv")
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("runs.csv", b"old")]


def test_a_folder_that_is_a_file_is_unwritable(tmp_path, results):
    (tmp_path / "file").touch()
    for folder, told in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "x", "Not a directory")):
        with pytest.raises(Unwritable, match=f": {told}$"):
            write_tables(results, folder, "csv")


def test_tables_without_a_run_are_written_too(tmp_path):
    for path in write_tables(load(tmp_path / "absent"), tmp_path, "csv"):
        assert path.read_bytes() == b"\n"
