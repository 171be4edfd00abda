"""The parts of a transformer: linear map, norm, dropout, feed-forward, positions; each for any leading axes."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokking.errors import BadInput
from grokking.hashing import mix
from grokking.roles import Declaring, Role


class Linear(Declaring):
    """y = x Wᵀ (+ b), W [fan_out, fan_in] drawn from N(0, 1 / fan_in)."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, fan_in: int, fan_out: int, bias: bool, role: Role = Role.HIDDEN) -> None:
        super().__init__()
        self.declare("weight", (fan_out, fan_in), role, std=fan_in**-0.5, fan_in=fan_in)
        if bias:
            self.declare("bias", (fan_out,), Role.BIAS, fan_in=fan_in)
        else:
            self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """[…, fan_in] → […, fan_out]."""
        return F.linear(x, self.weight, self.bias)


class Multiplier(nn.Module):
    """Multiplies what passes by `factor`, which a scaling rule sets (grokking.scaling): 1 unless it does.

    `place`: what it stands for there, "readout" or "scores"; `channels`: how many numbers are summed over next.
    """

    def __init__(self, place: str, channels: int) -> None:
        super().__init__()
        self.place, self.channels, self.factor = place, channels, 1.0

    def forward(self, x: Tensor) -> Tensor:
        """[…] → […]."""
        return x if self.factor == 1.0 else x * self.factor


class Embedding(Declaring):
    """A row of width numbers per token (or per position), drawn from N(0, 1 / width)."""

    weight: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.declare("weight", (rows, width), Role.EMBEDDING, std=width**-0.5)


def pick(x: Tensor, rows: Tensor) -> Tensor:
    """Rows [example] of x [row, channel].

    On a CPU they are looked up. Elsewhere a one-hot matrix picks them, which is exact too: nobody has seen there whether the
    way back of a look-up always adds in one order, and never waits for the host.
    """
    if x.device.type == "cpu":
        return F.embedding(rows, x)
    return one_hot(rows, len(x), x.dtype) @ x


def one_hot(rows: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """[example, row] with a 1 at each example's row [example], of `count` rows."""
    return (rows[:, None] == torch.arange(count, device=rows.device)).to(dtype)


class Norm(Declaring):
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019) over the last axis."""

    EPS = 1e-5

    gain: Tensor
    bias: Tensor | None

    def __init__(self, kind: str, width: int, bias: bool) -> None:
        super().__init__()
        self.center = kind == "layernorm"
        self.declare("gain", (width,), Role.GAIN, mean=1.0)
        if self.center and bias:
            self.declare("bias", (width,), Role.BIAS)
        else:
            self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """[…, width] → […, width]; the statistics are taken in float32 at least."""
        wide = x.to(widened(x.dtype))
        if self.center:
            wide = wide - wide.mean(-1, keepdim=True)
        y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.EPS)).to(x.dtype) * self.gain
        return y if self.bias is None else y + self.bias


def widened(dtype: torch.dtype) -> torch.dtype:
    """float32, or `dtype` where that holds more."""
    return torch.promote_types(dtype, torch.float32)


def norm(kind: str, width: int, bias: bool) -> nn.Module:
    """The norm of this kind; "none" is the identity."""
    return nn.Identity() if kind == "none" else Norm(kind, width, bias)


class Dropout(nn.Module):
    """Dropout whose masks are a hash of (run, step, site, element): a run's masks do not depend on its cohort.

    `key` [] is set by the engine for every step (a hash of run and step); `site` counts the dropouts of a model.
    """

    key: Tensor

    def __init__(self, rate: float, site: int) -> None:
        super().__init__()
        self.rate, self.site = rate, site
        self.register_buffer("key", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Zero each element with probability `rate` and scale the rest by 1 / (1 - rate); the identity in `eval`."""
        if not self.training or self.rate == 0.0:
            return x
        element = torch.arange(math.prod(x.shape), device=x.device).view(x.shape)
        uniform = mix(mix(self.key + 0x9E3779B9 * (self.site + 1)) + element).to(torch.float64) / 2**32
        return torch.where(uniform < self.rate, 0.0, x / (1.0 - self.rate))


class FeedForward(nn.Module):
    """Two linear maps with an activation between them; SwiGLU (Shazeer 2020) gates with a third."""

    def __init__(self, width: int, hidden: int, activation: str, bias: bool, dropout: Dropout) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up = Linear(width, hidden, bias)
        self.gate = Linear(width, hidden, bias) if activation == "swiglu" else None
        self.down = Linear(hidden, width, bias)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """[…, width] → […, width]."""
        hidden = self.activation(self.up(x) if self.gate is None else self.gate(x))
        if self.gate is not None:
            hidden = hidden * self.up(x)
        return self.down(self.dropout(hidden))


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), elementwise.

    By tanh: PyTorch's own sigmoid and silu round differently in the last elements of a tensor, those that fill no vector
    register, so that bits would depend on how many runs a cohort has.
    """
    return 0.5 * (1 + torch.tanh(0.5 * x))


def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x), elementwise."""
    return x * sigmoid(x)


def quadratic(x: Tensor) -> Tensor:
    """x², elementwise."""
    return x * x


def check_logit_scale(scale: float) -> None:
    """Raise `BadInput` where scores cannot be multiplied by this."""
    if not 0 < scale < math.inf:
        raise BadInput(f"model.logit_scale = {scale}; allowed: positive finite numbers")


GELU_SLOPE = 1.1290  # at most, of GELU (1.128904 at √2)


def gelu_1(x: Tensor) -> Tensor:
    """GELU over its largest slope: no two outputs are farther apart than their inputs (Newhouse et al. 2025, 2507.13338)."""
    return F.gelu(x) / GELU_SLOPE


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_1": gelu_1,
    "silu": silu,
    "swiglu": silu,
    "tanh": torch.tanh,
    "quadratic": quadratic,
}


def sinusoidal(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Fixed vectors [position, width] at `positions` [position] of Vaswani et al. 2017, sines then cosines."""
    pair = torch.arange(0, width, 2, device=positions.device, dtype=widened(dtype))
    angle = positions[:, None] * 10_000.0 ** (-pair / width)
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width].to(dtype)


def rotate(x: Tensor, positions: Tensor, base: int = 10_000) -> Tensor:
    """Rotary position embedding (Su et al. 2021): x […, position, head, channel], positions [position].

    Channel c is rotated together with channel c + half.
    """
    half = x.shape[-1] // 2
    pair = torch.arange(half, device=x.device, dtype=widened(x.dtype))
    angle = positions[:, None, None] * float(base) ** (-pair / half)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
