"""`grokking transfer`: the prediction by algebra, what is said of a run, and one narrow model tuned for a wide one."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from grokking.cli import command_line
from grokking.commands.transfer import Prediction, _best, predict
from grokking.errors import BadInput


def runs(*steps, budget=1_000):
    """Runs that took so many steps; None: censored."""
    return pd.DataFrame(
        {
            "steps_to_generalize": pd.array(steps, dtype="Int64"),
            "steps": budget,
            "status": ["censored" if took is None else "generalized" for took in steps],
        }
    )


def test_the_prediction_is_that_of_one_more_log_normal_run():
    found = predict(runs(100, 200, 400))
    assert found.mean == pytest.approx(200)
    half = (
        stats.t.ppf(0.975, 2) * np.log(2) * np.sqrt(4 / 3)
    )  # the standard deviation of log 100, log 200, log 400 is log 2
    assert (found.low, found.high) == pytest.approx((200 * np.exp(-half), 200 * np.exp(half)))


def test_nineteen_of_twenty_further_runs_are_within_the_prediction():
    generator = np.random.default_rng(0)
    logs = generator.normal(6, 0.2, (2_000, 4))
    each = [(predict(runs(*np.exp(row[:3]).round().astype(int), budget=10**6)), np.exp(row[3])) for row in logs]
    inside = np.mean([found.low <= one <= found.high for found, one in each])
    assert 0.93 <= inside <= 0.97


@pytest.mark.parametrize(
    ("steps", "said", "code"),
    [
        (200, "as predicted", 0),
        (90, "sooner than predicted", 0),
        (500, "later than predicted", 1),
        (None, "not gen", 1),
    ],
)
def test_what_is_said_of_the_wide_run(steps, said, code):
    prediction = Prediction(200, 100, 400, 3, 3)
    words, found = prediction.verdict(runs(steps).iloc[0])
    assert said in words
    assert found == code


def test_the_factor_that_takes_least_is_taken_and_runs_that_never_generalise_count_at_the_budget():
    tried = {0.5: runs(300, 400), 1.0: runs(200, 250), 2.0: runs(100, None, budget=10_000)}
    assert _best(tried)[0] == 1.0


def test_without_all_runs_generalising_no_interval_is_predicted():
    prediction = predict(runs(100, None, 300))
    assert prediction.words() == "2 of 3 runs generalise"
    words, code = prediction.verdict(runs(500).iloc[0])
    assert "no interval was predicted" in words
    assert code == 0


TINY = ["--set", "task.p=7", "threshold=0.1", "train_fraction=0.8", "steps=150", "evaluation.every=5", "model.name=mlp"]


@pytest.mark.parses
def test_a_narrow_model_is_tuned_and_the_wide_one_tried(tmp_path, capsys):
    words = ["transfer", "--base", "8", "--to", "32", "--factors", "1", "4", "--optimizer", "muon"]
    code = command_line([*words, "--out", str(tmp_path), "--device", "cpu", "--workers", "1", *TINY])
    said = capsys.readouterr().out.splitlines()
    assert code in (0, 1)
    assert said[0].startswith("width 8: optimizer.lr=")
    assert "optimizer.adamw_lr=" in said[0]  # every rate is multiplied
    assert said[1].startswith("that is an end of what was tried")  # as both are
    assert said[2].startswith("width 32: model.width=32 scaling.name=mup ")
    assert "scaling.base_width=8" in said[2]
    assert said[3].startswith("seed 0: ")
    assert "model.width=32" in said[-1]
    from grokking.store import load, stored

    runs = load(tmp_path, sorted(stored(tmp_path)), curves=False).runs
    assert sorted(runs["model.width"]) == [8] * (2 * 3) + [32]


@pytest.mark.parses
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "32", "--base", "32"], "base = 32 and to = 32"),
        (["--to", "32", "--base", "0"], "base = 0"),
        (["--to", "128", "--scaling", "standard"], "'standard' changes nothing"),
        (["--to", "128", "--factors", "0"], "factors = 0.0"),
        (["--to", "128", "--seeds", "0:3"], "another one to check"),
        (["--to", "128", "--scaling", "mupp"], "did you mean mup"),
        (["--to", "128", "--optimizer", "soap"], "soap"),
        (["--to", "128", "--set", "scaling.name=spectral"], "but here --scaling says it"),
        (["--to", "128", "--set", "model.width=32"], "but here --to .of the narrow model --base. says it"),
        (["--to", "128", "--set", "scaling.base_width=32"], "but here --base says it"),
    ],
)
def test_bad_input_is_refused_before_any_work(words, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        command_line(["transfer", *words, "--out", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()
