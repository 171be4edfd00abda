"""A recurrent network that reads an example token by token."""

import torch
from torch import Tensor, nn

from grokking.errors import BadInput
from grokking.models import model
from grokking.models.parts import Embedding, Linear, Multiplier, pick, sigmoid
from grokking.roles import Role
from grokking.tasks import Table


@model
def lstm(table: Table, depth: int = 1, width: int = 128, embedding: int = 0) -> nn.Module:
    """Long short-term memory, read after the last token; `depth` layers, biases as in `torch.nn.LSTM` but one for both maps.

    Each token is `embedding` numbers, as many as the width where that is 0.

    Source: Hochreiter & Schmidhuber 1997; forget gates of Gers et al. 2000
    """
    for option, value, least in (("depth", depth, 1), ("width", width, 1), ("embedding", embedding, 0)):
        if value < least:
            raise BadInput(f"model.{option} = {value}; allowed: integers from {least} on")
    return LSTM(table, depth, width, embedding or width)


class Layer(nn.Module):
    """One layer: gates i, f, g, o from the input and from the layer's last output, as `torch.nn.LSTM`."""

    def __init__(self, entering: int, width: int) -> None:
        super().__init__()
        self.entering = Linear(entering, 4 * width, bias=True)
        self.recurrent = Linear(width, 4 * width, bias=False)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """Inputs [example, channel] of each position → outputs [example, width]."""
        outputs: list[Tensor] = []
        h = c = torch.zeros((), device=inputs[0].device)
        for x in inputs:
            gates = self.entering(x)
            if outputs:
                gates = gates + self.recurrent(h)
            i, f, g, o = gates.chunk(4, dim=-1)
            c = sigmoid(f) * c + sigmoid(i) * torch.tanh(g)
            h = sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return outputs


class LSTM(nn.Module):
    """Maps tokens [example, position] to class scores [example, class]."""

    def __init__(self, table: Table, depth: int, width: int, embedding: int) -> None:
        super().__init__()
        self.embedding = Embedding(len(table.vocabulary), embedding)
        self.layers = nn.ModuleList(Layer(width if at else embedding, width) for at in range(depth))
        self.multiplier = Multiplier("readout", width)
        self.head = Linear(width, table.classes, bias=True, role=Role.HEAD)

    def forward(self, tokens: Tensor) -> Tensor:
        """[example, position] → [example, class]."""
        states = [pick(self.embedding.weight, column) for column in tokens.unbind(1)]
        for layer in self.layers:
            states = layer(states)
        return self.head(self.multiplier(states[-1]))
