"""What is certified is never below what an attack finds, in every experiment."""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "figures/published"
sys.path.insert(0, str(ROOT / "experiments"))

import chosen_rates  # noqa: E402  (experiments are found by the line above)
import lipschitz_text  # noqa: E402
import robust_shares  # noqa: E402
import robustness  # noqa: E402
from lipschitz_frontier import RATES  # noqa: E402

from grokking.engine.cohort import start  # noqa: E402
from grokking.engine.trainer import Trainer  # noqa: E402
from grokking.lipschitz import attack  # noqa: E402
from grokking.publish import number  # noqa: E402
from grokking.runs import run_spec  # noqa: E402


@pytest.fixture(scope="module")
def learned():
    """A capped perceptron that has learned x + y (mod 5), in float64, and all examples."""
    small = {"task.p": 5, "model.width": 32, "model.embedding": 16, "train_fraction": 0.8, "steps": 150}
    spec = run_spec({**robustness.BASE, **small, **robustness.arm("muon", "cap"), "model.logit_scale": 32.0}, 0)
    trainer = Trainer(spec.setting, torch.device("cpu"))
    cohort = start([spec], torch.device("cpu"), places=trainer.places)
    for _ in range(150):
        trainer.advance(cohort)
    model = spec.setting.model("cpu")
    model.load_state_dict({name: w[0] for name, w in cohort.weights.items()}, strict=False)
    return model.double().eval(), torch.from_numpy(spec.setting.table().tokens)


def test_answers_are_sums_of_the_operands(learned):
    model, tokens = learned
    some, labels = robust_shares.answers(model, tokens)
    assert len(some) == 25
    assert labels.tolist() == [(x + y) % 5 for x in range(5) for y in range(5)]


