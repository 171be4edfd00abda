"""What runs do after their first crossing, counted by hand; and the figure of it."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up, rising

from grokking.experiment import open_experiment
from grokking.plotting import save
from grokking.publish import PUBLISHED

ROOT = Path(__file__).parent.parent
FILE = "experiments/stability.py"
sys.path.insert(0, str(ROOT / "experiments"))

pytestmark = [pytest.mark.parses, pytest.mark.usefixtures("in_the_root")]


def by_hand(curve, threshold, first):
    """The same, one evaluation after the other; `curve` holds pairs (step, accuracy)."""
    window = [(step, value) for step, value in curve if first <= step <= 10 * first]
    whole = any(step >= 10 * first for step, _ in curve)
    counts = window[-1][0]
    for at, (step, _) in enumerate(window):
        if all(value >= threshold for _, value in window[at:]):
            counts = step
            break
    below = [value < threshold for _, value in window[1:]]
    return {
        "first": first,
        "dips": sum(one >= threshold > other for (_, one), (_, other) in pairwise(window)),
        "share_below": sum(below) / len(below) if below else 0.0,
        "lowest": min(value for _, value in window),
        "settled": counts if whole and window[-1][1] >= threshold else None,
        "whole": whole,
        "stays": whole and all(value >= threshold for _, value in window),
        "counts": counts,
    }


@given(
    before=st.integers(0, 4),
    after=st.lists(st.sampled_from([0.2, 0.94, 0.95, 1.0]), max_size=60),
    every=st.integers(1, 9),
)
def test_dips_are_those_that_one_counts_by_hand(before, after, every):
    from stability import after_crossing

    accuracy = np.array([0.1] * before + [0.96, *after])
    steps = every * np.arange(1, len(accuracy) + 1)
    first = int(steps[before])
    found = after_crossing(steps, accuracy, 0.95, first)
    assert found == by_hand(list(zip(steps.tolist(), accuracy.tolist(), strict=True)), 0.95, first)


def test_dips_of_a_curve_that_is_known():
    """First at 20; below at 50 and 60 (one dip) and at 200; 210 lies beyond the window."""
    from stability import after_crossing

    steps = np.arange(10, 220, 10)
    accuracy = np.where(np.isin(steps, (10, 50, 60, 200, 210)), 0.5, 0.99)
    accuracy[5] = 0.3
    found = after_crossing(steps, accuracy, 0.95, 20)
    assert (found["dips"], found["lowest"], found["settled"], found["stays"]) == (2, 0.3, None, False)
    assert found["share_below"] == pytest.approx(3 / 18)
    accuracy[19] = 0.95
    found = after_crossing(steps, accuracy, 0.95, 20)
    assert (found["dips"], found["settled"], found["counts"], found["stays"]) == (1, 70, 70, False)


def test_a_window_that_the_budget_cuts_is_never_one_that_stays():
    from stability import after_crossing

    steps = np.arange(10, 200, 10)  # the last at 190
    calm = np.where(steps >= 20, 1.0, 0.1)
    cut = after_crossing(steps, calm, 0.95, 20)
    assert (cut["whole"], cut["stays"], cut["settled"], cut["counts"], cut["dips"]) == (False, False, None, 20, 0)
    whole = after_crossing(np.append(steps, 200), np.append(calm, 1.0), 0.95, 20)
    assert (whole["whole"], whole["stays"], whole["settled"]) == (True, True, 20)
    never = after_crossing(steps, 0 * calm, 0.95, None)
    assert (never["stays"], never["settled"], never["counts"], never["dips"]) == (False, None, None, None)


def test_runs_that_never_cross_count_at_their_budget_and_ratios_are_over_adamws():
    from stability import summary

    def found(arm, first, counts):
        rows = [{"arm": arm, "seed": at, "budget": 900, "first": one} for at, one in enumerate(first)]
        table = pd.DataFrame(rows).assign(counts=counts, settled=counts, dips=0, share_below=0.0, lowest=1.0)
        return table.assign(whole=table["first"].notna(), stays=table["first"].notna())

    table = summary(
        pd.concat([found("adamw", [300, None, 600], [300, None, 900]), found("muon", [100, 200, 300], [200, 200, 500])])
    ).set_index("arm")
    assert table["mean_first"].to_dict() == {"adamw": 600, "muon": 200}
    assert table["mean_settled"].to_dict() == {"adamw": 700, "muon": 300}
    assert table["generalized"].to_dict() == {"adamw": 2, "muon": 3}
    assert table.loc["muon", ["first_over", "settled_over"]].tolist() == pytest.approx([1 / 3, 3 / 7])
    assert table.loc["adamw", "first_over"] == 1


def test_budgets_and_freezing_follow_from_the_published_medians():
    open_experiment(FILE)
    import stability

    tuned = pd.read_csv(PUBLISHED / "sensitivity_best.csv").set_index("arm")["median_steps"]
    defaults = pd.read_csv(PUBLISHED / "delayed_generalization_summary.csv").set_index("arm")["median_steps"]
    assert tuned[list(stability.MEDIANS)].to_dict() == stability.MEDIANS
    assert defaults[list(stability.AT_DEFAULTS)].to_dict() == stability.AT_DEFAULTS
    specs = open_experiment(FILE).specs("laptop")
    assert sum(spec.setting.integer("steps") for spec in specs) < 200_000  # most end at ten times their crossing
    assert all(spec.seed < 1000 for spec in specs)
    frozen = [spec for spec in specs if spec.setting.transforms == ["freeze"]]
    assert {dict(spec.hyper)["transform.freeze.after"] for spec in frozen} == {150.0, 418.0}
    assert {spec.setting.number("linger") for spec in specs} == {9.0}


def test_what_is_drawn_of_runs_that_fall_and_of_runs_that_stay(tmp_path):
    """Muon falls once, unless frozen; the first of AdamW's runs crosses too late for its window, and one of Adam's never."""
    open_experiment(FILE)
    from stability import MEDIANS, draw, markdown

    def law(row, steps):
        name, seed = row["optimizer.name"], row["seed"]
        first = MEDIANS[name] + (10 * seed if name == "muon" else 100 if (name, seed) == ("adamw", 0) else 0)
        validation = rising(steps, np.inf if (name, seed) == ("adam", 9) else first)
        if name == "muon" and row.get("transforms", "none") == "none":
            validation[(steps > 3 * first) & (steps <= 3 * first + 20)] = 0.4
        return rising(steps, 40), validation

    specs = [spec for spec in open_experiment(FILE).specs("laptop") if spec.setting.name("optimizer") != "rmsprop"]
    results = made_up([spec for spec in specs if spec.seed in (0, 1, 9)], law)
    (drawing,) = draw(results)
    files = save(drawing, tmp_path)
    assert len(files) == 6
    drawn = pd.read_csv(tmp_path / "stability.csv")
    assert (drawn["step"] <= 10 * drawn["first"]).all()
    assert drawn.groupby("arm")["seed"].nunique().to_dict()["adam"] == 2
    table = pd.read_csv(tmp_path / "stability_summary.csv").set_index("arm")
    assert table["stay"].to_dict() == {"adam": 2, "adamw": 2, "adamw, frozen": 2, "muon": 0, "muon, frozen": 2}
    assert table["generalized"].to_dict() == {"adam": 2, "adamw": 3, "adamw, frozen": 3, "muon": 3, "muon, frozen": 3}
    assert table["whole"]["adamw"] == 2
    assert table["dips"].to_dict() == {"adam": 0, "adamw": 0, "adamw, frozen": 0, "muon": 1, "muon, frozen": 0}
    assert table["lowest"]["muon"] == 0.4
    assert "not consistent; Janati: consistent" in drawing.verdict.answer
    assert markdown(pd.read_csv(tmp_path / "stability_summary.csv")).count("\n") == 6


def test_what_is_said_of_the_published_runs_is_in_their_table():
    published = Path("figures/published")
    table = pd.read_csv(published / "stability_summary.csv").set_index("arm")
    found = pd.read_csv(published / "stability_found.csv")
    falling = found[found["dips"] > 0].groupby("arm")["dips"]
    assert falling.sum()["muon"] == falling.count()["muon"] == 1
    assert {"adamw", "adamw, frozen", "muon, frozen"}.isdisjoint(falling.groups)
    text, own = (" ".join(Path(name).read_text().split()) for name in ("REPRODUCING.md", FILE))
    dips = table["dips"]
    assert f"a run of Adam {dips['adam']:.0f} times and one of RMSprop {dips['rmsprop']:.0f} (medians)" in text
    lowest = (table["lowest"] * 100).round().astype(int)
    assert (
        f"{dips['adam']:.0f} and {dips['rmsprop']:.0f} times a run, down to {lowest['adam']} and {lowest['rmsprop']} %"
        in own
    )
    deepest = f"{100 * table.loc['muon', 'lowest']:.1f} %"
    assert f"once, at {deepest}" in own
    assert f"dips, once, to {deepest}" in text
    adamw = found[found["arm"] == "adamw"]
    assert (adamw["settled"] == adamw["first"]).all()
    assert len(adamw) == 10
