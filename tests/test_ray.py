"""A real Ray cluster of two nodes on this machine: same bits, nothing lost, new nodes used."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray_nodes import environment, kill

from grokking.store import load

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(400)]

# A user's own rule, slow enough to be interrupted, with a neighbour that it imports.
RULE = '''
import os, time
from pathlib import Path
from neighbour import WAIT, note

import torch
from grokking.optim import optimizer, zeros

note(__file__)

@optimizer(lr=0.1, state=zeros())
def slow_descent(w, grad, state, h, role):
    """w <- w - lr * grad, slowly.

    Source: here
    """
    if not torch.compiler.is_compiling():
        time.sleep(WAIT)
    return w - h.lr * grad, state
'''
NEIGHBOUR = '''
import os
from pathlib import Path

WAIT = float(os.environ.get("TEST_WAIT", "0"))

def note(file_of_rule):
    """Write down which node imported this, and from where."""
    path, node = os.environ.get("TEST_NOTES"), os.environ.get("RAY_NODE_ID", "")
    try:
        import ray
        if ray.is_initialized():
            node = ray.get_runtime_context().get_node_id()
    except ImportError:
        pass
    if path and node:
        with open(path, "a") as file:
            print(node, file_of_rule, file=file)
'''
STUDY = """
from grokking import Study

BASE = {"task.p": 7, "model.width": 16, "model.heads": 2, "train_fraction": 0.5, "optimizer.name": "slow_descent",
        "steps": 60, "evaluation.every": 5, "evaluation.growth": 0.0}
