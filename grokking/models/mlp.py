"""Perceptrons on the operands of an example: on their one-hot codes, or on embeddings, summed or side by side."""

import itertools

import torch
from torch import Tensor, nn

from grokking.errors import BadInput
from grokking.models import model
from grokking.models.parts import ACTIVATIONS, Dropout, Embedding, Linear, Multiplier, check_logit_scale, pick
from grokking.roles import Declaring, Role
from grokking.tasks import Position, Table

BIASED = ("all", "hidden")
INPUTS = ("one_hot", "summed", "concatenated")
ELEMENTWISE = tuple(name for name in ACTIVATIONS if name != "swiglu")


@model
def mlp(
    table: Table,
    depth: int = 2,
    width: int = 200,
    inputs: str = "one_hot",
    embedding: int = 128,
    activation: str = "relu",
    bias: bool = False,
    biased: str = "all",
    dropout: float = 0.0,
    logit_scale: float = 1.0,
) -> nn.Module:
    """Multilayer perceptron of the operands; tokens that are the same in every example are not read.

    `inputs`: "one_hot" codes of the operands side by side, into the first of `depth` hidden layers of `width`; or
    `embedding` numbers for each token, "summed" over the operands or "concatenated".
    `bias`: whether there are biases, and `biased` where: in all layers, or in "hidden" ones (all but the head).
    `logit_scale`: what scores are multiplied by. `activation`: "gelu_1" is GELU whose slopes are at most 1;
    "quadratic" x² with one hidden layer and inputs one-hot is the network of Gromov 2023 (arXiv 2301.02679).
    """
    if inputs not in INPUTS:
        raise BadInput(f"model.inputs = {inputs!r}; allowed: {', '.join(INPUTS)}")
    if biased not in BIASED:
        raise BadInput(f"model.biased = {biased!r}; allowed: {', '.join(BIASED)}")
    if activation not in ELEMENTWISE:
        raise BadInput(f"model.activation = {activation!r}; allowed: {', '.join(ELEMENTWISE)}")
    for option, value in {"depth": depth, "width": width, "embedding": embedding}.items():
        if value < 1:
            raise BadInput(f"model.{option} = {value}; allowed: integers from 1 on")
    if not 0 <= dropout < 1:
        raise BadInput(f"model.dropout = {dropout}; allowed: 0 up to, but not including, 1")
    check_logit_scale(logit_scale)
    return MLP(table, depth, width, inputs, embedding, activation, bias, biased, dropout, logit_scale)


class OneHot(Declaring):
    """A linear map of one-hot codes side by side: a row of numbers for each value of each operand, summed over operands."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, read: list[tuple[int, Position]], width: int, bias: bool) -> None:
        super().__init__()
        inputs = sum(place.count for _, place in read)
        self.read = read
        self.declare("weight", (inputs, width), Role.EMBEDDING, std=inputs**-0.5, fan_in=inputs)
        if bias:
            self.declare("bias", (width,), Role.BIAS, fan_in=inputs)
        else:
            self.bias = None

    def forward(self, tokens: Tensor) -> Tensor:
        """[example, position] → [example, width]."""
        x, start = torch.zeros((), device=tokens.device), 0
        for index, place in self.read:
            x = x + pick(self.weight[start : start + place.count], tokens[:, index] - place.first)
            start += place.count
        return x if self.bias is None else x + self.bias


class Embedded(nn.Module):
    """A row of numbers for every token, the same wherever it stands: summed over the operands, or side by side."""

    def __init__(self, read: list[tuple[int, Position]], tokens: int, width: int, summed: bool) -> None:
        super().__init__()
        self.read, self.summed = read, summed
        self.embedding = Embedding(tokens, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[example, position] → [example, width or operands · width]."""
        rows = [pick(self.embedding.weight, tokens[:, index]) for index, _ in self.read]
        return torch.stack(rows).sum(0) if self.summed else torch.cat(rows, dim=-1)


class MLP(nn.Module):
    """Maps tokens [example, position] to class scores [example, class]."""

    def __init__(
        self,
        table: Table,
        depth: int,
        width: int,
        inputs: str,
        embedding: int,
        activation: str,
        bias: bool,
        biased: str,
        dropout: float,
        logit_scale: float,
    ) -> None:
        super().__init__()
        self.logit_scale = logit_scale
        places = {place.operand: (index, place) for index, place in enumerate(table.positions)}
        read = [found for operand, found in places.items() if operand is not None]
        self.activation, self.activates_first = ACTIVATIONS[activation], inputs == "one_hot"
        if inputs == "one_hot":
            self.first: nn.Module = OneHot(read, width, bias)
            widths = [width] * depth
        else:
            tokens = max(place.first + place.count for _, place in read)  # those that operands can be come first
            self.first = Embedded(read, tokens, embedding, inputs == "summed")
            widths = [embedding * (1 if inputs == "summed" else len(read)), *[width] * depth]
        self.hidden = nn.ModuleList(Linear(a, b, bias) for a, b in itertools.pairwise(widths))
        self.dropouts = nn.ModuleList(Dropout(dropout, site) for site in range(depth))
        self.multiplier = Multiplier("readout", width)
        self.head = Linear(width, table.classes, bias and biased == "all", role=Role.HEAD)

    def forward(self, tokens: Tensor) -> Tensor:
        """[example, position] → [example, class]."""
        return self.through(self.embedded(tokens))

    def embedded(self, tokens: Tensor) -> Tensor:
        """[example, position] → [example, number]: what `through` takes."""
        x: Tensor = self.first(tokens)
        return x

    def through(self, x: Tensor) -> Tensor:
        """What was read [example, number] → class scores [example, class]."""
        dropouts = iter(self.dropouts)
        if self.activates_first:
            x = next(dropouts)(self.activation(x))
        for layer in self.hidden:
            x = next(dropouts)(self.activation(layer(x)))
        scores: Tensor = self.head(self.multiplier(x))
        return scores if self.logit_scale == 1.0 else scores * self.logit_scale
