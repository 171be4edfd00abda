"""The local executor: one worker process per core (or this process), a progress bar, and nothing lost on Ctrl-C."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from grokking.engine.loop import Record
from grokking.errors import BadInput, Interrupted
from grokking.execute.unit import train_unit
from grokking.extensions import import_extensions
from grokking.runs import RunSpec, total_steps

Ended = list[tuple[int, str]]  # (steps left of the budget, status) of each run that ended
WIDTH = 8  # runs side by side on a CPU: beyond that the activations of a step leave the caches


def choose_device(device: str) -> str:
    """`auto` is CUDA where there is one, else the CPU."""
    if device not in ("auto", "cpu", "cuda"):
        raise BadInput(f"device = {device!r}; allowed: auto, cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device = 'cuda', but PyTorch sees no CUDA device here; allowed: auto, cpu")
    return "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device


def execute(
    cohorts: Sequence[list[RunSpec]], folder: Path, device: str, workers: int, imports: Sequence[str]
) -> list[str]:
    """Train every cohort and store each as soon as it is done; returns the tracebacks of those that failed."""
    failures: list[str] = []
    with Progress([spec for cohort in cohorts for spec in cohort]) as progress, interruptible():
        if device == "cuda" or workers == 1 or len(cohorts) == 1:
            for cohort in cohorts:
                try:
                    train_unit(cohort, device, folder, lambda steps, ended: progress.add(steps, left(ended)))
                except Exception:
                    failures.append(traceback.format_exc())
        else:
            failures = _in_processes(cohorts, folder, device, workers, imports, progress)
    return failures


def _in_processes(
    cohorts: Sequence[list[RunSpec]],
    folder: Path,
    device: str,
    workers: int,
    imports: Sequence[str],
    progress: "Progress",
) -> list[str]:
    context = multiprocessing.get_context("spawn")
    news = context.SimpleQueue()
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(news, tuple(imports)))
    try:
        futures = [pool.submit(_work, cohort, device, folder) for cohort in cohorts]
        while not all(future.done() for future in futures):
            while not news.empty():
                progress.add(*news.get())
            time.sleep(0.1)
        while not news.empty():
            progress.add(*news.get())
        return [failure for future in futures if (failure := _failure(future))]
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _failure(future: Future[None]) -> str | None:
    error = future.exception()
    if error is None:
        return None
    if isinstance(error, BrokenProcessPool):
        return "a worker process died (killed, or out of memory); what it had not stored is trained on the next call\n"
    return "".join(traceback.format_exception(error))


_news: Any = None  # the worker's end of the queue to the progress bar


def _begin_worker(news: Any, imports: tuple[str, ...]) -> None:
    global _news
    _news = news
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import_extensions(imports)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _work(specs: list[RunSpec], device: str, folder: Path) -> None:
    train_unit(specs, device, folder, lambda steps, ended: _news.put((steps, left(ended))))


def left(ended: Sequence[Record]) -> Ended:
    """What each ended run left of its budget, and its status."""
    return [(r.spec.setting.integer("steps") - r.steps[-1], str(r.row()["status"])) for r in ended]


class Progress:
    """A bar over run-steps. Its total is every budget; a run that ends early gives the rest of its budget back."""

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self.runs, self.ended, self.generalized, self.trained = len(specs), 0, 0, 0
        self.total = total_steps(specs)

    def __enter__(self) -> "Progress":
        self.began = time.perf_counter()
        self.bar = tqdm(
            total=self.total, file=sys.stderr, bar_format="{percentage:3.0f}%|{bar:20}| {desc}", mininterval=0.5
        )
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, steps: int, ended: Ended) -> None:
        """`steps` run-steps were trained, and these runs ended."""
        self.trained += steps
        self.ended += len(ended)
        self.generalized += sum(status == "generalized" for _, status in ended)
        self.bar.update(steps + sum(rest for rest, _ in ended))
        self._show()

    def _show(self) -> None:
        rate = self.trained / max(time.perf_counter() - self.began, 1e-9)
        minutes = f", at most {(self.total - self.bar.n) / rate / 60:.1f} min left" if self.trained else ""
        self.bar.set_description_str(
            f"{self.ended}/{self.runs} runs done, {self.generalized} generalized, {rate:.0f} run-steps/s{minutes}"
        )


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within, SIGINT and SIGTERM raise `Interrupted` with exit code 130 or 143."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
