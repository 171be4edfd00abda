"""`grokking power`: how many seeds it takes to see a ratio."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from grokking.errors import BadInput
from grokking.errors import words as words_of

if TYPE_CHECKING:
    import pandas as pd

    from grokking.power import Comparison

Pick = Annotated[tuple[str, ...], tyro.conf.arg(metavar="OPTIMIZER|NAME=VALUE ...")]
LIMITS = {  # name: (from, up to, whole numbers)
    "ratio": (0.01, 100, False),
    "sigma": (0.001, 3, False),
    "censored": (0, 0.95, False),
    "correlation": (0, 0.99, False),
    "power": (0.01, 0.99, False),
    "alpha": (0.0001, 0.5, False),
    "tasks": (1, 100, True),
    "comparisons": (1, 1000, True),
    "most": (2, 1000, True),
}


def power(
    ratio: float = 1.5,
    runs: Path | None = None,
    arm: Pick = (),
    against: Pick = (),
    sigma: float | None = None,
    censored: float | None = None,
    correlation: float | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
    tasks: int = 1,
    comparisons: int = 1,
    most: int = 200,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """How many seeds it takes until the paired sign-flip test sees a ratio of steps-to-generalize, by simulated studies.

    Steps are log-normal in both arms, seen at the default evaluations and censored at a budget. Their spread, budget and
    correlation are what you say, or fitted to runs that exist (by maximum likelihood, in which censored runs count).

    Args:
        ratio: of the median steps of the other arm to those of the first.
        runs: a runs table, such as figures/published/optimizers_runs.csv, or a folder of results; what the first arm is fitted to.
        arm: which of these runs are the first arm: an optimizer, or settings such as optimizer.lr=0.003, or both.
        against: which are the other arm, whose own spread is then used, and the correlation of both over their seeds.
        sigma: standard deviation of the natural logarithm of steps between seeds; 0.2 where nothing is fitted (REPRODUCING.md says what it is in published runs).
        censored: share of the slower arm's runs that do not generalise within the budget; 0 where nothing is fitted.
        correlation: of the log steps of both arms of a seed; 0 where nothing is fitted.
        power: share of the studies that should see it.
        alpha: two-sided level of the test.
        tasks: on how many tasks a seed is compared (of one law); the test takes its mean log ratio.
        comparisons: how many tests are made in all; the level is divided by it, which is Holm's strictest step.
        most: seeds to try at most.
        as_json: one JSON object a line per number of seeds tried on stdout, and nothing else there.
    """
    given = {"ratio": ratio, "sigma": sigma, "censored": censored, "correlation": correlation, "power": power}
    given |= {"alpha": alpha, "tasks": tasks, "comparisons": comparisons, "most": most}
    _check(given)
    if runs is None and (arm or against):
        raise BadInput("--arm and --against choose among --runs; name a runs table or a folder of results")
    if against and not arm:
        raise BadInput("--against is the other arm; say with --arm which is the first")
    from grokking.coverage import STUDIES
    from grokking.power import Comparison, seeds_needed
    from grokking.simulation import pair

    if runs is None:
        slower, faster = pair(max(ratio, 1 / ratio), sigma or 0.2, censored or 0.0)  # which is called first is all one
        comparison = Comparison(slower, faster, correlation or 0.0, tasks)
    else:
        comparison = _of_runs(runs, arm, against, ratio, (sigma, censored, correlation), tasks)
    level = alpha / comparisons
    tried = sorted(seeds_needed(comparison.log_ratios(most), power, level), key=lambda line: line.n)
    if as_json:
        for line in tried:
            print(json.dumps(asdict(line) | {"enough": line.power >= power}))
        return 0
    print("seeds  power           smallest p")
    for line in tried:
        print(f"{line.n:>5}  {line.power:.3f} ± {line.standard_error:.3f}   {line.smallest_p:.2g}")
    arms = (comparison.first, comparison.second)
    words = (
        f"paired sign flips at {level:.3g}; {tasks} task{'s' * (tasks > 1)}; spread of log steps "
        f"{' and '.join(f'{one.sigma:.2g}' for one in arms)}, correlation {comparison.correlation:.2g}, "
        f"{' and '.join(f'{1 - one.rate():.0%}' for one in arms)} of the runs censored; {STUDIES:,} simulated studies"
    )
    found = next((line for line in tried if line.power >= power), None)
    if found is None:
        print(f"not with up to {most} seeds: a ratio of {ratio:g} is seen with power {tried[-1].power:.2f} ({words})")
    else:
        print(f"{found.n} seeds see a ratio of {ratio:g} with power {found.power:.2f} ({words})")
    return 0


def _check(given: dict[str, Any]) -> None:
    for name, value in given.items():
        low, high, whole = LIMITS[name]
        if value is not None and not low <= value <= high:
            kind = "integers" if whole else "numbers"
            raise BadInput(f"{name} = {value}; allowed: {kind} from {low:g} to {high:g}")
    if given["ratio"] == 1:
        raise BadInput("ratio = 1.0 is no difference, which no number of seeds can see; allowed: any other")


def _of_runs(
    path: Path,
    arm: tuple[str, ...],
    against: tuple[str, ...],
    ratio: float,
    told: tuple[float | None, float | None, float | None],
    tasks: int,
) -> "Comparison":
    """The comparison fitted to these runs, but for the spread, share censored and correlation that are told."""
    from grokking.comparison import observed
    from grokking.power import Comparison
    from grokking.simulation import Arm, budget, fitted, fitted_correlation

    sigma, censored, correlation = told
    table = _read(path)
    groups = [_picked(table, pick, path) for pick in ((arm, against) if against else (arm,))]
    laws = []
    for group in groups:
        steps, done = observed(group)
        try:
            laws.append(fitted(steps, done))
        except ValueError as error:
            raise BadInput(
                f"{_name(group)} in {path}: {error}; take others, or leave --runs out and say --sigma"
            ) from None
        print(
            f"grokking: {_name(group)}: {done.sum()} of {len(done)} runs generalise, median {laws[-1][0]:,.0f} steps, "
            f"spread of log steps {laws[-1][1]:.2g}",
            file=sys.stderr,
        )
    if correlation is None and against:
        paired = [group.set_index("seed") for group in groups]
        seeds = paired[0].index.intersection(paired[1].index)
        if len(seeds) < 3:
            raise BadInput(
                f"the two arms have {len(seeds)} seeds in common, too few for a correlation; say --correlation"
            )
        first, second = (observed(group.loc[seeds]) for group in paired)
        correlation = fitted_correlation(first, second, (laws[0], laws[1]))
        print(
            f"grokking: correlation over {len(seeds)} seeds: {correlation:.2f} (below 0 counts as 0)", file=sys.stderr
        )
    median, spread = laws[0][0], [sigma or law[1] for law in laws]
    until = int(groups[0]["steps"].iloc[0])
    if censored is not None:
        slower = (median * ratio, spread[-1]) if ratio > 1 else (median, spread[0])
        until = budget(*slower, censored)
    return Comparison(Arm(median, spread[0], until), Arm(median * ratio, spread[-1], until), correlation or 0.0, tasks)


def _read(path: Path) -> "pd.DataFrame":
    from grokking.store import load, read_runs

    if not path.exists():
        raise BadInput(f"runs = {str(path)!r} does not exist; name a runs table or a folder of results")
    try:
        table = load(path, curves=False).runs if path.is_dir() else read_runs(path)
        if len(table) and not {"seed", "status", "steps", "steps_to_generalize"} <= set(table.columns):
            raise ValueError("columns of a runs table are missing")
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"runs = {str(path)!r} is no runs table ({words_of(error)})") from None
    if table.empty:
        raise BadInput(f"runs = {str(path)!r} holds no runs")
    return table


def _picked(table: "pd.DataFrame", pick: tuple[str, ...], path: Path) -> "pd.DataFrame":
    """The runs of one arm, which have one setting."""
    group = table
    for word in pick:
        name, equals, value = word.partition("=")
        name, value = (name, value) if equals else ("optimizer.name", word)
        if name not in table:
            raise BadInput(f"{name!r} is no column of {path}; allowed: an optimizer, or NAME=VALUE of a setting there")
        kept = group[group[name].map(lambda own, value=value: _same(own, value))]
        if kept.empty:
            there = ", ".join(map(str, group[name].dropna().unique()[:20]))
            raise BadInput(f"no run with {name} = {value} in {path}; there are: {there}")
        group = kept
    columns = list(table.columns)
    settings = [name for at, name in enumerate(columns) if "." in name or at < columns.index("status")]
    for name in settings:
        values = group[name].unique()
        if name not in ("run_id", "seed") and len(values) > 1:
            raise BadInput(
                f"these {len(group)} runs differ in {name} ({', '.join(map(str, values[:5]))}); choose with --arm or --against {name}=…"
            )
    return group


def _same(own: object, value: str) -> bool:
    try:
        return float(own) == float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(own) == value


def _name(group: "pd.DataFrame") -> str:
    return str(group["optimizer.name"].iloc[0]) if "optimizer.name" in group else "runs"
