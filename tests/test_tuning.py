import errno
import itertools
import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drivers import drive, search_strategies
from hypothesis import given
from hypothesis import strategies as st

from grokking.cli import command_line
from grokking.errors import BadInput, Unwritable
from grokking.runs import defaults_in_use
from grokking.seeding import stream
from grokking.store import load, prepare
from grokking.survival import best_of_k, best_of_k_weights
from grokking.tuning.search import Search, paid
from grokking.tuning.space import Choices, Range, around_defaults, drawn, grid_of, parse_space, settings_at

DEFAULTS = defaults_in_use({"optimizer.name": "adamw"})
OWN = search_strategies.definition("TPE", 0)


# --- the space ----------------------------------------------------------------------------------------------------


def test_a_space_is_read_in_the_types_of_the_settings():
    space = parse_space(
        ["optimizer.lr=1e-4:1e-1", "optimizer.beta1=0.5:0.99:linear", "model.width=32:128", "model.bias=true,false"],
        DEFAULTS,
    )
    assert space == {
        "optimizer.lr": Range(1e-4, 0.1),
        "optimizer.beta1": Range(0.5, 0.99, log=False),
        "model.width": Range(32, 128, integer=True),
        "model.bias": Choices((True, False)),
    }
    assert settings_at(
        space, {"optimizer.lr": 0.0123456, "optimizer.beta1": 0.5, "model.width": 64, "model.bias": True}
    ) == {
        "optimizer.lr": 0.01235,
        "optimizer.beta1": 0.5,
        "model.width": 64,
        "model.bias": True,
    }
    assert [str(axis) for axis in space.values()] == ["0.0001:0.1", "0.5:0.99:linear", "32:128", "True,False"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimizer.lr", "allowed: name=low:high"),
        ("optimizer.lr=", "allowed: name=low:high"),
        ("optimizer.lrr=1e-4:1e-1", "is no setting of these runs"),
        ("optimizer.lr=0:1", "begins above 0"),
        ("optimizer.lr=-1:1", "begins above 0"),
        ("optimizer.lr=1:0.1", "finite low < high"),
        ("optimizer.lr=1:1", "finite low < high"),
        ("optimizer.lr=1:inf", "finite low < high"),
        ("optimizer.lr=1:nan", "finite low < high"),
        ("optimizer.lr=1:2:log", "finite low < high"),
        ("optimizer.lr=a:b", "finite low < high"),
        ("model.width=32.5:64", "whole numbers"),
        ("model.activation=1:2", "it is no number"),
        ("model.bias=1:2", "it is no number"),
        ("model.bias=yes,no", "model.bias"),
        ("model.width=32,64,32", "names a value twice"),
    ],
)
def test_every_mistake_in_a_space_is_one_sentence(text, said):
    with pytest.raises(BadInput, match=said) as error:
        parse_space([text], DEFAULTS)
    assert "\n" not in str(error.value)


def test_a_name_stands_in_the_space_once():
    with pytest.raises(BadInput, match="twice"):
        parse_space(["optimizer.lr=1:2", "optimizer.lr=2:3"], DEFAULTS)


def test_points_of_a_range_are_even_with_both_ends():
    assert Range(1e-3, 1.0).points(4) == [1e-3, 1e-2, 0.1, 1.0]
    assert Range(0.0, 1.0, log=False).points(3) == [0.0, 0.5, 1.0]
    assert Range(1e-3, 1.0).points(1) == [0.03162]
    assert Range(1, 3, integer=True).points(9) == [1, 2, 3]
    space = {"optimizer.lr": Range(0.1, 1.0), "model.bias": Choices((True, False))}
    assert grid_of(space, 2) == [
        {"optimizer.lr": lr, "model.bias": bias} for lr in (0.1, 1.0) for bias in (True, False)
    ]


