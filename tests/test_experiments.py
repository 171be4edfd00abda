"""The experiment files: their plans, their figures, and the numbers that documents quote from them."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grokking.cli import command_line
from grokking.errors import BadInput
from grokking.experiment import open_experiment
from grokking.plotting import Drawing, save
from grokking.publish import DOCUMENTS, PUBLISHED, as_described, effort, filled, publish_drawing, spreads, verdicts
from grokking.seeding import stream
from grokking.store import Results
from grokking.study import total_steps

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))
FILES = [
    f"experiments/{name}.py"
    for name in (
        *("delayed_generalization", "optimizers", "conditions", "precision", "sensitivity"),
        *("transforms", "ablation_muon", "betas", "recipes", "tuning_budget"),
        *("critical_fraction", "width_batch", "stability", "power2022", "muon_vs_adamw"),
        *("mup_transfer", "speedrun", "lipschitz_frontier", "robustness", "activation_growth", "lipschitz_text"),
    )
]
REPRODUCED = [*FILES[:2], "experiments/muon_vs_adamw.py"]

pytestmark = [pytest.mark.parses, pytest.mark.usefixtures("in_the_root")]


def declared(path, scale):
    """What an experiment says that a scale takes at most."""
    return open_experiment(path).draw.__globals__["RUN_STEPS"][scale]


@pytest.mark.parametrize("path", FILES)
def test_every_experiment_declares_the_run_steps_of_each_scale(path):
    experiment = open_experiment(path)
    for scale in experiment.studies:
        assert 0.9 * declared(path, scale) <= total_steps(experiment.specs(scale)) <= declared(path, scale), scale


def listed(variable):
    """The words of a variable of the Makefile."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    return re.search(rf"^{variable} :=(.*)$", text, re.MULTILINE)[1].split()


def test_what_make_reproduces_stays_within_its_limits():
    # All budgets, though most runs end long before theirs: within 20 minutes on two cores after the install (README).
    assert listed("EXPERIMENTS") == REPRODUCED
    assert sum(declared(path, "smoke") for path in REPRODUCED) <= 50_000  # of a quarter of the size
    assert sum(declared(path, "laptop") for path in REPRODUCED) <= 210_000
    # Of all experiments, scripts apart. Most runs end long before their budgets: README says how long what is published took.
    assert sum(declared(f"experiments/{name}.py", scale) for name, _, scale in map(_parts, listed("ALL"))) <= 13_500_000


def _parts(word):
    return word.partition(":")


def test_make_reproduce_all_runs_every_experiment():
    files = {path.stem for path in (ROOT / "experiments").glob("*.py") if "__main__" in path.read_text()}
    files |= {Path(path).stem for path in FILES}
    assert {name for name, _, _ in map(_parts, listed("ALL"))} | set(listed("SCRIPTS")) == files


def test_tuning_and_reporting_seeds_are_disjoint():
    specs = open_experiment("experiments/optimizers.py").specs("paper")
    tuned = [spec for spec in specs if spec.seed >= 1000]
    reported = [spec for spec in specs if spec.seed < 1000]
    assert len(tuned) == 90
    assert len(reported) == 75
    runs = pd.read_csv(PUBLISHED / "optimizers_runs.csv")
    assert runs["seed"].max() < 1000
    assert pd.read_csv(PUBLISHED / "optimizers_grid_runs.csv")["seed"].min() >= 1000


def test_every_arm_of_the_comparison_has_the_same_seeds_and_budget():
    specs = open_experiment("experiments/optimizers.py").specs("laptop")
    seeds = {}
    for spec in specs:
        seeds.setdefault((spec.setting.name("optimizer"), spec.hyper), []).append(spec.seed)
    assert len(seeds) == 10
    assert {tuple(found) for found in seeds.values()} == {(0, 1, 2, 3, 4), (0, 1, 2)}  # the latter without decay
    assert {spec.setting.integer("steps") for spec in specs} == {2_000}


