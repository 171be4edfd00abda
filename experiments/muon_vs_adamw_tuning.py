"""The searches behind experiments/muon_vs_adamw.py: AdamW and Muon on each task, the same run-steps for each.

Here       TPE (`grokking tune`), from the stated numbers on: learning rate and weight decay for AdamW; for Muon those of its
           matrices and those of what is no hidden matrix. Each configuration is trained with two tuning seeds for 1,500 steps at
           most; it is worth the mean of the steps until validation accuracy reaches 95 % and stays, and a run that does not get
           there counts as 1,500. A search may spend 30,000 run-steps; what its last batch takes beyond them does not count.
Shows      Best so far against run-steps spent. CHOSEN of muon_vs_adamw.py holds where the curves end.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure
from muon_and_adamw import SEARCH_STEPS, SPACES, TASKS, TITLES, TUNING_SEEDS, search
from tqdm import tqdm

from grokking.commands.arguments import Where
from grokking.commands.training import fill, open_store, opened
from grokking.execute.jobs import Executor
from grokking.plotting import COLORS, Drawing, caption, label, save, step_ticks, style
from grokking.publish import markdown_table, publish_drawing, rewrite_documents
from grokking.runs import RunSpec
from grokking.store import Results, load
from grokking.tuning.search import Search, paid

NAME = "muon_vs_adamw_tuning"


def main(
    optimizers: tuple[str, ...] = tuple(SPACES),
    tasks: tuple[str, ...] = tuple(TASKS),
    out: Path = Path("results"),
    workers: int = 0,
    publish: bool = False,
) -> None:
    """Search, or go on searching, and draw what was found.

    Args:
        optimizers: whose numbers.
        tasks: on which of the tasks.
        out: folder of the results.
        workers: processes that train; 0: as many as cores.
        publish: maintainers: also to figures/published, and rewrite the documents.
    """
    where = Where(out=out, workers=workers)
    open_store(where)
    tables, run_ids = [], []
    with opened(where, (), declared=True) as executor:
        train = partial(_train, where=where, executor=executor)
        for task, optimizer in tqdm([(task, name) for task in tasks for name in optimizers], desc="searches"):
            own = search(task, optimizer)
            with Search(out, own, train) as going:
                while batch := going.batch(None, SEARCH_STEPS):
                    going.settle(batch)
                table = going.table()
            print(f"{task}, {optimizer}: {going.so_far()}", file=sys.stderr)
            tables.append(marked(table).assign(task=task, optimizer=optimizer))
            space = dict(own.space)
            for line in table.to_dict("records"):
                run_ids += [spec.run_id for spec in own.runs({name: line[name] for name in space})]
    results = load(out, run_ids, curves=False)
    drawn = drawing(pd.concat(tables, ignore_index=True), results)
    print(markdown(drawn.tables[""]))
    print(save(drawn, Path("figures"))[0])
    if publish:
        publish_drawing(drawn, results, "tuning", f"experiments/{NAME}.py")
        rewrite_documents()


def _train(specs: Sequence[RunSpec], where: Where, executor: Executor) -> None:
    if fill(specs, where, executor):
        sys.exit("a cohort failed")


def marked(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials of a search with the run-steps spent by then, which the budget pays for, and which of those is best."""
    within = trials.index.isin(paid(trials, SEARCH_STEPS).index)
    done = trials[within & (trials["state"] == "complete")].sort_values(["value", "trial"])
    return trials.assign(spent_by_then=trials["spent"].cumsum(), within=within, best=trials.index.isin(done.index[:1]))


def drawing(table: pd.DataFrame, results: Results) -> Drawing:
    """Best so far against run-steps, a panel per task."""
    tasks = list(dict.fromkeys(table["task"]))
    with style():
        figure = Figure(figsize=(2.1 * len(tasks) + 0.6, 2.9), layout="constrained")
        panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for axes, task in zip(panels, tasks, strict=True):
            for name in SPACES:
                own = table[(table["task"] == task) & (table["optimizer"] == name)]
                value = own["value"].where(own["within"]).astype(float)
                axes.plot(own["spent_by_then"], own["value"], "o", ms=2.5, alpha=0.5, color=COLORS[name], mew=0)
                best = np.minimum.accumulate(value.fillna(np.inf).to_numpy())
                axes.step(own["spent_by_then"], best, where="post", color=COLORS[name], label=label(name))
            axes.axvline(SEARCH_STEPS, color="black", lw=0.7, ls=":")
            axes.set(title=TITLES[task], yscale="log", xlabel="run-steps spent")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
            step_ticks(axes.yaxis)
        panels[0].set_ylabel("steps to stay above 95 % (log)")
        panels[0].legend()
        caption(
            figure,
            f"Searches of AdamW's and Muon's numbers (TPE from the stated ones on; Muon has four, AdamW two), a panel per task (p = 97, "
            f"one-layer transformer of width 128). Dots: configurations, mean over n = {len(TUNING_SEEDS)} tuning seeds of the steps until "
            "validation accuracy reaches 95 % and stays, 1,500 where it does not; lines: the best so far. Dotted: the budget, the same for all. "
            f"Trained on: {'; '.join(results.machines)}.",
        )
    return Drawing(NAME, figure, {"": table, "runs": results.runs}, len(TUNING_SEEDS), None, markdown)


def markdown(table: pd.DataFrame) -> str:
    """What each search found, as it stands in a document."""
    head = ("task", "optimizer", "configurations", "generalise", "stated numbers", "best", "its numbers")
    lines = []
    for (task, name), own in table.groupby(["task", "optimizer"], sort=False):
        own = own[own["within"]]
        best, first = own[own["best"]].iloc[0], own.iloc[0]
        numbers = ", ".join(f"{option.removeprefix('optimizer.')} {best[option]:g}" for option in SPACES[str(name)])
        works = int((own["generalized"] == own["n"]).sum())
        steps = (f"{row['value']:,.0f}" for row in (first, best))
        lines.append((TITLES[str(task)], label(str(name)), str(len(own)), str(works), *steps, numbers))
    return markdown_table(head, lines)


if __name__ == "__main__":
    tyro.cli(main)
