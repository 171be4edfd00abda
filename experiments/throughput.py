"""How fast is it, and which part of the way from a plain PyTorch loop brings how much?

Not a sweep: nothing is trained to an end or stored, and timings are not byte-stable, so `make reproduce` leaves it out.

    make bench        or: .venv/bin/python experiments/throughput.py [--parts width muon] [--device cuda]

Forms      plain      one run, an ordinary module and torch.optim.AdamW (experiments/plain_loop.py)
           shortcuts  the same loop with the package's module, which computes every distinct state once
           cohort     the package: several runs side by side in one lifted step
           compiled   the same step compiled (`--compile on`); on CUDA a cohort is recorded instead, as a graph of ten steps
Cores      One thread in all forms, and once as a machine is used: `plain` with PyTorch's own threads on every core against a
           worker of one thread on each core, as `grokking sweep` has them.
Measure    Run-steps per second, data and optimizer included, evaluation not. All forms of a comparison take turns in one
           run; a rate is the median over the rounds, a ratio the median of the rounds' ratios to the first form on as many
           cores. Memory is what steps take at most in a process of its own, beyond an idle one.
Share      Matrix-product operations of a step (counted, with the shortcuts taken) per second, over what a 1024 × 1024 product
           of the same precision reaches in the same rounds.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from plain_loop import PlainLoop, plain_model
from throughput_figure import PANELS, PARTS, ROUNDS, Part, drawing, markdown, short
from tqdm import tqdm

from grokking.engine.cohort import start
from grokking.engine.operations import operations
from grokking.engine.trainer import BLOCK, Trainer
from grokking.execute.local import widest
from grokking.execute.unit import keep_freed_memory, machine
from grokking.plotting import save
from grokking.publish import PUBLISHED, rewrite_documents
from grokking.runs import RunSpec, run_spec

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
LEAST_SECONDS = 0.5  # of one turn
WARM_UP = BLOCK + 3  # steps: on CUDA a block and a single step are recorded


@dataclass(frozen=True)
class Config:
    """What is trained: the default model and optimizer but for these."""

    p: int = 97
    depth: int = 1
    width: int = 128
    batch: int = 512  # 0: all training examples
    optimizer: str = "adamw"
    precision: str = "fp32"

    def spec(self, seed: int = 0) -> RunSpec:
        """The run of this seed."""
        settings: dict[str, int | str] = {"task.p": self.p, "model.depth": self.depth, "model.width": self.width}
        settings |= {"batch_size": self.batch or self.p**2, "optimizer.name": self.optimizer, "steps": 10**9}
        return run_spec({**settings, "precision": self.precision}, seed)


@dataclass(frozen=True)
class Form:
    """One way to train: `advance` makes so many steps of `runs` runs."""

    name: str
    config: Config
    runs: int
    advance: Callable[[int], None]
    cores: int = 1  # used at once
    threads: int = 1  # of this process


def repeated(step: Callable[[], object], wait: Callable[[], None] = lambda: None) -> Callable[[int], None]:
    """`step` as often as is asked for, and at last what waits for the device."""

    def advance(steps: int) -> None:
        for _ in range(steps):
            step()
        wait()

    return advance


def form(name: str, config: Config, device: torch.device, runs: int = 0, cores: int = 1) -> Form:
    """The form of this name on this device, in this process; `runs` (0: as many as a sweep) count where several train."""
    spec = config.spec()
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    if name == "plain":
        loop = PlainLoop(spec, plain_model(spec), device)
        return Form(name, config, 1, repeated(loop.advance, wait), cores, threads=cores)
    if name == "shortcuts":
        model = spec.setting.model().to_empty(device="cpu")
        model.load_state_dict(spec.setting.initial_weights(spec.seed), strict=False)
        return Form(name, config, 1, repeated(PlainLoop(spec, model, device).advance, wait))
    trainer = Trainer(spec.setting, device, compile=name == "compiled")
    runs = runs or widest(device.type, name == "compiled")
    cohort = start([config.spec(seed) for seed in range(runs)], device, places=trainer.places)

    def advance(steps: int) -> None:
        until = cohort.step + steps
        while cohort.step < until:
            trainer.advance(cohort, until - cohort.step)
        wait()

    return Form(name, config, runs, advance)


class Workers:
    """A process per core, each with a form of its own: what `grokking sweep` makes of a machine."""

    def __init__(self, name: str, config: Config, device: str, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(count)]
        self.pipes = [ours for ours, _ in pipes]
        self.processes = [
            context.Process(target=_serve, args=(theirs, name, config, device), daemon=True) for _, theirs in pipes
        ]
        for process, (_, theirs) in zip(self.processes, pipes, strict=True):
            process.start()
            theirs.close()  # so that a process that dies is heard
        self.runs, self.memory = map(sum, zip(*(pipe.recv() for pipe in self.pipes), strict=True))

    def advance(self, steps: int) -> None:
        """So many steps of every worker, all at once."""
        for pipe in self.pipes:
            pipe.send(steps)
        for pipe in self.pipes:
            pipe.recv()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in zip(self.processes, self.pipes, strict=True):
            pipe.close()
            process.join()


def _serve(connection: Connection, name: str, config: Config, device: str) -> None:
    """Tell runs and memory, then make steps as asked until the other end closes."""
    torch.set_num_threads(1)
    keep_freed_memory()
    on = torch.device(device)
    idle = _memory(on)
    own = form(name, config, on)
    own.advance(WARM_UP)
    _forget_peak()  # that of compiling
    own.advance(3)
    connection.send((own.runs, _memory(on) - idle))
    try:
        while True:
            own.advance(connection.recv())
            connection.send(None)
    except EOFError:
        pass


def _memory(device: torch.device) -> int:
    """The most bytes that this process has had so far, on the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    except OSError:  # no Linux; there ru_maxrss would hold the parent's peak, too
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5); elsewhere the peak stays