def test_a_longer_random_search_begins_with_the_shorter_one():
    space = {"optimizer.lr": Range(1e-3, 1.0), "optimizer.beta1": Range(0.5, 0.9, log=False)}
    short, long = (drawn(space, number, stream(0, "test")) for number in (5, 2000))
    assert long[:5] == short
    lr = np.log10([chosen["optimizer.lr"] for chosen in long])
    assert abs(lr.mean() + 1.5) < 5 * math.sqrt(9 / 12 / 2000)  # even in the logarithm
    assert abs(np.mean([chosen["optimizer.beta1"] for chosen in long]) - 0.7) < 5 * math.sqrt(0.16 / 12 / 2000)


def test_without_a_space_the_optimizers_rate_and_decay_are_searched():
    both = {"optimizer.lr": Range(1e-4, 0.09), "optimizer.weight_decay": Range(0.03, 30.0)}
    assert around_defaults(DEFAULTS, {}) == both
    del both["optimizer.lr"]
    assert around_defaults(DEFAULTS, {"optimizer.lr": "0.01"}) == both
    with pytest.raises(BadInput, match="is left to be searched"):
        around_defaults({"optimizer.lr": 0.0}, {})


# --- the definition -----------------------------------------------------------------------------------------------


def test_whatever_changes_a_search_changes_its_name():
    others = [
        replace(OWN, seeds=(1, 2)),
        replace(OWN, sampler="random"),
        replace(OWN, sampler_seed=1),
        replace(OWN, batch=4),
        replace(OWN, rungs=(100,)),
        replace(OWN, reduction=2),
        replace(OWN, points=5),
        replace(OWN, objective="steps_to_sustain"),
        replace(OWN, space=(OWN.space[0], ("optimizer.weight_decay", Range(0.03, 31.0)))),
        replace(OWN, space=(OWN.space[0], ("optimizer.weight_decay", Range(0.03, 30.0000001)))),
        replace(OWN, settings=tuple({**dict(OWN.settings), "steps": 601}.items())),
    ]
    names = [other.name for other in (OWN, *others)]
    assert len(set(names)) == len(names)
    assert all(name.startswith("mod_add-adamw-") for name in names)
    assert replace(OWN).name == OWN.name


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sampler": "bayes"}, "allowed: tpe, random, grid"),
        ({"objective": "loss"}, "allowed: steps_to_generalize"),
        ({"batch": 0}, "batch = 0"),
        ({"reduction": 1}, "reduction = 1"),
        ({"points": 0}, "points = 0"),
        ({"sampler_seed": -1}, "sampler seed = -1"),
        ({"rungs": (600,)}, "ascending steps below the budget of 600"),
        ({"rungs": (0,)}, "ascending steps"),
        ({"rungs": (200, 100)}, "ascending steps"),
        ({"space": (("steps", Range(1, 2)),)}, "steps cannot be searched"),
        ({"space": (("task.name", Choices(("mod_add", "mod_mul"))),)}, "task.name cannot be searched"),
        ({"space": (("model.width", Range(16, 64, integer=True)),)}, "model.width is in --space, but"),
        ({"space": (("optimizer.lr", Range(-1.0, 2.0, log=False)),)}, "optimizer.lr = -1.0"),
        ({"start": (("optimizer.lr", 1e-3),)}, "start has optimizer.weight_decay = None"),
        ({"start": (("optimizer.lr", 1e3), ("optimizer.weight_decay", 1.0))}, "start has optimizer.lr = 1000.0"),
    ],
)
def test_every_mistake_in_a_definition_is_one_sentence(changed, said):
    with pytest.raises(BadInput, match=said):
        replace(OWN, **changed).check()
    OWN.check()


def runs_table(steps, accuracy=0.0, horizon=600):
    """Runs that generalise after so many steps, None: not at all."""
    return pd.DataFrame(
        {
            "steps_to_generalize": pd.array(steps, dtype="Int64"),
            "steps": horizon,
            "final_validation_accuracy": accuracy,
        }
    )


def test_the_value_counts_runs_that_never_generalise_at_the_budget():
    assert OWN.value(runs_table([100, None])).value == 350
    assert OWN.value(runs_table([None, None])).value == 600


