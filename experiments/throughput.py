"""How fast is it, and which part of the way from a plain PyTorch loop brings how much?

Not a sweep: nothing is trained to an end or stored, and timings are not byte-stable, so `make reproduce` leaves it out.

    python experiments/throughput.py [--quick] [--device cuda] [--publish]        or: make bench

Forms      plain      one run, an ordinary module and torch.optim.AdamW (experiments/plain_loop.py), one thread
           all cores  the same with as many threads as there are cores
           shortcuts  the same loop with the package's module, which computes every distinct state once
           cohort     the package: several runs side by side in one lifted step
           captured   the same step compiled (`--compile`)
Measure    run-steps per second, data and optimizer included, evaluation not. All forms of a comparison take turns in one
           process; a figure is the median over the rounds, a ratio the median of the rounds' ratios to `plain`. One thread
           everywhere but in `all cores`: a sweep runs one worker of one thread per core, so a core is what is compared.
Share      matrix-product operations of a step (counted, with the shortcuts taken) per second, over what a 1024 × 1024 product
           of the same precision reaches in the same rounds.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plain_loop import PlainLoop, plain_model
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from grokking.engine.cohort import start
from grokking.engine.trainer import Trainer
from grokking.execute.local import widest
from grokking.execute.unit import machine
from grokking.plotting import COLORS, GREY, Drawing, caption, save, style
from grokking.publish import PUBLISHED, rewrite_documents
from grokking.roles import initial_weights
from grokking.runs import RunSpec, run_spec

FORMS = ("plain", "all cores", "shortcuts", "cohort", "captured")
LEAST_SECONDS = 0.3  # of one turn


@dataclass(frozen=True)
class Config:
    """What is trained: the default model and optimizer but for these."""

    p: int = 97
    depth: int = 1
    width: int = 128
    batch: int = 512  # 0: all training examples
    optimizer: str = "adamw"

    def spec(self, seed: int = 0) -> RunSpec:
        """The run of this seed."""
        settings: dict[str, int | str] = {"task.p": self.p, "model.depth": self.depth, "model.width": self.width}
        settings |= {"batch_size": self.batch or self.p**2, "optimizer.name": self.optimizer, "steps": 10**9}
        return run_spec(settings, seed)


@dataclass(frozen=True)
class Form:
    """One way to train: `advance` makes a step of `runs` runs."""

    name: str
    runs: int
    advance: Callable[[], object]
    threads: int = 1

    @property
    def key(self) -> str:
        """Its name and how many runs it trains at once."""
        return f"{self.name} × {self.runs}"


def form(name: str, config: Config, device: torch.device, runs: int = 1) -> Form:
    """The form of this name; `runs` counts for those that train several at once."""
    spec, cores = config.spec(), os.cpu_count() or 1
    if name in ("plain", "all cores"):
        return Form(name, 1, PlainLoop(spec, plain_model(spec), device).advance, cores if name == "all cores" else 1)
    if name == "shortcuts":
        model = spec.setting.model().to_empty(device="cpu")
        model.load_state_dict(initial_weights(model, spec.seed), strict=False)
        return Form(name, 1, PlainLoop(spec, model, device).advance)
    trainer = Trainer(spec.setting, device, capture=name == "captured")
    cohort = start([config.spec(seed) for seed in range(runs)], device)
    return Form(name, runs, lambda: trainer.advance(cohort))


def product(device: torch.device) -> Form:
    """A matrix product that fills the machine's arithmetic: 2 · 1024³ operations."""
    a, b = torch.ones(2, 1024, 1024, device=device).unbind()
    return Form("product", 1, lambda: a @ b)


def operations(config: Config) -> float:
    """Floating-point operations in the matrix products of one step of one run, with the shortcuts taken."""
    cpu = torch.device("cpu")
    trainer, cohort = Trainer(config.spec().setting, cpu), start([config.spec(0), config.spec(1)], cpu)
    with FlopCounterMode(display=False) as counter:
        trainer.advance(cohort)
    return counter.get_total_flops() / 2


def take_turns(forms: Sequence[Form], rounds: int, device: torch.device) -> list[dict[str, float]]:
    """Run-steps per second of every form, round by round; one step of each, uncounted, warms up."""
    lengths = {form.key: max(1, round(LEAST_SECONDS * _rate(form, 2, device) / form.runs)) for form in forms}
    turns = tqdm([(number, form) for number in range(rounds) for form in forms], leave=False, desc="turns")
    rates: list[dict[str, float]] = [{} for _ in range(rounds)]
    for number, form in turns:
        rates[number][form.key] = _rate(form, lengths[form.key], device)
    return rates


