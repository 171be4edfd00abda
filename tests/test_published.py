"""The table of claims: every row from committed tables, and what it says of made-up ones."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))
import published  # noqa: E402
from published import CLAIMS, Tables, answer, claims_table  # noqa: E402

FOLDER = ROOT / "figures" / "published"


def test_the_committed_claims_are_those_of_the_committed_tables():
    tables = Tables(FOLDER)
    assert (FOLDER / "claims.md").read_text() == claims_table(tables) + "\n"
    if (FOLDER / "answer.md").exists():
        assert (FOLDER / "answer.md").read_text() == answer(tables) + "\n"


def test_every_claim_names_a_command_of_an_experiment_and_its_scale():
    from grokking.experiment import open_experiment

    for claim in CLAIMS:
        words = claim.command.split()
        assert words[:2] == ["grokking", "sweep"]
        assert words[4] in open_experiment(str(ROOT / words[2])).studies


def test_a_claim_without_its_tables_is_not_run(tmp_path):
    rows = claims_table(Tables(tmp_path)).splitlines()[2:]
    assert len(rows) == len(CLAIMS)
    assert all("| – | not run |" in row for row in rows)


def test_a_claim_without_its_line_is_not_run_and_the_others_are(tmp_path):
    table = pd.read_csv(FOLDER / "recipes.csv")
    table[table["recipe"] == "wang2026"].to_csv(tmp_path / "recipes.csv")
    rows = [row for row in claims_table(Tables(tmp_path)).splitlines() if "experiments/recipes.py" in row]
    assert ["| – | not run |" in row for row in rows] == ["| Muon 1,750" not in row for row in rows]
    assert len(rows) > 1


def test_a_claim_that_a_figure_answers_has_the_figures_words(tmp_path):
    (tmp_path / "stability.csv").write_text("arm\n")
    (tmp_path / "stability.json").write_text(json.dumps({"ours": "4 of 10 stay", "verdict": "not consistent"}))
    (row,) = [row for row in claims_table(Tables(tmp_path)).splitlines() if "experiments/stability.py" in row]
    assert "| 4 of 10 stay | not reproduced |" in row


def test_a_line_that_is_there_twice_is_an_error_not_a_claim_that_was_not_run(tmp_path):
    pd.DataFrame({"recipe": ["wang2026"] * 2}).to_csv(tmp_path / "recipes.csv")
    with pytest.raises(ValueError, match="too many values"):
        claims_table(Tables(tmp_path))


def comparison(folder, tuned, stated, n=30):
    """Both layers' tables with these ratios (value, low, high) over all tasks, on two tasks."""
    for name, ratio in (("muon_vs_adamw", tuned), ("muon_vs_adamw_stated", stated)):
        line = dict(zip(("ratio", "ratio_low", "ratio_high"), ratio, strict=True))
        line |= {f"kept_{key}": value for key, value in line.items()}
        line |= {"n": n, "reading": "same decay a step", "step_cost": 2.2, "ratio_in_operations": ratio[0] / 2.2}
        line |= {"first_mean_epochs": 60.0, "second_mean_epochs": 40.0}
        line |= {"horizon": 2_000.0 if name == "muon_vs_adamw" else 4_000.0}
        pd.DataFrame([{**line, "task": task} for task in ("mod_add", "mod_sub", "all")]).to_csv(folder / f"{name}.csv")
        pooled = {"reading": "tuned" if name == "muon_vs_adamw" else line["reading"], "first": 50.0, "second": 100.0}
        pd.DataFrame([pooled]).to_csv(folder / f"{name}_pooled.csv")
    return Tables(folder)


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        ((1.5, 1.4, 1.6), "reproduced"),
        ((2.0, 1.8, 2.2), "not reproduced: larger"),
        ((1.0, 0.9, 1.1), "not reproduced: smaller"),
        ((1.5, None, None), "undecided"),
    ],
)
def test_a_ratio_is_reproduced_where_our_interval_holds_it(tmp_path, ratio, said):
    tables = comparison(tmp_path, ratio, ratio)
    found = published._muon("muon_vs_adamw")(tables)
    assert found.verdict == said
    assert found.ours.endswith("mean epochs with its six tasks pooled, as it has them: 50.0 / 100.0 = 0.50")


