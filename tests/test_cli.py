"""The command line: what a user types, what it says, what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from grokking.cli import command_line, parse_seeds
from grokking.errors import BadInput

pytestmark = pytest.mark.parses
TINY = ("--set", "task.p=7", "model.width=16", "--steps", "30")


def grokking(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "grokking", *arguments], capture_output=True, text=True, check=False, **options
    )


def test_run_prints_one_json_object_a_line_and_nothing_else_on_stdout(tmp_path, capsys):
    arguments = [
        "run",
        "--optimizer",
        "sgd",
        "--seeds",
        "0:2",
        *TINY,
        "--workers",
        "1",
        "--out",
        str(tmp_path),
        "--json",
    ]
    assert command_line(arguments) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["seed"] for row in rows] == [0, 1]
    for row in rows:
        assert row["status"] == "censored"
        assert row["steps_to_generalize"] is None
        assert row["epochs_to_generalize"] is None
        assert row["task.p"] == 7
        assert row["optimizer.name"] == "sgd"


def test_a_second_run_trains_nothing_and_prints_the_same(tmp_path, capsys):
    arguments = ["run", "--seeds", "0", *TINY, "--workers", "1", "--out", str(tmp_path), "--json"]
    command_line(arguments)
    first = capsys.readouterr()
    command_line(arguments)
    second = capsys.readouterr()
    assert "1 of 1 runs to train" in first.err
    assert "0 of 1 runs to train" in second.err
    assert first.out == second.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--task", "mod_ad"), "mod_add"),
        (("--optimizer", "adan"), "adam"),
        (("--set", "optimizer.learning_rate=1"), "'optimizer.learning_rate'"),
        (("--set", "optimizer.lr"), "name=value"),
        (("--task", "mod_div", "--set", "task.p=10"), "p = 10"),
        (("--set", "train_fraction=1.5"), "train_fraction = 1.5"),
        (("--set", "train_fraction=0"), "train_fraction = 0"),
        (("--set", "optimizer.lr=0"), "optimizer.lr = 0.0"),
        (("--set", "optimizer.lr=nan"), "optimizer.lr = nan"),
        (("--seeds", "5:3"), "seeds = '5:3'"),
        (("--seeds", ""), "seeds = ''"),
        (("--device", "tpu"), "device = 'tpu'"),
        (("--workers", "-1"), "workers = -1"),
        (("--import", "nowhere.py"), "'nowhere.py'"),
    ],
)
def test_bad_input_is_one_sentence_with_the_value_exit_code_2_and_nothing_written(arguments, said, tmp_path):
    out = tmp_path / "results"
    done = grokking("run", "--out", str(out), *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert not out.exists()


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = grokking("run", "--out", str(tmp_path / "file" / "results"))
    assert done.returncode == 2
    assert "cannot write results" in done.stderr


def test_help_does_not_load_torch():
    code = "import sys; from grokking.cli import command_line\ntry: command_line(['run', '--help'])\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


def test_seeds_are_half_open_ranges_and_numbers():
    assert parse_seeds("3") == [3]
    assert parse_seeds("0:3,9,2") == [0, 1, 2, 9]
    with pytest.raises(BadInput, match="a:b"):
        parse_seeds("a:b")


USER = '''
import torch
from grokking.optim import optimizer, zeros
from grokking.tasks import binary_operation, task


@task
def mod_square_sub(p: int = 11):
    """x² - y (mod p)."""
    return binary_operation(p, lambda x, y: (x**2 - y) % p, "x²-y")


@optimizer(lr=0.01, state=zeros())
def signs(w, grad, state, h, role):
    """w ← w - lr · sign(grad)."""
    return w - h.lr * torch.sign(grad), state
'''


def test_a_users_task_and_optimizer_train_from_one_file_in_worker_processes(tmp_path):
    (tmp_path / "mine.py").write_text(USER)
    arguments = ("run", "--import", "mine.py", "--task", "mod_square_sub", "--optimizer", "signs", "--seeds", "0:2")
    done = grokking(*arguments, "--set", "model.width=16", "--steps", "30", "--workers", "2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["task.name"] for line in done.stdout.splitlines()] == ["mod_square_sub"] * 2
    listed = grokking("list", "tasks", "--import", "mine.py", cwd=tmp_path)
    assert "x² - y (mod p)." in listed.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_sweep_with_its_exit_code_and_leaves_no_worker(number, code, tmp_path):
    arguments = [sys.executable, "-m", "grokking", "run", "--seeds", "0:4", "--steps", "100000", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*arguments, "--workers", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while "runs done" not in process.stderr.readline(200):
        pass
    time.sleep(5)  # the workers are loading torch or training by now
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "the same command goes on" in said
    assert gone(process.pid)


def gone(group, patience=20):
    """Whether every process of the group ends within `patience` seconds."""
    for _ in range(10 * patience):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
