"""Width, batch size and embedding: equal tuning, the ratios by brute force, and what is concluded from them."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from grokking.experiment import open_experiment
from grokking.publish import PUBLISHED
from grokking.seeding import stream
from grokking.store import Results
from grokking.study import Study

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import width_batch  # noqa: E402  (experiments are found by the line above)
from width_batch import CELLS, CHOSEN, OPTIMIZERS, SEEDS, TUNING_SEEDS  # noqa: E402

PER_CELL = {
    cell: 2 * 8 * 2 * (2 if cell.startswith("perceptron") else 1) for cell in CELLS
}  # optimizers, settings, seeds


def finished(specs, steps):
    """A runs table of these specs, where a run takes `steps(row)` and is censored beyond its budget."""
    rows = []
    for spec in specs:
        row = spec.row()
        took = steps(row)
        done = took <= row["steps"]
        rows.append({**row, "steps_to_generalize": took if done else None, "steps_to_sustain": took if done else None})
        rows[-1] |= {"status": "generalized" if done else "censored", "sustained": done, "steps_per_epoch": 1.0}
    runs = pd.DataFrame(rows)
    return runs.astype({"steps_to_generalize": "Int64", "steps_to_sustain": "Int64"})


def fresh(cells, n=10):
    """The specs of n reporting seeds, at the same setting in each of these cells."""
    arms = [width_batch.grid_of(name)[3] for name in OPTIMIZERS]
    return [spec for cell in cells for spec in Study({**width_batch.BASE, **CELLS[cell]}, arms, range(n)).specs()]


def test_every_cell_has_the_same_tuning_for_both_and_reports_on_other_seeds():
    specs = open_experiment(str(ROOT / "experiments/width_batch.py")).specs("laptop")
    tuned = width_batch.named(pd.DataFrame([spec.row() for spec in specs if spec.seed >= 1000]))
    each = tuned.groupby(["cell", "optimizer.name"]).size()
    assert {(cell, name): PER_CELL[cell] // 2 for cell in CELLS for name in OPTIMIZERS} == each.to_dict()
    assert tuned.groupby(["cell", "optimizer.name", "others"]).size().eq(8 * 2).all()
    assert set(tuned["seed"]) == set(TUNING_SEEDS)
    assert set(SEEDS).isdisjoint(TUNING_SEEDS)
    assert {spec.seed for spec in specs if spec.seed < 1000} == (set(SEEDS) if CHOSEN else set())
    assert set(CHOSEN) <= {(cell, name) for cell in CELLS for name in OPTIMIZERS}
    assert {spec.setting.integer("steps") for spec in specs} == {1_000}


def test_every_panel_changes_one_thing_and_shows_every_cell():
    shown = [cell for panel in width_batch.PANELS.values() for cell in panel.values()]
    assert set(shown) == set(CELLS)
    kinds = {cell: "perceptron" if "model.name" in change else "transformer" for cell, change in CELLS.items()}
    for cell, change in CELLS.items():
        reference = CELLS[width_batch.REFERENCE[kinds[cell]]]
        both = {name: (change.get(name), reference.get(name)) for name in {*change, *reference}}
        assert sum(a != b for a, b in both.values()) == (cell not in width_batch.REFERENCE.values())


def test_the_chosen_settings_are_those_of_the_fewest_steps_to_stay():
    specs = [spec for study in width_batch.TUNING for spec in study.specs()]
    generator = stream(0, "made-up tuning")
    took = {spec.run_id: int(generator.integers(50, 1_500)) for spec in specs}
    runs = finished(specs, lambda row: took[row["run_id"]])
    found = width_batch.chosen(runs)
    assert list(found) == [(cell, name) for cell in CELLS for name in OPTIMIZERS]
    runs = width_batch.named(runs)
    for (cell, name), setting in found.items():
        own = runs[(runs["cell"] == cell) & (runs["optimizer.name"] == name)]
        keys = [own["optimizer.lr"], own["optimizer.weight_decay"], own["others"]]
        means = own["steps_to_sustain"].fillna(1_000).astype(float).groupby(keys).mean()
        assert means[setting] == means.min()


@pytest.mark.skipif(not (PUBLISHED / "width_batch_tuning.csv").exists(), reason="the tuning is not published yet")
def test_the_published_tuning_chose_what_was_run():
    tuning = pd.read_csv(PUBLISHED / "width_batch_tuning_runs.csv")
    assert width_batch.chosen(tuning) == CHOSEN
    assert tuning["seed"].min() >= 1000
    assert pd.read_csv(PUBLISHED / "width_batch_runs.csv")["seed"].max() < 1000


def test_ratios_changes_and_holm_by_brute_force():
    cells = ["width 64, batch 512", "width 16", "batch 32"]
    generator = stream(0, "made-up ratios")
    noise = {
        key: generator.normal(0, 0.3) for key in [(c, n, s) for c in range(3) for n in OPTIMIZERS for s in range(10)]
    }

    def steps(row):
        at = 1 if row["model.width"] == 16 else 2 if row["batch_size"] == 32 else 0
        base = {"adamw": (300, 90, 600), "muon": (100, 110, 200)}[row["optimizer.name"]][at]
        return round(base * np.exp(noise[at, row["optimizer.name"], row["seed"]]))

    runs = width_batch.named(finished(fresh(cells), steps))
    table = width_batch.ratios(runs).set_index("cell")
    parts, logs, p = {}, {}, {}
    for cell in cells:
        own = runs[runs["cell"] == cell].assign(took=runs["steps_to_generalize"].fillna(1_000).astype(float))
        a, b = (own[own["optimizer.name"] == name].sort_values("seed")["took"].to_numpy() for name in OPTIMIZERS)
        parts[cell], logs[cell] = a / a.mean() - b / b.mean(), np.log(a.mean() / b.mean())
        half = stats.t.ppf(0.975, 9) * parts[cell].std(ddof=1) / np.sqrt(10)
        expected = np.exp([logs[cell], logs[cell] - half, logs[cell] + half])
        assert table.loc[cell, ["ratio", "ratio_low", "ratio_high"]].astype(float).to_numpy() == pytest.approx(expected)
        signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1)
        flipped = np.abs((np.log(a) - np.log(b)) @ signs)
        p[cell] = np.mean(flipped >= abs((np.log(a) - np.log(b)).sum()) - 1e-9)
        assert table.loc[cell, "p"] == pytest.approx(p[cell])
    for cell in cells[1:]:
        z = parts[cell] - parts[cells[0]]
        half = stats.t.ppf(0.975, 9) * z.std(ddof=1) / np.sqrt(10)
        middle = logs[cell] - logs[cells[0]]
        expected = np.exp([middle, middle - half, middle + half])
        assert table.loc[cell, ["change", "change_low", "change_high"]].astype(float).to_numpy() == pytest.approx(
            expected
        )
        pairs = runs.pivot(index="seed", columns=["cell", "optimizer.name"], values="steps_to_generalize").fillna(1_000)
        log = {key: np.log(pairs[key].to_numpy(float)) for key in pairs}
        d = log[cell, "adamw"] - log[cell, "muon"] - log[cells[0], "adamw"] + log[cells[0], "muon"]
        assert table.loc[cell, "change_p"] == pytest.approx(np.mean(np.abs(d @ signs) >= abs(d.sum()) - 1e-9))
    ordered = sorted(cells, key=p.get)
    running = 0.0
    for rank, cell in enumerate(ordered):
        running = max(running, min(1.0, (3 - rank) * p[cell]))
        assert table.loc[cell, "p_holm"] == pytest.approx(running)


def test_numbers_at_an_edge_of_their_grid_are_marked():
    for at, edge in ((0, True), (2, False), (4, False), (7, True)):
        arms = [width_batch.grid_of(name)[at] for name in OPTIMIZERS]
        specs = Study({**width_batch.BASE, **CELLS["width 16"]}, arms, range(2)).specs()
        table = width_batch.ratios(width_batch.named(finished(specs, lambda row: 100 + row["seed"])))
        assert [bool(table[f"{name}_at_edge"][0]) for name in OPTIMIZERS] == [edge, edge]


def test_where_one_never_generalises_there_is_a_bound_and_where_neither_does_nothing():
    cells = ["width 16", "width 32", "width 64, batch 512"]
    never = {16: ("adamw",), 32: ("muon",), 64: ("adamw", "muon")}
    runs = finished(
        fresh(cells), lambda row: 2_000 if row["optimizer.name"] in never[row["model.width"]] else 100 + row["seed"]
    )
    table = width_batch.ratios(width_batch.named(runs)).set_index("cell")
    assert table.loc[cells, "bound"].tolist() == ["≥", "≤", "?"]
    assert table["ratio_low"].isna().all()
    assert table.loc["width 16", "ratio"] == pytest.approx(1_000 / 104.5)
    assert table.loc["width 32", "ratio"] == pytest.approx(104.5 / 1_000)
    (drawing,) = width_batch.draw(Results(runs, pd.DataFrame(), ("a machine",), 0, 1.0, 0.1))
    assert drawing.verdict.answer == "undecided"
    assert "| ≥ 9.57 |" in drawing.markdown(drawing.tables[""])
    assert "| ≤ 0.10 |" in drawing.markdown(drawing.tables[""])


@pytest.mark.parametrize(
    ("odd", "spread", "answer"),
    [(3.0, 0.0, "not consistent"), (1.5, 0.0, "in part"), (0.8, 0.0, "in part"), (1.0, 0.2, "undecided")],
)
def test_the_verdict_follows_from_the_cells(odd, spread, answer):
    """Muon three times as soon everywhere, but in one cell, where it is `odd` times."""
    generator = stream(0, "made-up verdicts")

    def steps(row):
        over = odd if row["batch_size"] == 32 else 3.0
        wobble = np.exp(generator.normal(0, 0.01 + (spread if row["batch_size"] == 32 else 0.0)))
        seed = 100 + row["seed"]
        return seed if row["optimizer.name"] == "muon" else round(seed * over * wobble)

    runs = finished(fresh(list(CELLS)), steps)
    verdict = width_batch._verdict(width_batch.ratios(width_batch.named(runs)))
    assert verdict.answer == answer


def test_the_claim_holds_where_both_a_batch_size_and_a_width_turn_the_ranking():
    def steps(row):
        turned = row["batch_size"] == 32 or row["model.width"] == 16
        return 100 + row["seed"] if (row["optimizer.name"] == "muon") != turned else 300 + row["seed"]

    runs = finished(fresh(list(CELLS)), steps)
    assert width_batch._verdict(width_batch.ratios(width_batch.named(runs))).answer == "consistent"


@pytest.mark.skipif(not (PUBLISHED / "width_batch.csv").exists(), reason="it is not published yet")
def test_what_is_said_of_the_published_runs_is_in_their_table():
    table = pd.read_csv(PUBLISHED / "width_batch.csv").set_index("cell")
    said = " ".join((ROOT / "experiments/width_batch.py").read_text().split())
    batches, widths = (table.loc[list(width_batch.PANELS[panel].values())] for panel in list(width_batch.PANELS)[1::-1])
    assert (batches["ratio_low"] > 1).all()
    assert f"{batches['ratio'].iloc[0]:.2f} times at 32 and {batches['ratio'].iloc[2]:.2f} at 512" in said
    assert f"{widths['ratio'][1:].min():.2f} to {widths['ratio'].max():.2f} times" in said
    assert f"At width 16 AdamW is ahead ({widths['ratio'].iloc[0]:.2f})" in said
    perceptrons = table[table.index.str.startswith("perceptron")]
    assert f"{30 - perceptrons['muon_generalized'].sum():.0f} of Muon's 30 runs do not generalise" in said
    assert (perceptrons["adamw_generalized"] == 10).all()
    means = perceptrons["adamw_mean_steps"]
    assert f"all of AdamW's do, after {means.min():.0f} to {means.max():.0f} steps" in said
    tuning = pd.read_csv(PUBLISHED / "width_batch_tuning.csv")
    assert tuning.loc[tuning["cell"] == "width 16", "sustained"].eq(0).all()
