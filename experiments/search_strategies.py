"""Does Optuna's TPE find better numbers than random search for the same steps, and do early rungs help?

Not a sweep, as what a search tries next depends on what it has found: `make reproduce` leaves it out.

    .venv/bin/python experiments/search_strategies.py [--repeats 20] [--budget 40000] [--out results] [--publish]

Stand-in   steps = 100 × 10^(5a² + b²), a the decades of learning rate × decay from the best product and b those of their
           ratio, both over √2: a valley along which the product is the same, as in AdamW's heat map; times a factor that
           every run draws (sd 15 %); censored at the budget. Validation accuracy is at chance until half of the steps.
Training   AdamW on x + y (mod 31), 60 % of the examples, a transformer of width 32; learning rate and decay over three decades
           each, two tuning seeds a configuration, 600 steps a run.
Strategies random and TPE (whose first 16 are those of random), each without rungs and with one at a quarter of the budget, which
           one in four passes, to be trained again to the end; all of it is counted.
Measure    Each strategy searches 20 times, with sampler and tuning seeds of its own (the same in all strategies), until so
           many run-steps are spent. What its best configuration takes on ten seeds that no search saw; ratios to random
           search are paired by repeat.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray
from tqdm import tqdm

from grokking import coverage
from grokking.commands.arguments import Where
from grokking.commands.training import fill, open_store, opened
from grokking.execute.jobs import Executor
from grokking.execute.unit import machine
from grokking.onset import Onset, outcome
from grokking.plotting import Drawing, caption, save, step_ticks, style
from grokking.publish import PUBLISHED, interval, markdown_table, rewrite_documents
from grokking.registry import Settings
from grokking.runs import RunSpec
from grokking.seeding import stream
from grokking.store import METRICS, load, stored, write_unit
from grokking.survival import holm, paired_permutation_test, restricted_mean, restricted_mean_ratio
from grokking.tuning.definition import Definition
from grokking.tuning.search import Search, paid
from grokking.tuning.space import Range

HORIZON = 600
REAL: Settings = {
    "task.name": "mod_add",
    "task.p": 31,
    "train_fraction": 0.6,
    "model.width": 32,
    "optimizer.name": "adamw",
    "steps": HORIZON,
}
SPACE = (("optimizer.lr", Range(1e-4, 0.1)), ("optimizer.weight_decay", Range(0.03, 30.0)))
STRATEGIES: dict[str, dict[str, str | tuple[int, ...]]] = {
    "random": {"sampler": "random"},
    "TPE": {"sampler": "tpe"},
    "random, rung": {"sampler": "random", "rungs": (HORIZON // 4,)},
    "TPE, rung": {"sampler": "tpe", "rungs": (HORIZON // 4,)},
}
FRESH = tuple(range(10))
COLORS = {"random": "#999999", "TPE": "#0072B2", "random, rung": "#E69F00", "TPE, rung": "#D55E00"}
BEST = (0.004, 3.0)  # of the stand-in
SEEDS = 2  # for tuning


def standin_steps(spec: RunSpec) -> int:
    """Steps to generalise of this run in the stand-in, above the budget where it does not get there."""
    hyper = dict(spec.hyper)
    a, b = (math.log10(hyper[name] / best) for (name, _), best in zip(SPACE, BEST, strict=True))
    a, b = (a + b) / math.sqrt(2), (a - b) / math.sqrt(2)
    # Drawn for the run without its budget, so that a rung sees the same run.
    luck = stream(spec.seed, "stand-in", *(repr(hyper[name]) for name, _ in SPACE)).normal(0.0, 0.15)
    return max(10, round(100 * 10 ** min(5 * a**2 + b**2, 4.0) * math.exp(luck)))


def standin_accuracy(steps: int, at: int) -> float:
    """Validation accuracy of a run that takes so many steps: at chance until half of them, then even up to 1."""
    return min(1.0, max(1 / 31, 2 * at / steps - 1))


def standin(folder: Path, specs: Sequence[RunSpec]) -> None:
    """Store what the stand-in says of these runs, as if they had been trained."""
    known = stored(folder)
    rows, ends = [], []
    for spec in specs:
        if spec.run_id in known:
            continue
        steps, budget = standin_steps(spec), spec.setting.integer("steps")
        done = steps <= budget
        ends.append(min(budget, math.ceil(1.5 * steps)))
        first = (steps, steps, steps if 1.5 * steps <= budget else None) if done else (None, None, None)
        result = outcome(Onset(min(ends[-1], 60), *first), None, ends[-1], 512, 577)
        accuracy = standin_accuracy(steps, ends[-1])
        rows.append({**spec.row(), **result, **{f"final_{metric}": accuracy for metric in METRICS}})
    if rows:
        write_unit(folder, rows, [max(ends)], {metric: np.ones((1, len(rows))) for metric in METRICS}, {})


def definition(strategy: str, repeat: int) -> Definition:
    """The search of this strategy and repeat."""
    seeds = tuple(1000 + SEEDS * repeat + at for at in range(SEEDS))
    return Definition(tuple(sorted(REAL.items())), SPACE, seeds, sampler_seed=repeat, **STRATEGIES[strategy])  # type: ignore[arg-type]


def searched(
    out: Path, train: Callable[[Sequence[RunSpec]], None], repeats: int, budget: int, what: str
) -> pd.DataFrame:
    """All trials of all searches, and the configuration that each chose by then on fresh seeds, in `held_out`."""
    tables = []
    for strategy, repeat in tqdm([(s, r) for r in range(repeats) for s in STRATEGIES], desc=f"searches ({what})"):
        own = definition(strategy, repeat)
        with Search(out, own, train) as search:
            while batch := search.batch(None, budget):
                search.settle(batch)
            table = search.table()
        chosen = best_within(table, budget)
        specs = replace(own, seeds=FRESH).runs(chosen)
        train(specs)
        runs = load(out, [spec.run_id for spec in specs], curves=False).runs
        held_out = own.value(runs).value
        tables.append(table.assign(strategy=strategy, repeat=repeat, held_out=held_out, problem=what))
    return pd.concat(tables, ignore_index=True)


def best_within(table: pd.DataFrame, budget: int) -> dict[str, float]:
    """The best configuration among the trials that the budget pays for."""
    own = paid(table, budget)
    best = own[own["state"] == "complete"].sort_values(["value", "trial"]).iloc[0]
    return {name: float(best[name]) for name, _ in SPACE}


def main(repeats: int = 20, budget: int = 40_000, out: Path = Path("results"), publish: bool = False) -> None:
    """Search, compare, draw.

    Args:
        repeats: searches of each strategy.
        budget: run-steps of each search.
        out: folder of the results.
        publish: maintainers: also to figures/published, and rewrite the documents.
    """
    with_standin = Where(out=out / "stand-in")
    open_store(with_standin)
    tables = [searched(with_standin.out, partial(standin, with_standin.out), repeats, budget, "stand-in")]
    where = Where(out=out)
    open_store(where)
    with opened(where, (), declared=True) as executor:
        tables.append(
            searched(out, partial(_train, where=where, executor=executor), repeats, budget, "mod_add, p = 31")
        )
    drawn = drawing(pd.concat(tables, ignore_index=True), budget, f"{machine('cpu')}, compiled steps")
    print(markdown(drawn.tables["summary"]))
    for folder in (Path("figures"), *([PUBLISHED] if publish else [])):
        print(save(drawn, folder)[0])
    if publish:
        (PUBLISHED / "search_strategies.md").write_text(markdown(drawn.tables["summary"]) + "\n")
        rewrite_documents()


def _train(specs: Sequence[RunSpec], where: Where, executor: Executor) -> None:
    if fill(specs, where, executor):
        sys.exit("a cohort failed")


def summary(trials: pd.DataFrame, budget: int) -> pd.DataFrame:
    """Per problem and strategy: the best value on its own and on fresh seeds, and the ratio of each to random search."""
    lines: list[dict[str, Any]] = []
    for problem, own in trials.groupby("problem", sort=False):
        found = {
            strategy: np.array([_best_value(search, budget) for _, search in group.groupby("repeat")])
            for strategy, group in own.groupby("strategy", sort=False)
        }
        held = {
            s: group.groupby("repeat")["held_out"].first().to_numpy()
            for s, group in own.groupby("strategy", sort=False)
        }
        first = len(lines)
        for strategy, values in found.items():
            mean = restricted_mean(held[strategy], np.ones(len(values), bool), HORIZON)
            line = {"problem": problem, "strategy": strategy, "n": len(values), "tried": _tried(own, strategy, budget)}
            line |= {"stopped": _tried(own, strategy, budget, "pruned"), "on_tuning_seeds": values.mean()}
            line |= {"steps": mean.value, "steps_low": mean.low, "steps_high": mean.high}
            for name, table in (("tuning", found), ("fresh", held)) if strategy != "random" else ():
                ratio = restricted_mean_ratio(table[strategy], table["random"])
                line |= {f"{name}_ratio": ratio.value, f"{name}_ratio_low": ratio.low, f"{name}_ratio_high": ratio.high}
                line |= {f"{name}_p": paired_permutation_test(table[strategy], table["random"]).p_value}
            lines.append(line)
        for name in ("tuning_p", "fresh_p"):  # Holm over the strategies that are compared with random search
            adjusted = holm([line[name] for line in lines[first + 1 :]])
            for line, p in zip(lines[first + 1 :], adjusted, strict=True):
                line[name] = p
    return pd.DataFrame(lines)


def _tried(own: pd.DataFrame, strategy: str, budget: int, state: str = "") -> float:
    """Configurations per search, on average, that the budget paid for."""
    group = own[own["strategy"] == strategy]
    paid = group[group.groupby("repeat")["spent"].cumsum() <= budget]
    return len(paid[paid["state"] == state] if state else paid) / group["repeat"].nunique()


def _best_value(search: pd.DataFrame, steps: float) -> float:
    """The best value on the tuning seeds after so many run-steps; the budget of a run before there is one."""
    paid = search[(search["spent"].cumsum() <= steps) & (search["state"] == "complete")]
    return float(paid["value"].min()) if len(paid) else float(HORIZON)


def covered(values: NDArray[np.float64], times: int = 4_000) -> float:
    """How often the mean's interval contains the mean of these values, where as many are drawn from them again."""
    draws = values[stream(0, "searches again").integers(0, len(values), (times, len(values)))]
    low, high, told = coverage.restricted_mean(draws, draws < HORIZON, HORIZON)
    return float(((low <= values.mean()) & (values.mean() <= high))[told].mean())


