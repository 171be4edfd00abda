"""How weights begin: by the law that the model declares, or by another one for all of its matrices."""

from collections.abc import Callable, Mapping
from typing import overload

import numpy as np

from grokking.errors import BadInput, words
from grokking.registry import Entry, Registry, Scalar, options
from grokking.roles import Declaration, Role, Values, as_declared

inits = Registry("init")
Init = Callable[..., Values | None]
Spread = Callable[[Declaration, tuple[int, ...]], float]


@overload
def init(law: Init) -> Init: ...
@overload
def init(*, spread: Spread) -> Callable[[Init], Init]: ...
def init(law: Init | None = None, *, spread: Spread | None = None) -> Init | Callable[[Init], Init]:
    """Register an initialisation: a function of (declaration, shape, generator, options with defaults) → values, in float64.

    Whatever it returns is multiplied by `init.scale`, for every parameter of the model (α of Liu et al. 2023, 2210.01117).
    `spread` (declaration, shape) is the root mean square of the values, or what changes with the shape as that does; scaling
    rules such as muP start from it, and refuse where it is not said.
    """

    def register(law: Init) -> Init:
        inits.add(law, options(law, skip=3), spread=spread)
        return law

    return register if law is None else register(law)


def of_matrices(own: Callable[[tuple[int, ...]], float]) -> Spread:
    """The spread of a law for matrices [out, in], where everything else is as declared."""
    return lambda law, shape: own(shape) if law.role in (Role.HIDDEN, Role.HEAD) else law.rms


@init(spread=lambda law, shape: law.rms)
def declared(law: Declaration, shape: tuple[int, ...], draws: np.random.Generator) -> Values | None:
    """As the model declares: matrices N(0, 1 / fan_in), embeddings N(0, 1 / width), gains 1, biases 0."""
    return as_declared(law, shape, draws)


@init(spread=of_matrices(lambda shape: shape[1] ** -0.5))
def kaiming(law: Declaration, shape: tuple[int, ...], draws: np.random.Generator) -> Values | None:
    """Matrices N(0, 2 / fan_in), everything else as declared.

    Source: He et al. 2015, arXiv 1502.01852
    """
    return _matrices(law, shape, draws, lambda: draws.standard_normal(shape) * (2 / shape[1]) ** 0.5)


@init(spread=of_matrices(lambda shape: sum(shape) ** -0.5))
def xavier(law: Declaration, shape: tuple[int, ...], draws: np.random.Generator) -> Values | None:
    """Matrices N(0, 2 / (fan_in + fan_out)), everything else as declared.

    Source: Glorot & Bengio 2010
    """
    return _matrices(law, shape, draws, lambda: draws.standard_normal(shape) * (2 / sum(shape)) ** 0.5)


@init(
    spread=lambda law, shape: (
        law.rms if law.fan_in is None and law.role is not Role.EMBEDDING else (law.fan_in or 1) ** -0.5
    )
)
def pytorch(law: Declaration, shape: tuple[int, ...], draws: np.random.Generator) -> Values | None:
    """As `torch.nn` draws: matrices and biases of linear maps uniform within ± 1 / √fan_in, embeddings N(0, 1)."""
    if law.fan_in is not None:
        return draws.uniform(-1, 1, shape) * law.fan_in**-0.5
    return draws.standard_normal(shape) if law.role is Role.EMBEDDING else as_declared(law, shape, draws)


@init(spread=of_matrices(lambda shape: max(shape) ** -0.5))
def orthogonal(
    law: Declaration, shape: tuple[int, ...], draws: np.random.Generator, gain: float = 1.0
) -> Values | None:
    """Matrices with orthonormal rows or columns, times `gain`; everything else as declared.

    Their bits may differ between machines, whose linear algebra rounds differently.
    Source: Saxe et al. 2014, arXiv 1312.6120
    """

    if not 0 < gain < np.inf:
        raise BadInput(f"init.gain = {gain}; allowed: positive finite numbers")

    def drawn() -> Values:
        tall = draws.standard_normal((max(shape), min(shape)))
        q, r = np.linalg.qr(tall)
        q = q * np.sign(np.diag(r))  # uniform over all such matrices
        return gain * (q if shape[0] >= shape[1] else q.T)

    return _matrices(law, shape, draws, drawn)


@init(spread=lambda law, shape: 1.0 if law.role in (Role.EMBEDDING, Role.HIDDEN, Role.HEAD) else law.rms)
def normal(law: Declaration, shape: tuple[int, ...], draws: np.random.Generator, std: float = 0.02) -> Values | None:
    """Matrices and embeddings N(0, std²), everything else as declared; GPT-2's with 0.02."""
    if not 0 < std < np.inf:
        raise BadInput(f"init.std = {std}; allowed: positive finite numbers")
    if law.role is Role.EMBEDDING:
        return std * draws.standard_normal(shape)
    return _matrices(law, shape, draws, lambda: std * draws.standard_normal(shape))


def try_init(entry: Entry, options: Mapping[str, Scalar]) -> None:
    """Raise `BadInput` where an initialisation, tried on a matrix, gives something else than finite values of its shape."""
    law, shape = Declaration(Role.HIDDEN, std=1.0, fan_in=3), (4, 3)
    try:
        values = entry.make(law, shape, np.random.default_rng(0), **options)
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(f"init {entry.name!r} fails on a matrix {shape} with {dict(options)}: {words(error)}") from error
    if values is not None and (np.shape(values) != shape or not np.isfinite(values).all()):
        raise BadInput(
            f"init {entry.name!r} with {dict(options)} gives no finite values of shape {shape} for a matrix of it"
        )


def spread(entry: Entry, law: Declaration, shape: tuple[int, ...]) -> float:
    """Root mean square of what an initialisation draws, up to a factor that no shape changes; `BadInput` where it does not say."""
    if entry.extra["spread"] is None:
        raise BadInput(f"init {entry.name!r} does not say how large its values are; write @init(spread=…)")
    return float(entry.extra["spread"](law, shape))


def _matrices(
    law: Declaration, shape: tuple[int, ...], draws: np.random.Generator, drawn: Callable[[], Values]
) -> Values | None:
    return drawn() if law.role in (Role.HIDDEN, Role.HEAD) else as_declared(law, shape, draws)