def test_at_a_rung_accuracy_decides_until_something_generalises():
    none = [OWN.score(runs_table([None, None], accuracy)) for accuracy in (0.1, 0.5, float("nan"))]
    some, all_ = OWN.score(runs_table([300, None], 0.9)), OWN.score(runs_table([300, 200], 1.0))
    assert all_ < some < none[1] < none[0] < none[2] == 1.0
    assert replace(OWN, reduction=3).promoted([3.0, 1.0, 2.0, 1.0, 5.0]) == [1, 3]
    assert replace(OWN, reduction=4).promoted([2.0]) == [0]
    assert replace(OWN, reduction=2).promoted([1.0, 1.0]) == [0]  # whoever came first


# --- the search ---------------------------------------------------------------------------------------------------


def same(a, b):
    pd.testing.assert_frame_equal(a, b)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    table = drive(out, 20)
    return out, table


def test_a_search_is_the_same_again_and_in_parts(uninterrupted, tmp_path):
    _, table = uninterrupted
    assert table["trial"].tolist() == list(range(20))
    assert set(table["state"]) == {"complete"}
    drive(tmp_path / "parts", 8)
    assert len(drive(tmp_path / "parts", 8)) == 8  # there is nothing to do
    same(drive(tmp_path / "parts", 20), table)
    other = drive(tmp_path / "other", 8, sampler_seed=1)
    assert not other["optimizer.lr"].isin(table["optimizer.lr"]).any()


def test_a_search_tries_first_what_it_is_told_to_start_from(tmp_path):
    start = (("optimizer.lr", 0.004), ("optimizer.weight_decay", 3.0))
    table = drive(tmp_path, 8, start=start)
    assert table.loc[0, [name for name, _ in start]].tolist() == [0.004, 3.0]
    assert not (table["optimizer.lr"][1:] == 0.004).any()
    same(drive(tmp_path, 8, start=start), table)
    assert replace(OWN, start=start).name != OWN.name
    assert "start" not in OWN.described()


def test_the_values_are_those_of_the_stored_runs(uninterrupted):
    out, table = uninterrupted
    for line in table.to_dict("records"):
        specs = OWN.runs({name: line[name] for name, _ in OWN.space})
        runs = load(out, [spec.run_id for spec in specs]).runs
        assert line["value"] == runs["steps_to_generalize"].fillna(600).mean()
        assert line["low"] <= line["value"] <= line["high"]
        assert line["spent"] == runs["steps_trained"].sum()
        assert line["generalized"] == runs["steps_to_generalize"].notna().sum()


def test_cut_off_anywhere_a_search_goes_on_to_the_same_end(uninterrupted, tmp_path):
    """As after kill -9 at that point: what was appended to the journal by then, the last line possibly in part."""
    whole, table = uninterrupted
    (journal,) = whole.glob("searches/*/journal.log")
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) > 100
    for cut in range(0, len(lines), 7):
        out = tmp_path / str(cut)
        folder = out / "searches" / journal.parent.name
        folder.mkdir(parents=True)
        (folder / "journal.log").write_bytes(b"".join(lines[:cut]) + lines[cut][: cut % 50])
        same(drive(out, 20), table)


def test_the_steps_of_a_trial_count_all_rungs_and_the_worst_stop_there(tmp_path):
    table = drive(tmp_path, 16, rungs=(50, 200), reduction=2)
    stopped, done = (table[table["state"] == state] for state in ("pruned", "complete"))
    assert [len(stopped), len(done)] == [12, 4]
    assert stopped["value"].isna().all()
    own = replace(OWN, rungs=(50, 200), reduction=2)
    for line in table.to_dict("records"):
        params = {name: line[name] for name, _ in OWN.space}
        spent = [load(tmp_path, [spec.run_id for spec in own.runs(params, rung)]).runs for rung in (50, 200, None)]
        trained = sum(int(runs["steps_trained"].sum()) for runs in spent if len(runs))
        assert line["spent"] == trained
        assert (len(spent[2]) == 2) == (line["state"] == "complete")
    assert table["spent"].sum() <= 16 * 100 + 8 * 400 + 4 * 1200