def test_the_chosen_settings_are_the_best_of_the_published_grid():
    open_experiment("experiments/optimizers.py")
    from five_optimizers import CHOSEN

    grid = pd.read_csv(PUBLISHED / "optimizers_grid.csv")
    best = {}
    for row in grid.sort_values(["mean_steps_to_sustain", "mean_steps"], kind="stable").to_dict("records"):
        best.setdefault(row["optimizer.name"], (row["optimizer.lr"], row["optimizer.weight_decay"]))
    assert best == CHOSEN


def test_published_numbers_follow_from_the_published_runs():
    runs = pd.read_csv(PUBLISHED / "optimizers_runs.csv")
    table = pd.read_csv(PUBLISHED / "optimizers.csv").set_index("arm")
    for (name, decayed), group in runs.groupby(["optimizer.name", runs["optimizer.weight_decay"] > 0]):
        row = table.loc[name if decayed else f"{name}, no decay"]
        assert row["n"] == len(group)
        assert row["generalized"] == (group["status"] == "generalized").sum()
        assert row["mean_steps"] == pytest.approx(group["steps_to_generalize"].fillna(group["steps"]).mean())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_numbers_in_the_documents_are_those_of_the_published_tables(document):
    text = (ROOT / document).read_text()
    assert filled(text, PUBLISHED) == text
    assert (PUBLISHED / "verdicts.md").read_text() == verdicts() + "\n"
    assert (PUBLISHED / "effort.md").read_text() == effort() + "\n"
    assert (PUBLISHED / "spreads.md").read_text() == spreads() + "\n"
    for path in FILES:
        name = Path(path).stem
        if not (PUBLISHED / f"{name}.md").exists():
            continue  # not published yet
        summary = PUBLISHED / f"{name}_summary.csv"
        if not (PUBLISHED / f"{name}.csv").exists():
            continue  # its sweep has not been run yet
        table = pd.read_csv(summary if summary.exists() else PUBLISHED / f"{name}.csv")
        assert (PUBLISHED / f"{name}.md").read_text() == words_of(path)(table) + "\n"


LAYERS = ("stated", "thresholds", "softmaxes", "optimizers", "models")


@pytest.mark.parametrize("layer", LAYERS)
def test_the_words_of_each_layer_of_muon_against_adamw_are_those_of_its_table(layer):
    table = PUBLISHED / f"muon_vs_adamw_{layer}.csv"
    if not table.exists():
        pytest.skip("its sweep has not been run yet")
    import muon_vs_adamw_figure as figure

    words = (figure.thresholds_markdown if layer == "thresholds" else figure.markdown)(pd.read_csv(table))
    assert table.with_suffix(".md").read_text() == words + "\n"
    assert words in (ROOT / "REPRODUCING.md").read_text()


def words_of(path):
    """What makes an experiment's table a text: its own function, or the one that it takes from another file."""
    module = open_experiment(path).draw.__globals__
    if path == "experiments/muon_vs_adamw.py":
        import muon_vs_adamw_figure

        return muon_vs_adamw_figure.markdown
    return module["markdown"] if "markdown" in module else module["comparison_table"]


