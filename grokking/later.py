"""Settings that came when runs had been published already, with the value that those runs had.

Descriptions and tables leave such a setting out where it has this value, and whoever reads a table puts it back: so a run
keeps its run_id, and its line, when the package learns something new.
"""

from collections.abc import Mapping
from typing import Any

Values = dict[str, bool | int | float | str]

EVERYWHERE: Values = {
    "precision": "fp32",
    "transforms": "none",
    "measures": "none",
    "prompt": "expression",
    "label_noise": 0.0,
    "init.name": "declared",
    "init.scale": 1.0,
    "scaling.name": "standard",
}
OF: dict[tuple[str, str], Values] = {  # (setting, its value) → later settings of such runs
    ("optimizer.name", "adam"): {"optimizer.bias_correction": True},
    ("optimizer.name", "adamw"): {"optimizer.bias_correction": True},
    ("optimizer.name", "muon"): {
        "optimizer.orthogonalize": "jordan",
        "optimizer.ns_steps": 0,
        "optimizer.momentum_form": "ema",
        "optimizer.matrices": "hidden",
        "optimizer.adamw_bias_correction": True,
    },
    ("model.name", "transformer"): {
        "model.attention_softmax": "softmax",
        "model.biased": "all",
        "model.outputs": "classes",
        "model.rope_base": 10_000,
        "model.dropout_at": "all",
        "model.residual": "sum",
        "model.attention_form": "usual",
        "model.logit_scale": 1.0,
    },
    ("model.name", "mlp"): {"model.biased": "all", "model.logit_scale": 1.0},
    ("loss.name", "cross_entropy"): {"loss.float64": False},
}


def later(settings: Mapping[str, Any]) -> Values:
    """The later settings of runs like this one, with the value that each had before."""
    found = dict(EVERYWHERE)
    for (name, value), own in OF.items():
        if settings.get(name) == value:
            found |= own
    return found


def without_later(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run, but for later ones that have the value they had before."""
    known = later(settings)
    return {name: value for name, value in settings.items() if name not in known or value != known[name]}