def test_a_grid_is_gone_through_once(tmp_path):
    table = drive(tmp_path, 100, sampler="grid", points=3)
    assert len(table) == 9
    assert table[[name for name, _ in OWN.space]].to_dict("records") == replace(OWN, points=3).grid()
    same(drive(tmp_path, 100, sampler="grid", points=3), table)


def test_a_budget_of_steps_ends_the_search_at_a_batch(tmp_path):
    prepare(tmp_path)
    with Search(tmp_path, OWN, lambda specs: search_strategies.standin(tmp_path, specs)) as search:
        batches = 0
        while batch := search.batch(None, 20_000):
            assert search.table()["spent"].sum() < 20_000
            search.settle(batch)
            batches += 1
        table = search.table()
        assert table["spent"].sum() >= 20_000
        assert batches == len(table) / 8
        assert 0 < len(table) - len(paid(table, 20_000)) <= 8


def test_what_cannot_be_trained_is_told_and_tried_no_more(tmp_path):
    prepare(tmp_path)

    def half(specs):
        search_strategies.standin(tmp_path, [spec for spec in specs if dict(spec.hyper)["optimizer.lr"] < 0.003])

    with Search(tmp_path, OWN, half) as search:
        assert search.settle(search.batch(8, None))
        table = search.table()
        assert set(table["state"]) == {"complete", "fail"}
        assert ((table["optimizer.lr"] < 0.003) == (table["state"] == "complete")).all()
        assert search.batch(8, None) == []
    with Search(tmp_path, replace(OWN, sampler_seed=9), lambda specs: None) as search:
        assert not search.settle(search.batch(8, None))
    grid = replace(OWN, sampler="grid", points=3)
    with Search(tmp_path, grid, half) as search:
        while batch := search.batch(100, None):
            search.settle(batch)
        points = search.table()[[name for name, _ in OWN.space]].to_dict("records")
        assert points == grid.grid()  # each once, also after one has failed


def test_a_dead_drivers_batch_is_taken_over_once_and_as_large_as_it_was(tmp_path):
    prepare(tmp_path)
    standin = partial(search_strategies.standin, tmp_path)
    with Search(tmp_path, OWN, standin) as dead:
        lost = [trial.number for trial in dead.batch(6, None)]
    assert len(lost) == 6
    with Search(tmp_path, OWN, standin) as first, Search(tmp_path, OWN, standin) as second:
        assert [trial.number for trial in first.batch(40, None)] == lost
        assert not set(lost) & {trial.number for trial in second.batch(40, None)}
        assert next(trial.number for trial in first.batch(40, None)) > max(lost)


def test_a_line_that_was_never_finished_is_cut_off_whoever_writes_next(tmp_path):
    """Not only by who comes next: another driver may be at work."""
    prepare(tmp_path)
    with Search(tmp_path, OWN, partial(search_strategies.standin, tmp_path)) as search:
        batch = search.batch(8, None)
        whole = search.journal.read_bytes()
        search.journal.write_bytes(whole + b'{"op_code":5,"unfin')
        search.settle(batch)
        assert search.journal.read_bytes().startswith(whole + b"{")
        table = search.table()
    assert set(table["state"]) == {"complete"}
    same(drive(tmp_path, 8), table)


def test_a_journal_that_cannot_be_read_or_written_is_a_sentence(tmp_path, monkeypatch):
    drive(tmp_path, 8)
    (journal,) = tmp_path.glob("searches/*/journal.log")
    lines = journal.read_bytes().splitlines(keepends=True)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    prepare(tmp_path)
    with Search(tmp_path, OWN, partial(search_strategies.standin, tmp_path)) as search:
        batch = search.batch(16, None)
        monkeypatch.setattr("grokking.tuning.journal.os.fsync", full)
        with pytest.raises(Unwritable, match="No space left"):
            search.settle(batch)
    journal.write_bytes(b"".join([*lines[:5], b"garbage\n", *lines[5:]]))
    with pytest.raises(BadInput, match="remove the line that is no JSON object"):
        drive(tmp_path, 8)


