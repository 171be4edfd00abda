"""Two arms over several tasks: every column against its definition, on runs made by hand and by chance."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from grokking.errors import BadInput
from grokking.seeding import stream
from grokking.selection import split
from grokking.survival import holm, paired_permutation_test, restricted_mean
from grokking.versus import at_threshold, pooled_t_test, versus

BUDGET = 900


def made(task, arm, first, sustain=None, seeds=None, budget=BUDGET):
    """A runs table of one arm on one task; None: never."""
    first = [np.nan if value is None else float(value) for value in first]
    kept = first if sustain is None else [np.nan if value is None else float(value) for value in sustain]
    return pd.DataFrame(
        {
            "run_id": [f"{task}{arm}{at}" for at in range(len(first))],
            "task.name": task,
            "optimizer.name": arm,
            "seed": range(len(first)) if seeds is None else seeds,
            "steps": budget,
            "linger": 0.5,
            "threshold": 0.95,
            "steps_to_generalize": first,
            "steps_to_sustain": kept,
            "status": np.where(np.isfinite(first), "generalized", "censored"),
            "sustained": np.isfinite(kept),
            "steps_per_epoch": 10.0,
            "epochs_to_generalize": np.array(first) / 10,
            "steps_trained": budget,
        }
    )


def compared(*tables, **options):
    return versus(pd.concat(tables), "optimizer.name", "adamw", "muon", "task.name", **options)


def test_each_line_holds_what_its_definition_says():
    table = compared(
        made("add", "adamw", [300, 400, None, 500]),
        made("add", "muon", [100, 400, 200, 600]),
        made("gcd", "adamw", [200, 300, 400, 500]),
        made("gcd", "muon", [100, 150, 200, 250]),
    )
    assert list(table["task.name"]) == ["add", "gcd", "all"]
    add, gcd, both = table.to_dict("records")
    assert (add["n"], add["first_events"], add["second_events"], add["bound"]) == (4, 3, 4, "")
    assert add["first_mean_steps"] == (300 + 400 + 900 + 500) / 4
    assert add["first_mean_epochs"] == add["first_mean_steps"] / 10
    expected = restricted_mean([300, 400, 900, 500], [True, True, False, True], BUDGET)
    assert (add["first_mean_steps_low"], add["first_mean_steps_high"]) == (expected.low, expected.high)
    assert (add["first_median_steps"], add["second_median_steps"]) == (400, 200)
    assert add["ratio"] == pytest.approx(2100 / 1300)
    assert add["earlier"] == (2 + 0.5) / 4  # Muon is earlier with two seeds, later with one, and once at the same step
    assert gcd["earlier"] == 1
    assert gcd["ratio"] == 2
    assert add["p"] == paired_permutation_test([300, 400, 900, 500], [100, 400, 200, 600]).p_value
    assert list(table["p_holm"][:2]) == list(holm(table["p"][:2]))
    assert np.isnan(both["p_holm"])
    assert both["ratio"] == pytest.approx(np.sqrt(2100 / 1300 * 2))
    assert both["earlier"] == (2.5 + 4) / 8
    assert pd.isna(both["earlier_low"])  # eight pairs, but four seeds
    assert both["ratio_low"] < both["ratio"] < both["ratio_high"]
    assert both["n"] == 4
    # One sign for all tasks of a seed: with four seeds nothing below 1/8 exists, though there are eight pairs.
    assert both["smallest_p"] == 1 / 8


def test_only_seeds_that_both_arms_have_are_compared():
    table = compared(
        made("add", "adamw", [300, 400, 500], seeds=[0, 1, 2]), made("add", "muon", [100, 200, 900], seeds=[1, 2, 7])
    )
    assert table["n"][0] == 2
    assert table["ratio"][0] == pytest.approx(900 / 300)
    with pytest.raises(BadInput, match="no seed has runs of both"):
        compared(made("add", "adamw", [300], seeds=[0]), made("add", "muon", [100], seeds=[1]))


def test_an_arm_that_never_generalises_gives_a_bound_and_two_give_nothing():
    never, some = [None] * 5, [100, 200, 300, 400, 500]
    line = compared(made("add", "adamw", never), made("add", "muon", some)).iloc[0]
    assert (line["bound"], line["first_mean_steps"], line["ratio"]) == ("≥", 900, pytest.approx(3))
    assert line[["first_mean_steps_low", "ratio_low", "ratio_high"]].isna().all()
    assert compared(made("add", "adamw", some), made("add", "muon", never))["bound"][0] == "≤"
    neither = compared(made("add", "adamw", never), made("add", "muon", never)).iloc[0]
    assert pd.isna(neither["ratio"])
    assert (neither["earlier"], neither["p"]) == (0.5, 1)
    assert compared(made("add", "adamw", never), made("add", "muon", never))["ratio"].isna().all()  # nor over all tasks


def test_a_mean_over_tasks_of_which_one_is_a_bound_is_a_bound_without_an_interval():
    some, never = [100, 200, 300, 400], [None] * 4
    add = [made("add", "adamw", some), made("add", "muon", [50, 100, 150, 200])]
    at_most = [made("gcd", "adamw", some), made("gcd", "muon", never)]
    at_least = [made("parity", "adamw", never), made("parity", "muon", some)]
    one, both = (compared(*add, *tables).iloc[-1] for tables in (at_most, [*at_most, *at_least]))
    assert (one["bound"], both["bound"]) == ("≤", "≤≥")
    assert one["ratio"] == pytest.approx(np.sqrt(2 * 250 / 900))
    assert pd.isna(one["ratio_low"])
    assert pd.isna(one["ratio_high"])


def test_a_task_on_which_neither_arm_generalises_counts_as_1_in_the_mean_and_bounds_nothing():
    some, never = [100, 200, 300, 400], [None] * 4
    add = [made("add", "adamw", some), made("add", "muon", [50, 100, 160, 200])]
    line, neither, both = (
        row for _, row in compared(*add, made("gcd", "adamw", never), made("gcd", "muon", never)).iterrows()
    )
    assert (line["bound"], neither["bound"], both["bound"]) == ("", "", "")
    assert pd.isna(neither["ratio"])
    assert both["ratio"] == pytest.approx(np.sqrt(line["ratio"]))
    assert both["ratio_low"] < both["ratio"] < both["ratio_high"]


def test_staying_is_compared_up_to_where_it_is_known():
    # Budget 900, linger 0.5: a crossing after 600 cannot be known to stay, so all count at 600.
    line = compared(
        made("add", "adamw", [300, 800], sustain=[300, None]),
        made("add", "muon", [200, 400], sustain=[None, 450]),
        event="sustain",
    ).iloc[0]
    assert line["horizon"] == 600
    assert (line["first_mean_steps"], line["second_mean_steps"]) == ((300 + 600) / 2, (600 + 450) / 2)
    assert (line["first_events"], line["second_events"]) == (1, 1)


def test_two_budgets_in_one_task_are_refused():
    with pytest.raises(BadInput, match="one budget"):
        compared(made("add", "adamw", [300]), made("add", "muon", [100], budget=800))


def test_the_pooled_t_test_is_scipys_and_says_how_many_it_drops():
    runs = pd.concat(
        [
            made("add", "adamw", [300, 400, None]),
            made("gcd", "adamw", [20, 30, 40]),
            made("add", "muon", [100, 200, 350]),
        ]
    )
    found = pooled_t_test(runs, "optimizer.name", "adamw", "muon")
    expected = stats.ttest_ind([30, 40, 2, 3, 4], [10, 20, 35])
    assert (found.t, found.p) == (expected.statistic, expected.pvalue)
    assert (found.first, found.n, found.dropped) == (pytest.approx(79 / 5), 8, 1)


def test_dropping_censored_runs_as_the_pooled_test_does_prefers_the_wrong_arm():
    draws = stream(0, "versus, wrong arm")
    wrong = 0
    for _ in range(200):
        sure = 500 * draws.lognormal(0, 0.2, 20)
        fast = np.where(draws.random(20) < 0.5, 400 * draws.lognormal(0, 0.2, 20), np.nan)  # half of its runs never do
        runs = pd.concat([made("add", "adamw", sure.clip(max=899)), made("add", "muon", fast)])
        found = pooled_t_test(runs, "optimizer.name", "adamw", "muon")
        wrong += found.first > found.second and found.p < 0.05
        line = versus(runs, "optimizer.name", "adamw", "muon", "task.name").iloc[0]
        assert not (line["ratio"] > 1 and line["p"] < 0.05)
    assert wrong > 150


def test_another_threshold_is_read_from_the_curves():
    runs = made("add", "adamw", [30, None])
    curves = pd.DataFrame(
        {
            "run_id": ["addadamw0"] * 4 + ["addadamw1"] * 3,
            "step": [10, 20, 30, 40, 10, 20, 900],
            "validation_accuracy": [0.1, 0.91, 0.96, 0.97, 0.5, 0.8, 0.93],
        }
    )
    found = at_threshold(runs, curves, 0.9)
    assert list(found["steps_to_generalize"]) == [20, 900]
    assert list(found["status"]) == ["generalized", "generalized"]
    assert list(found["epochs_to_generalize"]) == [2, 90]
    assert at_threshold(runs, curves, 0.95)["status"].tolist() == ["generalized", "censored"]
    with pytest.raises(BadInput, match=r"threshold = 0\.99; allowed: up to 0\.95"):
        at_threshold(runs, curves, 0.99)


def test_a_threshold_that_is_just_reached_is_reached_and_a_run_that_diverged_below_it_stays_diverged():
    runs = made("add", "adamw", [30, None, None]).assign(status=["generalized", "diverged", "diverged"])
    curves = pd.DataFrame(
        {
            "run_id": ["addadamw0"] * 2 + ["addadamw1"] * 2 + ["addadamw2"] * 2,
            "step": [20, 30] * 3,
            "validation_accuracy": [0.9, 0.95, 0.9, np.nan, 0.5, np.nan],
        }
    )
    found = at_threshold(runs, curves, 0.9)
    assert list(found["steps_to_generalize"][:2]) == [20, 20]
    assert list(found["status"]) == ["generalized", "generalized", "diverged"]
    mixed = runs.assign(threshold=[0.95, 0.8, 0.95])
    with pytest.raises(BadInput, match=r"allowed: up to 0\.8"):  # one of them ended when it got there
        at_threshold(mixed, curves, 0.9)


def test_over_all_tasks_the_events_are_those_of_the_seeds_that_all_tasks_have():
    """As in a sweep that is half done: four seeds on one task, two on the other."""
    table = compared(
        made("add", "adamw", [300, 400, 500, 600]),
        made("add", "muon", [100, None, 200, 300]),
        made("gcd", "adamw", [200, None]),
        made("gcd", "muon", [100, 150]),
    )
    assert table["n"].tolist() == [4, 2, 2]
    assert table["first_events"].tolist() == [4, 1, 3]
    assert table["second_events"].tolist() == [3, 2, 3]


def test_no_run_both_chooses_and_reports():
    runs = pd.concat([made("add", "adamw", [300, 400, 500], seeds=[0, 999, 1000])])
    choosing, reporting = split(runs)
    assert (list(choosing["seed"]), list(reporting["seed"])) == ([1000], [0, 999])
