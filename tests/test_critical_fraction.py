"""The critical fraction: what the fit recovers, how often its interval holds the truth, and what is counted."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special, stats

from grokking.errors import BadInput
from grokking.experiment import open_experiment
from grokking.seeding import stream
from grokking.store import Results

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import critical_fraction  # noqa: E402  (experiments are found by the line above)
from halfway import _half_width, difference, halfway  # noqa: E402

X = np.array(critical_fraction.FRACTIONS)


def drawn(generator, middle, slope, n=10):
    """Successes [seed, fraction], all independent."""
    return generator.random((n, len(X))) < special.expit(slope * (special.logit(X) - special.logit(middle)))


def thresholds(generator, middle, shared, own=0.0):
    """Successes [seed, fraction] of seeds that each have a fraction of their own from which on they succeed."""
    level = special.logit(middle) + shared + generator.normal(0, own, len(shared))
    return special.logit(X) > level[:, None]


def test_the_fit_is_the_maximum_of_firths_likelihood():
    flags = drawn(stream(0, "a fit"), 0.3, 12.0, n=20)
    z, k = special.logit(X), flags.sum(axis=0)

    def loss(parameters):
        eta = parameters[0] + parameters[1] * z
        p = special.expit(eta)
        design = np.stack([np.ones_like(z), z], axis=1)
        information = design.T @ (design * (20 * p * (1 - p))[:, None])
        return -(k @ eta - 20 * np.logaddexp(0, eta).sum() + 0.5 * np.linalg.slogdet(information)[1])

    best = optimize.minimize(loss, (10.0, 10.0), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).x
    found = halfway(X, flags)
    assert found.estimate.value == pytest.approx(special.expit(-best[0] / best[1]), abs=1e-3)
    assert found.slope == pytest.approx(best[1], rel=0.06)  # the slopes tried are 10 % apart
    assert found.curve([found.estimate.value]) == pytest.approx([0.5])


def test_many_runs_find_the_fraction_and_the_slope_they_were_drawn_with():
    found = halfway(X, drawn(stream(0, "many"), 0.29, 15.0, n=2_000))
    assert found.estimate.value == pytest.approx(0.29, abs=0.002)
    assert found.slope == pytest.approx(15.0, rel=0.1)


@pytest.mark.parametrize(("shared", "own"), [(0.0, 0.0), (0.05, 0.02), (0.2, 0.1)])
def test_the_interval_holds_the_truth_even_where_all_seeds_agree(shared, own):
    """With 95 % and 30 tries, fewer than 25 have a probability of 0.3 %."""
    generator = stream(0, "coverage of the critical fraction", str(shared))
    held = np.zeros(2)
    for _ in range(30):
        late, early = generator.uniform(0.27, 0.35), generator.uniform(0.21, 0.27)
        both = generator.normal(0, shared, 10)
        fits = [halfway(X, thresholds(generator, middle, both, own)) for middle in (late, early)]
        for at, (estimate, truth) in enumerate(((fits[0].estimate, late), (difference(*fits), late - early))):
            held[at] += estimate.low <= truth <= estimate.high
    assert (held >= 25).all()


def test_no_number_stands_where_half_is_not_crossed_or_one_seed_tells_nothing():
    never, always = np.zeros((10, len(X))), np.ones((10, len(X)))
    some = thresholds(stream(0, "some"), 0.3, np.zeros(10))
    for flags in (never, always):
        found = halfway(X, flags)
        assert (found.estimate.value, found.estimate.low, found.estimate.high) == (None, None, None)
        assert difference(found, halfway(X, some)).value is None
        with pytest.raises(BadInput, match="no curve"):
            found.curve(X)
    alone = halfway(X, some[:1]).estimate
    assert 0.28 < alone.value < 0.32
    assert (alone.low, alone.high) == (None, None)
    with pytest.raises(BadInput, match="increasing"):
        halfway(X[::-1], some)
    with pytest.raises(BadInput, match="0 or 1"):
        halfway(X, some * 2)


def test_seeds_drawn_anew_give_the_interval_of_student_where_it_is_known():
    """Of a mean: its standard error by drawing n values anew is √((n - 1) / n) of the textbook's."""
    values, n = stream(0, "values").normal(size=5), 5
    resampled = values[stream(0, "anew").integers(0, n, (40_000, n))].mean(axis=1)
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert _half_width(resampled, n) == pytest.approx((high - low) / 2, rel=0.02)


def test_a_run_that_generalises_at_the_last_evaluation_does_so_by_then():
    rows = [(0.2, 0, None), (0.2, 1, 500), (0.5, 0, 499), (0.5, 1, 501)]
    runs = pd.DataFrame(rows, columns=["train_fraction", "seed", "steps_to_generalize"]).assign(steps=2_000)
    fractions, flags = critical_fraction.successes(runs, 500)
    assert fractions.tolist() == [0.2, 0.5]
    assert flags.tolist() == [[False, True], [True, False]]


def made_up():
    """Runs of the laptop's study that take 100 steps · e^(60 (middle - fraction)), at least 20: late ones are censored."""
    rows = []
    for spec in open_experiment(str(ROOT / "experiments/critical_fraction.py")).specs("laptop"):
        row = spec.row()
        middle = {"adamw": 0.36, "muon": 0.3}[row["optimizer.name"]] + 0.002 * (row["seed"] - 4.5)
        steps = max(20, round(100 * np.exp(min(9, 60 * (middle - row["train_fraction"])))))
        done = steps <= row["steps"]
        rows.append({**row, "steps_to_generalize": steps if done else None, "sustained": done})
        rows[-1] |= {"status": "generalized" if done else "censored", "steps_trained": min(steps, row["steps"])}
    runs = pd.DataFrame(rows)
    runs["steps_to_generalize"] = runs["steps_to_generalize"].astype("Int64")
    return runs