STUDIES = {"laptop": [Study(BASE, [{"batch_size": size} for size in range(8, 14)], range(2))]}
"""


@pytest.fixture(scope="module")
def nodes():
    """Start nodes: the first is the head; what it returns says address, node and the raylet's process id."""
    notes = Path("/tmp") / f"ray-notes-{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("ray_nodes.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**environment(), "TEST_NOTES": str(notes), "TEST_WAIT": "0.01", "PYTHONPATH": ""},
    )
    head = json.loads(process.stdout.readline())

    def add():
        process.stdin.write("add\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    add.head, add.notes = head, notes
    yield add
    process.stdin.write("stop\n")
    process.stdin.close()
    process.stdout.close()
    process.wait(60)
    notes.unlink(missing_ok=True)


@pytest.fixture
def question(tmp_path):
    """The experiment, its rule, and the table that the local executor trains."""
    for name, text in (("rule", RULE), ("neighbour", NEIGHBOUR), ("study", STUDY)):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def sweep(folder, out, *words, **env):
    command = [sys.executable, "-m", "grokking", "sweep", "study.py", "--import", "rule.py", "--out", str(out), *words]
    return subprocess.Popen(
        command, cwd=folder, env={**environment(), **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process, code=0):
    said = process.communicate(timeout=240)[0]
    assert process.returncode == code, said
    return said


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The table of the local executor, in two worker processes."""
    folder = tmp_path_factory.mktemp("local")
    for name, text in (("rule", RULE), ("neighbour", NEIGHBOUR), ("study", STUDY)):
        (folder / f"{name}.py").write_text(text)
    finished(sweep(folder, folder / "out", "--workers", "2"))
    return table(folder / "out")


def table(out):
    results = load(out)
    order = results.runs.sort_values("run_id")
    curves = results.curves.sort_values(["run_id", "step"])
    assert len(order) == 12
    return order.to_csv(index=False) + curves.to_csv(index=False)


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def working(notes):
    """The nodes that have imported the user's rule, and where from."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    return dict(line.split(" ", 1) for line in lines)


def units(out):
    return len(list((out / "units").glob("[!.]*")))


def test_a_cluster_that_grows_loses_a_node_and_is_stopped_trains_the_same_bits(nodes, question, expected):
    address, out = ["--executor", "ray", "--ray-address", nodes.head["address"]], question / "out"

    # One node; a second that joins in the middle of the sweep is used.
    process = sweep(question, out, *address)
    until(lambda: units(out) >= 1)
    second = nodes()
    until(lambda: units(out) >= 4 or len(working(nodes.notes)) == 2)
    finished(process)
    assert set(working(nodes.notes)) == {nodes.head["node"], second["node"]}
    assert not any(str(question) in place for place in working(nodes.notes).values())  # the files came along
    assert table(out) == expected
    assert not list((out / "checkpoints").iterdir())

    # The second node's power is cut in the middle.
    nodes.notes.unlink()
    again = question / "again"
    process = sweep(question, again, *address, "--checkpoint-every", "0.2")
    until(lambda: len(working(nodes.notes)) == 2 and units(again) >= 1)
    kill(second["raylet"])
    finished(process)
    assert table(again) == expected
    assert not list((again / "failures").iterdir())

    # Stopped with Ctrl-C, and continued by the local executor.
    stopped = question / "stopped"
    process = sweep(question, stopped, *address)
    until(lambda: units(stopped) >= 1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    said = finished(process, 130)
    assert "This continues from what was last saved" in said
    (left,) = (stopped / "checkpoints").iterdir()
    assert list(left.glob("0*/DONE"))
    said = finished(sweep(question, stopped, "--workers", "1"))
    assert "cohorts that continue from a checkpoint: 1" in said
    assert table(stopped) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ray-address", "127.0.0.1:1"], "say that too, or leave it out"),
        (["--executor", "ray", "--ray-address", "127.0.0.1:1"], "no Ray cluster at '127.0.0.1:1': "),
        (["--executor", "ray", "--ray-address", "ray://127.0.0.1:1"], "allowed: HOST:PORT of a cluster's head"),
        (["--executor", "ray", "--ray-address", "somewhere"], "allowed: HOST:PORT of a cluster's head"),
    ],
)
def test_what_names_no_cluster_is_one_sentence(question, words, said):
    told = finished(sweep(question, question / "out", *words), 2)
    assert said in told
    assert told.count("\n") == 1


def test_without_the_clusters_token_nothing_runs(nodes, question):
    address = ["--executor", "ray", "--ray-address", nodes.head["address"]]
    said = finished(sweep(question, question / "out", *address, RAY_AUTH_TOKEN="f" * 64), 2)
    assert "no Ray cluster at" in said
    assert "a cluster with a token needs the same one here" in said


# Twelve trials of each, on the same space and seeds.
TUNED = """
import json, sys, warnings
import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from grokking.tuning.definition import Definition
from grokking.tuning.ray_tune import MEAN, param_space, trainable
from grokking.tuning.space import parse_space
from grokking.runs import defaults_in_use

settings = json.loads(sys.argv[2])
space = parse_space(json.loads(sys.argv[3]), defaults_in_use(settings))
own = Definition(tuple(sorted(settings.items())), tuple(space.items()), (1000, 1001, 1002))
ray.init(sys.argv[1])
config = tune.TuneConfig(metric=MEAN, mode="min", num_samples=12, search_alg=OptunaSearch(seed=1), reuse_actors=True)
run = tune.RunConfig(storage_path=sys.argv[4], verbose=0)
results = tune.Tuner(trainable(own), param_space=param_space(own), tune_config=config, run_config=run).fit()
values = [result.metrics[MEAN] for result in results]
print("FOUND", json.dumps({"trials": len(values), "errors": len(results.errors), "best": min(values)}))
"""


def test_ray_tune_finds_what_our_own_search_finds(nodes, tmp_path):
    settings = {"task.name": "mod_add", "task.p": 11, "model.width": 16, "model.heads": 2, "train_fraction": 0.8}
    settings |= {"optimizer.name": "adamw", "steps": 300, "threshold": 0.5, "batch_size": 0}
    space = ["optimizer.lr=1e-3:0.1", "optimizer.weight_decay=0.03:10"]
    own = [
        "--seeds",
        "1000:1003",
        "--trials",
        "12",
        "--out",
        "out",
        "--figures",
        "figures",
        "--json",
        "--space",
        *space,
    ]
    told = [f"{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "grokking", "tune", *own, "--set", *told]
    command += ["--executor", "ray", "--ray-address", nodes.head["address"]]
    ours = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240)
    assert ours.returncode == 0, ours.stderr
    trials = [json.loads(line) for line in ours.stdout.splitlines()]
    best = min(trials, key=lambda trial: trial["value"])
    assert [len(trials), {trial["state"] for trial in trials}] == [12, {"complete"}]
    assert best["value"] < 200  # of 300: there is something to find

    (tmp_path / "tuned.py").write_text(TUNED)
    words = [nodes.head["address"], json.dumps(settings), json.dumps(space), str(tmp_path / "tuned")]
    command = [sys.executable, "tuned.py", *words]
    theirs = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert theirs.returncode == 0, theirs.stderr
    (line,) = (line for line in theirs.stdout.splitlines() if line.startswith("FOUND"))
    found = json.loads(line.removeprefix("FOUND"))
    assert (found["trials"], found["errors"]) == (12, 0)
    assert found["best"] <= best["high"]
