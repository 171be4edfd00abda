"""The Ray executor: every cohort is a task of a Ray cluster, and this process collects and writes.

A task is a stream (see `afar`): progress, checkpoints, results. Nobody but this process writes to the store, so the machines
need no common file system; what a lost machine was at continues elsewhere from the last checkpoint that came.
"""

import contextlib
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "token")  # without it, whoever reaches a cluster's ports may run anything there
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import torch
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, TaskCancelledError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from grokking.engine.compiled import obstacle
from grokking.engine.memory import free_memory
from grokking.errors import BadInput, Interrupted, Notice, Unwritable
from grokking.execute.afar import Finished, Message, Saved, stream
from grokking.execute.jobs import Job, Jobs, train_all
from grokking.execute.luggage import packed
from grokking.execute.signals import Stop
from grokking.execute.unit import Outcome, Terms
from grokking.runs import RunSpec
from grokking.store.sealed import seal
from grokking.store.units import parse_unit

GRACE = 2.5  # seconds for tasks to reach a step boundary and for their checkpoints to arrive
POLL = 0.5
REACHED = 5.0  # seconds within which a head answers


class OnRay:
    """A Ray cluster: that at `address`, or one on this machine, which ends with this process."""

    def __init__(self, terms: Terms, address: str | None, workers: int, imports: Sequence[str]) -> None:
        self.luggage = packed(imports)
        self.workers, self.terms, self.wanted = workers, terms, terms.device
        self.address = address or os.environ.get("RAY_ADDRESS")
        if self.address:
            _refuse_unreachable(self.address)

    def __enter__(self) -> "OnRay":
        alone: dict[str, Any] = {} if self.address else {"num_cpus": self.workers or None, "include_dashboard": False}
        with _own_signals():
            try:
                ray.init(self.address or "local", namespace="grokking", logging_level="WARNING", **alone)
            except (RayError, ConnectionError, RuntimeError, ValueError) as error:
                raise BadInput(
                    f"no Ray cluster at {self.address or 'this machine'!r}: {_first_line(error)}; a cluster with a token needs "
                    "the same one here, see Scaling out in README.md"
                ) from None
        total = ray.cluster_resources()
        gpus = int(total.get("GPU", 0))
        if self.wanted == "cuda" and not gpus:
            raise BadInput("device = 'cuda', but the Ray cluster has no GPU; allowed: auto, cpu")
        device = "cuda" if gpus and self.wanted != "cpu" else "cpu"
        self.resources = {"num_cpus": 1, "num_gpus": 1 if device == "cuda" else 0}
        self.slots = max(1, gpus if device == "cuda" else int(total.get("CPU", 1)))
        if self.workers:
            self.slots = min(self.slots, self.workers)
        why, self.free = ray.get(_probe.options(**self.resources).remote(device, self.terms.compile))
        if why:
            warnings.warn(Notice(f"steps are not compiled, which takes longer: {why}"), stacklevel=2)
        self.terms = replace(self.terms, device=device, compile=self.terms.compile and not why)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.bell = ray.remote(num_cpus=0, scheduling_strategy=here)(_Bell).remote()  # it lives as long as this process
        self.carried = ray.put(self.luggage)
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()

    def room(self) -> float:
        """A GPU's free memory; of a CPU, the least share that a node has for each of its own."""
        if self.terms.device == "cuda":
            return float(self.free)
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        shares = [node["memory"] / node["CPU"] for node in alive if node.get("memory") and node.get("CPU")]
        return min([*shares, float(self.free)])

    def refuse_unfit(self, cohorts: Sequence[list[RunSpec]]) -> None:
        """Nothing is refused: where a task comes to run, and so whether a checkpoint fits there, is not known yet.

        One that does not is left aside, and the cohort is trained from its start (see `afar.stream`).
        """

    def train(self, cohorts: Sequence[list[RunSpec]]) -> list[Path]:
        """See `Executor`."""
        return train_all(cohorts, self.terms, self._serve)

    def _serve(self, jobs: Jobs, stop: Stop) -> None:
        busy: dict[Any, Job] = {}
        try:
            while jobs.waiting or busy:
                if stop.code:
                    self._collect(busy, stop)
                while jobs.waiting and (not self.workers or len(busy) < self.slots):
                    job = jobs.waiting.popleft()
                    busy[self._task(job)] = job
                for task in _ready(list(busy), POLL):
                    self._listen(task, jobs, busy)
        finally:
            for task in busy:
                with contextlib.suppress(RayError, ValueError):
                    ray.cancel(task, force=True)

    def _task(self, job: Job) -> Any:
        newest = self.terms.checkpoints(job.specs).newest()
        saved = None if newest is None else Saved(*newest)
        return _train.options(**self.resources).remote(job.specs, self.terms, self.carried, saved, self.bell)

    def _listen(self, task: Any, jobs: Jobs, busy: dict[Any, Job]) -> None:
        """Write down or pass on the next thing that a task has said."""
        job, message = busy[task], _next(task)
        if isinstance(message, Finished):
            self._store(job, message)
            message = Outcome("stored")
        if isinstance(message, Saved):
            self.terms.checkpoints(job.specs).receive(message.name, message.files)
            return
        if isinstance(message, Outcome):
            del busy[task]
        jobs.hear(job, message)

    def _store(self, job: Job, unit: Finished) -> None:
        seal(self.terms.folder / "units" / unit.name, unit.files, accept=parse_unit)
        self.terms.checkpoints(job.specs).clear()

    def _collect(self, busy: dict[Any, Job], stop: Stop) -> None:
        """Have everything saved, take what comes within seconds, and stop."""
        self.bell.ring.remote(stop.code)
        going, until = dict(busy), time.monotonic() + GRACE
        with contextlib.suppress(Unwritable):
            while going and time.monotonic() < until:
                for task in _ready(list(going), POLL):
                    message = _next(task)
                    if isinstance(message, Saved):
                        self.terms.checkpoints(going[task].specs).receive(message.name, message.files)
                    elif isinstance(message, Finished):
                        self._store(going[task], message)
                    if isinstance(message, (Finished, Outcome)):
                        del going[task]
        raise Interrupted(stop.code)