@pytest.mark.parametrize(
    ("tuned", "stated", "said"),
    [
        ((1.0, 0.9, 1.1), (3.0, 2.8, 3.2), "reproduced"),
        ((2.0, 1.9, 2.1), (3.0, 2.8, 3.2), "in part: it stays, and shrinks"),
        ((3.0, 2.8, 3.2), (3.0, 2.8, 3.2), "not reproduced"),
    ],
)
def test_tuning_takes_the_advantage_away_wholly_in_part_or_not(tmp_path, tuned, stated, said):
    assert published._wider_tuning(comparison(tmp_path, tuned, stated)).verdict == said


@pytest.mark.parametrize(
    "found",
    [published._muon("muon_vs_adamw"), published._fewer_epochs, published._wider_tuning, published._subtraction],
)
def test_of_a_bound_it_is_said_that_it_is_one_and_nothing_follows_from_it(tmp_path, found):
    tables = comparison(tmp_path, (1.83, None, None), (1.83, None, None))
    for name in ("muon_vs_adamw", "muon_vs_adamw_stated"):
        tables[name].assign(bound="≤", kept_bound="≤").to_csv(tmp_path / f"{name}.csv")
    said = found(Tables(tmp_path))
    assert said.verdict == "undecided"
    assert said.ours.count("1.83") == said.ours.count("≤ 1.83")
    assert "nan" not in said.ours


def test_tuning_is_held_against_every_reading_of_what_is_stated(tmp_path):
    tables = comparison(tmp_path, (2.0, 1.9, 2.1), (3.0, 2.8, 3.2))
    stated = tables["muon_vs_adamw_stated"]
    alike = stated.assign(reading="same decay", ratio=1.9, ratio_low=1.8, ratio_high=2.0)
    pd.concat([stated, alike]).to_csv(tmp_path / "muon_vs_adamw_stated.csv")
    found = published._wider_tuning(tables)
    assert found.verdict == "in part: it stays, and shrinks against 1 of 2 readings of what is stated"
    assert found.ours == (
        "stated 3.00 [2.80, 3.20] or 1.90 [1.80, 2.00] (within 4,000 steps), tuned 2.00 [1.90, 2.10] (within 2,000)"
    )


@pytest.mark.parametrize(
    ("low", "high", "without_decay", "said"),
    [
        (40.0, 45.0, True, "reproduced"),
        (1.2, 1.6, True, "not reproduced: sooner, but by another factor"),
        (0.5, 0.7, True, "only against Adam without weight decay"),
        (0.5, 0.7, False, "not reproduced"),
    ],
)
def test_what_is_said_of_grokfast_follows_from_its_interval(low, high, without_decay, said):
    assert published._as_soon(low, high, without_decay) == said


def test_what_is_said_of_orthograd_and_of_tuning_follows_from_their_tables(tmp_path):
    line = {"method": "⊥Grad", "n": 10, "ratio_low": 0.5}
    pd.DataFrame({"steps": [3_000]}).to_csv(tmp_path / "transforms_runs.csv")
    for generalized, low, said in (
        (2, 4.0, "not reproduced here"),
        (10, 1.2, "not reproduced here"),
        (10, 0.9, "reproduced"),
    ):
        pd.DataFrame([{**line, "generalized": generalized, "ratio_low": low}]).to_csv(tmp_path / "transforms.csv")
        found = published._orthograd(Tables(tmp_path))
        assert found.verdict == said
        assert found.ours.startswith(f"{generalized} of 10 runs within 3,000 steps")
    steps = [{"optimizer": name, "k": k, "steps": 100.0} for name in ("adamw", "muon") for k in (1, 4, 16)]
    pd.DataFrame(steps).to_csv(tmp_path / "tuning_budget.csv")
    for verdict, said in (("consistent", "reproduced"), ("not seen here", "not reproduced")):
        (tmp_path / "tuning_budget.json").write_text(json.dumps({"verdict": verdict}))
        assert published._depends(Tables(tmp_path)).verdict == said