def test_what_the_readme_says_of_the_heat_maps_is_in_their_table():
    text = " ".join((ROOT / "README.md").read_text().split())
    table = pd.read_csv(PUBLISHED / "sensitivity.csv")
    adamw = table[table["optimizer.name"] == "adamw"]
    per_step = (adamw["optimizer.lr"] * adamw["optimizer.weight_decay"]).round(6)
    band, slow = per_step.between(0.003, 0.01), adamw["optimizer.lr"] <= 0.003

    def runs(pick, column):
        return int(adamw.loc[pick, column].sum()), int(adamw.loc[pick, "n"].sum())

    assert runs(band, "generalized") == (24, 24)
    assert "is between 0.003 and 0.01, all 24 runs generalise" in text
    assert (runs(per_step <= 0.001, "generalized"), runs(per_step >= 0.09, "generalized")) == ((0, 18), (0, 9))
    assert "at 0.001 and less none of 18, at 0.09 and more none of 9" in text
    assert (runs(band & slow, "sustained"), runs(band & ~slow, "sustained")) == ((13, 15), (3, 9))
    assert "13 of 15 runs in that band stay, with larger rates 3 of 9" in text
    kept = table[table["sustained"] == table["n"]].groupby("optimizer.name").size().sort_values(ascending=False)
    assert (list(kept.index[:2]), list(kept[:3])) == (["muon", "soap"], [12, 9, 5])
    assert "(12 and 9 of 20; the next 5)" in text
    betas = pd.read_csv(PUBLISHED / "betas.csv").set_index("arm")["ratio"]
    names = {"beta1": ("0.5", "0.8", "0.95"), "beta2": ("0.9", "0.95", "0.99", "0.999")}
    names["eps"] = ("1e-12", "1e-10", "1e-06", "0.0001")
    calm = betas[[f"{name} = {value}" for name, values in names.items() for value in values]]
    assert f"it takes {calm.min():.2f} to {calm.max():.2f} times its steps" in text
    over = pd.read_csv(PUBLISHED / "transforms.csv").set_index("method")
    grokfast, start = (over.loc[name, "ratio"] for name in ("Grokfast", "decay to the start"))
    assert f"Grokfast takes {grokfast:.2f} times its steps and decay towards the start {start:.2f}" in text
    assert f"⊥Grad generalises in {over.loc['⊥Grad', 'generalized']} of {over.loc['⊥Grad', 'n']} runs" in text
    parts = pd.read_csv(PUBLISHED / "ablation_muon.csv").set_index(["part", "variant"])["ratio"]
    said = (("momentum", "0.8, Nesterov"), ("matrices", "hidden, head"))
    assert f"momentum 0.8 takes {parts[said[0]]:.2f} of its steps, Muon on the head, too" in text
    assert f"(`optimizer.matrices=hidden+head`) {parts[said[1]]:.2f};" in text
    direct = parts["orthogonalization", "none, over its spectral norm"]
    assert f"(without it {direct:.2f}), the scale hardly matters" in text
    assert parts["scale"].between(0.88, 1.04).all()
    speed = pd.read_csv(PUBLISHED / "throughput.csv")
    own = speed[(speed["form"] == "compiled") & (speed["cores"] == 1) & (speed["depth"] == 1) & (speed["batch"] == 512)]
    own = own[own["precision"] == "fp32"].groupby("optimizer")["run_steps_per_second"].first()
    assert f"a step of Muon takes {own['adamw'] / own['muon']:.1f} times as long as one of AdamW" in text


def test_what_is_said_of_the_gpu_is_in_its_table():
    from throughput_figure import markdown

    speed = pd.read_csv(PUBLISHED / "throughput_cuda.csv")
    assert (PUBLISHED / "throughput_cuda.md").read_text() == markdown(speed) + "\n"
    rate = speed.set_index(["optimizer", "form", "cohort"])["run_steps_per_second"]
    wide, muon = (rate[name, "cohort", 256] for name in ("adamw", "muon"))
    one, plain = rate["adamw", "cohort", 1], rate["adamw", "plain", 1]
    readme = " ".join((ROOT / "README.md").read_text().split())
    said = f"256 runs side by side make {wide:,.0f} run-steps a second (Muon: {muon:,.0f}), one run {one:.0f}, the plain loop {plain:.0f}"
    assert said in readme
    ratio = speed["ratio"][speed["cohort"] == 256].iloc[0]
    text = " ".join((ROOT / "REPRODUCING.md").read_text().split())
    assert f"256 runs side by side make {ratio:.0f} times the run-steps of the plain loop" in text
    shares = speed.groupby("optimizer")["share_of_product"].max()
    words = f"reaches {shares['adamw']:.0%} of the measured matmul rate with AdamW and {shares['muon']:.0%} with Muon"
    assert words.replace("%", " %") in text


