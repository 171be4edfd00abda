"""Capture: a step, compiled once for the shapes it is called with; and several steps recorded as one CUDA graph."""

import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.split_module import split_module
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from grokking.errors import BadInput

COMPILERS = ("g++", "clang++", "c++")


def check_compiler() -> None:
    """Raise `BadInput` where PyTorch finds no C++ compiler, without which nothing can be compiled for a CPU."""
    if not any(shutil.which(name) for name in COMPILERS):
        raise BadInput(
            f"--compile needs a C++ compiler, but none of {', '.join(COMPILERS)} is here; install one or leave it out"
        )


def compiled(step: Callable[..., Any], numbers: tuple[Any, ...], *rest: Any) -> Callable[..., Any]:
    """`step(*numbers, *rest)`, compiled for arguments of these shapes: half a minute the first time, seconds from the cache.

    It is traced through `vmap` and `grad` down to plain operations before the compiler sees it, so whatever Python a rule or
    a model does is done now and for good. The compiler fuses what lies between two matrix products, on one thread.
    What follows from the `numbers` of the runs alone is compiled apart: fused into a loop over weights, the bias correction
    of Adam would take a power for every eighth weight.
    """
    import torch._inductor.config as inductor

    inductor.cpp.threads = 1  # results then depend neither on the number of cores nor on that of workers
    flat, arguments = tree_flatten((*numbers, *rest))
    results = None

    def flat_step(*flat: Any) -> list[Any]:
        nonlocal results
        leaves, results = tree_flatten(step(*tree_unflatten(list(flat), arguments)))
        return leaves

    with torch.no_grad():
        graph = _split(make_fx(flat_step)(*flat), len(tree_flatten(numbers)[0]))
    for name, part in graph.named_children():
        setattr(graph, name, torch.compile(part, fullgraph=True, dynamic=False))

    def call(*given: Any) -> Any:
        with torch.no_grad():
            return tree_unflatten(list(graph(*tree_flatten(given)[0])), results)  # type: ignore[arg-type]

    return call


def _split(graph: GraphModule, numbers: int) -> GraphModule:
    """The same in two parts: what follows from the first inputs, so many of them, alone; and the rest."""
    apart = set([node for node in graph.graph.nodes if node.op == "placeholder"][:numbers])
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.all_input_nodes and apart.issuperset(node.all_input_nodes):
            apart.add(node)
    return split_module(graph, graph, lambda node: 0 if node in apart else 1)


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
        self.replay_steps = self._steps if rows.device.type != "cuda" else self._record()

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

    def _record(self) -> Callable[[], None]:
        """CUDA asks for a few steps on another stream first, in which libraries take their workspaces."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._steps()  # whatever it does to the buffers: the first replay fills them
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._steps()
        return graph.replay
