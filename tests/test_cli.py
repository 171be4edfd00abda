"""The command line: what a user types, what it says, what it leaves behind."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest

from grokking.__main__ import _command, main
from grokking.cli import command_line
from grokking.commands.arguments import parse_seeds
from grokking.errors import BadInput, Interrupted, Notice
from grokking.store import load
from grokking.tasks import tasks

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


MISTAKES = '''
from grokking.tasks import task

@task
def divides():
    """A task that fails."""
    return 1 / 0

@task
def forgets():
    """A task that returns nothing."""
'''


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
        (("--import", "mistakes.py", "--task", "divides"), "task 'divides' fails with {}: ZeroDivisionError"),
        (("--import", "mistakes.py", "--task", "forgets"), "task 'forgets' returns NoneType; a task returns a Table"),
        (("--resume", "maybe"), "resume = 'maybe'; allowed: exact, anyway, never"),
        *[
            (("--checkpoint-every", value), f"checkpoint_every = {float(value)}; allowed: seconds from 0 on")
            for value in ("-1", "nan", "inf")
        ],
    ],
)
def test_bad_input_is_one_sentence_with_the_value_exit_code_2_and_nothing_written(
    arguments, said, tmp_path, monkeypatch, capsys
):
    (tmp_path / "mistakes.py").write_text(MISTAKES)
    monkeypatch.chdir(tmp_path)
    refused(["run", *arguments], said, capsys)


@pytest.fixture(autouse=True)
def registry_as_it_was():
    before = set(tasks)
    yield
    for name in set(tasks) - before:
        tasks._entries.pop(name)


def refused(arguments, said, capsys):
    """In this process, as starting another for each mistake takes most of this file's time."""
    before = set(Path().rglob("*"))
    shown = warnings.showwarning
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["grokking", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    warnings.showwarning = shown
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("grokking: ")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert {path for path in Path().rglob("*") if "__pycache__" not in path.parts} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "--out", "typo"), "out = 'typo' is no folder; name one that holds results"),
        (("status", "--out", "file"), "out = 'file' is no folder"),
        (("status", "experiment.py", "--scale", "smoke", "--verify", "twice"), "verify = 'twice'; allowed: fast, full"),
        (("export", "--verify", "twice"), "verify = 'twice'; allowed: fast, full"),
        (("export", "--format", "xlsx"), "format = 'xlsx'; allowed: csv, parquet"),
        (("export",), "no run that was asked for is stored in 'results'"),
        (("export", "--out", "typo"), "no run that was asked for is stored in 'typo'"),
        (("draw", "experiment.py", "--verify", "twice", "--scale", "smoke"), "verify = 'twice'; allowed: fast, full"),
        (("sweep", "experiment.py", "--scale", "smoke", "--resume", "maybe"), "resume = 'maybe'; allowed: exact"),
        (("sweep", "nowhere.py"), "'nowhere.py'"),
    ],
)
def test_bad_input_of_the_other_commands_is_one_sentence_too(arguments, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    refused([*arguments], said, capsys)


EXPERIMENT = '''
"""A tiny experiment."""
from grokking.study import Study

STUDIES = {"smoke": [Study({"task.p": 5, "model.width": 16, "steps": 10}, [{}], range(2))]}

def draw(results):
    return []
'''


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    """A folder with the experiment, of which one run is stored, and a run that it does not ask for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    for p in ("5", "3"):
        command_line(["run", "--set", f"task.p={p}", "model.width=16", "--steps", "10", "--workers", "1"])
    capsys.readouterr()
    return tmp_path


def test_export_writes_both_tables_as_csv(trained, capsys):
    assert command_line(["export", "--to", "all"]) == 0
    assert capsys.readouterr().out.splitlines() == ["all/runs.csv", "all/curves.csv"]
    runs = pd.read_csv("all/runs.csv", dtype={"run_id": str})
    curves = pd.read_csv("all/curves.csv", dtype={"run_id": str})
    assert sorted(runs["task.p"]) == [3, 5]
    assert set(curves["run_id"]) == set(runs["run_id"])
    found = load(Path("results"))
    assert len(curves) == len(found.curves)
    assert curves["train_loss"].tolist() == found.curves["train_loss"].tolist()  # to the last bit
    assert sorted(path.name for path in Path("all").iterdir()) == ["curves.csv", "runs.csv"]


def test_export_of_an_experiment_has_its_runs_alone_and_says_what_is_missing(trained, capsys):
    assert command_line(["export", "experiment.py", "--scale", "smoke"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["exported/runs.csv", "exported/curves.csv"]
    assert err == "grokking: 1 runs are not trained yet; exported without them\n"
    assert pd.read_csv("exported/runs.csv")["task.p"].tolist() == [5]


def test_status_says_what_is_stored_and_full_verification_finds_what_is_damaged(trained, capsys):
    assert command_line(["status", "--verify", "full"]) == 0
    said = capsys.readouterr().out
    assert "results: 2 runs stored (0 generalized, 2 censored, 0 diverged)" in said
    assert "started" not in said
    assert "failed" not in said
    unit = sorted(Path("results", "units").iterdir())[0]
    content = bytearray((unit / "curves.npy").read_bytes())
    content[-1] ^= 1
    (unit / "curves.npy").write_bytes(content)
    with pytest.warns(Notice, match=f"left out the damaged unit .*{unit.name}"):
        assert command_line(["status", "--verify", "full"]) == 0
    assert "results: 1 runs stored" in capsys.readouterr().out


def test_status_names_what_was_started_and_what_failed(trained, capsys):
    Path("results", "checkpoints", "0123").mkdir()
    Path("results", "failures", "4567.txt").write_text("")
    Path("results", "failures", ".worker-1").write_text("")
    assert command_line(["status"]) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first == "1 cohort started: results/checkpoints/0123"
    assert second == "1 cohort failed: results/failures/4567.txt"


@pytest.mark.parametrize("words", [("--resume", "never"), ("--resume=never",)], ids=str)
def test_the_command_that_continues_does_not_throw_away_what_was_saved(words):
    call = ["bin/grokking", "run", "--seeds", "0:2", *words, "--out", "my results"]
    assert _command(call) == "bin/grokking run --seeds 0:2 --out 'my results'"
    assert _command(["x/__main__.py", "status"]) == f"{sys.executable} -m grokking status"


@pytest.mark.parametrize("stderr", ["closed", "full"])
def test_without_a_terminal_a_run_trains_all_the_same(stderr, tmp_path):
    to = {"closed": "2>&-", "full": "2>/dev/full"}[stderr]
    command = [sys.executable, "-m", "grokking", "run", *TINY, "--workers", "1", "--out", str(tmp_path), "--json"]
    done = subprocess.run(f"{shlex.join(command)} {to}", shell=True, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["status"] == "censored"


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = grokking("run", "--out", str(tmp_path / "file" / "results"))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
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


LONG = ("--optimizer", "sgd", "--seeds", "0:2", "--set", "task.p=7", "model.width=16", "evaluation.growth=0.5")


@pytest.mark.parametrize(("name", "words"), [("power", "This begins again"), ("sweep", "This continues from what was")])
def test_only_what_saves_is_said_to_continue(name, words, monkeypatch, capsys):
    def stopped(_):
        raise Interrupted(130)

    monkeypatch.setattr("grokking.cli.command_line", stopped)
    monkeypatch.setattr("sys.argv", ["grokking", name])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.stderr", sys.stderr)  # put back afterwards
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert f"grokking: stopped. {words}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    assert command_line(["run", *LONG, "--steps", "200", "--workers", "1", "--out", str(out)]) == 0
    return load(out)


@pytest.mark.parametrize(("number", "code", "workers"), [(signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 2)])
def test_a_signal_ends_a_run_with_its_exit_code_and_what_it_says_continues_it(
    number, code, workers, tmp_path, uninterrupted, monkeypatch, capsys
):
    arguments = ["run", *LONG, "--steps", "200", "--workers", str(workers), "--checkpoint-every", "0.01"]
    monkeypatch.chdir(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "grokking", *arguments, "--out", "my results"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    saved = tmp_path / "my results" / "checkpoints"
    while not list(saved.glob("*/0*/DONE")) and process.poll() is None:
        time.sleep(0.01)  # the other worker may still be starting
    since = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - since < 8  # 5 on a machine of one's own
    assert process.returncode == code
    assert gone(process.pid)
    assert "Traceback" not in said
    sentence, command = said.strip().splitlines()[-2:]
    assert sentence == "grokking: stopped. This continues from what was last saved:"
    assert command == "  " + shlex.join([sys.executable, "-m", "grokking", *arguments, "--out", "my results"])

    again = shlex.split(command)[3:]
    again[again.index("--workers") + 1] = "1"  # in this process, which has loaded torch already
    assert command_line(again) == 0
    assert "cohorts that continue from a checkpoint" in capsys.readouterr().err
    units = (tmp_path / "my results").glob("units/*/unit.json")
    assert 0 < max(json.loads(path.read_text())["resumed_at_step"] for path in units) < 200
    continued = load(tmp_path / "my results", list(uninterrupted.runs["run_id"]))
    assert continued.runs.equals(uninterrupted.runs)
    assert continued.curves.equals(uninterrupted.curves)


def gone(group, patience=20):
    """Whether every process of the group ends within `patience` seconds."""
    for _ in range(10 * patience):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("flag", ["--set", "--import"])
def test_a_flag_that_is_given_twice_is_refused_instead_of_forgotten(flag):
    with pytest.raises(BadInput, match=f"{flag} is given twice; put all of its values behind one {flag}"):
        command_line(["run", flag, "task.p=7", f"{flag}=model.width=16"])


def test_a_file_that_is_never_loaded_can_be_interrupted(tmp_path):
    path = tmp_path / "endless.py"
    path.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nwhile True: pass\n")
    call = [sys.executable, "-m", "grokking", "run", "--import", str(path), "--out", str(tmp_path / "out")]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "")
    assert "stopped in the middle of an import" in done.stderr


@pytest.mark.parametrize("text", ["import sys; sys.exit(0)", "raise ValueError('no')"])
def test_a_file_that_exits_or_raises_is_told_in_one_sentence(tmp_path, text):
    path = tmp_path / "leaves.py"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"leaves\.py cannot be loaded: (it calls sys\.exit\(0\)|ValueError: no)$"):
        command_line(["list", "tasks", "--import", str(path)])


def test_what_a_users_file_prints_is_no_result(tmp_path):
    (tmp_path / "talks.py").write_text(
        "from grokking.optim import optimizer\n\nprint('imported')\n\n\n@optimizer(lr=0.1)\ndef talks(w, grad, state, h, role):\n"
        "    'w ← w - lr · grad'\n    print('called')\n    return w - h.lr * grad, state\n"
    )
    for workers in ("1", "2"):
        done = grokking(
            *(
                "run",
                "--import",
                "talks.py",
                "--optimizer",
                "talks",
                "--steps",
                "3",
                "--seeds",
                "0:2",
                "--json",
                "--set",
            ),
            *("task.p=7", "model.width=16", "model.heads=2", "--workers", workers, "--out", workers),
            cwd=tmp_path,
        )
        assert [json.loads(line)["steps_trained"] for line in done.stdout.splitlines()] == [3, 3]
        assert "imported" in done.stderr
        assert "called" in done.stderr


def test_figures_that_cannot_be_written_are_told_before_any_work(tmp_path):
    call = ["run", "--lr-range", "1e-3:1"]
    (tmp_path / "file").write_text("")
    with pytest.raises(
        BadInput, match=r"cannot write figures to '.*file/figures': Not a directory; name a writable folder"
    ):
        command_line([*call, "--figures", str(tmp_path / "file" / "figures"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["", ".relative", "no_such_module", "a..b"])
def test_what_is_no_module_is_told_in_one_sentence(module):
    with pytest.raises(BadInput, match=rf"cannot import '{module}': .*; name a \.py file or an installed module"):
        command_line(["list", "tasks", "--import", module])


@pytest.mark.parametrize(
    "call",
    [
        ["--set", "optimizer.lr=0.1", "optimizer.lr=0.2"],
        ["--optimizer", "adam", "--set", "optimizer.name=sgd"],
        ["--task", "mod_sub", "--set", "task.name=mod_mul"],
    ],
)
def test_two_values_for_one_setting_are_refused(call):
    with pytest.raises(BadInput, match="was said too; say it once"):
        command_line(["run", *call])


def test_a_signal_amid_an_import_waits_until_it_is_done(tmp_path):
    """Exceptions that pass through the import of an extension abort the process, or leave it half loaded."""
    (tmp_path / "slow_to_import.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.3)\nprint('loaded', flush=True)\n"
    )
    program = (
        "import signal, sys, time\nfrom grokking.__main__ import _interrupt\nfrom grokking.errors import Interrupted\n"
        "signal.signal(signal.SIGINT, _interrupt)\nsys.path.insert(0, sys.argv[1])\n"
        "try:\n    import slow_to_import\n    time.sleep(20)\nexcept Interrupted as stop:\n    sys.exit(stop.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (130, ["loaded"])
