"""`grokking tune`: search for an optimizer's best numbers."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from grokking.commands.arguments import HERE, Imports, Set, Where, install, on_recipe, parse_seeds, told
from grokking.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from grokking.runs import RunSpec
    from grokking.tuning.definition import Definition


def tune(
    task: str | None = None,
    optimizer: str | None = None,
    recipe: str | None = None,
    space: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=LOW:HIGH|VALUE,VALUE ...")] = (),
    start: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = (),
    trials: int | None = None,
    budget: float | None = None,
    seeds: str = "1000:1003",
    settings: Set = (),
    steps: int | None = None,
    sampler: Literal["tpe", "random", "grid"] = "tpe",
    sampler_seed: int = 0,
    batch: int = 8,
    points: int = 4,
    rungs: tuple[int, ...] = (),
    reduction: int = 4,
    objective: Literal["steps_to_generalize", "steps_to_sustain"] = "steps_to_generalize",
    imports: Imports = (),
    where: Where = HERE,
    figures: Path = Path("figures"),
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Search for the numbers with which runs generalise soonest; what is found is told, drawn and kept.

    Configurations are asked for in batches and trained with all tuning seeds side by side. The search may be stopped, killed
    and continued by the same command; with more --trials or --budget it goes on; the same command at once in several shells
    works on one search.

    Args:
        task: see `grokking list tasks`; mod_add if nothing says otherwise.
        optimizer: see `grokking list optimizers`; adamw if nothing says otherwise.
        recipe: the setting of a paper (see `grokking list recipes`); --task, --optimizer and --set change it.
        space: what is searched: optimizer.lr=1e-4:1e-1 (even in the logarithm), optimizer.momentum=0.5:0.99:linear,
            model.width=64,128 (choices); without it learning rate and weight decay around their defaults.
        start: a configuration that is tried first, such as the best so far; what it does not name is as the recipe has it, or else as it is
            by default.
        trials: how many configurations are tried in all; 40, unless --budget says when to stop.
        budget: run-steps that may be spent: no batch is begun after that many, and what the last one takes beyond them
            is not counted.
        seeds: the tuning seeds; keep them apart from those you report.
        settings: any setting by its dotted name, the same in all runs.
        steps: the budget of a run, short for --set steps=N.
        sampler: tpe (Optuna's, multivariate), random or grid.
        sampler_seed: another seed is another search.
        batch: configurations that are asked for at once.
        points: of each range, for the grid.
        rungs: budgets that a batch is tried with first, such as 100 400: only the best part is trained again with the next one
            (successive halving on validation accuracy); all of it is counted as spent.
        reduction: one in so many passes a rung.
        objective: whose mean over the tuning seeds, restricted to the budget, is to be small.
        imports: what you wrote yourself (tasks, models, optimizers, …): .py files or modules.
        where: where, and how.
        figures: folder that gets the picture of the search.
        as_json: one JSON object a line per trial on stdout, and nothing else there.
    """
    import importlib.util

    if importlib.util.find_spec("optuna") is None:
        raise BadInput(f"tune needs Optuna, which is not installed; {install('tune')}")
    import contextlib

    from grokking.extensions import import_extensions
    from grokking.runs import defaults_in_use
    from grokking.store import make_writable
    from grokking.tuning.definition import Definition
    from grokking.tuning.search import paid
    from grokking.tuning.space import around_defaults, parse_point, parse_space

    for name, limit in (("trials", trials), ("budget", budget)):
        if limit is not None and not 1 <= limit < float("inf"):
            raise BadInput(f"{name} = {limit}; allowed: numbers from 1 on")
    with contextlib.redirect_stdout(sys.stderr):
        import_extensions(imports)
        changed = told(settings, {"task.name": task, "optimizer.name": optimizer, "steps": steps})
        chosen = on_recipe(recipe, changed)
        defaults = defaults_in_use(chosen)
        axes = parse_space(space, defaults) if space else around_defaults({**defaults, **chosen}, changed)
        first = parse_point(start, axes, defaults, chosen) if start else {}
        chosen = {name: value for name, value in chosen.items() if name not in axes or name in changed}
        definition = Definition(
            tuple(sorted(chosen.items())),
            tuple(axes.items()),
            tuple(parse_seeds(seeds)),
            objective=objective,
            sampler=sampler,
            sampler_seed=sampler_seed,
            batch=batch,
            rungs=rungs,
            reduction=reduction,
            points=points,
            start=tuple(first.items()),
        )
        definition.check()
        make_writable(figures, "figures")
        limit = 40 if trials is None and budget is None else trials
        table = _search(definition, limit, None if budget is None else int(budget), where, imports)
    _tell(definition, paid(table, budget), imports, as_json, where.out, figures)
    return 1 if (table["state"] == "fail").any() else 0


