"""Does a learning rate tuned on a narrow model hold on a wide one: for the loss, and for grokking?

Claim      Yang et al. 2022 (arXiv 2203.03466): with maximal update parametrization the best learning rate stays as the width grows;
           with the standard one it falls. Popular texts add that muP trains 30 % faster, and is prone to overfit.
Here       A perceptron with two hidden layers on one-hot operands, x + y (mod 31), 60 % of the examples for training, batches of 128;
           widths 32 to 512, of which 32 is the base, where both parametrizations are the same. Muon's own AdamW, for embeddings
           and head, has 0.15 of its learning rate; SGD has momentum 0.9. Learning rates a factor of two apart. For the loss there is
           no weight decay; for grokking a strong one, the same at all widths and rates. Both budgets, decays and ranges were
           chosen by a look at seeds 0 to 2 at three widths; what is reported has other seeds.
Definition Loss: training loss after 64 steps. Grokking: steps to the first evaluation with validation accuracy >= 0.95; runs that do
           not get there count at the budget of 1,000. Best rate: the lowest point of a parabola through the best rate of the grid
           and its neighbours, over log rate, of the log of either, for each seed by itself. Drift: its change from the narrowest
           width to the widest, in octaves; mean over seeds, its 95 % t interval, and a bootstrap one (BCa) beside it in the table.
           Best at an end of the grid, a rate is a bound, and the drift of a seed with one no drift: they are counted (at_end). It
           stays where the interval is within half an octave and at_end is less than half of n; it falls where the interval is below.
           Diverged runs have an infinite loss.
           Speed and gap: at the rate of the grid that is best on average at the width, where `end_of_grid` says whether it is an end.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import stats

from grokking.plotting import Drawing, Verdict, caption, label, rates_axis, step_ticks, style
from grokking.publish import interval, markdown_table
from grokking.registry import Settings
from grokking.store import Results
from grokking.study import Study
from grokking.survival import Estimate, restricted_mean_ratio

WIDTHS = (32, 64, 128, 256, 512)
BASE_WIDTH = WIDTHS[0]
RULES = ("standard", "mup")
OPTIMIZERS = ("sgd", "adamw", "muon")
RATES = {  # learning rates
    "sgd": [0.0625 * 2**k for k in range(8)],
    "adamw": [0.002 * 2**k for k in range(8)],
    "muon": [0.01 * 2**k for k in range(8)],
}
DECAYS = {"sgd": 0.003, "adamw": 1.0, "muon": 0.6}
LOSS_STEPS = 64
COMMON: Settings = {
    **{"task.name": "mod_add", "task.p": 31, "train_fraction": 0.6, "batch_size": 128},
    **{"model.name": "mlp", "model.depth": 2, "linger": 0.0},
}
LOSS: Settings = {**COMMON, "steps": LOSS_STEPS, "evaluation.every": 8}
GROKKING: Settings = {**COMMON, "steps": 1_000, "evaluation.every": 10}
SEEDS = range(10, 18)
VERBS = ("memorize", "generalize")


def arm(name: str, lr: float, decay: float) -> Settings:
    """An optimizer at this learning rate."""
    own: Settings = {"optimizer.name": name, "optimizer.lr": lr, "optimizer.weight_decay": decay}
    if name == "sgd":
        own = {**own, "optimizer.momentum": 0.9}
    if name == "muon":
        own = {**own, "optimizer.adamw_lr": 0.15 * lr, "optimizer.adamw_weight_decay": decay}
    return own


def model(rule: str, width: int) -> Settings:
    """The perceptron of this width; at the base width both rules are the same, and `standard` stands for both."""
    if rule == "standard" or width == BASE_WIDTH:
        return {"model.width": width}
    return {"model.width": width, "scaling.name": rule, "scaling.base_width": BASE_WIDTH}


MODELS = list({tuple(sorted(own.items())): own for own in (model(r, w) for w in WIDTHS for r in RULES)}.values())


def memorising(models: Sequence[Settings], seeds: Sequence[int], every: int = 1) -> list[Study]:
    """Runs without decay, for the training loss."""
    arms = [arm(name, lr, 0.0) for name in OPTIMIZERS for lr in RATES[name][::every]]
    return [Study({**LOSS, **own}, arms, seeds) for own in models]


def grokking(models: Sequence[Settings], seeds: Sequence[int], every: int = 1, **change: Any) -> list[Study]:
    """Runs with decay, for the steps to generalise, at all but the two lowest learning rates."""
    arms = [arm(name, lr, DECAYS[name]) for name in OPTIMIZERS for lr in RATES[name][2::every]]
    return [Study({**GROKKING, **own, **change}, arms, seeds) for own in models]


NARROW = [model("standard", 32), model("standard", 64), model("mup", 64)]
STUDIES = {
    "smoke": [*memorising(NARROW, SEEDS[:2], 3), *grokking(NARROW, SEEDS[:2], 3, steps=150)],
    "laptop": [*memorising(MODELS, SEEDS), *grokking(MODELS, SEEDS[:5])],
}
RUN_STEPS = {"smoke": 8_856, "laptop": 921_000}  # at most: the sum of all budgets
COMPILE = ("laptop",)


def draw(results: Results) -> Sequence[Drawing]:
    """The training loss, and the steps to generalise, over the learning rate."""
    runs = valued(results)
    decayed = runs["optimizer.weight_decay"] > 0
    loss, steps = runs[~decayed], runs[decayed].drop(columns="gap")
    return [
        _drawing("mup_transfer", loss, f"training loss after {LOSS_STEPS} steps", results.machines),
        _drawing("mup_transfer_grokking", steps, "steps to generalise", results.machines),
    ]


def valued(results: Results) -> pd.DataFrame:
    """The runs of both rules with their `value`, the training loss or the steps to generalise, and of the former their `gap`."""
    runs = both_rules(results.runs)
    last = results.curves.sort_values("step").groupby("run_id").last()  # of one that generalises before: as it is then
    losses = runs["run_id"].map(last["train_loss"]).mask(runs["diverged_at"].notna(), np.inf)
    steps = runs["steps_to_generalize"].fillna(runs["steps"]).astype(float)
    decayed = runs["optimizer.weight_decay"] > 0
    return runs.assign(value=losses.where(~decayed, steps), gap=runs["run_id"].map(_gap(last)))


def _gap(last: pd.DataFrame) -> pd.Series:
    return last["train_accuracy"] - last["validation_accuracy"]


def both_rules(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with their `rule`; those of the base width stand in both, as they are."""
    rule = runs["scaling.name"].fillna("standard") if "scaling.name" in runs else "standard"
    runs = runs.assign(rule=rule, width=runs["model.width"].astype(int), lr=runs["optimizer.lr"].astype(float))
    base = runs[(runs["rule"] == "standard") & (runs["width"] == runs["width"].min())]
    return pd.concat([runs, base.assign(rule="mup")], ignore_index=True)