def driver(out, trials, seconds):
    command = [sys.executable, str(Path(__file__).with_name("drivers.py")), str(out), str(trials), str(seconds)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_two_drivers_at_once_lose_no_trial_even_if_one_is_killed(tmp_path):
    prepare(tmp_path)
    pair = [driver(tmp_path, 48, 0.3) for _ in range(2)]
    (folder,) = wait_for(lambda: list(tmp_path.glob("searches/*")))
    wait_for(lambda: len(batches(folder)) >= 3)
    pair[0].kill()
    pair[0].communicate()
    said = pair[1].communicate(timeout=120)[1]
    assert pair[1].returncode == 0, said
    table = drive(tmp_path, 48)
    assert len(table) == 48
    assert set(table["state"]) == {"complete"}
    assert not table.duplicated(["optimizer.lr", "optimizer.weight_decay"]).any()
    assert len({driver for driver, _ in batches(folder)}) >= 2  # both had a part in it
    for line in table.to_dict("records"):
        steps = [
            min(600, search_strategies.standin_steps(spec)) for spec in OWN.runs({n: line[n] for n, _ in OWN.space})
        ]
        assert line["value"] == np.mean(steps)


def batches(folder):
    """The driver and number of every batch in the journal."""
    found = []
    for line in (folder / "journal.log").read_text(errors="replace").splitlines() if folder.exists() else []:
        if '"batch":"' in line:
            found.append(tuple(line.partition('"batch":"')[2].partition('"')[0].split("/")[:2]))
    return list(dict.fromkeys(found))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


# --- the command --------------------------------------------------------------------------------------------------

COMMAND = ["tune", "--optimizer", "adamw", "--seeds", "1000:1002", "--batch", "4", "--trials", "8", "--workers", "1"]
COMMAND += ["--set", "task.p=7", "model.width=16", "model.heads=2", "batch_size=16", "steps=60", "threshold=0.08"]
COMMAND += ["train_fraction=0.5"]


def trials_of(out):
    (path,) = out.glob("searches/*/trials.csv")
    return path.read_text()


@pytest.mark.parses
def test_what_is_started_from_is_tried_first(tmp_path):
    where = ["--figures", str(tmp_path / "figures"), "--out", str(tmp_path)]
    space = ["--space", "optimizer.lr=1e-3:1", "optimizer.beta1=0.5,0.8,0.9", "--start", "optimizer.lr=0.0321"]
    assert command_line([*COMMAND, *where, *space]) == 0
    (path,) = tmp_path.glob("searches/*/trials.csv")
    first = pd.read_csv(path).sort_values("trial").iloc[0]
    assert first["optimizer.lr"] == 0.0321
    assert first["optimizer.beta1"] == 0.9, "its default, as nothing was said"
    for wrong, why in (
        ("optimizer.lr", "name=value"),
        ("optimizer.eps=1", "once for each"),
        ("optimizer.lr=2", "0.001:1"),
    ):
        with pytest.raises(BadInput, match=why):
            command_line([*COMMAND, *where, *space[:-1], wrong])


def test_what_a_start_does_not_name_is_as_the_recipe_has_it(monkeypatch):
    from grokking.commands import tune

    asked = []
    monkeypatch.setattr(tune, "_search", lambda definition, *_: asked.append(definition) or pd.DataFrame({"state": []}))
    monkeypatch.setattr(tune, "_tell", lambda *_: None)
    monkeypatch.setattr("grokking.tuning.search.paid", lambda table, budget: table)
    space = ("optimizer.lr=0.01:1", "optimizer.momentum=0.1:0.9:linear", "optimizer.nesterov=True,False")
    tune.tune(recipe="fewest_steps", space=space, start=("optimizer.lr=0.5",), trials=1)
    assert dict(asked[0].start) == {"optimizer.lr": 0.5, "optimizer.momentum": 0.4251, "optimizer.nesterov": True}


@pytest.mark.parses
def test_a_killed_search_continues_by_the_same_command_to_the_same_table(tmp_path, capsys):
    where = ["--figures", str(tmp_path / "figures"), "--out"]
    assert command_line([*COMMAND, *where, str(tmp_path / "whole")]) == 0
    said = capsys.readouterr().out
    again = f"on seeds that did not choose it:\n  grokking run --task mod_add --optimizer adamw --seeds 0:10 --out {tmp_path}"
    assert again in said
    assert list((tmp_path / "figures").glob("tune-mod_add-adamw-tpe-*.png"))
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "grokking", *COMMAND, *where, str(killed), "--checkpoint-every", "0.05"]
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(killed.glob("checkpoints/*/0*/DONE")) or list(killed.glob("units/*/DONE")))
    victim.kill()
    victim.wait()
    assert command_line([*COMMAND, *where, str(killed)]) == 0
    assert trials_of(killed) == trials_of(tmp_path / "whole")