def _rate(form: Form, steps: int, device: torch.device) -> float:
    torch.set_num_threads(form.threads)
    form.advance()
    _wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        form.advance()
    _wait(device)
    return form.runs * steps / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    part: str, config: Config, forms: Sequence[Form], rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    """Lines of the table: these forms of one configuration, in turns."""
    machines, per_step = product(device), operations(config)
    rates = take_turns([*forms, machines], rounds, device)
    lines = []
    for form in forms:
        own = [turn[form.key] for turn in rates]
        line = {"part": part, "form": form.name, "cohort": form.runs, **asdict(config), "rounds": rounds}
        line |= {"run_steps_per_second": statistics.median(own), "least": min(own), "most": max(own)}
        if (plain := next((turn for turn in forms if turn.name == "plain"), None)) is not None:
            line["ratio_to_plain"] = statistics.median(turn[form.key] / turn[plain.key] for turn in rates)
        if form.name not in ("plain", "all cores"):
            line["operations"] = per_step
            shares = [turn[form.key] * per_step / (turn[machines.key] * 2 * 1024**3) for turn in rates]
            line["share_of_product"] = statistics.median(shares)
        lines.append(line)
    return lines


ABLATION = [Config(depth=depth, batch=batch) for depth in (1, 2) for batch in (512, 0)]
WIDTHS = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 8, 64, 256)}
COSTS = [
    *(Config(p=p) for p in (31, 59, 97, 113)),
    *(Config(width=width) for width in (64, 128, 256)),
    *(Config(depth=depth) for depth in (1, 2, 3)),
]
COLOR = {"plain": GREY, "all cores": "#BBBBBB", "shortcuts": "#56B4E9", "cohort": "#0072B2", "captured": "#D55E00"}


def everything(device: torch.device, rounds: int, quick: bool) -> pd.DataFrame:
    """All comparisons, line by line: `part` says which one a line belongs to."""

    def usual(config: Config, *names: str) -> list[Form]:
        return [form(name, config, device, widest(device.type, name == "captured")) for name in names]

    plan = [("ablation", config, usual(config, *FORMS)) for config in (ABLATION[:1] if quick else ABLATION)]
    if not quick:
        muon = Config(optimizer="muon")
        pairs = [form(name, Config(), device, runs) for name in ("cohort", "captured") for runs in WIDTHS[device.type]]
        plan += [("width", Config(), pairs), ("muon", muon, usual(muon, "cohort", "captured"))]
        plan += [("cost", config, usual(config, "plain", "cohort")) for config in dict.fromkeys(COSTS)]
    lines = []
    for part, config, forms in tqdm(plan, desc="comparisons"):
        lines += measure(part, config, forms, rounds, device)
    return pd.DataFrame(lines)


def drawing(table: pd.DataFrame, where: str) -> Drawing:
    """Ratios to the plain loop, form by form; rates by cohort width; and what p, width and depth cost."""
    with style():
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        bars, widths, costs = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
        _bars(bars, table[table["part"] == "ablation"])
        _widths(widths, table[table["part"] == "width"])
        _costs(costs, table[table["part"] == "cost"])
    rounds = int(table["rounds"].min())
    caption(
        figure,
        f"x + y mod p, causal transformer of width 128 and 4 heads, batch 512, AdamW, float32; run-steps per second, median of "
        f"{rounds} rounds in which all forms take turns (whiskers: least and most). One thread, but for “all cores”. Left: "
        f"p = 97, ratio to the plain loop of the same round. {where}.",
    )
    return Drawing("throughput", figure, {"": table}, rounds, markdown=lambda table: markdown(table, where))


