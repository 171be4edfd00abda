"""`grokking run` and `grokking sweep`: what is to be trained, and what became of it."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from grokking.commands.arguments import HERE, Files, Imports, Set, Where, on_recipe, parse_seeds, told
from grokking.errors import BadInput

if TYPE_CHECKING:
    from grokking.runs import RunSpec


def run(
    task: str | None = None,
    optimizer: str | None = None,
    recipe: str | None = None,
    seeds: str = "0",
    settings: Set = (),
    steps: int | None = None,
    imports: Imports = (),
    where: Where = HERE,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    lr_range: Annotated[str | None, tyro.conf.arg(metavar="LOW:HIGH")] = None,
    figures: Path = Path("figures"),
) -> int:
    """Train runs of one setting and say when each of them generalised.

    Args:
        task: see `grokking list tasks`; mod_add if nothing says otherwise.
        optimizer: see `grokking list optimizers`; adamw if nothing says otherwise.
        recipe: the setting of a paper (see `grokking list recipes`); --task, --optimizer and --set change it.
        seeds: 3 or 0:5 (0 to 4) or 0:5,9.
        settings: any setting by its dotted name, such as optimizer.lr=0.02 model.width=64 train_fraction=0.5.
        steps: the budget, short for --set steps=N.
        imports: what you wrote yourself (tasks, models, optimizers, …): .py files or modules.
        where: where, and how.
        as_json: one JSON object a line per run on stdout, and nothing else there.
        lr_range: a learning-rate range test, such as 1e-6:1: the rate rises from the one to the other over 1,000 steps (or
            --steps); says where the training loss falls fastest, is least and leaves, and draws it.
        figures: folder that gets the picture of a range test.
    """
    from grokking.commands.training import train
    from grokking.extensions import import_extensions
    from grokking.optim import optimizers
    from grokking.range_test import parse_range, settings_of_range
    from grokking.runs import run_spec
    from grokking.store import load, make_writable

    # Whatever a user's file prints is no part of what is asked for: on stdout stand the results.
    with contextlib.redirect_stdout(sys.stderr):
        import_extensions(imports)
    changed = told(settings, {"task.name": task, "optimizer.name": optimizer, "steps": steps})
    chosen = on_recipe(recipe, changed)
    if lr_range is not None:
        if as_json:
            raise BadInput("--lr-range draws a picture and says what it shows; leave --json out")
        chosen = settings_of_range(chosen, optimizers[str(chosen["optimizer.name"])].defaults, *parse_range(lr_range))
        make_writable(figures, "figures")
    with contextlib.redirect_stdout(sys.stderr):
        specs = [run_spec(chosen, seed) for seed in parse_seeds(seeds)]
        failed = train(specs, where, imports)
    if lr_range is not None:
        return failed or _show_range(where.out, [spec.run_id for spec in specs], figures)
    table = load(where.out, [spec.run_id for spec in specs], curves=False).runs
    for row in table.to_dict("records"):
        row = {str(name): None if _no_number(value) else value for name, value in row.items()}
        if as_json:
            print(json.dumps(row, default=lambda number: number.item()))
        else:
            print(_sentence(row))
    return failed


def _show_range(out: Path, run_ids: Sequence[str], figures: Path) -> int:
    """Say and draw what a range test has found."""
    from grokking.plotting import save
    from grokking.range_test import conditions, drawing, sentence
    from grokking.store import load

    results = load(out, run_ids)
    drawn = drawing(results.runs, results.curves, results.machines)
    print(f"the learning rate rises{conditions(results.runs.iloc[0])}")
    for line in drawn.tables["found"].to_dict("records"):
        print(sentence(line, str(results.runs["optimizer.name"].iloc[0])))
    print(save(drawn, figures)[0])
    return 0


def _no_number(value: object) -> bool:
    """NaN, infinity and pandas' missing value are null in JSON, which has no other word for them."""
    return str(value) in ("nan", "inf", "-inf", "<NA>", "None")


def _sentence(row: dict[str, Any]) -> str:
    from grokking.tasks import tasks

    first = next((f":{row[f'task.{option}']}" for option in tasks[row["task.name"]].defaults), "")
    start = f"{row['task.name']}{first} {row['optimizer.name']} seed {row['seed']}:"
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
    where: Where = HERE,
    adopt: Path | None = None,
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None,
) -> int:
    """Train what is missing of one or more experiments.

    Args:
        experiments: experiment files.
        scale: smoke, laptop or paper.
        imports: what you wrote yourself (tasks, models, optimizers, …): .py files or modules.
        where: where, and how.
        adopt: folder of published runs tables; runs found there by run_id are taken as done.
        shard: 2/4 trains the second of four parts that together are everything; stores merge by copying their units.
    """
    from grokking.commands.training import train
    from grokking.experiment import open_experiment
    from grokking.extensions import import_extensions
    from grokking.store import adopted
    from grokking.study import parse_shard, shard_of

    part = parse_shard(shard)
    import_extensions(imports)
    known = adopted(adopt)
    if not experiments:
        raise BadInput("sweep needs an experiment file, such as experiments/optimizers.py")
    opened = [open_experiment(path) for path in experiments]
    alike: dict[bool, dict[str, RunSpec]] = {}
    for experiment in opened:
        alike.setdefault(scale in experiment.compile, {}).update({s.run_id: s for s in experiment.specs(scale)})
    code = 0
    for declared, specs in alike.items():
        asked = shard_of(list(specs.values()), *part)
        own = [spec for spec in asked if spec.run_id not in known]
        if adopt is not None:
            print(f"grokking: {len(asked) - len(own)} of {len(asked)} runs are adopted from {adopt}", file=sys.stderr)
        code = max(code, train(own, where, (*imports, *experiments), declared))
    return code