@pytest.mark.parses
def test_json_is_a_line_per_trial_and_nothing_else(tmp_path, capsys):
    where = ["--figures", str(tmp_path), "--out", str(tmp_path / "out"), "--json"]
    assert command_line([*COMMAND, *where, "--sampler", "random", "--rungs", "20", "--reduction", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["trial"] for line in lines] == list(range(8))
    assert sorted(line["state"] for line in lines) == ["complete"] * 4 + ["pruned"] * 4
    assert all(line["value"] is None for line in lines if line["state"] == "pruned")


@pytest.mark.parses
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trials", "0"], "trials = 0"),
        (["--budget", "nan"], "budget = nan"),
        (["--space", "optimizer.lr=2:1"], "finite low < high"),
        (["--rungs", "60"], "ascending steps below the budget of 60"),
        (["--space", "steps=10:20"], "steps cannot be searched"),
        (["--budget", "0.5"], "budget = 0.5"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, words, said):
    command = [word for word in COMMAND if word not in ("--trials", "8")] if "--trials" in words else COMMAND
    with pytest.raises(BadInput, match=said):
        command_line([*command, *words, "--out", str(tmp_path / "out"), "--figures", str(tmp_path / "figures")])
    assert not list(tmp_path.iterdir())


# --- best of k ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5), min_size=1, max_size=7), st.integers(0, 1000))
def test_best_of_k_is_the_mean_over_all_draws(chosen_by, seed):
    values = stream(seed, "values").random(len(chosen_by))
    exact = []
    for k in range(1, len(chosen_by) + 1):
        means = []
        for draw in itertools.combinations(range(len(chosen_by)), k):
            best = min(chosen_by[at] for at in draw)
            means.append(np.mean([values[at] for at in draw if chosen_by[at] == best]))
        exact.append(np.mean(means))
    # Ties: whoever of the tied in a draw is as good as any; on average over draws that is the mean of all tied.
    weights = best_of_k_weights(np.array(chosen_by, float))
    assert np.allclose(weights.sum(axis=1), 1)
    assert np.allclose(best_of_k(chosen_by, values), exact)
    assert np.allclose(best_of_k(chosen_by)[0], np.mean(chosen_by))
    assert np.isclose(best_of_k(chosen_by)[-1], min(chosen_by))


def test_best_of_k_holds_where_binomial_coefficients_overflow():
    weights = best_of_k_weights(np.arange(2000.0))
    assert np.allclose(weights.sum(axis=1), 1)
    assert np.allclose(weights[1, :3], 2 * (1999 - np.arange(3)) / (2000 * 1999))  # of two: rank i, with any worse one


def test_best_of_k_refuses_what_is_no_number():
    for bad in ([], [np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="one finite number"):
            best_of_k(bad)


def test_random_search_finds_on_average_what_best_of_k_says():
    """Unbiased for what k trials find, of any longer search."""
    generator = stream(0, "unbiased")
    found = [best_of_k(generator.exponential(size=12))[3] for _ in range(4000)]
    assert abs(np.mean(found) - 1 / 4) < 5 * np.std(found) / math.sqrt(len(found))  # least of four exponentials