def drawing(trials: pd.DataFrame, budget: int, trained_on: str) -> Drawing:
    """Best so far against the run-steps spent, mean over the searches with its 95 % interval, per problem."""
    table = summary(trials, budget)
    problems = list(trials["problem"].unique())
    with style():
        figure = Figure(figsize=(5.2 * len(problems), 3.6), layout="constrained")
        for axes, problem in zip(figure.subplots(1, len(problems), squeeze=False)[0], problems, strict=True):
            _curves(axes, trials[trials["problem"] == problem], budget)
            axes.set_title(problem)
        repeats = trials["repeat"].nunique()
        ends = [
            np.array([_best_value(search, budget) for _, search in own.groupby("repeat")])
            for _, own in trials.groupby(["problem", "strategy"])
        ]
        shares = [100 * covered(values) for values in ends if len(values) > 1 and (values < HORIZON).any()]
        within = (
            f" (at the right end it covers {min(shares):.0f}–{max(shares):.0f} % where such searches are drawn again)"
            if shares
            else ""
        )
        caption(
            figure,
            f"Best configuration so far on its own tuning seeds, mean of n = {repeats} searches and its 95 % t interval{within}, "
            f"against the run-steps spent. AdamW, learning rate 1e-4 to 0.1, weight decay 0.03 to 30, {SEEDS} seeds a configuration, asked for 8 at "
            f"a time (the first 16 of TPE and random are the same), {HORIZON} steps a run; rung: at {HORIZON // 4} steps, which one in four passes. Left: a function of both "
            f"numbers instead of training. Trained on: {trained_on}.",
        )
    return Drawing("search_strategies", figure, {"": trials, "summary": table}, trials["repeat"].nunique())


