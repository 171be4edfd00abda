"""The table that compares arms, against numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from grokking.arms_figure import arms
from grokking.comparison import UNDOTTED, agreement, compare, paired_ratio
from grokking.errors import BadInput
from grokking.publish import interval, p_value
from grokking.setting import DEFAULTS


def runs(**arms):
    """Steps to generalise by arm, in order of seeds; None: censored at 1,000."""
    return pd.DataFrame(
        {
            "arm": name,
            "seed": seed,
            "steps": 1_000,
            "status": "censored" if time is None else "generalized",
            "steps_to_generalize": pd.NA if time is None else time,
            "sustained": time is not None and time < 600,
            "steps_per_epoch": 2.5,
        }
        for name, times in arms.items()
        for seed, time in enumerate(times)
    ).astype({"steps_to_generalize": "Int64"})


def test_a_single_pair_has_no_p_value_and_can_be_written_all_the_same():
    table = compare(runs(a=[200], b=[100]), "arm", reference="a")
    assert [p_value(row, smallest=True) for row in table.to_dict("records")] == ["–", "–"]
    table = compare(runs(a=[200, 300], b=[100, 200]), "arm", reference="a")
    assert p_value(table.to_dict("records")[1], smallest=True) == "0.5 (0.5; 0.5)"


def test_of_two_bounds_nothing_follows():
    table = compare(runs(a=[None, None], b=[None, None], c=[100, None]), "arm", reference="a").set_index("arm")
    assert table["is_bound"].tolist() == [True, True, False]
    assert pd.isna(table.loc["b", "ratio"])
    assert table.loc["c", "ratio"] == pytest.approx(0.55)


def test_an_arm_is_called_by_the_settings_in_which_it_differs():
    rows = [
        {"optimizer.name": "adamw", "optimizer.lr": 0.1, "optimizer.beta1": 0.9, "transforms": "none"},
        {"optimizer.name": "adamw", "optimizer.lr": 0.2, "optimizer.beta1": 0.9, "transforms": "clip_norm"},
        {"optimizer.name": "muon", "optimizer.lr": 0.3, "optimizer.momentum": 0.95, "transforms": "none"},
    ]
    rows[1] |= {"transform.clip_norm.max_norm": 1.0}
    called = ["AdamW, lr 0.1, transforms none", "AdamW, lr 0.2, transforms clip_norm", "Muon, lr 0.3, transforms none"]
    assert arms(pd.DataFrame(rows)) == called
    assert arms(pd.DataFrame(rows[:1] + rows[2:])) == ["AdamW", "Muon"]
    assert arms(pd.DataFrame([{**rows[0], "batch_size": size} for size in (8, 9)])) == ["batch_size 8", "batch_size 9"]
    assert arms(pd.DataFrame(rows[:1])) == ["AdamW"]


def test_arms_may_differ_in_any_setting_that_a_run_has():
    """Otherwise two arms would be drawn, and compared, as one."""
    assert set(UNDOTTED) == {name for name in DEFAULTS if "." not in name}


def test_every_column_of_a_small_table_is_what_the_hand_says():
    table = compare(runs(a=[200, 400, 600], b=[100, 400, None]), "arm", reference="a").set_index("arm")
    assert list(table["generalized"]) == [3, 2]
    assert list(table["sustained"]) == [2, 2]
    assert table.loc["b", "mean_steps"] == 500  # (100 + 400 + 1000) / 3: the censored run counts at the budget
    assert table.loc["b", "mean_epochs"] == 200
    assert table.loc["b", "median_steps"] == 400
    assert table.loc["b", "ratio"] == pytest.approx(500 / 400)
    residuals = np.array([100, 400, 1000]) / 500 - np.array([200, 400, 600]) / 400
    half = 4.302652729911275 * residuals.std(ddof=1) / np.sqrt(3)  # Student's t, 2 degrees of freedom
    assert table.loc["b", "ratio_low"] == pytest.approx(1.25 * np.exp(-half))
    assert table.loc["b", "ratio_high"] == pytest.approx(1.25 * np.exp(half))
    # log differences -log 2, 0, log(5/3), under all 8 sign flips
    logs = np.log([0.5, 1.0, 5 / 3])
    flips = [abs(np.mean(logs * signs)) for signs in np.array(np.meshgrid(*[[1, -1]] * 3)).reshape(3, -1).T]
    assert table.loc["b", "p"] == pytest.approx(np.mean(np.array(flips) >= abs(logs.mean()) - 1e-12))
    assert table.loc["b", "smallest_p"] == 0.25
    assert np.isnan(table.loc["a", "p"])


def test_arms_are_paired_by_seed_whatever_the_order_of_the_lines():
    table = runs(a=[200, 300, 500, 700], b=[100, 350, 400, None])
    shuffled = table.sample(frac=1, random_state=np.random.Generator(np.random.Philox(1)))
    expected = paired_ratio(table, "arm", "a", "b")
    assert paired_ratio(shuffled, "arm", "a", "b") == expected
    wrong = table.copy()
    wrong.loc[wrong["arm"] == "b", "seed"] = [3, 2, 1, 0]
    assert paired_ratio(wrong, "arm", "a", "b").low != pytest.approx(expected.low)


def test_an_arm_that_never_generalises_gives_bounds_without_an_interval():
    row = compare(runs(a=[200, 300], b=[None, None]), "arm", reference="a").set_index("arm").loc["b"]
    assert row["is_bound"]
    assert interval(row, "mean_steps") == "≥ 1,000"
    assert interval(row, "ratio", 2) == "≥ 4.00"
    assert interval(row, "median_steps") == "not reached"


def test_a_tie_of_all_runs_is_not_called_a_bound():
    row = compare(runs(a=[300, 300, 300]), "arm", reference="a").iloc[0]
    assert not row["is_bound"]
    assert interval(row, "median_steps") == "300"


def test_interval_prints_low_before_high_and_a_dash_for_an_open_end():
    assert interval({"x": 1234.4, "x_low": 900.0, "x_high": 2000.0}, "x") == "1,234 [900, 2,000]"
    assert interval({"x": 1.5, "x_low": 1.2, "x_high": None}, "x", 1) == "1.5 [1.2, –]"


def test_one_seed_per_arm_gives_a_table_without_tests():
    table = compare(runs(a=[200], b=[300]), "arm", reference="a")
    assert table["p"].isna().all()
    assert table["p_holm"].isna().all()


def test_a_missing_reference_and_mixed_budgets_are_refused():
    with pytest.raises(BadInput, match="'adamw'"):
        compare(runs(a=[200]), "arm", reference="adamw")
    mixed = runs(a=[200, 300])
    mixed.loc[0, "steps"] = 500
    with pytest.raises(BadInput, match="500"):
        compare(mixed, "arm", reference="a")


def named(*times):
    table = runs(a=times)
    return table.assign(run_id=[f"run{seed}" for seed in table["seed"]])


def test_runs_agree_with_others_of_the_same_run_id_whatever_their_order_and_number():
    here, there = named(200, 400, None, None), named(100, 400, 500, None, 300)
    found = agreement(here, there.iloc[::-1])
    # The fourth pair is censored twice and says nothing; the third counts at the budget.
    assert (found.ratio.n, found.equal) == (3, 1)
    assert found.ratio.value == pytest.approx((200 + 400 + 1000) / (100 + 400 + 500))
    assert found.ratio.low < found.ratio.value < found.ratio.high
    assert found.p == 0.5  # of eight flips four are as extreme: one pair of three is equal
    same = agreement(there, there)
    assert (same.ratio.value, same.p, same.equal) == (1.0, 1.0, 4)


def test_where_too_few_runs_can_tell_there_is_no_agreement_and_no_disagreement():
    assert agreement(named(200), named(100)) is None
    assert agreement(named(None, None), named(None, None)) is None
    assert agreement(named(200, 300), named(200, 300).assign(run_id=["x", "y"])) is None
