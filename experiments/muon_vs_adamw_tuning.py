"""The searches behind experiments/muon_vs_adamw.py: AdamW and Muon on each task, the same run-steps for each.

Here       First TPE (`grokking tune`), from usual numbers on (START): learning rate and weight decay for AdamW; for Muon those of its
           matrices and those of what is no hidden matrix. Each configuration is trained with two tuning seeds for 1,500 steps at most; it
           is worth the mean of the steps until validation accuracy reaches 95 % and stays, and a run that does not get there counts as
           1,500 (as does one that gets there after step 1,000, which the budget is too short to see stay). A search may spend 100,000
           run-steps; what its last batch takes beyond them does not count. Then an exchange: each optimizer tries on each task what was its
           best on each of the other six. Then a final: the six best configurations of an optimizer on a task, and its usual numbers, with
           eight further tuning seeds, which alone decide, since of many configurations the best with two seeds is a lucky one.
Shows      Best so far against run-steps spent, and the finals. Who wins a final has the numbers of muon_vs_adamw.py, which reads them
           from the published table.
"""

import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure
from muon_and_adamw import FINAL_SEEDS, FINALISTS, SEARCH_STEPS, SPACES, TASKS, TITLES, TUNING_SEEDS, search
from tqdm import tqdm

from grokking.commands.arguments import Where
from grokking.commands.training import fill, open_store, opened
from grokking.execute.jobs import Executor
from grokking.plotting import COLORS, Drawing, caption, label, save, step_ticks, style
from grokking.publish import markdown_table, publish_drawing, rewrite_documents
from grokking.runs import RunSpec
from grokking.store import Results, load
from grokking.tuning.search import Search, Train, paid

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
    pairs = [(task, name) for task in tasks for name in optimizers]
    found: dict[tuple[str, str], pd.DataFrame] = {}
    with opened(where, (), declared=True) as executor:
        train = partial(_train, where=where, executor=executor)
        for task, name in tqdm(pairs, desc="searches"):
            with Search(out, search(task, name), train) as going:
                while batch := going.batch(None, SEARCH_STEPS):
                    going.settle(batch)
                found[task, name] = marked(going.table()).assign(task=task, optimizer=name, origin=task)
            print(f"{task}, {name}: {going.so_far()}", file=sys.stderr)
        table = decided(exchanged(found, out, train), out, train)
    run_ids = [spec.run_id for line in table.to_dict("records") for spec in runs_of(line)]
    run_ids += [spec.run_id for line in finalists(table).to_dict("records") for spec in runs_of(line, FINAL_SEEDS)]
    results = load(out, run_ids, curves=False)
    drawn = drawing(table, results)
    print(markdown(drawn.tables[""]))
    print(save(drawn, Path("figures"))[0])
    if publish:
        publish_drawing(drawn, results, "", f"experiments/{NAME}.py")
        rewrite_documents()


def _train(specs: Sequence[RunSpec], where: Where, executor: Executor) -> None:
    if fill(specs, where, executor):
        sys.exit("a cohort failed")