def product(config: Config, device: torch.device) -> Form:
    """A matrix product that fills the machine's arithmetic, in the configuration's precision: 2 · 1024³ operations."""
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    a, b = torch.ones(2, 1024, 1024, device=device, dtype=dtype).unbind()
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    return Form("product", config, 1, repeated(lambda: a @ b, wait))


def take_turns(forms: Sequence[Form], rounds: int) -> list[list[float]]:
    """Run-steps per second [round][form]; some steps of each, uncounted, warm up and tell how long a turn must be."""
    for form in forms:
        _rate(form, WARM_UP)
    lengths = [max(1, round(LEAST_SECONDS * _rate(form, 3) / form.runs)) for form in forms]
    turns = tqdm([pair for _ in range(rounds) for pair in zip(forms, lengths, strict=True)], leave=False, desc="turns")
    rates = [_rate(form, steps) for form, steps in turns]
    return [rates[first : first + len(forms)] for first in range(0, len(rates), len(forms))]


def _rate(form: Form, steps: int) -> float:
    torch.set_num_threads(form.threads)
    form.advance(1)
    began = time.perf_counter()
    form.advance(steps)
    return form.runs * steps / (time.perf_counter() - began)


def measure(part: str, forms: Sequence[Form], rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Lines of the table: these forms, in turns, each against the first that uses as many cores."""
    configs = list(dict.fromkeys(form.config for form in forms))
    per_step = {config: operations(config.spec()) for config in configs}
    rates = take_turns([*forms, *(product(config, device) for config in configs)], rounds)
    lines = []
    for at, form in enumerate(forms):
        own = [turn[at] for turn in rates]
        first = next(place for place, other in enumerate(forms) if other.cores == form.cores)
        line = {"part": part, "form": form.name, "cores": form.cores, "cohort": form.runs}
        line |= {**dataclasses.asdict(form.config), "rounds": rounds}
        line |= {"run_steps_per_second": statistics.median(own), "least": min(own), "most": max(own)}
        line |= {"ratio": statistics.median(turn[at] / turn[first] for turn in rates)}
        if form.name != "plain" and form.cores == 1:
            done, product_at = per_step[form.config], len(forms) + configs.index(form.config)
            shares = [turn[at] * done / (turn[product_at] * 2 * 1024**3) for turn in rates]
            line |= {"operations": done, "share_of_product": statistics.median(shares)}
        lines.append(line)
    return lines


def ablation(config: Config, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """From the plain loop to the compiled cohort: on one core, on the whole machine, and how much memory each takes."""
    forms = [form(name, config, device) for name in FORMS[device.type]]
    with ExitStack() as stack:
        if device.type == "cpu":
            workers = stack.enter_context(Workers("compiled", config, device.type, CORES))
            forms += [
                form("plain", config, device, cores=CORES),
                Form("compiled", config, workers.runs, workers.advance, CORES),
            ]
        lines = measure("ablation", forms, rounds, device)
    for line in lines:
        if line["cores"] == 1:
            with Workers(line["form"], config, device.type, 1) as worker:
                line["megabytes"] = round(worker.memory / 1e6)
    return lines


FORMS = {"cpu": ("plain", "shortcuts", "cohort", "compiled"), "cuda": ("plain", "shortcuts", "cohort")}
ABLATION = [Config(depth=depth, batch=batch) for depth in (1, 2) for batch in (512, 0)]
WIDTHS = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 4, 16, 64, 256)}
PRECISION = (Config(), Config(depth=2), Config(batch=0))
COSTS = [
    *(Config(p=p) for p in (31, 59, 97, 113)),
    *(Config(width=width) for width in (64, 128, 256)),
    *(Config(depth=depth) for depth in (1, 2)),
]


def everything(device: torch.device, rounds: int, parts: Sequence[Part]) -> Iterator[pd.DataFrame]:
    """The comparisons of these parts so far, line by line, after each of them: `part` says which one a line belongs to."""
    *_, best = FORMS[device.type]
    cohorts = FORMS[device.type][2:]

    def usual(part: Part, names: Sequence[str], *configs: Config) -> Callable[[], list[dict[str, Any]]]:
        return lambda: measure(
            part, [form(name, config, device) for config in configs for name in names], rounds, device
        )

    def widths() -> list[dict[str, Any]]:
        pairs = [("plain", 1), *((name, runs) for name in cohorts for runs in WIDTHS[device.type])]
        return measure("width", [form(name, Config(), device, runs) for name, runs in pairs], rounds, device)

    halves = [(config, dataclasses.replace(config, precision="bf16")) for config in PRECISION]
    plan: dict[Part, list[Callable[[], list[dict[str, Any]]]]] = {
        "ablation": [lambda config=config: ablation(config, rounds, device) for config in ABLATION],  # type: ignore[misc]
        "width": [widths],
        "muon": [usual("muon", cohorts, Config(optimizer="muon"))],
        "precision": [usual("precision", (best,), *pair) for pair in halves],
        "cost": [usual("cost", ("plain", best), config) for config in dict.fromkeys(COSTS)],
    }
    lines: list[dict[str, Any]] = []
    for comparison in tqdm([comparison for part in parts for comparison in plan[part]], desc="comparisons"):
        try:
            lines += comparison()
        except Exception:  # what was measured is kept
            traceback.print_exc()
        yield pd.DataFrame(lines)


def main(
    device: str = "cpu",
    rounds: int = ROUNDS,
    parts: tuple[Part, ...] = PARTS,
    measured: Path | None = None,
    publish: bool = False,
) -> None:
    """Measure, and draw figures/throughput.png.

    Args:
        device: cpu or cuda.
        rounds: turns of every form.
        parts: which comparisons; one of them at least with a panel of the picture.
        measured: a throughput.csv of before: draw that, and measure nothing.
        publish: maintainers: also to figures/published and the documents.
    """
    if not set(parts) & (drawable := {part for part, *_ in PANELS}):
        sys.exit(
            f"--parts {' '.join(parts)}: nothing to draw; allowed: any that include one of {', '.join(sorted(drawable))}"
        )
    name = "throughput" if device == "cpu" else f"throughput_{device}"
    if measured:
        table = pd.read_csv(measured)
    else:
        keep_freed_memory()  # for the plain loop, too
        where = f"{machine(device)}, {CORES} cores, PyTorch {torch.__version__}"
        for lines in everything(torch.device(device), rounds, parts):
            table = lines.assign(machine=where)
            table.to_csv(f"figures/{name}.csv", index=False)
    drawn = dataclasses.replace(drawing(table), name=name)
    texts = {"": markdown(table)} | ({"_short": short(table)} if (table["part"] == "ablation").any() else {})
    for folder in (Path("figures"), *([PUBLISHED] if publish else [])):
        print("\n".join(save(drawn, folder)))
        for words, text in texts.items():
            (folder / f"{name}{words}.md").write_text(text + "\n")
    if publish:
        rewrite_documents()
    print(*texts.values(), sep="\n\n")


if __name__ == "__main__":
    tyro.cli(main)
