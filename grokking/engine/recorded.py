"""Several steps, or a measurement, recorded as one CUDA graph."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from grokking.engine.cohort import Tensors


class Recorded:
    """Several steps on CUDA as one graph: a replay costs the host one call, and nothing in it waits for the host.

    The runs live in the graph's own buffers, which every replay changes. Without CUDA the same program is executed in
    place of a replay: so it is tested where there is no GPU.
    """

    def __init__(self, step: Callable[..., Any], hyper: Any, seeds: Tensor, moving: Any, rows: Tensor) -> None:
        """`step` and its arguments; `rows` [step, run, batch] for as many steps as are to be recorded."""
        self.step = step
        self.hyper, self.seeds, self.moving, self.rows = tree_map(torch.clone, (hyper, seeds, moving, rows))
        self.clock = torch.zeros((), dtype=torch.int64, device=rows.device)
        # Nothing of a step outlives it: all that stays is copied into the buffers.
        self.replay_steps = recorded(self._steps, rows.device)

    def replay(self, hyper: Any, seeds: Tensor, first: int, moving: Any, rows: Tensor) -> Any:
        """The runs after the updates numbered `first` and following, on table rows [step, run, batch]."""
        if moving is not self.moving:
            tree_map(Tensor.copy_, (self.hyper, self.seeds, self.moving), (hyper, seeds, moving))
        self.clock.fill_(first)
        self.rows.copy_(rows, non_blocking=True)
        self.replay_steps()
        return self.moving

    def _steps(self) -> None:
        for rows in self.rows.unbind():
            tree_map(Tensor.copy_, self.moving, self.step(self.hyper, self.seeds, self.clock, self.moving, rows))
            self.clock += 1


class RecordedMeasure:
    """A function of the weights as one CUDA graph, on buffers of its own; without CUDA it is called in place of a replay."""

    def __init__(self, measure: Callable[[Tensors], Tensors], weights: Tensors) -> None:
        self.measure = measure
        self.weights = tree_map(torch.clone, weights)
        self.values: Tensors = {}
        self.again = recorded(self._measure, next(iter(weights.values())).device)

    def __call__(self, weights: Tensors) -> Tensors:
        """What `measure` says of these weights; the next call overwrites it."""
        tree_map(Tensor.copy_, self.weights, weights)
        self.again()
        return self.values

    def _measure(self) -> None:
        self.values = self.measure(self.weights)


def recorded(program: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What does `program` again; on CUDA the replay of a graph of it, for which it must not wait for the host.

    CUDA asks for a run on another stream first, in which libraries take their workspaces.
    """
    if device.type != "cuda":
        return program
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        program()  # whatever it does to buffers: the first replay fills them
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        program()
    return graph.replay
