"""What happens to the gradients of a run between the loss and the optimizer's rule, and to weights and updates around them."""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from grokking.errors import BadInput
from grokking.hashing import mix, normal
from grokking.optim import NO_STATE, RESERVED, Numbers, Slots, State, check_slots
from grokking.registry import Registry, Scalar, listed
from grokking.roles import Role

transforms = Registry("transform")

Tree = dict[str, Tensor]  # parameter → its weights, its gradient or its update
States = dict[str, State]  # parameter → the transform's state tensors for it
SHOWN = ("lr", "weight_decay")  # numbers of the optimizer that transforms are shown
At = Literal["weights", "gradients", "updates", "after"]
Transform = Callable[[Tree, Tree, States, Numbers], tuple[Tree, States]]


def transform(
    at: At = "gradients",
    state: Slots | Callable[[Mapping[str, Scalar]], Slots] = NO_STATE,
    version: int = 1,
    **numbers: Scalar,
) -> Callable[[Transform], Transform]:
    """Register a transform `f(tree, weights, state, h) -> (tree, state)` of one run, with its numbers and their defaults.

    `tree` is what it changes, every parameter of the run: the `gradients` before the rule sees them; the `updates` that the
    rule makes (new weights minus old); the `weights` at which the gradient is taken, which are not kept so; or the weights
    `after` the update, which are (`weights`: those before it). `state`
    holds the declared tensors of each parameter, from `zeros(…)` or a function of the static options. `h` has the
    numbers, `h.lr` (scheduled) and `h.weight_decay` of the optimizer, `h.step` from 1, `h.key`, a hash of run and step for
    `normal`, and `h.roles`, the role of each parameter by its name.
    Several transforms act in the order in which `--set transforms=first,second` names them.
    """
    if at not in get_args(At):
        raise BadInput(f"at = {at!r}; allowed: {', '.join(get_args(At))}")
    for name in {*SHOWN, "key", "roles", *RESERVED} & set(numbers):
        raise BadInput(f"a transform cannot declare {name}, which it is given")
    if not callable(state):
        check_slots(state)

    def register(function: Transform) -> Transform:
        transforms.add(function, numbers, version, at=at, slots=state if callable(state) else lambda options: state)
        return function

    return register


def named(names: str) -> list[str]:
    """The transforms that a setting names, in order."""
    return listed("transforms", names, transforms)


def norm(tree: Tree) -> Tensor:
    """Euclidean norm [] over all parameters; squares of tiny gradients do not underflow."""
    largest = torch.stack([x.abs().amax() for x in tree.values()]).amax()
    scale = torch.where(largest > 0, largest, 1.0)
    return scale * torch.stack([(x / scale).square().sum() for x in tree.values()]).sum().sqrt()


# --- gradients ----------------------------------------------------------------------------------------------------------


@transform(max_norm=1.0)
def clip_norm(grads: Tree, weights: Tree, state: States, h: Numbers) -> tuple[Tree, States]:
    """Clip the gradient's norm over all parameters, as `torch.nn.utils.clip_grad_norm_`.

    g ← g · min(1, max_norm / (‖g‖ + 1e-6))

    Source: Pascanu et al. 2013, arXiv 1211.5063
    """
    factor = (h.max_norm / (norm(grads) + 1e-6)).clamp_max(1.0)
    return {name: g * factor for name, g in grads.items()}, state


@transform(max_value=0.1)
def clip_value(grads: Tree, weights: Tree, state: States, h: Numbers) -> tuple[Tree, States]:
    """Clip every entry of the gradient, as `torch.nn.utils.clip_grad_value_`.

    g ← min(max(g, -max_value), max_value)

    Source: Mikolov 2012
    """
    return {name: torch.minimum(torch.maximum(g, -h.max_value), h.max_value) for name, g in grads.items()}, state


@transform(to=1.0)
def normalize(grads: Tree, weights: Tree, state: States, h: Numbers) -> tuple[Tree, States]:
    """Give the gradient the same norm over all parameters at every step.

    g ← to · g / ‖g‖

    Source: Hazan et al. 2015, arXiv 1507.02030
    """
    size = norm(grads)
    factor = h.to / torch.where(size > 0, size, 1.0)
    return {name: g * factor for name, g in grads.items()}, state


@transform(state={"average": torch.zeros_like}, alpha=0.98, lamb=2.0)
def grokfast_ema(grads: Tree, weights: Tree, state: States, h: Numbers) -> tuple[Tree, States]:
    """Grokfast: amplify what changes slowly in the gradient, by an exponential moving average.

    a ← alpha · a + (1 - alpha) · g   (at first a = g);   g ← g + lamb · a

    Source: Lee et al. 2024, arXiv 2405.20233
    """
    average = {
        name: h.alpha * torch.where(h.step > 1, state[name].average, g) + (1 - h.alpha) * g for name, g in grads.items()
    }
    return {name: g + h.lamb * average[name] for name, g in grads.items()}, {
        name: state[name](average=average[name]) for name in state
    }