def test_runs_count_by_the_budget_and_the_verdict_follows():
    runs = made_up()
    assert len(runs) == 2 * len(X) * 10
    table = critical_fraction.rates(runs).set_index(["optimizer", "train_fraction"])
    for (name, fraction), own in runs.groupby(["optimizer.name", "train_fraction"]):
        row = table.loc[(name, fraction)]
        assert row["generalized"] == own["steps_to_generalize"].notna().sum()
        assert row["mean_steps"] == pytest.approx(own["steps_to_generalize"].fillna(2_000).astype(float).mean())
    muon = runs[runs["optimizer.name"] == "muon"]
    fractions, flags = critical_fraction.successes(muon, 500)
    assert fractions.tolist() == X.tolist()
    assert flags.sum() == (muon["steps_to_generalize"] <= 500).sum()
    (drawing,) = critical_fraction.draw(Results(runs, pd.DataFrame(), ("a machine",), 0, 1.0, 0.1))
    summary = drawing.tables["summary"].query("not stays").set_index(["what", "budget"])
    for budget in (500, 2_000):  # half of the seeds take 100 e^(60 (middle - f)) = budget steps there
        for name, middle in (("adamw", 0.36), ("muon", 0.3)):
            row = summary.loc[(name, budget)]
            assert row["fraction_low"] <= middle - np.log(budget / 100) / 60 <= row["fraction_high"]
        row = summary.loc[("adamw - muon", budget)]
        assert row["fraction_low"] <= 0.06 <= row["fraction_high"]
    assert drawing.n == 10
    assert drawing.verdict.answer == "not consistent at this budget"
    assert "AdamW's minus Muon's" in drawing.markdown(drawing.tables["summary"])


def test_what_crosses_and_falls_back_does_not_count_as_staying():
    """Muon's runs stay only with three more percent of the examples than crossing takes."""
    runs = made_up()
    late = (runs["optimizer.name"] == "muon") & (runs["steps_to_generalize"].astype(float) > 100)
    runs["sustained"] &= ~late
    (drawing,) = critical_fraction.draw(Results(runs, pd.DataFrame(), ("a machine",), 0, 1.0, 0.1))
    whole = drawing.tables["summary"].query("budget == 2000").set_index(["what", "stays"])
    assert whole.loc[("adamw", True), "fraction"] == whole.loc[("adamw", False), "fraction"]
    assert whole.loc[("muon", True), "fraction_low"] <= 0.3 <= whole.loc[("muon", True), "fraction_high"]
    assert whole.loc[("muon", False), "fraction"] < 0.27
    assert "2,000 steps, and stays (known to)" in drawing.markdown(drawing.tables["summary"])


def test_its_settings_are_those_that_other_seeds_chose():
    from sensitivity import CHOSEN, SEEDS

    for spec in open_experiment(str(ROOT / "experiments/critical_fraction.py")).specs("paper"):
        row = spec.row()
        assert (row["optimizer.lr"], row["optimizer.weight_decay"]) == CHOSEN[row["optimizer.name"]]
        assert row["seed"] not in SEEDS


def test_what_is_said_of_the_published_runs_is_in_their_table():
    root = Path(__file__).parent.parent
    words = (root / "figures/published/critical_fraction.md").read_text()
    last = {line.split(" | ")[0].strip("| "): line.split(" | ")[4] for line in words.splitlines()[2:]}
    said = " ".join((root / "experiments/critical_fraction.py").read_text().split())
    low, high = (float(end) for end in last["Muon"].split("[")[1].rstrip("] |").split(", "))
    adamw = float(last["AdamW"].split()[0])
    assert f"from somewhere between {low:.0f} and {high:.0f} % on, of AdamW's from {adamw:.0f} %" in said


def test_what_is_said_of_staying_is_in_the_published_table():
    text = " ".join(Path("REPRODUCING.md").read_text().split())
    table = pd.read_csv("figures/published/critical_fraction.csv").set_index(["optimizer", "train_fraction"])
    stay = table["sustained"]["muon"]
    assert [stay[share] for share in (0.2, 0.22, 0.24, 0.26)] == [0, 3, 7, 10]
    assert "none stays at 95 % with 20 % of the examples, 3 do with 22 %, 7 with 24 % and all with 26 %" in text
    assert tuple(table.loc[("adamw", 0.26), ["generalized", "sustained"]]) == (2, 1)
    whole = pd.read_csv("figures/published/critical_fraction_summary.csv").query("budget == 2000")
    from_on = whole[whole["stays"]].set_index("what")["fraction"] * 100
    said = " ".join(Path("experiments/critical_fraction.py").read_text().split())
    assert f"half of Muon's runs stay from {from_on['muon']:.0f} % on, of AdamW's from {from_on['adamw']:.0f} %" in said
    apart = whole[whole["what"] == "adamw - muon"].set_index("stays")["fraction"] * 100
    assert f"they are {apart[True]:.1f} points apart instead of {apart[False]:.1f}" in text
