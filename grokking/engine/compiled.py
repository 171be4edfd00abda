"""A step compiled, once for the shapes it is called with."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from torch.fx import GraphModule, Interpreter
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.split_module import split_module
from torch.utils._pytree import tree_flatten, tree_unflatten

from grokking.errors import BadInput


@lru_cache(maxsize=1)
def obstacle() -> str:
    """Why nothing can be compiled here, tried with a product of two numbers; empty if it can.

    PyTorch needs a C++ compiler that works, and Python's headers.
    """
    try:
        compiled(lambda a, x: a * x, (torch.ones(2),), torch.ones(2))
    except Exception as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


def check_compiling() -> None:
    """Raise `BadInput` where nothing can be compiled."""
    if why := obstacle():
        raise BadInput(f"--compile on, but nothing can be compiled here ({why}); make that possible, or leave it out")


def compiled(step: Callable[..., Any], numbers: tuple[Any, ...], *rest: Any) -> Callable[..., Any]:
    """`step(*numbers, *rest)`, compiled for arguments of these shapes: half a minute the first time, seconds from the cache.

    It is traced through `vmap` and `grad` down to plain operations before the compiler sees it, so whatever Python a rule or
    a model does is done now and for good. The compiler fuses what lies between two matrix products, on one thread.
    What follows from the `numbers` of the runs alone is compiled apart: fused into a loop over weights, the bias correction
    of Adam would take a power for every eighth weight.
    """
    import torch._inductor.config as inductor

    inductor.compile_threads = 1  # in this process: workers are as many as cores already
    inductor.cpp.threads = 1  # results then depend neither on the number of cores nor on that of workers
    flat, arguments = tree_flatten((*numbers, *rest))
    results = None

    def flat_step(*flat: Any) -> list[Any]:
        nonlocal results
        leaves, results = tree_flatten(step(*tree_unflatten(list(flat), arguments)))
        return leaves

    with torch.no_grad():
        # "fake": with the strides that the compiler will assume, which are not always those that the operations leave.
        graph = _split(
            make_fx(flat_step, tracing_mode="fake", _allow_non_fake_inputs=True)(*flat), len(tree_flatten(numbers)[0])
        )
        _CompilingParts(graph).run(*flat)

    def call(*given: Any) -> Any:
        with torch.no_grad():
            # By key, not by place: a dict may come back in another order than it was traced in.
            return tree_unflatten(list(graph(*arguments.flatten_up_to(given))), results)  # type: ignore[arg-type]

    return call


def _split(graph: GraphModule, numbers: int) -> GraphModule:
    """The same in two parts: what follows from the first inputs, so many of them, alone; and the rest."""
    apart = set([node for node in graph.graph.nodes if node.op == "placeholder"][:numbers])
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.all_input_nodes and apart.issuperset(node.all_input_nodes):
            apart.add(node)
    return split_module(graph, graph, lambda node: 0 if node in apart else 1)


class _CompilingParts(Interpreter):
    """Executes a graph of graphs once, and compiles each for the tensors that it is called with.

    Not `torch.compile`, which would read every part again as Python and check all its arguments at every call.
    """

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        from torch._inductor import standalone_compile

        compiled_part = standalone_compile(
            cast(GraphModule, self.module.get_submodule(target)), list(args), dynamic_shapes="from_example_inputs"
        )
        setattr(self.module, target, _Part(compiled_part))
        return compiled_part(*args)


class _Part(torch.nn.Module):
    """A compiled part of a graph, in the place of the graph that it was."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *given: Any) -> Any:
        return self.call(*given)