# --- the best rate, and how it drifts -----------------------------------------------------------------------------------


def best_rate(rates: NDArray[np.float64], values: NDArray[np.float64], worst: float = np.inf) -> float:
    """log2 of the rate at which log value is least, by a parabola through the least of them and its neighbours.

    At an end of the grid that end; NaN where no value is below `worst`.
    """
    logs, x = np.log(np.where(np.isfinite(values), values, np.inf)), np.log2(rates)
    at = int(np.argmin(logs))
    if not values[at] < worst:
        return np.nan
    if at in (0, len(x) - 1) or not np.isfinite(logs[at - 1 : at + 2]).all():
        return float(x[at])
    left, middle, right = logs[at - 1 : at + 2]
    bend = left - 2 * middle + right
    return float(x[at] + (0.0 if bend == 0 else 0.5 * (left - right) / bend * (x[at + 1] - x[at])))


def best_rates(runs: pd.DataFrame, worst: float = np.inf) -> pd.DataFrame:
    """One line per optimizer, rule, width and seed: `octave`, log2 of its best rate, and whether that is an end of the grid."""
    lines = []
    for key, own in runs.groupby(["optimizer.name", "rule", "width", "seed"], sort=False):
        own = own.sort_values("lr")
        rates = own["lr"].to_numpy(float)
        octave = best_rate(rates, own["value"].to_numpy(float), worst)
        lines.append((*key, octave, octave in np.log2(rates[[0, -1]])))
    return pd.DataFrame(lines, columns=["optimizer", "rule", "width", "seed", "octave", "at_end"])


