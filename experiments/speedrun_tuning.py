"""The searches behind `fewest_steps` and `fewest_steps_symmetric`, our entries to RECORDS.md.

Here       TPE (`grokking tune`) on x + y (mod 113), 40 % of the examples for training. Each configuration is trained with three tuning
           seeds and is worth the mean of the steps until 95 % of the validation set are right; a run that does not get there within
           its 54 counts as 54. It begins with START, the best of earlier trials by hand and by search on two of these seeds.
Shows      The best so far against configurations tried, and what the two sizes do. The best has the numbers of
           grokking/recipes/records.py; a test holds one to the other.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from matplotlib.figure import Figure

from grokking.commands.arguments import Where
from grokking.commands.training import fill, open_store, opened
from grokking.execute.jobs import Executor
from grokking.plotting import COLORS, Drawing, caption, save, step_ticks, style
from grokking.publish import markdown_table, publish_drawing, rewrite_documents
from grokking.recipes import RECIPES
from grokking.registry import Settings
from grokking.runs import RunSpec
from grokking.store import Results, load
from grokking.tuning.definition import Definition
from grokking.tuning.search import Search
from grokking.tuning.space import Axis, Choices, Range

NAME = "speedrun_tuning"
SPACE: Mapping[str, Axis] = {
    "optimizer.lr": Range(0.1, 0.8),
    "optimizer.embedding_lr": Range(0.1, 1.0),
    "optimizer.head_lr": Range(0.02, 0.5),
    "optimizer.momentum": Range(0.2, 0.9, log=False),
    "model.logit_scale": Range(0.3, 8.0),
    "schedule.floor": Range(0.02, 1.0, log=False),
    "model.embedding": Choices((113, 226)),
    "model.width": Choices((200, 300)),
    "optimizer.head": Choices(("rows", "columns")),
    "transform.oblique.head": Choices(("rows", "columns")),
    "optimizer.orthogonalize": Choices(("jordan", "you6")),
}
START: dict[str, Settings] = {
    "fewest_steps_symmetric": {
        **{"optimizer.lr": 0.43, "optimizer.embedding_lr": 0.21, "optimizer.head_lr": 0.081},
        **{"optimizer.momentum": 0.375, "model.logit_scale": 0.64, "schedule.floor": 0.3},
        **{"model.embedding": 226, "model.width": 200, "optimizer.head": "rows", "transform.oblique.head": "columns"},
        **{"optimizer.orthogonalize": "jordan"},
    },
    "fewest_steps": {
        **{"optimizer.lr": 0.205, "optimizer.embedding_lr": 0.28, "optimizer.head_lr": 0.054},
        **{"optimizer.momentum": 0.73, "model.logit_scale": 2.2, "schedule.floor": 1.0},
        **{"model.embedding": 113, "model.width": 200, "optimizer.head": "columns", "transform.oblique.head": "rows"},
        **{"optimizer.orthogonalize": "you6"},
    },
}
TRIALS = {"fewest_steps_symmetric": 40, "fewest_steps": 80}
SEEDS = (1000, 1001, 1002)


def search(entry: str) -> Definition:
    """The search of an entry's numbers: all else is as in its recipe."""
    base = {name: value for name, value in RECIPES[entry].settings.items() if name not in SPACE}
    return Definition(
        tuple(sorted(base.items())), tuple(SPACE.items()), SEEDS, batch=4, start=tuple(START[entry].items())
    )


def main(
    entries: tuple[str, ...] = tuple(START), out: Path = Path("results"), workers: int = 0, publish: bool = False
) -> None:
    """Search, or go on searching, and draw what was found.

    Args:
        entries: whose numbers.
        out: folder of the results.
        workers: processes that train; 0: as many as cores.
        publish: maintainers: also to figures/published, and rewrite the documents.
    """
    where, tables, run_ids = Where(out=out, workers=workers), [], []
    open_store(where)
    with opened(where, (), declared=False) as executor:
        for entry in entries:
            own = search(entry)
            with Search(out, own, partial(_train, where=where, executor=executor)) as going:
                while batch := going.batch(TRIALS[entry], None):
                    going.settle(batch)
                trials = going.table()
            print(f"{entry}: {going.so_far()}", file=sys.stderr)
            tables.append(trials.assign(entry=entry))
            run_ids += [
                spec.run_id
                for line in trials.to_dict("records")
                for spec in own.runs({name: line[name] for name in SPACE})
            ]
    table = pd.concat(tables, ignore_index=True)
    results = load(out, run_ids, curves=False)
    drawn = drawing(table, results)
    print(markdown(table))
    print(save(drawn, Path("figures"))[0])
    if publish:
        publish_drawing(drawn, results, "", f"experiments/{NAME}.py")
        rewrite_documents()


def _train(specs: Sequence[RunSpec], where: Where, executor: Executor) -> None:
    if fill(specs, where, executor):
        sys.exit("a cohort failed")


def best(trials: pd.DataFrame) -> "pd.Series[float]":
    """The configuration that a search chose."""
    return trials[trials["state"] == "complete"].sort_values(["value", "trial"]).iloc[0]


def drawing(table: pd.DataFrame, results: Results) -> Drawing:
    """Steps against configurations tried; filled by the size of the embedding, large dots by that of the layers."""
    with style():
        figure = Figure(figsize=(4.2 * table["entry"].nunique(), 3.4), layout="constrained")
        panels = figure.subplots(1, table["entry"].nunique(), sharey=True, squeeze=False)[0]
        for axes, (entry, own) in zip(panels, table.groupby("entry", sort=False), strict=True):
            for (embedding, width), group in own.groupby(["model.embedding", "model.width"]):
                axes.plot(
                    *(group["trial"] + 1, group["value"], "o"),
                    ms=6 if width == max(SPACE["model.width"].points(1)) else 3.5,
                    color=COLORS["muon"],
                    mfc=COLORS["muon"] if embedding == max(SPACE["model.embedding"].points(1)) else "white",
                    label=f"embedding {embedding}, width {width}",
                )
            axes.step(own["trial"] + 1, own["value"].cummin(), where="post", color="black", label="best so far")
            axes.set(title=str(entry), xlabel="configurations tried", yscale="log")
            step_ticks(axes.yaxis)
        panels[0].set_ylabel("mean steps to 95 % (log)")
        handles = {
            text: handle for axes in panels for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
        caption(
            figure,
            f"Searches (TPE) of the settings with which x + y (mod 113) is learned in the fewest steps, 40 % for training. Each dot a configuration, "
            f"mean of n = {len(SEEDS)} tuning seeds of the steps to 95 % of the validation set, 54 where a run does not get there. "
            f"Trained on: {'; '.join(results.machines)}.",
        )
    return Drawing(NAME, figure, {"": table, "runs": results.runs}, len(SEEDS), None, markdown)


def markdown(table: pd.DataFrame) -> str:
    """A line a setting: where each search began, and what it chose."""
    columns: dict[str, Any] = {}
    for entry, own in table.groupby("entry", sort=False):
        columns |= {f"`{entry}`: start": own.iloc[0], f"`{entry}`: chosen of {len(own)}": best(own)}
    rows = [(name, *(str(line[name]) for line in columns.values())) for name in SPACE]
    rows.append(("mean steps", *(f"{line['value']:.1f}" for line in columns.values())))
    return markdown_table(("", *columns), rows)


if __name__ == "__main__":
    tyro.cli(main)
