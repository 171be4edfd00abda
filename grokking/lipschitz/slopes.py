"""What is measured of slopes and norms whenever a run is evaluated."""

import copy
import math

from torch import Tensor, nn

from grokking.lipschitz import attack, certificate
from grokking.measures import measure
from grokking.roles import Role, declarations

ATTACKED = 32  # examples, or a few more, so that they are evenly spread


@measure
def certified_slope(model: nn.Module, tokens: Tensor) -> float:
    """Upper bound on how fast scores change with embedded inputs as large as the examples': grokking.lipschitz.certificate."""
    exact = _exact(model)
    return certificate.certificate(exact, attack.reach(exact, tokens)).slope


@measure
def steepest_slope(model: nn.Module, tokens: Tensor) -> float:
    """Lower bound on the same: the steepest that is found at some 32 examples, spread over all: grokking.lipschitz.attack."""
    some = tokens[:: max(1, len(tokens) // ATTACKED)]
    exact = _exact(model)
    return float(attack.steepest(attack.through(exact), attack.embedded(exact, some))[1].max())


def _exact(model: nn.Module) -> nn.Module:
    """A copy in float64, so that rounding does not lift a lower bound above an upper one."""
    return copy.deepcopy(model).double()


@measure
def largest_norm(model: nn.Module, tokens: Tensor) -> float:
    """The largest norm of a hidden matrix or head, as a map between root mean squares."""
    matrices = [own.role in (Role.HIDDEN, Role.HEAD) for own in declarations(model).values()]
    found = [w for w, is_matrix in zip(model.parameters(), matrices, strict=True) if is_matrix]
    return max((certificate.norm(w.detach()) for w in found), default=math.nan)