def drifts(rates: pd.DataFrame) -> pd.DataFrame:
    """One line per optimizer and rule: how the best rate changes from the narrowest width to the widest, in octaves.

    `at_end`: of how many of the `n` seeds either of the two is an end of the grid, so that the drift is cut off there.
    """
    lines = []
    for (name, rule), own in rates.groupby(["optimizer", "rule"], sort=False):
        grid = own.pivot(index="seed", columns="width", values="octave")
        known = (grid[grid.columns.max()] - grid[grid.columns.min()]).dropna()
        each, ends = (
            known.to_numpy(float),
            own[own["at_end"] & own["width"].isin([grid.columns.min(), grid.columns.max()])],
        )
        line = {"optimizer": name, "rule": rule, "from": grid.columns.min(), "to": grid.columns.max(), "n": len(each)}
        line |= {"at_end": int(known.index.isin(ends["seed"]).sum())}
        line |= {"drift": each.mean() if len(each) else np.nan, **_ends(each)}
        lines.append(line)
    return pd.DataFrame(lines)


def starts(rates: pd.DataFrame) -> pd.DataFrame:
    """The drifts to the widest from every other width on: the narrowest may be too narrow for what wider ones do."""
    widths = sorted(rates["width"].unique())[:-1]
    return pd.concat([drifts(rates[rates["width"] >= width]) for width in widths], ignore_index=True)


DRIFT = ("drift", "drift_low", "drift_high")


def beside(table: pd.DataFrame, starts: pd.DataFrame) -> pd.DataFrame:
    """The drifts from the narrowest width on, and beside each those from the next two, in columns that end in the width."""
    key = ["optimizer", "rule"]
    for width in sorted(starts["from"].unique())[1:3]:
        own = starts[starts["from"] == width].set_index(key)[[*DRIFT, "n", "at_end"]]
        table = table.join(own.add_suffix(f"_{width}"), on=key)
    return table


def _ends(each: NDArray[np.float64]) -> dict[str, float]:
    """95 % intervals of the mean: Student's t, and the bias-corrected bootstrap."""
    names = ("drift_low", "drift_high", "drift_boot_low", "drift_boot_high")
    if len(each) < 2:
        return dict.fromkeys(names, np.nan)
    if np.ptp(each) == 0:
        return dict.fromkeys(names, float(each[0]))
    half = stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / len(each) ** 0.5
    boot = stats.bootstrap((each,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    return dict(zip(names, (each.mean() - half, each.mean() + half, boot.low, boot.high), strict=True))


# --- each at its best rate ----------------------------------------------------------------------------------------------


def at_best(runs: pd.DataFrame) -> pd.DataFrame:
    """One line per optimizer and width above the base: muP over standard, each at its best rate of the grid, paired by seed.

    Best: the least mean of log value. `value`: the ratio of the losses' geometric means, or of the restricted mean steps to
    generalise; `memorize`: of those to memorise, with how many runs of each do; `gap_standard`, `gap_mup`: mean training less
    validation accuracy, where runs have it. `end_of_grid`: whether either rate is the lowest or highest that was tried.
    Where no run of a rule generalises at any rate, none of its rates is best for that, and there is no ratio.
    """
    losses = "gap" in runs
    lines = []
    for (name, width), own in runs.groupby(["optimizer.name", "width"], sort=False):
        if width == runs["width"].min() or set(own["rule"]) < set(RULES):  # the same, or not trained yet
            continue
        line: dict[str, Any] = {"optimizer": name, "width": width}
        both = {}
        for rule in RULES:
            mine = own[own["rule"] == rule]
            means = mine.assign(log=np.log(mine["value"])).groupby("lr")["log"].mean()
            line[f"{rule}_lr"] = means.idxmin()
            both[rule] = mine[mine["lr"] == means.idxmin()].set_index("seed").sort_index()
        seeds = both["standard"].index.intersection(both["mup"].index)
        both = {rule: own.loc[seeds] for rule, own in both.items()}
        line["n"] = len(seeds)
        ends = own["lr"].min(), own["lr"].max()
        line["end_of_grid"] = any(line[f"{rule}_lr"] in ends for rule in RULES)
        pairs = {"value": [both[rule]["value"].to_numpy(float) for rule in RULES]}
        pairs["memorize"] = [
            both[rule]["steps_to_memorize"].fillna(both[rule]["steps"]).to_numpy(float) for rule in RULES
        ]
        for what, (standard, mup) in pairs.items():
            ratio = (_geometric_ratio if losses and what == "value" else restricted_mean_ratio)(mup, standard)
            if not losses and any(own.loc[own["rule"] == rule, "steps_to_generalize"].isna().all() for rule in RULES):
                ratio = Estimate(np.nan, np.nan, np.nan, len(seeds))
            line |= {what: ratio.value, f"{what}_low": ratio.low, f"{what}_high": ratio.high}
        for rule in RULES:
            line |= {f"{verb}d_{rule}": int(both[rule][f"steps_to_{verb}"].notna().sum()) for verb in VERBS}
        if losses:
            line |= {f"gap_{rule}": both[rule]["gap"].mean() for rule in RULES}
        lines.append(line)
    return pd.DataFrame(lines)


def _geometric_ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> Estimate:
    """Of the losses [seed] of two arms, some of which are far larger than the others: t interval of the paired logs."""
    logs = np.log(a) - np.log(b)
    half = stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs) if len(logs) > 1 else np.nan
    value, low, high = (float(end) for end in np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]))
    return Estimate(value, low, high, len(logs))