def marked(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials of a search with the run-steps spent by then, which the budget pays for, and which of those is best."""
    within = trials.index.isin(paid(trials, SEARCH_STEPS).index)
    return _with_best(trials.assign(spent_by_then=trials["spent"].cumsum(), within=within))


def _with_best(trials: pd.DataFrame) -> pd.DataFrame:
    done = trials[trials["within"] & (trials["state"] == "complete")].sort_values(["value", "trial"])
    return trials.assign(best=trials.index.isin(done.index[:1]))


def runs_of(line: Mapping[Hashable, Any], seeds: tuple[int, ...] = TUNING_SEEDS) -> list[RunSpec]:
    """The runs of a configuration, one for each of these seeds."""
    own = search(line["task"], line["optimizer"])
    return replace(own, seeds=seeds).runs({name: line[name] for name in dict(own.space)})


def exchanged(found: Mapping[tuple[str, str], pd.DataFrame], out: Path, train: Train) -> pd.DataFrame:
    """All searches, and with each what its task made of the best of the same optimizer's other tasks."""
    guests = [
        {**host.iloc[-1], **trials[trials["best"]].iloc[0].drop(["task", "spent_by_then"]), "task": task, "best": False}
        for (task, name), host in found.items()
        for (other, of), trials in found.items()
        if of == name and other != task
    ]
    train(list({spec.run_id: spec for line in guests for spec in runs_of(line)}.values()))
    for line in guests:
        own = search(line["task"], line["optimizer"])
        runs = load(out, [spec.run_id for spec in runs_of(line)], curves=False).runs
        value = own.value(runs)
        line |= {"value": value.value, "low": value.low, "high": value.high, "spent": int(runs["steps_trained"].sum())}
        line |= {
            "generalized": int(runs["steps_to_generalize"].notna().sum()),
            "sustained": int(runs["sustained"].sum()),
        }
        line["diverged"] = int((runs["status"] == "diverged").sum())
    whole = []
    for (task, name), trials in found.items():
        visiting = pd.DataFrame([line for line in guests if (line["task"], line["optimizer"]) == (task, name)])
        if len(visiting):
            visiting["trial"] = trials["trial"].max() + 1 + np.arange(len(visiting))
            visiting["spent_by_then"] = SEARCH_STEPS + visiting["spent"].cumsum()
            visiting["within"] = True
        whole.append(_with_best(pd.concat([trials, visiting], ignore_index=True)))
    return pd.concat(whole, ignore_index=True)


def finalists(table: pd.DataFrame) -> pd.DataFrame:
    """Of each optimizer on each task the configurations that are best with the two seeds, and the one that its search began with."""
    done = table[table["within"] & (table["state"] == "complete")].sort_values(["value", "trial"])
    place = done.groupby(["task", "optimizer"]).cumcount()
    return done[(place < FINALISTS) | (done["trial"] == 0)]


def decided(table: pd.DataFrame, out: Path, train: Train) -> pd.DataFrame:
    """The table with what the finalists are worth on further seeds, and the best by that."""
    table, finals = table.copy(), finalists(table)
    specs = {at: runs_of(line, FINAL_SEEDS) for at, line in zip(finals.index, finals.to_dict("records"), strict=True)}
    train(list({spec.run_id: spec for own in specs.values() for spec in own}.values()))
    for at, own in specs.items():
        runs = load(out, [spec.run_id for spec in own], curves=False).runs
        value = search(*finals.loc[at, ["task", "optimizer"]]).value(runs)
        table.loc[at, ["final", "final_low", "final_high"]] = value.value, value.low, value.high
        table.loc[at, "final_sustained"] = int(runs["sustained"].sum())
    winners = table.sort_values(["final", "value", "trial"]).groupby(["task", "optimizer"]).head(1).index
    return table.assign(best=table.index.isin(winners))


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
                finals = own[own["final"].notna()]
                axes.vlines(finals["spent_by_then"], finals["value"], finals["final"], color=COLORS[name], lw=0.4)
                axes.plot(
                    finals["spent_by_then"], finals["final"], "o", ms=3.5, mfc="white", mew=0.8, color=COLORS[name]
                )
                won = finals[finals["best"]]
                axes.plot(won["spent_by_then"], won["final"], "*", ms=8, mec="black", mew=0.5, color=COLORS[name])
            axes.axvline(SEARCH_STEPS, color="black", lw=0.7, ls=":")
            axes.set(title=TITLES[task], yscale="log", xlabel="run-steps spent")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
            step_ticks(axes.yaxis)
        panels[0].set_ylabel("steps to stay above 95 % (log)")
        panels[0].legend()
        caption(
            figure,
            f"Searches of AdamW's and Muon's numbers (TPE from usual ones on; Muon has four, AdamW two), a panel per task (p = 97, "
            f"one-layer transformer of width 128). Dots: configurations, mean over n = {len(TUNING_SEEDS)} tuning seeds of the steps until "
            "validation accuracy reaches 95 % and stays, 1,500 where it does not; lines: the best so far. Dotted: the budget of the search, the "
            f"same for all; right of it: what was best on the other tasks. Rings: the {FINALISTS} best, and the first, on n = {len(FINAL_SEEDS)} further seeds; star: "
            "the best of these, which was chosen. "
            f"Trained on: {'; '.join(results.machines)}.",
        )
    return Drawing(NAME, figure, {"": table, "runs": results.runs}, len(TUNING_SEEDS), None, markdown)


def markdown(table: pd.DataFrame) -> str:
    """What each search found, as it stands in a document."""
    head = (
        *("task", "optimizer", "configurations", "generalise", "start"),
        *("best with two seeds", "the same, eight further", "best of the final", "its numbers", "found on"),
    )
    lines = []
    for (task, name), own in table.groupby(["task", "optimizer"], sort=False):
        own = own[own["within"]]
        best, lucky = own[own["best"]].iloc[0], finalists(own).iloc[0]
        numbers = ", ".join(f"{option.removeprefix('optimizer.')} {best[option]:g}" for option in SPACES[str(name)])
        works = int((own["generalized"] == own["n"]).sum())
        steps = (f"{value:,.0f}" for value in (own["value"].iloc[0], lucky["value"], lucky["final"]))
        final = f"{best['final']:,.0f} [{best['final_low']:,.0f}, {best['final_high']:,.0f}]"
        who = (TITLES[str(task)], label(str(name)), str(len(own)), str(works))
        lines.append((*who, *steps, final, numbers, TITLES[best["origin"]]))
    return markdown_table(head, lines)


if __name__ == "__main__":
    tyro.cli(main)