def test_what_is_said_of_searches_is_in_their_tables():
    import search_strategies
    import tuning_budget

    text = " ".join((ROOT / "REPRODUCING.md").read_text().split())
    table = pd.read_csv(PUBLISHED / "search_strategies_summary.csv")
    assert (PUBLISHED / "search_strategies.md").read_text() == search_strategies.markdown(table) + "\n"
    own = table.set_index(["problem", "strategy"])
    for strategy, said in (("TPE", "TPE takes {:.2f} of random"), ("TPE, rung", "with a rung {:.2f}.")):
        assert said.format(own.loc[("stand-in", strategy), "fresh_ratio"]) in text
    real = own.loc[("mod_add, p = 31", "TPE, rung")]
    assert f"TPE with a rung finds {real['tuning_ratio']:.2f} of what random search finds" in text
    assert f"of the {real['on_tuning_seeds']:.0f} steps on its own two seeds {real['steps']:.0f} are left" in text
    assert (
        f"{real['fresh_ratio']:.2f} [{real['fresh_ratio_low']:.2f}, {real['fresh_ratio_high']:.2f}] of random" in text
    )
    trials = pd.read_csv(PUBLISHED / "search_strategies.csv")
    halves = search_strategies.summary(trials, 20_000).set_index(["problem", "strategy"])["on_tuning_seeds"]
    whole = own["on_tuning_seeds"]
    assert halves["mod_add, p = 31", "TPE, rung"] < whole["mod_add, p = 31", "random"]
    assert table["n"].eq(20).all()
    shares = []
    for _, search in trials.groupby(["problem", "strategy"]):
        best = [search_strategies._best_value(own, 40_000) for _, own in search.groupby("repeat")]
        shares.append(100 * search_strategies.covered(np.array(best)))
    said = f"covers {min(shares):.0f}–{max(shares):.0f} % where such searches are drawn again"
    assert said in " ".join(re.findall(r">([^<>]*)</text>", (PUBLISHED / "search_strategies.svg").read_text()))

    found = pd.read_csv(PUBLISHED / "tuning_budget.csv")
    orders = [tuning_budget.ranking(found, k) for k in (1, 2, 4, 8, 16)]
    assert [order[0] for order in orders] == ["adamw"] * 3 + ["muon"] * 2
    assert all(order[2] == "muon" for order in orders[:3])
    assert all(order[3:] == ["rmsprop", "sgd"] for order in orders)
    best = found[found["k"] == 16].set_index("optimizer")
    assert f"at 16 with {best['steps']['muon']:.0f} steps against AdamW's {best['steps']['adamw']:.0f}" in text
    shares = best["works"]
    assert (
        f"({shares['muon']:.0%} of its configurations work, of AdamW's {shares['adamw']:.0%}".replace("%", " %") in text
    )
    runs = pd.read_csv(PUBLISHED / "tuning_budget_runs.csv")
    muon = runs[runs["optimizer.name"] == "muon"]
    assert (muon["status"] == "diverged").mean() == 1 / 8
    assert runs["seed"].min() >= 1000


def test_what_drawing_searches_again_says_of_an_interval_is_what_scipy_says():
    """Of two values, of which the rarer is drawn a binomial number of times: where it is not at all, the mean is missed."""
    from scipy import stats
    from search_strategies import HORIZON, covered

    from grokking.survival import restricted_mean

    values, inside = np.repeat([100.0, 400.0], [19, 1]), 0.0
    for many in range(21):
        drawn = np.repeat([100.0, 400.0], [20 - many, many])
        found = restricted_mean(drawn, np.ones(20, bool), HORIZON)
        inside += stats.binom.pmf(many, 20, 1 / 20) * (found.low <= values.mean() <= found.high)
    assert covered(values) == pytest.approx(inside, abs=0.015)
    assert inside < 0.93