# --- pictures -----------------------------------------------------------------------------------------------------------


def _drawing(name: str, runs: pd.DataFrame, words: str, machines: Sequence[str]) -> Drawing:
    worst = float(runs["steps"].iloc[0]) if "grokking" in name else np.inf
    rates = best_rates(runs, worst)
    table, best = beside(drifts(rates), starts(rates)), at_best(runs)
    n, first = int(runs.groupby(["optimizer.name", "rule", "width", "lr"]).size().min()), runs.iloc[0]
    widths = sorted(runs["width"].unique())
    shades = dict(zip(widths, matplotlib.colormaps["viridis_r"](np.linspace(0.12, 1, len(widths))), strict=True))
    with style():
        figure = Figure(figsize=(11, 6), layout="constrained")
        grid = figure.subplots(2, 3, sharex="col", sharey=True)
        for row, rule in zip(grid, RULES, strict=True):
            for axes, optimizer in zip(row, OPTIMIZERS, strict=True):
                own = runs[(runs["optimizer.name"] == optimizer) & (runs["rule"] == rule)]
                mine = rates[(rates["optimizer"] == optimizer) & (rates["rule"] == rule)]
                _panel(axes, own, mine, shades, worst)
                line = table[(table["optimizer"] == optimizer) & (table["rule"] == rule)].iloc[0]
                axes.set_title(f"{label(optimizer)}, {TITLES[rule]}: {_octaves(line)}", fontsize=9)
        for axes in grid[0]:
            axes.set_xlabel("")
        for axes in grid[:, 0]:
            axes.set_ylabel(f"{words} (log)")
            if np.isfinite(worst):
                step_ticks(axes.yaxis)
        keys = [Line2D([], [], color=shades[width], label=f"width {width}") for width in widths]
        figure.legend(handles=keys, loc="outside upper center", ncols=len(keys))
        caption(
            figure,
            f"{first['task.name']} (p = {first['task.p']}), {first['train_fraction']:.0%} of the examples for training, perceptron with two hidden "
            f"layers; n = {n} seeds: geometric means of the {words}"
            + (f", runs that do not within {worst:,.0f} count there" if np.isfinite(worst) else "")
            + f". Strokes below: the best rate of each seed. In the titles: its drift from width {widths[0]} to {widths[-1]} in octaves, and its "
            f"95 % t interval. Trained on: {'; '.join(machines)}.",
        )
    tables = {
        "": table,
        "starts": starts(rates),
        "best": best,
        "rates": rates,
        "runs": runs.drop(columns=["rule", "width", "lr", "value"]),
    }
    tables["runs"] = tables["runs"].drop(columns="gap", errors="ignore").drop_duplicates("run_id")
    return Drawing(name, figure, tables, n, _verdict(name, table), markdown)


