"""What a run is: settings by dotted name, complete and hashable, and a seed."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from grokking.checks import PER_RUN, cast, check_number, check_setting, refuse_unknown, told_by_the_name
from grokking.errors import BadInput
from grokking.later import without_later
from grokking.measures import measures
from grokking.optim.transforms import named, transforms
from grokking.registry import Entry, Scalar, Settings, listed
from grokking.setting import DEFAULTS, ENGINE_VERSION, KINDS, Setting, contract, version_of

SMALLEST_EPSILON = 1e-15  # 1.2e-38 is the square of 1.1e-19


@dataclass(frozen=True)
class RunSpec:
    """A run is its description: static setting, per-run numbers, seed."""

    setting: Setting
    hyper: tuple[tuple[str, float], ...]  # float options of optimizer, schedule and transforms by dotted name, sorted
    seed: int

    @cached_property
    def run_id(self) -> str:
        """Hash of the canonical description; what is stored under it is final."""
        return hashlib.sha256(json.dumps(self.description(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def needs_subnormals(self) -> bool:
        """Whether numbers below 1.2e-38 may matter: squares of gradients do beside an epsilon as small as their roots."""
        return any(name.endswith("eps") and value < SMALLEST_EPSILON for name, value in self.hyper)

    def description(self) -> dict[str, object]:
        """The complete description as plain JSON values."""
        return {
            "setting": without_later(self.setting.by_name),
            "versions": dict(self.setting.versions),
            "hyper": dict(self.hyper),
            "seed": self.seed,
        }

    def row(self) -> dict[str, Scalar]:
        """All settings of the run by dotted name, the seed and the run_id: the left part of the runs table."""
        settings = {**without_later(self.setting.by_name), **dict(self.hyper)}
        return {"run_id": self.run_id, **dict(sorted(settings.items())), "seed": self.seed}


def run_spec(settings: Settings, seed: int) -> RunSpec:
    """Complete `settings` (dotted names) with defaults and check them; every mistake is one `BadInput` sentence.

    The type of a default is the type of its option: values are cast to it, so 1 and 1.0 are one learning rate.
    """
    settings = told_by_the_name(settings)
    entries, defaults = _in_use(settings)
    refuse_unknown(settings, defaults)
    values = {name: cast(name, settings.get(name, default), default) for name, default in defaults.items()}
    values["transforms"] = ",".join(named(str(values["transforms"]))) or "none"
    values["measures"] = ",".join(listed("measures", str(values["measures"]), measures)) or "none"
    hyper = {
        name: value for name, value in values.items() if name.split(".")[0] in PER_RUN and isinstance(value, float)
    }
    static = {name: value for name, value in values.items() if name not in hyper}
    versions = {"engine": ENGINE_VERSION} | {kind: version_of(kind, entry, static) for kind, entry in entries.items()}
    for kind in ("init", "scaling"):
        if entries[kind].name == DEFAULTS[f"{kind}.name"]:
            del versions[kind]  # as in all descriptions from before there were others
    setting = Setting(tuple(sorted(static.items())), tuple(sorted(versions.items())))
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise BadInput(f"seed = {seed!r}; allowed: integers from 0 to 2³¹ - 1")
    for name, value in hyper.items():
        check_number(name, value, defaults[name], setting.external and name.startswith("optimizer."))
    check_setting(setting)
    spec = RunSpec(setting, tuple(sorted(hyper.items())), seed)
    if setting.external:
        contract(setting, spec.hyper)
    return spec


def defaults_in_use(settings: Settings) -> Settings:
    """Everything that can be set beside these settings, with its default."""
    return _in_use(told_by_the_name(settings))[1]


def _in_use(settings: Settings) -> tuple[dict[str, Entry], dict[str, Scalar]]:
    """What is registered under the names in these settings, by kind, and the default of everything that can be set."""
    entries = {
        kind: there[str(settings.get(f"{kind}.name", DEFAULTS[f"{kind}.name"]))] for kind, there in KINDS.items()
    }
    defaults = DEFAULTS | {f"{kind}.name": entry.name for kind, entry in entries.items()}
    if entries["optimizer"].extra.get("full_batch"):
        defaults["batch_size"] = 0
    entries |= {f"transform.{name}": transforms[name] for name in named(str(settings.get("transforms", "none")))}
    looked_at = listed("measures", str(settings.get("measures", "none")), measures)
    entries |= {f"measure.{name}": measures[name] for name in looked_at}
    options = {f"{kind}.{name}": value for kind, entry in entries.items() for name, value in entry.defaults.items()}
    return entries, defaults | options