def test_what_is_certified_holds_against_attacks_and_random_steps(learned):
    model, tokens = learned
    shares = {radius: robust_shares.certified(model, tokens, radius) for radius in (0.02, 0.05, 0.1, 0.3)}
    assert shares[0.02] > 0.5  # or the test says nothing
    some, labels = robust_shares.answers(model, tokens)
    x, f = attack.embedded(model, some), attack.through(model)
    for radius, share in shares.items():
        assert share <= robust_shares.attacked(model, tokens, radius)
        steps = torch.randn(200, *x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        moved = x + radius * steps / steps.norm(dim=-1, keepdim=True)
        with torch.no_grad():
            right = (f(moved.flatten(0, 1)).argmax(-1).view(200, -1) == labels).all(0)
        assert share <= right.double().mean()


def test_the_best_rate_is_the_soonest_and_among_those_that_do_not_generalise_the_most_accurate(tmp_path, monkeypatch):
    runs = pd.DataFrame(
        {
            "cell": ["a"] * 4 + ["b"] * 2,
            "rate": [0.1, 0.1, 0.2, 0.2, 0.1, 0.2],
            "steps": 100,
            "steps_to_generalize": [10, None, 30, 40, None, None],
            "steps_to_sustain": [None, None, 30, 40, None, None],
            "sustained": [False, False, True, True, False, False],
            "status": ["generalized", "censored", *["generalized"] * 2, *["censored"] * 2],
            "seed": [0, 1, 0, 1, 0, 0],
            "final_validation_accuracy": [1.0, 0.9, 1.0, 1.0, 0.3, 0.4],
        }
    )
    table = chosen_rates.trials(runs, ["cell"])
    table.to_csv(tmp_path / "own.csv", index=False)
    monkeypatch.setattr(chosen_rates, "PUBLISHED", tmp_path)
    assert chosen_rates.best_rates("own", ["cell"]) == {("a",): 0.2, ("b",): 0.2}
    assert chosen_rates.best_rates("other", ["cell"]) == {}


@pytest.mark.parametrize("name", ["lipschitz_frontier", "lipschitz_text", "activation_growth"])
def test_the_certificate_is_above_the_attack_on_every_model(name):
    path = PUBLISHED / f"{name}.csv"
    if not path.exists():
        pytest.skip("its sweep has not been run yet")
    runs = pd.read_csv(PUBLISHED / f"{name}_runs.csv")
    assert (runs["final_certified_slope"] >= runs["final_steepest_slope"]).all()


def test_certified_shares_are_below_attacked_ones():
    path = PUBLISHED / "robustness.csv"
    if not path.exists():
        pytest.skip("its sweep has not been run yet")
    found = pd.read_csv(path)
    assert (found["certified"] <= found["attacked"]).all()


def test_what_is_said_of_the_frontier_is_in_its_table():
    table = pd.read_csv(PUBLISHED / "lipschitz_frontier.csv")
    text = " ".join((ROOT / "REPRODUCING.md").read_text().split())
    capped = table[(table["optimizer"] == "muon") & (table["constraint"] == "cap")].set_index("scale")
    shares = [f"{capped.loc[scale, 'accuracy']:.0%}".replace("%", " %") for scale in (1, 4, 16, 64)]
    assert (
        f"slope of 1 leaves {shares[0]} of the validation set right, 4 leaves {shares[1]}, 16 leaves {shares[2]} and 64 leaves {shares[3]}"
        in text
    )
    assert (
        f"within a factor of {capped['tightest'].min():.1f} to {capped['loosest'].max():.1f} of what is certified"
        in text
    )
    assert (table["tightest"] >= 1).all(), "nothing certified is below what an attack finds"
    adamw = table[table["optimizer"] == "adamw"]
    tight = adamw[adamw["constraint"].isin(["cap", "Stiefel"])]
    taken = tight.loc[tight["accuracy"] > 0.1, "rate"]
    assert f"rates of {taken.min():g} to {taken.max():g} under cap and Stiefel" in text
    trials = pd.read_csv(PUBLISHED / "lipschitz_frontier_tuning.csv")
    trials = trials[(trials["optimizer"] == "adamw") & trials["constraint"].isin(["cap", "Stiefel"])]
    assert not trials.loc[trials["rate"] <= 0.1, "generalized"].any(), "with 0.1 at most nothing of it generalised"
    of_cap = tight[tight["constraint"] == "cap"].set_index("scale")
    assert (
        f"{of_cap.loc[4, 'accuracy'] * 100:.0f} % right at a slope of 4, and {of_cap.loc[16, 'accuracy'] * 100:.0f} % at 16"
        in text
    )
    assert of_cap["generalized"].to_dict() == {1: 0, 4: 0, 16: 1, 64: 0}
    assert of_cap.loc[1, "accuracy"] < 0.02, "at 1 it learns nothing"
    assert not table.loc[table["constraint"] == "none", "generalized"].any()
    highest = table["rate"] == table["optimizer"].map({name: max(rates) for name, rates in RATES.items()})
    top = highest.groupby(table["optimizer"]).sum()
    assert f"tried in {top['muon']} of Muon's 24 cells and in {top['adamw']} of AdamW's" in text


def test_what_is_said_of_robustness_is_in_its_table():
    table = pd.read_csv(PUBLISHED / "robustness.csv").set_index(["optimizer", "constraint", "radius"])
    text = " ".join((ROOT / "REPRODUCING.md").read_text().split())
    (cap, decay) = (table.loc[("muon", name, 0.25), "certified"] for name in ("cap", "weight decay"))
    assert f"what is proved is {cap:.0%} with Muon's cap and {decay:.0%} with its decay".replace("%", " %") in text
    assert (table["certified"] <= table["attacked"]).all()
    runs, beyond = pd.read_csv(PUBLISHED / "robustness_runs.csv"), table.query("radius >= 0.5")["certified"]
    answers = 3 * len(range(0, 59 * 59, 59 * 59 // robust_shares.EXAMPLES))
    assert len(runs) == 3 * len(robustness.ARMS)
    assert round(beyond.sum() * answers, 6) == 1
    assert f"any more but one answer of {answers}" in text
    left = [f"{table.loc[('muon', name, 0.5), 'attacked'] * 100:.0f}" for name in ("cap", "weight decay")]
    assert f"still leave {left[0]} and {left[1]} % right there" in text
    assert (table.xs("none", level="constraint")["certified"] < 0.005).all()


def test_what_is_said_of_growing_activations_is_in_their_table():
    table = pd.read_csv(PUBLISHED / "activation_growth.csv").set_index("arm")
    largest = {arm: number(value) for arm, value in table["largest_entry"].items()}
    text = " ".join((ROOT / "REPRODUCING.md").read_text().split())
    free, capped = (
        [largest[f"{name}, Lipschitz, {how}"] for name in ("AdamW", "Muon")] for how in ("no caps", "capped")
    )
    ordinary = [largest[f"{name}, ordinary"] for name in ("AdamW", "Muon")]
    assert f"largest is {free[0]} without caps and {capped[0]} with them, with Muon {free[1]} and {capped[1]}" in text
    assert f"ordinary ones reach {ordinary[0]} and {ordinary[1]} without decay" in text
    decayed = table.loc["Muon, ordinary, decay 0.1"]
    assert (
        f"ordinary one to {number(decayed['largest_entry'])} and {decayed['accuracy']:.1%}".replace("%", " %") in text
    )
    runs = pd.read_csv(PUBLISHED / "activation_growth_runs.csv")
    learned = runs[runs["transforms"] != "none"].groupby("optimizer.name")["final_train_accuracy"].mean() * 100
    assert f"it has {learned['adamw']:.0f} and {learned['muon']:.0f} % of its training set right by then" in text
    tight = table.loc[["AdamW, Lipschitz, capped", "Muon, Lipschitz, capped"]]
    assert (tight["accuracy"] < 0.005).all()
    assert f"within a factor of {tight['tightest'].min():.1f} to {tight['tightest'].max():.1f}" in text
    assert (table["tightest"] >= 1).all()


def test_what_is_said_of_text_is_in_its_table():
    if not (PUBLISHED / "lipschitz_text.csv").exists():
        pytest.skip("its sweep has not been run yet")
    table = pd.read_csv(PUBLISHED / "lipschitz_text.csv")
    text = " ".join((ROOT / "REPRODUCING.md").read_text().split())
    assert (table["certified"] >= table["attacked"]).all()
    muon = table[table["optimizer"] == "muon"].set_index("model")
    least, ordinary = muon.loc["capped, scores × 2"], muon.loc["ordinary"]
    assert f"reach {least['accuracy'] * 100:.0f} % at a certified slope of {least['certified']:.3g} with Muon" in text
    assert (
        f"ordinary transformer {ordinary['accuracy'] * 100:.0f} %, of which {ordinary['certified']:.1e} is all" in text
    )
    assert f"and {ordinary['attacked']:.0f} is found" in text
    capped = table[table["model"] != "ordinary"]
    ratio = capped["certified"] / capped["attacked"]
    assert f"a factor of {ratio.min():.1f} to {ratio.max():.1f} for capped ones" in text
    most = muon.loc["capped, scores × 128"]
    assert f"({most['accuracy'] * 100:.0f} % at {most['certified']:.0f})" in text
    trials = pd.read_csv(PUBLISHED / "lipschitz_text_tuning.csv")
    trials = trials[(trials["optimizer"] == "muon") & (trials["model"] != "ordinary")].groupby("model")["accuracy"]
    assert (trials.max() - trials.min()).max() < 0.005, "the four that were tried are within half a percentage point"
    assert set(trials.count()) == {4}


def test_capped_networks_on_text_are_no_better_than_counts_of_what_follows_the_last_character():
    """Of the last character, or two, where the training set has them; what it has most often."""
    (spec, *_) = lipschitz_text.STUDIES["laptop"][0].specs()
    if not (PUBLISHED / "lipschitz_text.csv").exists():
        pytest.skip("its sweep has not been run yet")
    published = pd.read_csv(PUBLISHED / "lipschitz_text_runs.csv")
    if spec.run_id not in set(published["run_id"]):
        pytest.skip("the language reference of this Python is another text")
    trainer, shares = Trainer(spec.setting, torch.device("cpu")), {1: [], 2: []}
    table = spec.setting.table()
    for seed in sorted(published["seed"].unique()):
        train, validation = (np.asarray(rows) for rows in trainer.data.split(int(seed))[:2])
        for last, own in shares.items():
            counts = defaultdict(Counter)
            for row in train:
                for k in range(last + 1):
                    counts[tuple(table.tokens[row, len(table.tokens[row]) - k :])][table.labels[row]] += 1
            right = 0
            for row in validation:
                known = (tuple(table.tokens[row, len(table.tokens[row]) - k :]) for k in range(last, -1, -1))
                right += counts[next(key for key in known if key in counts)].most_common(1)[0][0] == table.labels[row]
            own.append(right / len(validation))
    one, two = (np.mean(own) for own in shares.values())
    text = " ".join((ROOT / "REPRODUCING.md").read_text().split())
    assert f"last character in the training set answer {one * 100:.0f} % as well" in text
    assert f"of what follows the last two {two * 100:.0f} %, more than any network here" in text
    accuracy = pd.read_csv(PUBLISHED / "lipschitz_text.csv").set_index("model")["accuracy"]
    assert accuracy.max() < two
    assert accuracy.drop("ordinary").max() < one + 0.01