def test_bands_of_best_of_k_cover_about_nine_tenths_up_to_a_third_of_the_configurations():
    """By simulation, with a fifth of the configurations working and the rest tied at the budget."""
    from tuning_budget import Found

    generator = stream(0, "coverage")

    def searched():
        level = np.where(generator.random(48) < 0.2, 100 * 10 ** generator.random(48), 5000.0)
        return Found(np.minimum(1000.0, level[:, None] * np.exp(generator.normal(0, 0.15, (48, 4)))), 1.0)

    truth = np.mean([searched().best() for _ in range(2000)], axis=0)
    inside = np.zeros(48)
    for _ in range(100):
        own = searched()
        low, high = np.percentile([own.again(generator).best() for _ in range(100)], [2.5, 97.5], axis=0)
        inside += (low <= truth) & (truth <= high)
    assert (inside[:16] >= 84).all()
    assert (inside[:16] <= 98).all()
    assert inside[47] < 80


def test_the_cells_that_were_run_again_are_the_framed_ones():
    open_experiment("experiments/sensitivity.py")
    from sensitivity import CHOSEN

    table = pd.read_csv(PUBLISHED / "sensitivity.csv")
    best = table[table["best"]].set_index("optimizer.name")[["optimizer.lr", "optimizer.weight_decay"]]
    assert {name: tuple(cell) for name, cell in best.iterrows()} == CHOSEN
    assert pd.read_csv(PUBLISHED / "sensitivity_runs.csv")["seed"].min() >= 1000
    assert pd.read_csv(PUBLISHED / "sensitivity_best_runs.csv")["seed"].max() < 1000


def test_the_transforms_that_were_run_again_are_the_best_of_their_tuning():
    open_experiment("experiments/transforms.py")
    from transforms import CHOSEN, NUMBERS

    tuning = pd.read_csv(PUBLISHED / "transforms_tuning.csv")
    best = tuning[tuning["best"]].set_index("method")
    assert set(best.index) == set(CHOSEN)
    for method, own in CHOSEN.items():
        expected = [own.get(name) for name in NUMBERS]
        assert [None if pd.isna(value) else value for value in best.loc[method, list(NUMBERS)]] == expected
    assert tuning.groupby("method").size().tolist() == [20] * 4
    assert pd.read_csv(PUBLISHED / "transforms_tuning_runs.csv")["seed"].min() >= 1000
    assert pd.read_csv(PUBLISHED / "transforms_runs.csv")["seed"].max() < 1000


def test_the_rates_of_muons_parts_are_those_that_tuning_chose():
    open_experiment("experiments/ablation_muon.py")
    from ablation_muon import CHOSEN_RATES

    tuning = pd.read_csv(PUBLISHED / "ablation_muon_rates.csv")
    ranked = tuning.sort_values(["mean_steps_to_sustain", "mean_steps"], kind="stable")
    best = ranked.groupby(["part", "variant"])["lr"].first()
    assert best.to_dict() == CHOSEN_RATES
    assert pd.read_csv(PUBLISHED / "ablation_muon_rates_runs.csv")["seed"].min() >= 1000
    assert pd.read_csv(PUBLISHED / "ablation_muon_runs.csv")["seed"].max() < 1000


def test_published_runs_belong_to_the_studies():
    for path in sorted(PUBLISHED.glob("*.json")):
        facts = json.loads(path.read_text())
        if not facts["scale"]:
            continue  # of a script, whose own test says which runs they are
        known = {spec.run_id for spec in open_experiment(facts["experiment"]).specs(facts["scale"])}
        assert set(pd.read_csv(PUBLISHED / f"{facts['figure']}_runs.csv")["run_id"]) <= known


EXPERIMENT = '''
"""A tiny experiment."""
from matplotlib.figure import Figure
from grokking.plotting import Drawing
from grokking.study import Study

STUDIES = {"smoke": [Study({"task.p": 5, "model.width": 16, "steps": 20}, [{}], range(2))]}

def draw(results):
    return [Drawing("tiny", Figure(), {"": results.curves, "runs": results.runs}, 2)]
'''


