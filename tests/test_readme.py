"""The README's own files do what it says of them."""

import re
from pathlib import Path

import pytest

from grokking.cli import command_line
from grokking.experiment import open_experiment
from grokking.extensions import import_extension
from grokking.models import models
from grokking.optim import optimizers
from grokking.optim.schedules import schedules
from grokking.optim.transforms import transforms
from grokking.tasks import tasks

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# (my_\w+\.py)\n(.*?)```", README, re.DOTALL))
CALLS = {  # what the README says to type, made small
    "my_task.py": ["--task", "mod_cubic", "--set", "task.p=7"],
    "my_model.py": ["--set", "model.name=sum_of_embeddings", "task.p=7"],
    "my_rule.py": ["--optimizer", "sign_momentum", "--set", "optimizer.lr=0.0003", "task.p=7"],
    "my_pieces.py": [
        *("--set", "transforms=shrink", "transform.shrink.keep=0.2", "schedule.name=square_root", "task.p=7"),
    ],
}

pytestmark = pytest.mark.parses


@pytest.fixture(autouse=True)
def registries_as_they_were():
    kept = [(there, dict(there._entries)) for there in (tasks, models, optimizers, schedules, transforms)]
    yield
    for there, entries in kept:
        there._entries.clear()
        there._entries.update(entries)


def test_every_file_of_the_readme_is_tried_here():
    assert set(BLOCKS) == {*CALLS, "my_question.py"}


@pytest.mark.parametrize("name", CALLS)
def test_a_file_of_the_readme_trains(name, tmp_path, capsys):
    path = tmp_path / name
    path.write_text(BLOCKS[name])
    places = ["--out", str(tmp_path / "out"), "--workers", "1", "--device", "cpu", "--steps", "3"]
    assert command_line(["run", "--import", str(path), *places, *CALLS[name]]) == 0
    assert "not generalised within the budget of 3 steps" in capsys.readouterr().out


def test_the_experiment_of_the_readme_is_one(tmp_path):
    for name in ("my_rule.py", "my_question.py"):
        (tmp_path / name).write_text(BLOCKS[name])
    import_extension(str(tmp_path / "my_rule.py"))
    specs = open_experiment(str(tmp_path / "my_question.py")).specs("laptop")
    assert len(specs) == 20
    assert {spec.setting.name("optimizer") for spec in specs} == {"adamw", "sign_momentum"}
