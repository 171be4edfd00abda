"""Random streams: the only place that makes generators."""

import hashlib
import json

import numpy as np


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """The generator of one (seed, purpose …), for example `stream(3, "weights", "blocks.0.mlp.up.weight")`.

    Streams of different purposes are independent, so what one of them draws (or how much) never shifts another:
    the split of seed 3 is the same for every optimizer, and every comparison is paired. Philox is counter-based and
    runs on the CPU; nothing here depends on the device, on other runs, or on a global generator.
    """
    key = hashlib.sha256(json.dumps([seed, *purpose]).encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
