"""What a scaling rule is told of a model, and the multipliers that it sets in one."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from grokking.models.parts import Multiplier
from grokking.roles import Declaration, Role, Update, declarations
from grokking.scaling import Part, Place

Spread = Callable[[Declaration, tuple[int, ...]], float]


def parts(model: nn.Module, narrow: nn.Module, spread: Spread, update: Callable[[Role], Update]) -> dict[str, Part]:
    """Every parameter by its name, and every `Place` by its value, beside what it is in the model of base width.

    `spread`: root mean square of initial values of this declaration and shape; `update`: the optimizer's, by role.
    """
    own, before = declarations(model), declarations(narrow)
    shapes = {name: tuple(w.shape) for name, w in model.named_parameters()}
    bases = {name: tuple(w.shape) for name, w in narrow.named_parameters()}
    entering, scores = ([count(m) for m in (model, narrow)] for count in (_entering, _channels))
    width, tied = entering[0] / entering[1], not any(law.role is Role.HEAD for law in own.values())
    found = {
        place.value: Part(place, (channels,), (base,), width, tied=tied)
        for place, (channels, base) in ((Place.READOUT, entering), (Place.SCORES, scores))
    }
    for name, law in own.items():
        grown, start = spread(law, shapes[name]), spread(before[name], bases[name])
        ratio = grown / start if start else 1.0
        found[name] = Part(law.role, shapes[name], bases[name], width, ratio, update(law.role))
    return found


def multiply(model: nn.Module, factors: Mapping[Place, float]) -> None:
    """Set the multipliers of a model; where none stands before its head, what enters the head is multiplied on its way."""
    multipliers = [module for module in model.modules() if isinstance(module, Multiplier)]
    for multiplier in multipliers:
        multiplier.factor = factors[Place(multiplier.place)]
    if not any(multiplier.place == Place.READOUT.value for multiplier in multipliers):
        factor = factors[Place.READOUT]

        def multiplied(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (inputs[0] * factor, *inputs[1:])

        _head(model).register_forward_pre_hook(multiplied)


def _head(model: nn.Module) -> nn.Module:
    """The module whose parameter is the head."""
    (name, *_) = [name for name, law in declarations(model).items() if law.role is Role.HEAD]
    return model.get_submodule(name.rpartition(".")[0])


def _entering(model: nn.Module) -> int:
    """How many numbers enter the head."""
    known = [m.channels for m in model.modules() if isinstance(m, Multiplier) and m.place == Place.READOUT.value]
    if known:
        return known[0]
    (head, *_) = [w for (name, w) in model.named_parameters() if declarations(model)[name].role is Role.HEAD]
    return int(head.shape[1])


def _channels(model: nn.Module) -> int:
    """How many products each of attention's scores is a sum of; 1 without attention of ours."""
    known = [m.channels for m in model.modules() if isinstance(m, Multiplier) and m.place == Place.SCORES.value]
    return known[0] if known else 1
