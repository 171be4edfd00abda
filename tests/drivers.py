"""A driver of a search on the stand-in, in a process of its own: `python drivers.py OUT TRIALS SECONDS [sampler]`.

SECONDS is how long each batch takes to train, so that the driver can be killed in the middle of one.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import search_strategies

from grokking.store import prepare
from grokking.tuning.search import Search


def drive(out, trials, seconds=0.0, **changed):
    """Go on with the search until there are so many trials; its table."""
    prepare(out)

    def train(specs):
        time.sleep(seconds)
        search_strategies.standin(out, specs)

    definition = replace(search_strategies.definition("TPE", 0), **changed)
    with Search(out, definition, train) as search:
        while batch := search.batch(trials, None):
            search.settle(batch)
        return search.table()


if __name__ == "__main__":
    drive(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
