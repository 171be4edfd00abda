"""The loop that everybody writes: one run, an ordinary module, `torch.optim`, every position of every example computed.

Nothing of the package is used here but the task's table, the split, the batches and the initial weights, so that the two
train the same run (tests/test_throughput.py holds them side by side).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokking.engine.batches import Batches
from grokking.runs import RunSpec
from grokking.tasks import split


class Block(nn.Module):
    """Causal self-attention and a ReLU feed-forward, pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[example, position, width] → the same."""
        h = self.attention_norm(x)
        q, k, v = (m(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.relu(self.up(self.mlp_norm(x))))


class Plain(nn.Module):
    """The default transformer, the ordinary way."""

    def __init__(self, tokens: int, positions: int, classes: int, depth: int, width: int, heads: int) -> None:
        super().__init__()
        self.embedding, self.position_embedding = nn.Embedding(tokens, width), nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.final_norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, classes, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [example, position] → class scores [example, class] at the last position."""
        x = self.embedding(tokens) + self.position_embedding.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.final_norm(x[:, -1]))


def plain_model(spec: RunSpec) -> Plain:
    """The module of this run, with its initial weights."""
    table, options = spec.setting.table(), spec.setting.options("model")
    shape = [int(options[name]) for name in ("depth", "width", "heads")]
    with torch.device("meta"):  # its own first weights would be drawn from the global generator
        model = Plain(len(table.vocabulary), len(table.positions), table.classes, *shape)
    model = model.to_empty(device="cpu")
    ours = spec.setting.initial_weights(spec.seed)
    renamed = {_theirs(name): w for name, w in ours.items()}
    model.load_state_dict(renamed)
    return model


def _theirs(name: str) -> str:
    """Our parameter's name in `Plain`: no attention and mlp modules, and a norm's gain is its weight."""
    return name.replace("attention.", "").replace("mlp.", "").replace("gain", "weight")


class PlainLoop:
    """Trains one run of the default transformer with AdamW; `model` may be any module with its weights."""

    def __init__(self, spec: RunSpec, model: nn.Module, device: torch.device) -> None:
        setting, table, h = spec.setting, spec.setting.table(), dict(spec.hyper)
        self.model = model.to(device)
        training, _ = split(len(table.tokens), setting.number("train_fraction"), spec.seed)
        self.tokens = torch.from_numpy(table.tokens[training]).to(device)
        self.labels = torch.from_numpy(table.labels[training]).to(device)
        self.batches = Batches(spec.seed, len(training), setting.integer("batch_size"))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=h["optimizer.lr"],
            betas=(h["optimizer.beta1"], h["optimizer.beta2"]),
            eps=h["optimizer.eps"],
            weight_decay=h["optimizer.weight_decay"],
        )
        warmup = setting.integer("schedule.warmup")
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: min(1.0, (step + 1) / warmup))
        self.step, self.device = 0, device

    def advance(self) -> Tensor:
        """One update; returns the loss before it."""
        rows = torch.from_numpy(self.batches.at(self.step)).to(self.device)
        loss = F.cross_entropy(self.model(self.tokens[rows]), self.labels[rows])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return loss.detach()