def _bars(axes: Axes, table: pd.DataFrame) -> None:
    groups = list(table.groupby(["depth", "batch"], sort=False))
    names = list(dict.fromkeys(table["form"]))
    for at, ((_, _), lines) in enumerate(groups):
        base = lines["run_steps_per_second"].iloc[0]
        for place, line in enumerate(lines.to_dict("records")):
            x, ratio = at + (place - (len(names) - 1) / 2) * 0.16, line["ratio_to_plain"]
            axes.bar(x, ratio, 0.15, color=COLOR[line["form"]], label=line["form"] if at == 0 else None)
            reach = [[ratio - line["least"] / base], [line["most"] / base - ratio]]
            axes.errorbar(x, ratio, [[max(0.0, reach[0][0])], [max(0.0, reach[1][0])]], color="#444444", lw=0.7)
            axes.annotate(f"{ratio:.1f}", (x, ratio), (0, 4), textcoords="offset points", ha="center", fontsize=6.5)
    labels = [
        f"{depth} layer{'s' * (depth > 1)}\n{'batch 512' if batch else 'full batch'}" for (depth, batch), _ in groups
    ]
    axes.set_xticks(range(len(groups)), labels)
    axes.set(ylabel="run-steps per second, plain loop = 1", title="What brings how much")
    axes.legend(ncols=1, loc="upper right")
    axes.grid(visible=False, axis="x")


def _widths(axes: Axes, table: pd.DataFrame) -> None:
    for name, lines in table.groupby("form", sort=False):
        axes.plot(lines["cohort"], lines["run_steps_per_second"], marker="o", ms=4, color=COLOR[str(name)], label=name)
        axes.fill_between(lines["cohort"], lines["least"], lines["most"], color=COLOR[str(name)], alpha=0.15, lw=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(table["cohort"])), [str(width) for width in sorted(set(table["cohort"]))], minor=False)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="runs in the cohort", ylabel="run-steps per second", title="Width of the cohort (p = 97)")
    axes.legend()


def _costs(axes: Axes, table: pd.DataFrame) -> None:
    cohort = table[table["form"] == "cohort"]
    default = Config()
    for name, color in (("p", COLORS["muon"]), ("width", COLORS["adamw"]), ("depth", COLORS["adam"])):
        others = [other for other in ("p", "width", "depth") if other != name]
        lines = cohort[(cohort[others] == [getattr(default, other) for other in others]).all(axis=1)].sort_values(name)
        axes.plot(
            lines[name] / getattr(default, name),
            1e3 / lines["run_steps_per_second"],
            marker="o",
            ms=4,
            color=color,
            label=f"{name} = {', '.join(map(str, lines[name]))}",
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks([0.5, 1, 2, 3], ["½", "1", "2", "3"])
    axes.set_ylim(bottom=0)
    axes.set(
        xlabel="times the default (97, 128, 1 layer)", ylabel="milliseconds per run-step", title="Cost, in a cohort"
    )
    axes.legend()


def markdown(table: pd.DataFrame, where: str) -> str:
    """The ablation as a table of a document."""
    lines = [
        "| model, batch | form | run-steps/s | ratio to plain | share of the measured matmul rate |",
        "|---|---|---|---|---|",
    ]
    for row in table[table["part"].isin(["ablation", "muon"])].to_dict("records"):
        model = f"{row['depth']} layer{'s' * (row['depth'] > 1)}, {row['batch'] or 'full'}, {row['optimizer']}"
        share = "–" if pd.isna(row["share_of_product"]) else f"{row['share_of_product']:.0%}"
        ratio = "–" if pd.isna(row["ratio_to_plain"]) else f"{row['ratio_to_plain']:.2f}"
        name = row["form"] + (f" of {row['cohort']}" if row["cohort"] > 1 else "")
        rate = f"{row['run_steps_per_second']:.1f} ({row['least']:.1f} to {row['most']:.1f})"
        lines.append(f"| {model} | {name} | {rate} | {ratio} | {share} |")
    rounds = int(table["rounds"].min())
    return "\n".join(
        [*lines, "", f"`make bench`, p = 97, median of {rounds} rounds (least to most), one process: {where}."]
    )


def main(device: str = "cpu", rounds: int = 5, quick: bool = False, publish: bool = False) -> None:
    """Measure, and draw figures/throughput.png.

    Args:
        device: cpu or cuda.
        rounds: turns of every form.
        quick: the first comparison alone.
        publish: maintainers: also to figures/published and the documents.
    """
    on = torch.device(device)
    table = everything(on, rounds, quick)
    where = f"{machine(device)}, {os.cpu_count()} cores, PyTorch {torch.__version__}"
    drawn = drawing(table.assign(machine=where), where)
    for folder in (Path("figures"), *([PUBLISHED] if publish else [])):
        print("\n".join(save(drawn, folder)))
        (folder / "throughput.md").write_text(markdown(table, where) + "\n")
    if publish:
        rewrite_documents()
    print(markdown(table, where))


if __name__ == "__main__":
    tyro.cli(main)