def test_epochs_and_shares_follow_from_the_ratios(tmp_path):
    tables = comparison(tmp_path, (1.25, 1.2, 1.3), (2.0, 1.9, 2.1))
    assert published._fewer_epochs(tables).ours == "tuned 20% [17%, 23%]; stated 50% [47%, 52%]"
    assert published._fewer_epochs(tables).verdict == "not reproduced: fewer and more"
    more = comparison(tmp_path, (2.2, 2.0, 2.4), (2.0, 1.9, 2.1))
    assert published._fewer_epochs(more).verdict == "not reproduced: more"
    assert published._fewer_epochs(comparison(tmp_path, (1.43, 1.3, 1.6), (2.0, 1.9, 2.1))).verdict == "only in part"
    assert published._epochs(tables).verdict == "reproduced"


def test_the_answer_is_three_sentences_of_numbers_from_the_tables(tmp_path):
    words = answer(comparison(tmp_path, (1.25, 1.2, 1.3), (2.0, 1.9, 2.1)))
    assert words.count(". ") == 2
    assert words.startswith(
        "In steps, yes: each at the best that as many run-steps of search found, Muon is ahead on 2 of 2 tasks, AdamW on 0, and AdamW takes 1.25 [1.20, 1.30] times as many steps"
    )
    assert (
        "in a plain loop Muon's takes 1.26 times as much, and AdamW in all 0.99 [0.95, 1.03] times the operations; here, where forward and "
        "backward pass are cut short, 2.2 times as much, and AdamW 0.57 [0.55, 0.59] times "
        "(task by task, Muon is ahead on 0, AdamW on 2)" in words
    )
    assert "Untuned, at usual numbers, AdamW takes 2.00 [1.90, 2.10] times" in words


def test_the_answer_turns_with_the_intervals(tmp_path):
    words = answer(comparison(tmp_path, (0.8, 0.7, 0.9), (2.0, 1.9, 2.1)))
    assert words.startswith(
        "In steps, no: each at the best that as many run-steps of search found, Muon is ahead on 0 of 2 tasks, AdamW on 2"
    )
    assert answer(comparison(tmp_path, (1.2, 0.9, 1.6), (2.0, 1.9, 2.1))).startswith("In steps, neither is ahead")


def test_of_mup_it_is_said_how_many_of_its_runs_get_there_and_nothing_of_gaps_that_cannot_grow(tmp_path):
    line = {"optimizer": "sgd", "width": 512, "n": 8, "memorize": 1.12, "memorize_low": 1.02, "memorize_high": 1.24}
    line |= {"memorized_mup": 0, "gap_mup": 0.93, "gap_standard": 0.999}
    other = {**line, "optimizer": "muon", "memorized_mup": 8, "gap_standard": 0.99}
    late = {"optimizer": "muon", "width": 512, "n": 5, "value": 2.2, "value_low": 2.0, "value_high": 2.3}
    pd.DataFrame([line, other]).to_csv(tmp_path / "mup_transfer_best.csv")
    pd.DataFrame([{**late, "generalized_mup": 2}]).to_csv(tmp_path / "mup_transfer_grokking_best.csv")
    found = published._mup_faster(Tables(tmp_path))
    assert "to memorise SGD ≥ 1.12 (0 of 8 with muP do), Muon 1.12 [1.02, 1.24] times" in found.ours
    assert "to generalise Muon 2.20 [2.00, 2.30] (2 of 5 with muP do) times" in found.ours
    assert published._mup_overfits(Tables(tmp_path)).verdict == "undecided"
    pd.DataFrame([line, {**other, "gap_mup": 0.9, "gap_standard": 0.5}]).to_csv(tmp_path / "mup_transfer_best.csv")
    assert published._mup_overfits(Tables(tmp_path)).verdict == "reproduced"
