import contextlib
import functools
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # as the package's workers do; results then do not depend on the machine's cores

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci")


@pytest.fixture
def in_the_root(monkeypatch):
    """For tests that name experiments and published tables as a reader does, from the root of the repository."""
    monkeypatch.chdir(Path(__file__).parent.parent)


def global_generators():
    legacy = np.random.get_state()  # noqa: NPY002  (read, to see that nobody draws from it)
    return random.getstate(), (legacy[1].tobytes(), *legacy[2:]), torch.get_rng_state().numpy().tobytes()


@contextlib.contextmanager
def untouched_generators():
    before = dict(zip(("random", "numpy.random", "torch"), global_generators(), strict=True))
    yield
    after = dict(zip(before, global_generators(), strict=True))
    drawn = [name for name in before if before[name] != after[name]]
    assert not drawn, f"the test's body drew from, or seeded, the global generator of {' and '.join(drawn)}"


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Law 3: no test, and nothing that it calls, draws from a global generator.

    A fixture cannot watch this: pytest-randomly reseeds between a test's setup, call and teardown. Hypothesis seeds
    `random` and `numpy.random` around every example and restores them, so there each single example is watched.
    """
    if pyfuncitem.get_closest_marker("parses"):
        return (yield)
    handle = getattr(pyfuncitem.obj, "hypothesis", None)
    if handle is None:
        with untouched_generators():
            return (yield)
    bare = handle.inner_test

    @functools.wraps(bare)
    def watched(*args, **kwargs):
        with untouched_generators():
            return bare(*args, **kwargs)

    handle.inner_test = watched
    try:
        return (yield)
    finally:
        handle.inner_test = bare