def _search(
    definition: "Definition", trials: int | None, budget: int | None, where: Where, imports: tuple[str, ...]
) -> "pd.DataFrame":
    """Go on with the search until `trials` or the budget of run-steps are spent; its table."""
    from grokking.commands.training import check, fill, open_store, opened
    from grokking.execute.signals import stoppable
    from grokking.tuning.search import Search

    check(definition.runs(definition.middle()), where)
    open_store(where)
    with stoppable() as stop, opened(where, imports, declared=False) as executor:

        def train(specs: "Sequence[RunSpec]") -> None:
            stop.check()
            fill(specs, where, executor)
            stop.check()

        with Search(where.out, definition, train) as search:
            print(f"grokking: the search {search.folder}: {search.so_far()}", file=sys.stderr)
            while batch := search.batch(trials, budget):
                stop.check()
                if not search.settle(batch):
                    print("grokking: nothing of a whole batch could be trained; the search ends", file=sys.stderr)
                    break
                print(f"grokking: {search.so_far()}", file=sys.stderr)
            search.record()
            return search.table()


def _tell(
    definition: "Definition",
    table: "pd.DataFrame",
    imports: tuple[str, ...],
    as_json: bool,
    out: Path,
    figures: Path,
) -> None:
    """Say what was found, and draw it."""
    from grokking.plotting import save
    from grokking.tuning.search_figure import drawing

    picture = save(drawing(definition, table), figures)[0]
    if as_json:
        for line in table.astype(object).where(table.notna(), None).to_dict("records"):
            print(json.dumps(line, default=str))
        return
    done = table[table["state"] == "complete"].sort_values(["value", "trial"])
    for line in done[done["generalized"] > 0].head(5).to_dict("records"):
        numbers = " ".join(f"{name}={line[name]}" for name in dict(definition.space))
        print(f"{line['value']:,.0f} steps ({line['generalized']} of {line['n']} generalise): {numbers}")
    if broken := int(table["diverged"].fillna(0).sum()):
        print(f"{broken} of {len(done) * len(definition.seeds)} runs diverged, and count as never generalising")
    print(picture)
    if len(done) and done.iloc[0]["generalized"]:
        print("on seeds that did not choose it:\n  " + command(definition, done.iloc[0], imports, out))
    else:
        print(
            f"none of {len(table)} configurations generalises within {definition.horizon:,} steps; more --steps or another --space?"
        )


def command(definition: "Definition", line: Any, imports: tuple[str, ...], out: Path) -> str:
    """The command that runs a configuration on other seeds."""
    chosen = {**dict(definition.settings), **{name: line[name] for name in dict(definition.space)}}
    words = ["grokking", "run"]
    for flag, name in (("--task", "task.name"), ("--optimizer", "optimizer.name")):
        words += [flag, str(chosen.pop(name))]
    words += ["--seeds", "0:10", *(["--import", *imports] if imports else [])]
    words += ["--out", str(out)] if out != HERE.out else []
    return shlex.join([*words, "--set", *(f"{name}={value}" for name, value in chosen.items())])
