"""The command line: list, run, sweep, draw, status."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from grokking.errors import BadInput

if TYPE_CHECKING:
    from grokking.runs import RunSpec

Files = Annotated[tuple[str, ...], tyro.conf.Positional]
Set = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE ...")]
Imports = Annotated[tuple[str, ...], tyro.conf.arg(name="import", metavar="FILE.py|MODULE ...")]


def list_(
    kind: Annotated[Literal["tasks", "optimizers", "models", "losses", "schedules"], tyro.conf.Positional],
    /,
    imports: Imports = (),
) -> int:
    """Name, one line and defaults of everything of one kind.

    Args:
        kind: what to list.
        imports: modules of your own to load first.
    """
    from grokking.extensions import import_extensions
    from grokking.runs import KINDS

    import_extensions(imports)
    registry = next(r for r in KINDS.values() if kind in (r.kind + "s", r.kind + "es"))
    for entry in registry.values():
        defaults = " ".join(f"{name}={value}" for name, value in entry.defaults.items())
        print(f"{entry.name:14s} {entry.summary}" + (f"\n{'':14s} {defaults}" if defaults else ""))
    return 0


def run(
    task: str = "mod_add",
    optimizer: str = "adamw",
    seeds: str = "0",
    settings: Set = (),
    steps: int | None = None,
    imports: Imports = (),
    device: str = "auto",
    out: Path = Path("results"),
    workers: int = 0,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Train runs of one setting and say when each of them generalised.

    Args:
        task: see `grokking list tasks`.
        optimizer: see `grokking list optimizers`.
        seeds: 3 or 0:5 (0 to 4) or 0:5,9.
        settings: any setting by its dotted name, such as optimizer.lr=0.02 model.width=64 train_fraction=0.5.
        steps: the budget, short for --set steps=N.
        imports: your own tasks and optimizers: .py files or modules.
        device: auto, cpu or cuda.
        out: folder of the results; what is stored there is not trained again.
        workers: worker processes; 0 is one per CPU core.
        as_json: one JSON object a line per run on stdout, and nothing else there.
    """
    from grokking.extensions import import_extensions
    from grokking.runs import run_spec
    from grokking.store import load

    import_extensions(imports)
    chosen: dict[str, str | int] = {"task.name": task, "optimizer.name": optimizer}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--set {text!r} has no value; allowed: name=value, such as optimizer.lr=0.02")
        chosen[name] = value
    if steps is not None:
        chosen["steps"] = steps
    specs = [run_spec(chosen, seed) for seed in parse_seeds(seeds)]
    failures = _train(specs, out, device, workers, imports)
    table = load(out, [spec.run_id for spec in specs]).runs
    for row in table.to_dict("records"):
        row = {str(name): None if _no_number(value) else value for name, value in row.items()}
        if as_json:
            print(json.dumps(row, default=lambda number: number.item()))
        else:
            print(_sentence(row))
    return failures


def _no_number(value: object) -> bool:
    """NaN, infinity and pandas' missing value are null in JSON, which has no other word for them."""
    return str(value) in ("nan", "inf", "-inf", "<NA>", "None")


def _sentence(row: dict[str, Any]) -> str:
    start = f"{row['task.name']} {row['optimizer.name']} seed {row['seed']}:"
    if row["status"] == "generalized":
        memorized = f"memorised at step {row['steps_to_memorize']}, " if row["memorized"] else ""
        kept = f"sustained from {row['steps_to_sustain']}" if row["sustained"] else "not yet sustained at the budget"
        return (
            f"{start} {memorized}generalised at step {row['steps_to_generalize']} "
            f"(epoch {row['epochs_to_generalize']:.0f}), {kept}"
        )
    seen = f"train accuracy {row['final_train_accuracy']:.3f}, validation {row['final_validation_accuracy']:.3f}"
    if row["status"] == "diverged":
        return f"{start} diverged at step {row['diverged_at']}; a lower optimizer.lr may help"
    return f"{start} not generalised within the budget of {row['steps']} steps ({seen}): censored"


def sweep(
    experiments: Files,
    /,
    scale: str = "laptop",
    imports: Imports = (),
    device: str = "auto",
    out: Path = Path("results"),
    workers: int = 0,
    adopt: Path | None = None,
) -> int:
    """Train what is missing of one or more experiments.

    Args:
        experiments: experiment files.
        scale: smoke, laptop or paper.
        imports: your own tasks and optimizers: .py files or modules.
        device: auto, cpu or cuda.
        out: folder of the results.
        workers: worker processes; 0 is one per CPU core.
        adopt: folder of published runs tables; runs found there by run_id are taken as done.
    """
    from grokking.experiment import open_experiment
    from grokking.extensions import import_extensions
    from grokking.store import adopted

    import_extensions(imports)
    known = adopted(adopt)
    opened = [open_experiment(path) for path in experiments]
    specs = [spec for experiment in opened for spec in experiment.specs(scale)]
    specs = [spec for spec in {spec.run_id: spec for spec in specs}.values() if spec.run_id not in known]
    return _train(specs, out, device, workers, (*imports, *experiments))


