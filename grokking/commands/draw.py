"""`grokking draw`: tables to figures, without training."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grokking.commands.arguments import Files, Imports
from grokking.errors import BadInput
from grokking.errors import words as words_of

if TYPE_CHECKING:
    from grokking.experiment import Experiment
    from grokking.plotting import Drawing
    from grokking.store import Results


def draw(
    experiments: Files,
    /,
    scale: str = "laptop",
    imports: Imports = (),
    out: Path = Path("results"),
    figures: Path = Path("figures"),
    adopt: Path | None = None,
    verify: str = "fast",
    publish: bool = False,
) -> int:
    """Draw figures and verdicts of experiments from what is stored; trains nothing.

    Args:
        experiments: experiment files.
        scale: smoke, laptop or paper.
        imports: what you wrote yourself (tasks, models, optimizers, …): .py files or modules.
        out: folder of the results.
        figures: folder that gets NAME.png, NAME.svg and NAME.csv.
        adopt: folder of published runs tables; runs found there by run_id are drawn too.
        verify: fast trusts units whose files have not been touched since they were hashed; full hashes all again.
        publish: maintainers: also copy to figures/published and rewrite the tables of README.md and REPRODUCING.md.
    """
    from grokking.experiment import open_experiment
    from grokking.extensions import import_extensions
    from grokking.plotting import save
    from grokking.store import check_verify, load, make_writable

    import_extensions(imports)
    for path in experiments:
        experiment = open_experiment(path)
        results = load(out, [spec.run_id for spec in experiment.specs(scale)], adopt, check_verify(verify))
        if results.runs.empty:
            raise BadInput(f"no run of {path} at scale {scale!r} is stored in {str(out)!r}; sweep it first")
        make_writable(figures, "figures")
        drawings = _drawings(experiment, results)
        if results.missing:
            print(
                f"grokking: {results.missing} runs of {path} are not trained yet; drawn without them", file=sys.stderr
            )
        for drawing in drawings:
            files = save(drawing, figures)
            print(f"{files[0]}: {drawing.verdict}" if drawing.verdict else files[0])
            if drawing.markdown is not None:
                print(drawing.markdown(drawing.tables.get("summary", drawing.tables[""])))
            if words := _as_published(drawing):
                print(f"  {words}")
            if publish:
                from grokking.publish import publish_drawing

                publish_drawing(drawing, results, scale, path)
    if publish:
        from grokking.publish import rewrite_documents

        rewrite_documents()
    return 0


def _drawings(experiment: "Experiment", results: "Results") -> Sequence["Drawing"]:
    """The experiment's pictures; `BadInput` where runs are missing that it cannot be drawn without."""
    try:
        return experiment.draw(results)
    except Exception as error:
        if not results.missing:
            raise
        why = str(error) if isinstance(error, BadInput) else words_of(error)
        raise BadInput(
            f"{experiment.path} cannot be drawn yet, as runs are missing ({why}); sweep the other {results.missing} first"
        ) from error


def _as_published(drawing: "Drawing") -> str:
    """Whether the runs take as long as those of the same run_id that were published."""
    from grokking.comparison import agreement
    from grokking.publish import PUBLISHED
    from grokking.store import read_runs

    path = PUBLISHED / f"{drawing.name}_runs.csv"
    if "runs" not in drawing.tables or not path.is_file():
        return ""
    try:
        found = agreement(drawing.tables["runs"], read_runs(path))
    except (OSError, ValueError, KeyError) as error:
        return f"not compared with {path}, which is damaged: {error}"
    if found is None:
        return ""
    ratio = f"{found.ratio.value:.3f} [{found.ratio.low:.3f}, {found.ratio.high:.3f}]"
    return (
        f"the same {found.ratio.n} runs as published: steps to generalise here / there {ratio}, p = {found.p:.2g}, "
        f"{found.equal} of them equal"
    )
