"""The progress bar of a sweep."""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from grokking.execute.unit import Advance, Ended
from grokking.runs import RunSpec
from grokking.study import total_steps


class Progress:
    """A bar over run-steps. Its total is every budget; a run that ends early gives the rest of its budget back."""

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self.runs, self.ended, self.generalized = len(specs), 0, 0
        self.total = total_steps(specs)
        self.began: float | None = None  # of the first report on, so that the rate leaves out the workers' start
        self.timed = 0  # run-steps since then

    def __enter__(self) -> "Progress":
        self.bar = tqdm(
            total=self.total, file=sys.stderr, bar_format="{percentage:3.0f}%|{bar:20}| {desc}", mininterval=0.5
        )
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, steps: int, ended: Ended, trained: bool = True, sign: int = 1) -> None:
        """`steps` run-steps are done and these runs ended; `trained` just now, or before a checkpoint."""
        self.ended += sign * len(ended)
        self.generalized += sign * sum(status == "generalized" for _, status in ended)
        if trained and sign > 0:
            if self.began is None:
                self.began = time.perf_counter()
            else:
                self.timed += steps
        self.bar.update(sign * (steps + sum(rest for rest, _ in ended)))
        self._show()

    def take_back(self, told: Sequence[Advance]) -> None:
        """What was added for a unit that is to be trained again."""
        for report in told:
            self.add(*report, sign=-1)

    def _show(self) -> None:
        rate, minutes = 0.0, ""
        if self.began is not None and self.timed:
            rate = self.timed / max(time.perf_counter() - self.began, 1e-9)
            minutes = f", at most {(self.total - self.bar.n) / rate / 60:.1f} min left"
        self.bar.set_description_str(
            f"{self.ended}/{self.runs} runs done, {self.generalized} generalized, {rate:.0f} run-steps/s{minutes}"
        )