def draw(
    experiments: Files,
    /,
    scale: str = "laptop",
    imports: Imports = (),
    out: Path = Path("results"),
    figures: Path = Path("figures"),
    adopt: Path | None = None,
    publish: bool = False,
) -> int:
    """Draw figures and verdicts of experiments from what is stored; trains nothing.

    Args:
        experiments: experiment files.
        scale: smoke, laptop or paper.
        imports: your own tasks and optimizers: .py files or modules.
        out: folder of the results.
        figures: folder that gets NAME.png, NAME.svg and NAME.csv.
        adopt: folder of published runs tables; runs found there by run_id are drawn too.
        publish: maintainers: also copy to figures/published and rewrite the tables of README.md and REPRODUCING.md.
    """
    from grokking.experiment import open_experiment
    from grokking.extensions import import_extensions
    from grokking.plotting import save
    from grokking.store import load

    import_extensions(imports)
    for path in experiments:
        experiment = open_experiment(path)
        results = load(out, [spec.run_id for spec in experiment.specs(scale)], adopt)
        if results.runs.empty:
            raise BadInput(f"no run of {path} at scale {scale!r} is stored in {str(out)!r}; sweep it first")
        if results.missing:
            print(
                f"grokking: {results.missing} runs of {path} are not trained yet; drawn without them", file=sys.stderr
            )
        for drawing in experiment.draw(results):
            files = save(drawing, figures)
            print(f"{files[0]}: {drawing.verdict}" if drawing.verdict else files[0])
            if publish:
                from grokking.publish import publish_drawing

                publish_drawing(drawing, results, scale, path)
    if publish:
        from grokking.publish import rewrite_documents

        rewrite_documents()
    return 0


def status(
    experiments: Files = (), /, scale: str = "laptop", imports: Imports = (), out: Path = Path("results")
) -> int:
    """How many runs are stored, of experiments or in all, and how they ended.

    Args:
        experiments: experiment files; none: the whole store.
        scale: smoke, laptop or paper.
        imports: your own tasks and optimizers: .py files or modules.
        out: folder of the results.
    """
    from grokking.store import load, stored

    def count(name: str, run_ids: list[str]) -> None:
        results = load(out, run_ids)
        ends = results.runs["status"].value_counts() if len(results.runs) else {}
        words = ", ".join(f"{ends.get(end, 0)} {end}" for end in ("generalized", "censored", "diverged"))
        print(f"{name}: {len(results.runs)} of {len(run_ids)} runs stored ({words})")

    if not experiments:
        count(str(out), list(stored(out)))
        return 0
    from grokking.experiment import open_experiment
    from grokking.extensions import import_extensions

    import_extensions(imports)
    for path in experiments:
        count(path, [spec.run_id for spec in open_experiment(path).specs(scale)])
    return 0


def _train(specs: Sequence["RunSpec"], out: Path, device: str, workers: int, imports: Sequence[str]) -> int:
    """Train the runs that are not stored; 1 if something failed."""
    from grokking.execute.local import WIDTH, choose_device, execute
    from grokking.runs import plan, total_steps
    from grokking.store import prepare, stored

    device = choose_device(device)
    if workers < 0:
        raise BadInput(f"workers = {workers}; allowed: integers from 0 on (0: one per CPU core)")
    workers = workers or _cores()
    prepare(out)
    known = stored(out)
    missing = [spec for spec in specs if spec.run_id not in known]
    print(
        f"grokking: {len(missing)} of {len(specs)} runs to train on {device}, at most {total_steps(missing):,} steps",
        file=sys.stderr,
    )
    if not missing:
        return 0
    failures = execute(plan(missing, WIDTH, workers), out, device, workers, imports)
    for failure in failures:
        print(f"grokking: a cohort failed:\n{failure}", file=sys.stderr)
    return 1 if failures else 0


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


MOST_SEEDS = 10_000


def parse_seeds(text: str) -> list[int]:
    """`0:5,9` → [0, 1, 2, 3, 4, 9]; ranges are half-open."""
    seeds: list[int] = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        try:
            found = list(range(int(first), min(int(last), int(first) + MOST_SEEDS + 1))) if colon else [int(first)]
        except ValueError:
            found = []
        if not found:
            raise BadInput(
                f"seeds = {text!r}; allowed: numbers and ascending half-open ranges, such as 3 or 0:5 or 0:5,9"
            )
        seeds += found
        if len(seeds) > MOST_SEEDS:
            raise BadInput(f"seeds = {text!r} are more than {MOST_SEEDS:,}; train them in several calls")
    return list(dict.fromkeys(seeds))


def command_line(arguments: list[str]) -> int:
    """Parse and run one command; returns its exit code."""
    from tyro.extras import subcommand_cli_from_dict

    commands: dict[str, Any] = {"list": list_, "run": run, "sweep": sweep, "draw": draw, "status": status}
    return int(
        subcommand_cli_from_dict(
            commands,
            prog="grokking",
            description="Measure how long small networks take to generalise after they have memorised.",
            args=arguments,
            config=(tyro.conf.AvoidSubcommands,),
        )
    )