def test_sweep_then_draw_twice_gives_the_same_csv_bytes(tmp_path, capsys):
    path = tmp_path / "tiny_experiment.py"
    path.write_text(EXPERIMENT)
    places = ["--out", str(tmp_path / "results")]
    for folder in ("a", "b"):
        assert command_line(["sweep", str(path), "--scale", "smoke", "--workers", "1", *places]) == 0
        assert command_line(["draw", str(path), "--scale", "smoke", "--figures", str(tmp_path / folder), *places]) == 0
    assert "0 of 2 runs to train" in capsys.readouterr().err
    for name in ("tiny.csv", "tiny_runs.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"tiny.png", "tiny.svg", "tiny.csv", "tiny_runs.csv"}
    assert command_line(["status", str(path), "--scale", "smoke", *places]) == 0
    said = capsys.readouterr().out
    assert re.search(r"2 of 2 runs stored \(0 generalized, 2 censored, 0 diverged\); \d+\.\d core-minutes, ", said)
    assert 0 < int(said.split("core-minutes, ")[1].split("%")[0]) < 100


def test_experiments_that_declare_it_are_compiled_and_others_beside_them_are_not(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "grokking.commands.training.train",
        lambda specs, where, imports, declared: calls.append((declared, len(specs))) or 0,
    )
    compiled, plain = tmp_path / "compiled.py", tmp_path / "plain.py"
    compiled.write_text(EXPERIMENT.replace("range(2)", "range(3)") + '\nCOMPILE = ("smoke",)\n')
    plain.write_text(EXPERIMENT)
    command_line(["sweep", str(compiled), str(plain), "--scale", "smoke"])
    command_line(["sweep", str(plain), "--scale", "smoke"])
    assert calls == [(True, 3), (False, 2), (False, 2)]
    odd = tmp_path / "odd.py"
    odd.write_text(EXPERIMENT + '\nCOMPILE = ("laptop",)\n')
    with pytest.raises(BadInput, match="has no scale 'laptop', which its COMPILE names"):
        open_experiment(str(odd))
    odder = tmp_path / "odder.py"
    odder.write_text(EXPERIMENT + '\nCOMPILE = "smoke"\n')
    with pytest.raises(BadInput, match="has COMPILE = 'smoke'; allowed: a tuple of its scales"):
        open_experiment(str(odder))


def test_adopted_runs_are_not_trained_again_and_are_drawn(tmp_path, capsys):
    path = tmp_path / "tiny_experiment.py"
    path.write_text(EXPERIMENT)
    command_line(["sweep", str(path), "--scale", "smoke", "--workers", "1", "--out", str(tmp_path / "first")])
    arguments = [
        "draw",
        str(path),
        "--scale",
        "smoke",
        "--figures",
        str(tmp_path / "p"),
        "--out",
        str(tmp_path / "first"),
    ]
    command_line(arguments)
    (tmp_path / "p" / "tiny.json").write_text(json.dumps({"machine": "elsewhere", "core_minutes": 0}))
    adopt = ["--out", str(tmp_path / "second"), "--adopt", str(tmp_path / "p")]
    capsys.readouterr()
    command_line(["sweep", str(path), "--scale", "smoke", *adopt])
    said = capsys.readouterr().err
    assert f"2 of 2 runs are adopted from {tmp_path / 'p'}" in said
    assert "0 of 0 runs to train" in said
    command_line(["draw", str(path), "--scale", "smoke", "--figures", str(tmp_path / "q"), *adopt])
    assert (tmp_path / "q" / "tiny.csv").read_bytes() == (tmp_path / "p" / "tiny.csv").read_bytes()
    for name, content in (("tiny.json", "[]"), ("tiny.csv", ""), ("tiny_runs.csv", "a,b\n1,2\n")):
        (tmp_path / "p" / name).write_text(content)
        with pytest.raises(BadInput, match=f"{name} is damaged; copy the published files together"):
            command_line(["sweep", str(path), "--scale", "smoke", *adopt])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty' holds no published runs"):
        command_line(["sweep", str(path), "--scale", "smoke", "--adopt", str(tmp_path / "empty")])


def test_a_picture_that_needs_missing_runs_says_so_and_other_errors_stay_errors(tmp_path):
    path = tmp_path / "tiny_experiment.py"
    both = EXPERIMENT[: EXPERIMENT.index("def draw")] + "def draw(results):\n    results.runs.iloc[1]\n    return []\n"
    places = ["--scale", "smoke", "--out", str(tmp_path / "results")]
    path.write_text(both.replace("range(2)", "range(1)"))
    command_line(["sweep", str(path), "--workers", "1", *places])
    with pytest.raises(IndexError):
        command_line(["draw", str(path), "--figures", str(tmp_path / "p"), *places])
    path = tmp_path / "with_another_seed.py"
    path.write_text(both)
    with pytest.raises(
        BadInput, match=r"cannot be drawn yet, as runs are missing \(IndexError: .*\); sweep the other 1 first"
    ):
        command_line(["draw", str(path), "--figures", str(tmp_path / "p"), *places])


def test_publishing_refuses_to_replace_a_larger_n(tmp_path):
    from matplotlib.figure import Figure

    runs = pd.DataFrame({"run_id": ["a"], "steps_trained": [10]})
    results = Results(runs, pd.DataFrame(), ("somewhere",), 0, 1.0, 0.1)
    publish_drawing(Drawing("x", Figure(), {"": runs, "runs": runs}, 10), results, "paper", "x.py", tmp_path)
    with pytest.raises(BadInput, match="n = 10"):
        publish_drawing(Drawing("x", Figure(), {"": runs, "runs": runs}, 5), results, "laptop", "x.py", tmp_path)
    assert json.loads((tmp_path / "x.json").read_text())["n"] == 10


def test_a_figure_of_some_of_the_runs_takes_its_share_of_the_minutes(tmp_path):
    from matplotlib.figure import Figure

    runs = pd.DataFrame({"run_id": ["a", "b"], "steps_trained": [100, 300]})
    results = Results(runs, pd.DataFrame(), ("somewhere",), 0, 60.0 * 80, 0.1)
    publish_drawing(Drawing("x", Figure(), {"": runs, "runs": runs[:1]}, 1), results, "paper", "x.py", tmp_path)
    facts = json.loads((tmp_path / "x.json").read_text())
    assert (facts["runs"], facts["run_steps"], facts["core_minutes"]) == (1, 100, 20)


def test_drawing_adopted_runs_again_keeps_the_share_that_their_store_knew(tmp_path):
    from matplotlib.figure import Figure

    def publish(runs, share):
        results = Results(runs, pd.DataFrame(), ("somewhere",), 0, 1.0, share)
        publish_drawing(Drawing("x", Figure(), {"": runs, "runs": runs}, 1), results, "paper", "x.py", tmp_path)
        return json.loads((tmp_path / "x.json").read_text())["evaluation_share"]

    runs = pd.DataFrame({"run_id": ["a", "b"], "steps_trained": [100, 300]})
    assert publish(runs[:1], 0.2) == 0.2
    assert publish(runs[:1], float("nan")) == 0.2
    assert publish(runs, float("nan")) is None  # other runs


@pytest.mark.parametrize("other", ["another", "two"])  # before and after
def test_spreads_are_those_of_whole_settings_each_counted_once(tmp_path, other):
    """By hand: a setting of 5 and, in another table, 6 seeds; one of 5; one that censors; one of 4 seeds."""

    def runs(rate, spread, seeds, censored=False):
        steps = [round(1000 * np.exp(spread * at)) for at in range(seeds)]
        table = pd.DataFrame({"optimizer.lr": rate, "seed": range(seeds), "steps_to_generalize": steps, "steps": 9000})
        status = ["censored" if censored and not at else "generalized" for at in range(seeds)]
        return table.assign(run_id=[f"{rate}-{at}" for at in range(seeds)], status=status)

    one = [runs(0.1, 0.1, 5), runs(0.3, 0.3, 5), runs(0.5, 0.5, 5, censored=True), runs(0.7, 0.7, 4)]
    pd.concat(one).to_csv(tmp_path / "one_runs.csv", index=False)
    runs(0.1, 0.1, 6).to_csv(tmp_path / f"{other}_runs.csv", index=False)
    six, five = 0.1 * np.std(range(6), ddof=1), 0.3 * np.std(range(5), ddof=1)
    text = spreads(tmp_path)
    assert f"is {six:.2f} to {five:.2f} in what is published" in text
    assert f"of the 2 settings {six + (five - six) / 4:.2f} to {five - (five - six) / 4:.2f} (" in text


def test_a_figure_leaves_the_same_svg_twice(tmp_path):
    from matplotlib.figure import Figure

    for folder in ("a", "b"):
        figure = Figure()
        figure.subplots().plot([1, 2], [3, 4])
        save(Drawing("x", figure, {"": pd.DataFrame({"a": [1.5]})}, 1), tmp_path / folder)
    assert (tmp_path / "a" / "x.svg").read_bytes() == (tmp_path / "b" / "x.svg").read_bytes()


def reached(*steps):
    return pd.Series([float("nan") if step is None else step for step in steps], dtype=float)


@pytest.mark.parametrize(
    ("steps", "budget", "within", "said"),
    [
        ((1600, 1700), 5000, (1544, 1956), "as published"),
        ((1600, None, 1700), 5000, (1544, 1956), "2 of 3 as published"),
        ((1000, 3000), 5000, (1544, 1956), "on both sides"),
        ((700, 772), 5000, (1544, 1956), "sooner, by 2.0×"),
        ((3912, 5000), 5000, (1544, 1956), "later, by 2.0×"),
        ((None, None), 1000, (1544, 1956), "consistent so far"),
        ((None, None), 1700, (1544, 1956), "undecided"),
        ((None, None), 2000, (1544, 1956), "not reached here"),
        ((None,), 1000, (1000, float("inf")), "as published"),
        ((500,), 1000, (1000, float("inf")), "sooner, by 2.0×"),
        ((500,), 1000, None, "nothing is published"),
        ((800, 1100), 4000, (910, 910), "as published"),
        ((1001, 1100), 4000, (910, 910), "later, by 1.1×"),
    ],
)
def test_what_is_said_of_a_recipe_follows_from_its_runs(steps, budget, within, said):
    open_experiment("experiments/recipes.py")
    import recipes

    assert recipes.verdict(reached(*steps), budget, within) == said


def test_six_in_a_row_are_six_and_a_recipe_that_never_memorises_is_drawn(tmp_path):
    open_experiment("experiments/recipes.py")
    import recipes

    accuracy = [0.0, *[0.96] * 5, 0.9, *[0.97] * 6, 0.5]
    curve = pd.DataFrame({"step": range(100, 1500, 100), "validation_accuracy": accuracy})
    row = {"recipe": "janati2026", "threshold": 0.95}
    assert recipes._reached(row, curve) == 800
    assert recipes._reached({**row, "recipe": "wang2026"}, curve) == 200
    assert pd.isna(recipes._reached({**row, "threshold": 0.98}, curve))

    specs = {name: recipes._studies(name)[0].specs()[0] for name in ("chou2025", "tveit2025")}
    runs = pd.DataFrame([{**spec.row(), "status": "censored", "sustained": False} for spec in specs.values()])
    runs["steps_to_memorize"] = pd.array([None, 40], dtype="Int64")
    curves = pd.concat([curve.assign(run_id=spec.run_id) for spec in specs.values()])
    (drawing,) = recipes.draw(Results(runs, curves, ("a machine",), 0, 1.0, 0.1))
    save(drawing, tmp_path)
    assert drawing.tables[""]["generalized"].tolist() == [1, 0]
    assert "| – |" in drawing.markdown(drawing.tables[""])


def test_a_runs_table_leaves_out_later_settings_that_all_runs_have_as_before():
    runs = pd.DataFrame(
        {
            "optimizer.name": ["adamw", "sgd"],
            "optimizer.bias_correction": [True, None],  # of AdamW, later
            "prompt": "expression",  # of all, later
            "label_noise": [0.0, 0.1],  # later, and in use
            "steps": 10,
        }
    )
    assert list(as_described(runs)) == ["optimizer.name", "label_noise", "steps"]
    assert "optimizer.bias_correction" in as_described(runs.assign(**{"optimizer.bias_correction": [False, None]}))
