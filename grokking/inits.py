"""How weights begin: by the law that the model declares, or by another one for all of its matrices."""

from collections.abc import Callable, Mapping

import numpy as np

from grokking.errors import BadInput, words
from grokking.registry import Entry, Registry, Scalar, options
from grokking.roles import Declaration, Role, Values, as_declared

inits = Registry("init")
Init = Callable[..., Values | None]


def init(law: Init) -> Init:
    """Register an initialisation: a function of (declaration, shape, generator, options with defaults) → values, in float64.

    Whatever it returns is multiplied by `init.scale`, for every parameter of the model (α of Liu et al. 2023, 2210.01117).
    """
    inits.add(law, options(law, skip=3))
    return law


@init
def declared(law: Declaration, shape: tuple[int, ...], draws: np.random.Generator) -> Values | None:
    """As the model declares: matrices N(0, 1 / fan_in), embeddings N(0, 1 / width), gains 1, biases 0."""
    return as_declared(law, shape, draws)


@init
def kaiming(law: Declaration, shape: tuple[int, ...], draws: np.random.Generator) -> Values | None:
    """Matrices N(0, 2 / fan_in), everything else as declared.

    Source: He et al. 2015, arXiv 1502.01852
    """
    return _matrices(law, shape, draws, lambda: draws.standard_normal(shape) * (2 / shape[1]) ** 0.5)


@init
def xavier(law: Declaration, shape: tuple[int, ...], draws: np.random.Generator) -> Values | None:
    """Matrices N(0, 2 / (fan_in + fan_out)), everything else as declared.

    Source: Glorot & Bengio 2010
    """
    return _matrices(law, shape, draws, lambda: draws.standard_normal(shape) * (2 / sum(shape)) ** 0.5)


@init
def pytorch(law: Declaration, shape: tuple[int, ...], draws: np.random.Generator) -> Values | None:
    """As `torch.nn` draws: matrices and biases of linear maps uniform within ± 1 / √fan_in, embeddings N(0, 1)."""
    if law.fan_in is not None:
        return draws.uniform(-1, 1, shape) * law.fan_in**-0.5
    return draws.standard_normal(shape) if law.role is Role.EMBEDDING else as_declared(law, shape, draws)


@init
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


@init
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


def _matrices(
    law: Declaration, shape: tuple[int, ...], draws: np.random.Generator, drawn: Callable[[], Values]
) -> Values | None:
    return drawn() if law.role in (Role.HIDDEN, Role.HEAD) else as_declared(law, shape, draws)
