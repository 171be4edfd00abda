"""The stages from the standard parametrization to muP: each adds what its name says, and the last is muP."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from grokking.roles import Geometry, Role, Update
from grokking.scaling import Part, Place, mup, scalings

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "figures/published"
sys.path.insert(0, str(ROOT / "experiments"))

before = dict(scalings._entries)
import mup_pairs  # noqa: E402  (experiments are found by the line above)
import mup_stages  # noqa: E402

STAGES = dict(scalings._entries)
scalings._entries.clear()
scalings._entries.update(before)  # its rules are no part of what other tests find

STEP = Update(Geometry.ENTRYWISE)
PARTS = {
    "hidden": Part(Role.HIDDEN, (512, 512), (64, 64), width=8.0, update=STEP),
    "head": Part(Role.HEAD, (7, 512), (7, 64), width=8.0, update=STEP),
    "embedding": Part(Role.EMBEDDING, (9, 512), (9, 64), width=8.0, update=STEP),
    "readout": Part(Place.READOUT, (512,), (64,), width=8.0),
    "attention": Part(Place.SCORES, (128,), (16,), width=8.0),
}


def of(stage):
    """What a stage multiplies by: (part, number) → factor, where it is not 1."""
    rule = STAGES[stage].make
    factors = {name: rule(part) for name, part in PARTS.items()}
    return {(name, what): value for name, own in factors.items() for what, value in vars(own).items() if value != 1}


def test_each_stage_adds_what_its_name_says():
    assert of("standard") == {}
    assert of("hidden_init") == pytest.approx({("hidden", "init"): 8**-0.5})
    assert of("hidden_rate") == pytest.approx({("hidden", "init"): 8**-0.5, ("hidden", "lr"): 1 / 8})
    assert of("logits_root") == pytest.approx({**of("hidden_rate"), ("readout", "forward"): 8**-0.5})
    assert of("logits_width") == pytest.approx({**of("hidden_rate"), ("readout", "forward"): 1 / 8})


def test_the_last_stage_adds_attention_and_what_only_decay_and_epsilon_see():
    added = dict(of("mup").items() - of("logits_width").items())
    assert added.pop(("attention", "forward")) == pytest.approx(8**-0.5)
    assert {what for _, what in added} == {"weight_decay", "eps"}
    assert list(mup_stages.STAGES)[-1] == "mup"
    assert STAGES["mup"].make is mup


def test_every_pair_of_a_model_and_an_optimizer_that_says_how_it_updates_is_checked():
    pairs = mup_pairs.all_pairs()
    assert len(pairs) == len(set(pairs))
    assert {("transformer", "muon"), ("mlp", "sgd"), ("lstm", "lion"), ("bert", "adamw")} <= set(pairs)
    assert not any(name == "soap" for _, name in pairs)


def test_a_pair_is_written_down_as_soon_as_it_is_measured_and_not_measured_again(tmp_path, monkeypatch):
    asked = []

    def checked(model, name):
        asked.append((model, name))
        return pd.DataFrame({"slope": [0.5, 0.1], "model": model, "optimizer": name})

    monkeypatch.setattr(mup_pairs, "checked", checked)
    path, pairs = tmp_path / "mup_pairs.csv", [("mlp", "sgd"), ("mlp", "lion"), ("lstm", "sgd")]
    going = mup_pairs.measured(pairs, path)
    next(going), next(going)
    assert len(pd.read_csv(path)) == 4
    found = pd.concat(mup_pairs.measured(pairs, path))
    assert asked == pairs
    assert list(found["optimizer"]) == ["sgd"] * 2 + ["lion"] * 2 + ["sgd"] * 2
    assert len(pd.read_csv(path)) == 6


def test_a_slope_is_surely_off_where_its_whole_interval_is():
    columns = ["what", "name", "slope", "slope_low", "slope_high", "expected", "passes"]
    lines = [
        ("update", "head", 0.05, 0.0, 0.1, 0.0, True),
        ("change", "norm", 0.14, 0.03, 0.24, 0.0, False),
        ("start", "scores", -0.8, -0.9, -0.7, -0.5, False),
    ]
    found = pd.DataFrame(lines, columns=columns).assign(model="mlp", optimizer="sgd")
    words = "2 of 3 off, 1 surely: -0.80 [-0.90, -0.70], start of scores"
    assert f"| sgd | {words} |" in mup_pairs.pairs_markdown(found)
    assert "| sgd | pass (1) |" in mup_pairs.pairs_markdown(found[:1])


def test_with_each_stage_slopes_are_nearer_to_theory_and_at_the_last_all_within_its_reach():
    found = pd.read_csv(PUBLISHED / "mup_stages_slopes.csv")
    off = (found["slope"] - found["expected"]).abs()
    distance = off.groupby(found["stage"], sort=False).mean()
    assert list(distance.index) == list(mup_stages.STAGES)
    assert distance.is_monotonic_decreasing
    assert found.loc[found["stage"] == "mup", "passes"].all()
    each = off.groupby([found["stage"], found["what"]]).mean()
    text = " ".join((ROOT / "REPRODUCING.md").read_text().split())
    changes = [f"{each[stage, 'change']:.2f}" for stage in ("hidden_init", "hidden_rate")]
    assert f"bring the slopes of the changes from {changes[0]} off theory, on average, to {changes[1]}" in text
    words = mup_stages.stages_markdown(found)
    assert (PUBLISHED / "mup_stages.md").read_text() == words + "\n"
    assert words in (ROOT / "REPRODUCING.md").read_text()


def test_what_is_said_of_the_pairs_is_in_their_table():
    found = pd.read_csv(PUBLISHED / "mup_pairs.csv")
    pairs = set(found[["model", "optimizer"]].itertuples(index=False, name=None))
    assert pairs == set(mup_pairs.all_pairs())
    words = mup_pairs.pairs_markdown(found)
    assert (PUBLISHED / "mup_pairs.md").read_text() == words + "\n"
    assert words in (ROOT / "REPRODUCING.md").read_text()
    text = " ".join((ROOT / "REPRODUCING.md").read_text().split())
    off = found[~found["passes"]]
    surely = off[mup_pairs.surely(off)]
    passing = found.groupby(["model", "optimizer"])["passes"].all()
    unsure = len(off.groupby(["model", "optimizer"])) - len(surely.groupby(["model", "optimizer"]))
    assert f"{passing.sum()} of {len(passing)} pairs pass" in text
    assert f"{unsure} have slopes farther from theory than 0.1 whose intervals reach" in text
    assert f"{len(off)} of {len(found):,} slopes are off, {len(surely)} of them surely" in text
    ends = found[["slope_low", "slope_high"]].sub(found["expected"], axis=0).abs().max(axis=1)
    within = (ends <= mup_pairs.ALLOWED).groupby([found["model"], found["optimizer"]]).all()
    assert f"with all of their intervals, are {within.sum()} of those that pass" in text
    for one, other in (("adam", "adamw"), ("gradient_descent", "sgd")):
        both = [found[found["optimizer"] == name].drop(columns="optimizer").reset_index() for name in (one, other)]
        assert both[0].drop(columns="index").equals(both[1].drop(columns="index"))
    once = found[~found["optimizer"].isin(["adam", "gradient_descent"])]
    each = once.groupby(["model", "optimizer"])["passes"].all()
    once = once[~once.duplicated(["model", "what", "name"]) | (once["what"] != "start")]
    assert f"each once, {each.sum()} of {len(each)} pairs pass" in text
    assert f"{(~once['passes']).sum()} of {len(once):,} slopes are off" in text
    assert surely["name"].str.contains("attention.(?:scores|query|key)").all(), (
        "all of these are of scores, queries and keys"
    )
    assert not passing["lstm"]["sign_sgd"] and passing["lstm"].sum() == len(passing["lstm"]) - 1, (
        "with 64 it is with one"
    )
    above = off[off["slope"] > off["expected"]]
    assert not mup_pairs.surely(above).drop(above.index[above["model"] != "gpt"]).any()
    assert passing["mlp"].all()
    assert {name for name in passing["transformer"].index if not passing["transformer"][name]} == {
        "lion",
        "scion",
        "shampoo",
    }