@transform(state=lambda options: {"last": lambda w: w.new_zeros(_window(options), *w.shape)}, window=100, lamb=5.0)
def grokfast_ma(grads: Tree, weights: Tree, state: States, h: Numbers) -> tuple[Tree, States]:
    """Grokfast: amplify what changes slowly in the gradient, by the mean of the last gradients; keeps `window` of them.

    a = mean of the last `window` gradients, once there are so many, else 0;   g ← g + lamb · a

    Source: Lee et al. 2024, arXiv 2405.20233
    """
    full = h.step >= h.window
    changed, kept = {}, {}
    for name, g in grads.items():
        last = state[name].last
        here = (torch.arange(h.window, device=g.device) == (h.step - 1) % h.window).view(-1, *[1] * g.dim())
        last = torch.where(here, g, last)
        changed[name] = g + torch.where(full, h.lamb, 0.0) * last.mean(0)
        kept[name] = state[name](last=last)
    return changed, kept


def _window(options: Mapping[str, Scalar]) -> int:
    window = int(options["window"])
    if window < 1:
        raise BadInput(f"transform.grokfast_ma.window = {window}; allowed: integers from 1 on")
    return window


@transform()
def orthograd(grads: Tree, weights: Tree, state: States, h: Numbers) -> tuple[Tree, States]:
    """⊥Grad: take out of each parameter's gradient what points along the parameter, and keep the gradient's norm.

    p = g - (w · g) / (w · w) · w;   g ← p · ‖g‖ / ‖p‖

    The last is what the authors' code does.
    Source: Prieto et al. 2025, arXiv 2501.04697
    """
    changed = {}
    for name, g in grads.items():
        w = weights[name]
        size = g.abs().amax()
        unit = g / torch.where(size > 0, size, 1.0)  # so that no square underflows
        rest = unit - (w * unit).sum() / ((w * w).sum() + 1e-30) * w
        changed[name] = rest * (size * unit.square().sum().sqrt() / (rest.square().sum().sqrt() + 1e-30))
    return changed, state


@transform(std=0.01, gamma=0.55)
def gradient_noise(grads: Tree, weights: Tree, state: States, h: Numbers) -> tuple[Tree, States]:
    """Add noise to the gradient that fades with the steps.

    g ← g + std / t^(gamma / 2) · N(0, 1)

    The paper's η is the variance std²; its least, 0.01, is std = 0.1.
    Source: Neelakantan et al. 2015, arXiv 1511.06807
    """
    return _noisy(grads, h, h.std / h.step ** (h.gamma / 2), site=1), state


# --- updates ------------------------------------------------------------------------------------------------------------


@transform(at="updates", std=1.0)
def update_noise(updates: Tree, weights: Tree, state: States, h: Numbers) -> tuple[Tree, States]:
    """Add noise to the update's direction.

    update ← update + lr · std · N(0, 1)

    `lr` is the optimizer's, scheduled, for all parameters alike.
    Source: Power et al. 2022, arXiv 2201.02177 (figure 2)
    """
    return _noisy(updates, h, h.lr * h.std, site=2), state


@transform(at="updates", state={"start": torch.clone}, decay=1.0)
def decay_to_start(updates: Tree, weights: Tree, state: States, h: Numbers) -> tuple[Tree, States]:
    """Decoupled decay towards the initial weights instead of zero; set the optimizer's own weight_decay to 0.

    update ← update - lr · decay · (w - w₀)

    `lr` is the optimizer's, scheduled, for all parameters alike.
    Source: Power et al. 2022, arXiv 2201.02177 (figure 2)
    """
    return {
        name: update - h.lr * h.decay * (weights[name] - state[name].start) for name, update in updates.items()
    }, state


@transform(at="updates", after=1000.0)
def freeze(updates: Tree, weights: Tree, state: States, h: Numbers) -> tuple[Tree, States]:
    """Let embeddings and head stand still once a circuit has formed: no update moves them after step `after`, nor does decay.

    update ← 0 where step > after, for embeddings and head

    A transform named behind this one may still move them, and so may any constraint.
    Source: Janati et al. 2026, arXiv 2608.07436
    """
    frozen = h.step > h.after
    still = (Role.EMBEDDING, Role.HEAD)
    return {
        name: torch.where(frozen, torch.zeros_like(update), update) if h.roles[name] in still else update
        for name, update in updates.items()
    }, state


# --- weights ------------------------------------------------------------------------------------------------------------


@transform(at="weights", std=0.01)
def weight_noise(tree: Tree, weights: Tree, state: States, h: Numbers) -> tuple[Tree, States]:
    """Take the gradient at weights with noise on them; the weights themselves stay as they are.

    g ← gradient at w + std · N(0, 1)

    Source: Power et al. 2022, arXiv 2201.02177 (figure 2)
    """
    return _noisy(tree, h, h.std, site=3), state


def _noisy(tree: Tree, h: Numbers, std: Tensor, site: int) -> Tree:
    """Every entry of the tree with noise of its own; `site` tells apart the transforms of one step."""
    return {
        name: x + std * normal(mix(h.key + 64 * index + site), x)
        for index, (name, x) in enumerate(tree.items(), start=1)
    }
