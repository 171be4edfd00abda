"""`grokking status` and `export`: what is stored, and its tables for other programs."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

from grokking.commands.arguments import Files, Imports
from grokking.errors import BadInput
from grokking.errors import words as words_of


def status(
    experiments: Files = (),
    /,
    scale: str = "laptop",
    imports: Imports = (),
    out: Path = Path("results"),
    verify: str = "fast",
) -> int:
    """How many runs are stored, of experiments or in all, and how they ended; what is under way, and what failed.

    Args:
        experiments: experiment files; none: the whole store.
        scale: smoke, laptop or paper.
        imports: what you wrote yourself (tasks, models, optimizers, …): .py files or modules.
        out: folder of the results.
        verify: fast trusts units whose files have not been touched since they were hashed; full hashes all again.
    """
    from grokking.store import check_verify, load, stored
    from grokking.store.failures import failures

    how = check_verify(verify)

    def count(name: str, run_ids: list[str] | None) -> None:
        results = load(out, run_ids, verify=how, curves=False)
        ends = results.runs["status"].value_counts() if len(results.runs) else {}
        words = ", ".join(f"{ends.get(end, 0)} {end}" for end in ("generalized", "censored", "diverged"))
        of = "" if run_ids is None else f" of {len(run_ids)}"
        minutes = f"; {results.core_seconds / 60:,.1f} core-minutes" if len(results.runs) else ""
        share = results.evaluation_share
        evaluating = "" if math.isnan(share) else f", {share:.0%} of them in evaluations"
        print(f"{name}: {len(results.runs)}{of} runs stored ({words}){minutes}{evaluating}")

    if not out.is_dir():
        raise BadInput(f"out = {str(out)!r} is no folder; name one that holds results")
    for path, run_ids in _asked(experiments, scale, imports) if experiments else [(str(out), None)]:
        count(path, run_ids)
    begun = sorted((out / "checkpoints").glob("[!.]*"))
    for words, paths in (("started", begun), ("failed", failures(out, lambda: stored(out)))):
        if paths:
            print(f"{len(paths)} cohort{'s' * (len(paths) > 1)} {words}: {', '.join(map(str, paths))}")
    for table in sorted((out / "searches").glob("*/trials.csv")):
        print(f"search {table.parent.name}: {_found(table)}")
    return 0


def _found(path: Path) -> str:
    """What a search has found, by its table."""
    import pandas as pd

    try:
        trials = pd.read_csv(path)
        best = f", the best {trials['value'].min():,.0f} steps" if (trials["generalized"] > 0).any() else ""
    except (OSError, ValueError, KeyError) as error:
        return f"{path} cannot be read ({words_of(error)}); the same `grokking tune` writes it again"
    return f"{len(trials)} trials, {int(trials['spent'].sum()):,} run-steps{best} (all of it in {path})"


def export(
    experiments: Files = (),
    /,
    format: str = "csv",
    to: Path = Path("exported"),
    scale: str = "laptop",
    imports: Imports = (),
    out: Path = Path("results"),
    adopt: Path | None = None,
    verify: str = "fast",
) -> int:
    """Write the runs table and the curves table, of experiments or of the whole store, for other programs to read.

    Args:
        experiments: experiment files; none: the whole store.
        format: csv or parquet (needs pyarrow).
        to: folder that gets runs.csv and curves.csv, or runs.parquet and curves.parquet.
        scale: smoke, laptop or paper.
        imports: what you wrote yourself (tasks, models, optimizers, …): .py files or modules.
        out: folder of the results.
        adopt: folder of published runs tables; runs found there by run_id are exported too.
        verify: fast trusts units whose files have not been touched since they were hashed; full hashes all again.
    """
    from grokking.store import check_verify, load
    from grokking.store.export import check_format, write_tables

    check_format(format)
    run_ids = [run_id for _, own in _asked(experiments, scale, imports) for run_id in own] if experiments else None
    results = load(out, run_ids, adopt, check_verify(verify))
    if results.runs.empty:
        raise BadInput(f"no run that was asked for is stored in {str(out)!r}; sweep first, or name another --out")
    if results.missing:
        print(f"grokking: {results.missing} runs are not trained yet; exported without them", file=sys.stderr)
    for path in write_tables(results, to, format):
        print(path)
    return 0


def _asked(experiments: Files, scale: str, imports: Imports) -> Iterator[tuple[str, list[str]]]:
    """Each experiment's path and the run_ids that it asks for at this scale."""
    from grokking.experiment import open_experiment
    from grokking.extensions import import_extensions

    import_extensions(imports)
    for path in experiments:
        yield path, [spec.run_id for spec in open_experiment(path).specs(scale)]
