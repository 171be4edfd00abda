"""`grokking list`, `status` and `export`: what there is, what is stored, and its tables for other programs."""

import inspect
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from grokking.commands.arguments import Files, Imports
from grokking.errors import BadInput

if TYPE_CHECKING:
    from grokking.registry import Entry


def list_(
    kind: Annotated[
        Literal["tasks", "optimizers", "transforms", "models", "losses", "schedules", "inits", "recipes"],
        tyro.conf.Positional,
    ],
    name: Annotated[str, tyro.conf.Positional] = "",
    /,
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False,
    imports: Imports = (),
) -> int:
    """Name, one line, formula, numbers with defaults and source of everything of one kind; all that is said of one thing.

    Args:
        kind: what to list.
        name: of one of them, such as muon: what each of its options means, too.
        verbose: of each task, show three examples, too; of each recipe, all that is said of it.
        imports: modules of your own to load first.
    """
    from grokking.extensions import import_extensions
    from grokking.optim.transforms import transforms
    from grokking.setting import KINDS

    import_extensions(imports)
    if kind == "recipes":
        print(_recipes(name, verbose))
        return 0
    registry = next(r for r in (*KINDS.values(), transforms) if kind in (r.kind + "s", r.kind + "es"))
    if name:
        entry = registry[name]
        print(f"{entry.name}: {inspect.cleandoc(entry.make.__doc__ or '')}\n\n{_defaults(entry)}")
        if kind == "models":
            print(f"\n{roles_of_model(name)}")
        return 0
    width = max(len(name) for name in registry) + 2
    for entry in registry.values():
        source = entry.source and f"source: {entry.source}"
        examples = _examples(entry, verbose) if kind == "tasks" else ()
        parts = (entry.summary, entry.formula, _defaults(entry), source, *examples)
        lines = [line for line in dict.fromkeys(parts) if line]
        print(f"{entry.name:{width}s}" + f"\n{'':{width}s}".join(lines))
    if kind == "optimizers":
        print(
            "\nand any torch.optim.Optimizer by its dotted name, trained one run at a time: torch.optim.NAdam, "
            "pytorch_optimizer.SophiaH, or my_file.MyOptimizer after --import my_file.py"
        )
    return 0


def roles_of_model(name: str) -> str:
    """A table of the parameters of a model at its defaults, on x + y: declared roles, or those of its modules' types."""
    from grokking.roles import role_table
    from grokking.runs import run_spec

    model = run_spec({"model.name": name}, 0).setting.model()
    rows = [("parameter", "shape", "role", "at the start"), *role_table(model)]
    count = sum(parameter.numel() for parameter in model.parameters())
    return f"{_aligned(rows)}\n{count:,} parameters, with options at their defaults and on the default task"


def _recipes(name: str, verbose: bool) -> str:
    """A table of all recipes; all that is said of each; or of one, with its settings."""
    from grokking.recipes import RECIPES, recipe

    if not name and not verbose:
        head = ("recipe", "task, share for training", "model", "optimizer, rate, decay", "batch", "steps", "published")
        rows = [head, *(_recipe_row(name) for name in RECIPES)]
        return (
            _aligned(rows)
            + "\n\nof each, what is stated, what is open and what its code does: grokking list recipes NAME"
        )

    def told(name: str) -> list[str]:
        r = recipe(name)
        parts = {"source": r.source, "stated": r.stated, "open": r.open, "its code": r.code, "published": r.published}
        return [name, *(f"  {word}: {text}" for word, text in parts.items() if text)]

    if not name:
        return "\n\n".join("\n".join(told(name)) for name in RECIPES)
    settings = " ".join(f"{key}={value}" for key, value in recipe(name).settings.items())
    return "\n".join([*told(name), f"  settings: {settings}"])


def _recipe_row(name: str) -> tuple[str, ...]:
    from grokking.recipes import published_steps, recipe
    from grokking.runs import run_spec

    spec = run_spec(recipe(name).settings, 0)
    told = {**spec.setting.by_name, **dict(spec.hyper)}
    return (
        name,
        f"{told['task.name']} {told['task.p']}, {told['train_fraction']:.0%}",
        f"{told['model.name']} {told['model.depth']} × {told['model.width']}",
        f"{told['optimizer.name']} {told['optimizer.lr']:g}, {told['optimizer.weight_decay']:g}"
        + "".join(f" + {transform}" for transform in spec.setting.transforms),
        str(told["batch_size"] or "all"),
        f"{told['steps']:,}",
        published_steps(recipe(name).within),
    )


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _defaults(entry: "Entry") -> str:
    """Its options with their defaults."""
    return " ".join(f"{name}={value}" for name, value in entry.defaults.items())


def _examples(entry: "Entry", verbose: bool) -> list[str]:
    """How many examples a task has, and three of them as a person reads them."""
    table = entry.make(**entry.defaults)
    count = len(table.labels)
    shown = [table.show(int(count * part)) for part in (0.31, 0.62, 0.83)] if verbose else []
    return [
        f"{count:,} examples, {len(table.vocabulary)} tokens",
        *(repr(text) if not table.separator else text for text in shown),
    ]


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
        imports: your own tasks and optimizers: .py files or modules.
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
    return 0


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
        imports: your own tasks and optimizers: .py files or modules.
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