TITLES = {"standard": "standard", "mup": "muP"}


def _panel(axes: Axes, runs: pd.DataFrame, rates: pd.DataFrame, shades: Mapping[int, Any], worst: float) -> None:
    """A line for each width; below, where each seed has its best rate."""
    for place, (width, color) in enumerate(shades.items()):
        own = runs[runs["width"] == width]  # where one diverged there is no mean, and no point
        means = np.exp(np.log(own.set_index("lr")["value"]).groupby(level=0).mean())
        axes.plot(means.index, means, "o-", color=color, ms=3, lw=1.3)
        octaves = rates.loc[rates["width"] == width, "octave"].dropna()
        height = 0.02 + 0.03 * (len(shades) - 1 - place)
        axes.plot(2**octaves, [height] * len(octaves), "|", color=color, ms=5, transform=axes.get_xaxis_transform())
    axes.set_yscale("log")
    rates_axis(axes)


def _octaves(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["drift"]):
        return "no drift known"
    cut = f", {row['at_end']:.0f} of {row['n']:.0f} at an end" if row["at_end"] else ""
    if pd.isna(row["drift_low"]):
        return f"{row['drift']:+.1f}{cut}"
    return f"{row['drift']:+.2f} [{row['drift_low']:+.2f}, {row['drift_high']:+.2f}]{cut}"


def _verdict(name: str, table: pd.DataFrame) -> Verdict | None:
    """Does it stay with muP, within half an octave, and fall without?"""
    if len(table) < 6 or table["drift_low"].isna().any():
        return None
    of = table.set_index(["optimizer", "rule"])
    mup, standard = (of.xs(rule, level="rule") for rule in ("mup", "standard"))
    stays = (mup["drift_low"] >= -0.5) & (mup["drift_high"] <= 0.5) & (2 * mup["at_end"] < mup["n"])
    falls = standard["drift_high"] < -0.5
    moves = (mup["drift_low"] > 0.5) | (mup["drift_high"] < -0.5)
    answer = "in part" if (stays & falls).any() else "not consistent" if moves.any() else "undecided"
    answer = "consistent" if (stays & falls).all() else answer
    what = "steps to generalise" if "grokking" in name else f"training loss after {LOSS_STEPS} steps"
    parts = [
        f"{label(optimizer)} {_octaves(mup.loc[optimizer])} with muP, {_octaves(standard.loc[optimizer])} without"
        for optimizer in OPTIMIZERS
    ]
    return Verdict(
        "with muP the best learning rate stays as the width grows, without it falls (Yang et al. 2022)",
        f"{what}, width {table['from'].iloc[0]} to {table['to'].iloc[0]}, drift in octaves: {'; '.join(parts)} (n = {int(table['n'].min())} seeds)",
        answer,
    )


def markdown(table: pd.DataFrame) -> str:
    """The drifts as they stand in a document, from the narrowest width on and from the next two."""
    later = [int(name.removeprefix("n_")) for name in table if name.startswith("n_")]
    head = (
        "optimizer",
        "parametrization",
        *(f"from width {w} (n, at an end)" for w in (table["from"].iloc[0], *later)),
        "bootstrap",
    )
    rows = []
    for row in table.to_dict("records"):
        found = [_told(row, end) for end in ("", *(f"_{width}" for width in later))]
        boot = "–" if pd.isna(row["drift_boot_low"]) else f"[{row['drift_boot_low']:.2f}, {row['drift_boot_high']:.2f}]"
        rows.append((label(row["optimizer"]), TITLES[row["rule"]], *found, boot))
    return markdown_table(head, rows)


def _told(row: Mapping[Any, Any], end: str) -> str:
    line = {name: row[name + end] for name in DRIFT}
    drift = "–" if pd.isna(line["drift"]) else interval(line, "drift", 2)
    return f"{drift} ({row['n' + end]:.0f}, {row['at_end' + end]:.0f})"
