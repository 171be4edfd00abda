"""A sweep in parts: the README's SLURM script, run as plain processes, and its merge."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import runs

from grokking.errors import BadInput
from grokking.study import parse_shard, shard_of

README = (Path(__file__).parent.parent / "README.md").read_text()
SCRIPT, MERGE = re.findall(r"```sh\n(#!/bin/bash\n#SBATCH.*?|for part in.*?)```", README, re.DOTALL)
STUDY = """
from grokking import Study

BASE = {"task.p": 7, "model.width": 16, "model.heads": 2, "train_fraction": 0.5, "steps": 40, "batch_size": 16,
        "threshold": 0.3}
ARMS = [{"optimizer.name": name, "optimizer.lr": lr} for name in ("adamw", "muon") for lr in (0.003, 0.01, 0.03)]
STUDIES = {"laptop": [Study(BASE, ARMS, range(3))]}
"""


@pytest.fixture
def clone(tmp_path):
    """A folder that looks like a clone to the script: the experiment it names, and the command in .venv."""
    for name, text in (("experiments/optimizers.py", STUDY), (".venv/bin/grokking", "")):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text or f'#!/bin/sh\nexec {sys.executable} -m grokking "$@"\n')
        path.chmod(0o755)
    (tmp_path / "array.sh").write_text(SCRIPT)
    return tmp_path


def bash(clone, text, **env):
    return subprocess.Popen(["bash", "-ec", text], cwd=clone, env={**os.environ, **env}, stderr=subprocess.PIPE)


def done(*processes):
    for process in processes:
        said = process.communicate(timeout=200)[1]
        assert process.returncode == 0, said.decode()


def tables(clone, out):
    command = [
        sys.executable,
        "-m",
        "grokking",
        "export",
        "experiments/optimizers.py",
        "--out",
        out,
        "--to",
        f"{out}-tables",
    ]
    subprocess.run(command, cwd=clone, check=True, capture_output=True)
    return [(clone / f"{out}-tables" / name).read_bytes() for name in ("runs.csv", "curves.csv")]


def test_four_shards_in_four_folders_merge_to_the_table_of_one_sweep(clone):
    ids = [{"SLURM_ARRAY_TASK_ID": str(task)} for task in range(1, 5)]
    done(*(bash(clone, "exec bash array.sh", **own) for own in ids))
    parts = [clone / f"results-{own['SLURM_ARRAY_TASK_ID']}" for own in ids]
    assert all(list((part / "units").glob("[!.]*")) for part in parts)  # everybody had something to do
    done(bash(clone, MERGE))
    done(bash(clone, ".venv/bin/grokking sweep experiments/optimizers.py --out whole"))
    merged, whole = tables(clone, "results"), tables(clone, "whole")
    assert merged == whole
    assert merged[0].count(b"\n") == 1 + 18
    again = bash(clone, ".venv/bin/grokking sweep experiments/optimizers.py")
    assert b"0 of 18 runs to train" in again.communicate(timeout=60)[1]


@given(st.integers(1, 5), st.integers(1, 30), st.integers(1, 9))
def test_shards_together_are_every_run_once_whatever_their_number(settings, seeds, shards):
    specs = [spec for size in range(settings) for spec in runs(seeds, batch_size=8 + size)]
    parts = [shard_of(specs, shard, shards) for shard in range(1, shards + 1)]
    assert sorted(spec.run_id for part in parts for spec in part) == sorted(spec.run_id for spec in specs)
    sizes = [len(part) for part in parts]
    assert all(sizes) or len(specs) < shards
    assert shard_of(specs, 1, 1) == specs


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "a/4", "1/b", "-1/4", "1/4/2", "²/4", "1.0/4"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(BadInput, match="allowed: I/N with I from 1 to N"):
        parse_shard(text)
    assert parse_shard("2/4") == (2, 4)
    assert parse_shard(None) == (1, 1)
