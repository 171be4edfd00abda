"""Which training examples a run sees at which step."""

import numpy as np
from numpy.typing import NDArray

from grokking.seeding import stream


class Batches:
    """Batches of one run: the passes' permutations laid end to end and cut, so that no batch is odd.

    A batch size of 0 is the whole training set. The permutation of pass e comes from stream (seed, "batch", e): step alone says which batch comes next.
    """

    def __init__(self, seed: int, examples: int, batch_size: int) -> None:
        self.seed, self.examples, self.size = seed, examples, min(batch_size or examples, examples)
        self._passes: dict[int, NDArray[np.int64]] = {}

    def at(self, step: int) -> NDArray[np.int64]:
        """Positions in the training set [batch] of the batch at `step`, counted from 0."""
        return self.between(step, step + 1)[0]

    def between(self, first: int, last: int) -> NDArray[np.int64]:
        """Positions in the training set [step, batch] of the batches at steps `first` … `last` - 1."""
        start, stop = first * self.size, last * self.size
        passes = range(start // self.examples, (stop - 1) // self.examples + 1)
        self._passes = {number: self._pass(number) for number in passes}
        joined = np.concatenate(list(self._passes.values()))
        offset = start - passes.start * self.examples
        return joined[offset : offset + stop - start].reshape(-1, self.size)

    def _pass(self, number: int) -> NDArray[np.int64]:
        if number in self._passes:
            return self._passes[number]
        return stream(self.seed, "batch", number).permutation(self.examples)
