"""Settings that came when runs had been published already, with the value that those runs had.

Descriptions and tables leave such a setting out where it has this value, and whoever reads a table puts it back: so a run
keeps its run_id, and its line, when the package learns something new.
"""

from collections.abc import Mapping
from typing import Any

EVERYWHERE: dict[str, bool | int | float | str] = {"precision": "fp32", "transforms": "none"}
OF_OPTIMIZERS: dict[str, dict[str, bool | int | float | str]] = {
    "adam": {"optimizer.bias_correction": True},
    "adamw": {"optimizer.bias_correction": True},
    "muon": {
        "optimizer.orthogonalize": "jordan",
        "optimizer.ns_steps": 0,
        "optimizer.momentum_form": "ema",
        "optimizer.matrices": "hidden",
        "optimizer.adamw_bias_correction": True,
    },
}


def later(optimizer: str) -> Mapping[str, bool | int | float | str]:
    """The later settings of runs with this optimizer, with the value that each had before."""
    return {**EVERYWHERE, **OF_OPTIMIZERS.get(optimizer, {})}


def without_later(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run, but for later ones that have the value they had before."""
    known = later(str(settings["optimizer.name"]))
    return {name: value for name, value in settings.items() if name not in known or value != known[name]}