def _curves(axes: Axes, trials: pd.DataFrame, budget: int) -> None:
    spent = np.linspace(budget / 100, budget, 100)
    for strategy, group in trials.groupby("strategy", sort=False):
        curves = np.array([[_best_value(search, s) for s in spent] for _, search in group.groupby("repeat")])
        means = [restricted_mean(column, np.ones(len(column), bool), HORIZON) for column in curves.T]
        color = COLORS[str(strategy)]
        axes.plot(
            spent,
            [float(m.value or np.nan) for m in means],
            color=color,
            label=strategy,
            ls="--" if "rung" in str(strategy) else "-",
        )
        low, high = ([getattr(m, side) or np.nan for m in means] for side in ("low", "high"))
        axes.fill_between(spent, low, high, color=color, alpha=0.12, lw=0)
    axes.set_yscale("log")
    step_ticks(axes.yaxis)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:,g}k" if value else "0"))
    axes.set(xlabel="run-steps spent", ylabel="best mean steps to generalise (log)")
    axes.legend()


def markdown(table: pd.DataFrame) -> str:
    """The summary as it stands in the documents."""
    head = ("problem", "strategy", "configurations", "stopped at the rung", "best, tuning seeds", "/ random (p, Holm)")
    rows = []
    for line in table.to_dict("records"):
        ratios = [
            "1.00" if pd.isna(line[f"{name}_p"]) else f"{interval(line, f'{name}_ratio', 2)} ({line[f'{name}_p']:.2g})"
            for name in ("tuning", "fresh")
        ]
        rows.append(
            [
                *(line["problem"], line["strategy"], f"{line['tried']:.0f}", f"{line['stopped']:.0f}"),
                *(f"{line['on_tuning_seeds']:,.0f}", ratios[0], interval(line, "steps"), ratios[1]),
            ]
        )
    return markdown_table((*head, "it, fresh seeds", "/ random (p, Holm)"), rows)


if __name__ == "__main__":
    tyro.cli(main)
