"""What an experiment file holds: studies by scale, and how their results become figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from grokking import arms_figure
from grokking.errors import BadInput
from grokking.extensions import import_extension
from grokking.plotting import Drawing
from grokking.registry import suggest
from grokking.runs import RunSpec
from grokking.store import Results
from grokking.study import Study


@dataclass(frozen=True)
class Experiment:
    """An opened experiment file; its docstring says claim, source and definition."""

    path: str
    studies: dict[str, Sequence[Study]]
    draw: Callable[[Results], Sequence[Drawing]]
    compile: Sequence[str] = ()  # scales at which compiling the steps takes less time than it saves

    def specs(self, scale: str) -> list[RunSpec]:
        """All runs of this scale, each once."""
        if scale not in self.studies:
            raise BadInput(f"{self.path} has no scale {scale!r}; {suggest(scale, list(self.studies))}")
        runs = [spec for study in self.studies[scale] for spec in study.specs()]
        return list({spec.run_id: spec for spec in runs}.values())


def open_experiment(path: str) -> Experiment:
    """Load an experiment file, which must define STUDIES, and may define draw and COMPILE."""
    module = import_extension(path)
    if not hasattr(module, "STUDIES"):
        raise BadInput(
            f"{path} defines no STUDIES; an experiment defines STUDIES (scale → list of Study), and draw(results) where "
            "dots by arm are not enough"
        )
    compile = getattr(module, "COMPILE", ())
    if not isinstance(compile, (list, tuple)):
        raise BadInput(
            f"{path} has COMPILE = {compile!r}; allowed: a tuple of its scales, such as {tuple(module.STUDIES)}"
        )
    for scale in compile:
        if scale not in module.STUDIES:
            raise BadInput(
                f"{path} has no scale {scale!r}, which its COMPILE names; {suggest(scale, list(module.STUDIES))}"
            )
    return Experiment(path, module.STUDIES, getattr(module, "draw", partial(arms_figure.draw, path)), compile)