class _Bell:
    """Rung once, when everything is to stop; whoever waits for it hears it at once."""

    def __init__(self) -> None:
        import asyncio

        self.rung, self.code = asyncio.Event(), 0

    async def ring(self, code: int) -> None:
        """Tell everybody."""
        self.code = code
        self.rung.set()

    async def heard(self) -> int:
        """The code that it was rung with, once it was."""
        await self.rung.wait()
        return self.code


@ray.remote(max_retries=0, num_returns="streaming")  # we try again ourselves, from the last checkpoint
def _train(specs: list[RunSpec], terms: Terms, luggage: Any, saved: Saved | None, bell: Any) -> Iterator[Message]:
    yield from stream(specs, terms, luggage, saved, _stop_of(bell))


@ray.remote(max_retries=3)
def _probe(device: str, compile: bool) -> tuple[str | None, float]:
    """Why a worker cannot compile, where that is asked, and its free memory."""
    return obstacle() if compile else None, free_memory(torch.device(device))


_stops: dict[Any, Stop] = {}  # in a worker: that of the bell, which lives as long as the process


def _stop_of(bell: Any) -> Stop:
    """Set as soon as the bell is rung; until then a thread waits for it, one in a process."""
    key = bell._actor_id
    if key not in _stops:
        stop = _stops[key] = Stop()

        def wait() -> None:
            with contextlib.suppress(RayError):
                stop.code = ray.get(bell.heard.remote())

        threading.Thread(target=wait, daemon=True).start()
    return _stops[key]


def _ready(tasks: list[Any], seconds: float) -> list[Any]:
    """The tasks that have something to say or are over, waiting at most so long for the first."""
    ready, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0)
    if not ready:
        ready, _ = ray.wait(tasks, num_returns=1, timeout=seconds)
    return list(ready)


def _next(task: Any) -> Message:
    """The next message of a task; that it is lost is an outcome like any other."""
    try:
        return ray.get(next(task))
    except StopIteration:
        return Outcome("died", "the task ended without a word")
    except OutOfMemoryError as error:
        return Outcome("memory", str(error))
    except TaskCancelledError as error:
        return Outcome("died", str(error))
    except RayTaskError as error:
        return Outcome("failed", str(error))
    except WorkerCrashedError as error:
        hint = "(by SIGKILL, if its machine ran out of memory)"  # which `Jobs.settle` answers with narrower units
        return Outcome("died", f"{type(error).__name__} {hint}: {error}")
    except RayError as error:
        return Outcome("died", f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Within, Ray may set what it likes; afterwards, signals mean again what they meant."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse_unreachable(address: str) -> None:
    """Raise `BadInput` now where Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not (address == "auto" or (host and port.isdecimal())):
        raise BadInput(
            f"ray_address = {address!r}; allowed: HOST:PORT of a cluster's head, such as 10.0.0.1:6379, or auto"
        )
    if address == "auto":
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACHED).close()
    except (OSError, OverflowError) as error:
        raise BadInput(f"no Ray cluster at {address!r}: {error}; `ray start --head` says the address") from None


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
