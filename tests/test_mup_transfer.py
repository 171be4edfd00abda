"""The transfer experiment: the best rate by algebra, its drift, and both rules at the base width, of runs that nobody trained."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import made_up, rising
from scipy import stats

from grokking.experiment import open_experiment
from grokking.plotting import save
from grokking.publish import interval

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "figures" / "published"
sys.path.insert(0, str(ROOT / "experiments"))

pytestmark = pytest.mark.usefixtures("in_the_root")

import mup_transfer  # noqa: E402  (experiments are found by the line above)

RATES = 0.01 * 2.0 ** np.arange(7)


@pytest.mark.parametrize("at", [-4.4, -3.0, -2.1])
def test_of_a_parabola_the_best_rate_is_its_lowest_point(at):
    values = np.exp(0.3 * (np.log2(RATES) - at) ** 2 + 1.7)
    assert mup_transfer.best_rate(RATES, values) == pytest.approx(at)


def test_at_an_end_of_the_grid_the_best_rate_is_that_end_and_where_nothing_works_there_is_none():
    assert mup_transfer.best_rate(RATES, RATES) == pytest.approx(np.log2(RATES[0]))
    assert mup_transfer.best_rate(RATES, 1 / RATES) == pytest.approx(np.log2(RATES[-1]))
    assert np.isnan(mup_transfer.best_rate(RATES, np.full(7, 1_000.0), worst=1_000))
    diverged = np.where(np.arange(7) == 4, np.inf, np.abs(np.arange(7) - 3.0) + 1)
    assert mup_transfer.best_rate(RATES, diverged) == pytest.approx(np.log2(RATES[3]))


def law(row):
    """Steps: without scaling the best rate halves with each doubling of the width."""
    octaves = 0.0 if row.get("scaling.name") == "mup" else np.log2(row["model.width"] / 32)
    middle = np.log2(mup_transfer.RATES[row["optimizer.name"]][5]) - octaves
    return 200 * np.exp(0.2 * (np.log2(row["optimizer.lr"]) - middle) ** 2) * (1 + 0.001 * row["seed"])


def rows(specs):
    """A runs table, and its values by the law."""
    table = pd.DataFrame([{**spec.row(), "value": law(spec.row())} for spec in specs])
    return mup_transfer.both_rules(table)


def test_the_base_width_stands_in_both_rules_and_the_drift_is_the_laws():
    specs = [
        spec for spec in open_experiment("experiments/mup_transfer.py").specs("laptop") if spec.row()["steps"] == 64
    ]
    runs = rows(specs)
    assert runs.groupby(["optimizer.name", "rule", "width", "lr"]).size().eq(len(mup_transfer.SEEDS)).all()
    table = mup_transfer.drifts(mup_transfer.best_rates(runs)).set_index(["optimizer", "rule"])
    assert table.xs("mup", level="rule")["drift"].to_numpy() == pytest.approx(0, abs=1e-6)
    assert table.xs("standard", level="rule")["drift"].to_numpy() == pytest.approx(-4, abs=1e-6)
    assert mup_transfer._verdict("mup_transfer", table.reset_index()).answer == "consistent"


def test_the_interval_of_the_drift_is_students():
    generator = np.random.default_rng(0)
    each = generator.normal(1, 0.3, 8)
    lines = [
        ("sgd", "mup", width, seed, each[seed] * (width == 512), False) for width in (32, 512) for seed in range(8)
    ]
    table = mup_transfer.drifts(pd.DataFrame(lines, columns=["optimizer", "rule", "width", "seed", "octave", "at_end"]))
    expected = stats.t.interval(0.95, 7, each.mean(), stats.sem(each))
    assert table.loc[0, ["drift_low", "drift_high"]].to_list() == pytest.approx(expected)


def test_a_best_rate_at_an_end_of_the_grid_is_counted_and_no_drift():
    """Best below the grid at every width: no best rate moves, and nothing is known."""
    specs = [
        spec for spec in open_experiment("experiments/mup_transfer.py").specs("laptop") if spec.row()["steps"] == 64
    ]
    runs = rows(specs)
    inside = mup_transfer.drifts(mup_transfer.best_rates(runs)).set_index(["optimizer", "rule"])
    assert inside["at_end"].eq(0).all()
    runs.loc[runs["rule"] == "mup", "value"] = runs["lr"]
    table = mup_transfer.drifts(mup_transfer.best_rates(runs))
    assert (
        table.loc[table["rule"] == "mup", ["drift", "at_end"]].to_numpy().tolist() == [[0, len(mup_transfer.SEEDS)]] * 3
    )
    verdict = mup_transfer._verdict("mup_transfer", table)
    assert verdict.answer == "undecided"
    assert "SGD +0.00 [+0.00, +0.00], 8 of 8 at an end with muP" in verdict.ours


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(-0.4, 0.5, "consistent"), (-0.6, 0.3, "undecided"), (-0.3, 0.6, "undecided"), (0.6, 0.9, "not consistent")],
)
def test_the_best_rate_stays_where_its_interval_is_within_half_an_octave(low, high, answer):
    lines = [
        {
            "optimizer": name,
            "rule": rule,
            "from": 32,
            "to": 512,
            "n": 8,
            "at_end": 3,
            "drift": at,
            "drift_low": at + low,
            "drift_high": at + high,
        }
        for name in mup_transfer.OPTIMIZERS
        for rule, at in (("mup", 0.0), ("standard", -3.0))
    ]
    assert mup_transfer._verdict("mup_transfer", pd.DataFrame(lines)).answer == answer


def test_a_rate_at_which_some_runs_diverge_is_not_the_best_by_the_others():
    specs = [
        spec for spec in open_experiment("experiments/mup_transfer.py").specs("smoke") if spec.row()["steps"] == 64
    ]
    results = made_up(specs, lambda row, steps: (rising(steps, 20), rising(steps, 30)))
    rates = results.runs.set_index("run_id")["optimizer.lr"]
    results.curves["train_loss"] = results.curves["run_id"].map(rates) + 1
    lowest = results.runs["optimizer.lr"].isin([mup_transfer.RATES[name][0] for name in mup_transfer.OPTIMIZERS])
    results.runs.loc[lowest & (results.runs["seed"] == mup_transfer.SEEDS[0]), "diverged_at"] = 40
    runs = mup_transfer.valued(results)
    assert np.isinf(runs["value"]).sum() == 4 * 3  # the base width twice
    assert (np.isinf(runs["value"]) | (runs["value"] == runs["lr"] + 1)).all()
    best = mup_transfer.at_best(runs)
    lows = best["optimizer"].map(lambda name: mup_transfer.RATES[name][0])
    assert (best["standard_lr"] > lows).all()


def test_each_rule_is_taken_at_its_best_rate():
    specs = [
        spec for spec in open_experiment("experiments/mup_transfer.py").specs("laptop") if spec.row()["steps"] == 64
    ]
    runs = rows(specs).assign(steps_to_memorize=10.0, steps_to_generalize=np.nan, gap=0.5)
    runs.loc[runs["rule"] == "mup", "value"] *= 0.5
    best = mup_transfer.at_best(runs).set_index(["optimizer", "width"])
    assert best.loc[("adamw", 256), "standard_lr"] == pytest.approx(mup_transfer.RATES["adamw"][2])
    assert best.loc[("adamw", 256), "mup_lr"] == pytest.approx(mup_transfer.RATES["adamw"][5])
    assert best["value"].to_numpy() == pytest.approx(0.5)
    assert best["memorize"].to_numpy() == pytest.approx(1.0)
    assert not best["end_of_grid"].any()
    assert best[["memorized_mup", "generalized_mup"]].to_numpy().tolist() == [[len(mup_transfer.SEEDS), 0]] * len(best)


def test_of_losses_that_lie_far_apart_the_ratio_is_that_of_geometric_means():
    losses = np.array([1e-6, 2e-6, 4e-3]), np.array([3e-6, 1e-6, 2e-3])
    found, logs = mup_transfer._geometric_ratio(*losses), np.log(losses[0] / losses[1])
    ends = np.exp(stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs)))
    assert (found.value, found.low, found.high) == pytest.approx((np.exp(logs.mean()), *ends))


def test_both_pictures_are_drawn_of_untrained_results(tmp_path):
    experiment = open_experiment("experiments/mup_transfer.py")
    results = made_up(experiment.specs("smoke"), lambda row, steps: (rising(steps, 20), rising(steps, law(row) / 5)))
    results.curves["train_loss"] = 0.1
    drawings = experiment.draw(results)
    assert [drawing.name for drawing in drawings] == ["mup_transfer", "mup_transfer_grokking"]
    for drawing in drawings:
        save(drawing, tmp_path)
        assert drawing.markdown(drawing.tables[""]).count("\n") == 1 + 6


def test_what_stays_without_mup_too_is_no_evidence_for_it():
    line = {"from": 32, "to": 512, "n": 8, "at_end": 0, "drift": 0.0, "drift_low": -0.1, "drift_high": 0.1}
    table = pd.DataFrame(
        [{**line, "optimizer": name, "rule": rule} for name in mup_transfer.OPTIMIZERS for rule in mup_transfer.RULES]
    )
    assert mup_transfer._verdict("mup_transfer", table).answer == "undecided"


def test_what_is_said_of_the_published_drifts_and_bests_is_in_their_tables():
    words = " ".join((ROOT / "REPRODUCING.md").read_text().split())
    found = {name: pd.read_csv(PUBLISHED / f"mup_transfer{name}.csv") for name in ("", "_starts", "_best")}
    of = found[""].set_index(["rule", "optimizer"])
    assert (of.loc["mup", "drift_low"] >= -0.5).all()  # "each interval within half an octave"
    assert (of.loc["mup", "drift_high"] <= 0.5).all()
    moves = [f"{of.loc[('mup', name), 'drift']:+.2f}" for name in ("sgd", "adamw", "muon")]
    assert f"moves by {moves[0]} octaves with SGD, {moves[1]} with AdamW and {moves[2]} with Muon" in words
    falls = [of.loc[("standard", name), "drift"] for name in ("adamw", "muon", "sgd")]
    assert (
        f"AdamW's falls by {-falls[0]:.2f} and Muon's by {-falls[1]:.2f}; SGD's hardly moves here ({falls[2]:.2f})"
        in words
    )
    best = found["_best"][found["_best"]["width"] == 512].set_index("optimizer")
    grokking = pd.read_csv(PUBLISHED / "mup_transfer_grokking_best.csv").set_index(["width", "optimizer"]).loc[512]
    at_64 = found["_best"][found["_best"]["width"] == 64].set_index("optimizer")
    assert f"at width 512 AdamW takes {interval(best.loc['adamw'], 'memorize', 2)} times as many steps" in words
    assert f"memorises sooner with AdamW ({interval(at_64.loc['adamw'], 'memorize', 2)})" in words
    assert f"Muon ({interval(at_64.loc['muon'], 'memorize', 2)})" in words
    assert best.loc["muon", ["memorize", "memorize_low", "memorize_high"]].eq(1).all()
    assert best.loc["sgd", ["memorized_standard", "memorized_mup"]].tolist() == [8, 0]
    losses = interval(best.loc["sgd"], "value", 2), at_64.loc["sgd", "value"]
    assert f"{losses[0]} times as large, and {losses[1]:.2f} times at width 64" in words
    others = [interval(best.loc[name], "value", 2) for name in ("adamw", "muon")]
    assert f"AdamW's is {others[0]} and Muon's {others[1]} times as large there" in words
    at_256 = found["_best"].set_index(["optimizer", "width"]).loc[("muon", 256)]
    assert f"(Muon's {interval(at_256, 'value', 2)} at width 256)" in words
    wide = pd.read_csv(PUBLISHED / "mup_transfer_runs.csv").query("`model.width` == 512")
    wide = wide.assign(took=wide["steps_to_memorize"].fillna(wide["steps"]))
    means = wide.groupby(["optimizer.name", "scaling.name", "optimizer.lr"])["took"].mean()
    soonest = means.groupby(level=[0, 1]).min().unstack()
    ratio = soonest["mup"] / soonest["standard"]
    assert f"AdamW takes {ratio['adamw']:.2f} times as many steps with muP, Muon {ratio['muon']:.2f}" in words
    steps = "{sgd:.2f} (SGD) and {adamw:.2f} (AdamW) times as many steps; Muon's {muon:.2f}".format(**grokking["value"])
    assert f"To generalise muP takes {steps}, at the end of the grid and with 2 of 5 runs" in words
    assert grokking["end_of_grid"].to_dict() == {"sgd": False, "adamw": False, "muon": True}
    assert grokking["generalized_mup"].to_dict() == {"sgd": 5, "adamw": 5, "muon": 2}
    gaps = best["gap_mup"]
    assert f"{gaps.min():.2f} to {gaps.max():.2f}, without muP {best['gap_standard'].min():.2f}" in words
    starts = pd.read_csv(PUBLISHED / "mup_transfer_grokking_starts.csv").set_index(["from", "rule", "optimizer"])[
        "drift"
    ]
    assert f"({starts[128, 'standard', 'sgd']:.2f} and {starts[128, 'standard', 'adamw']:.2f})" in words
    moves = f"{starts[128, 'mup', 'sgd']:.2f} octaves with SGD and {starts[128, 'mup', 'adamw']:.2f} with AdamW"
    assert f"it moves by {moves} under muP" in words
    decayed = pd.read_csv(PUBLISHED / "mup_transfer_grokking.csv").set_index(["optimizer", "rule"])
    told = {key: interval(line, "drift", 2) for key, line in decayed.iterrows()}
    without = [f"{decayed.loc[(name, 'standard'), 'drift']:.2f}" for name in ("sgd", "adamw")]
    assert f"{told['sgd', 'mup']} octaves with it and by {without[0]} without" in words
    assert f"AdamW's by {told['adamw', 'mup']} and {without[1]}" in words
    runs = pd.read_csv(PUBLISHED / "mup_transfer_grokking_runs.csv")
    narrow = runs[runs["model.width"] == 32]
    assert f"there {narrow['steps_to_generalize'].notna().sum()} of {len(narrow)} runs generalise" in words
    assert narrow.loc[narrow["optimizer.name"] == "muon", "steps_to_generalize"].isna().all()
