"""`grokking coordinates`: the coordinate check of a model, an optimizer and a scaling rule, with a verdict on every layer."""

from pathlib import Path
from typing import TYPE_CHECKING

from grokking.commands.arguments import Imports, Set, parse_seeds, told_beside
from grokking.errors import BadInput

if TYPE_CHECKING:
    from grokking.registry import Settings

FLAGS = {  # setting → which flag says it
    "model.name": "--model",
    "optimizer.name": "--optimizer",
    "scaling.name": "--scaling",
    "model.width": "--widths",
    "scaling.base_width": "--widths (the least of them)",
    "steps": "--steps",
}


def coordinates(
    model: str = "mlp",
    optimizer: str = "adamw",
    scaling: str = "mup",
    widths: str = "64,128,256,512",
    seeds: str = "0:8",
    steps: int = 10,
    set: Set = (),
    imports: Imports = (),
    figures: Path = Path("figures"),
) -> int:
    """Whether layers give out, and steps change, numbers as large at every width as maximal updates have it; exit code 1: not.

    Args:
        model: which model, at its defaults but for its width.
        optimizer: which optimizer, at its defaults.
        scaling: which scaling rule; `standard` fails at nearly everything.
        widths: values of model.width, three at least; the least is the base width.
        seeds: such as 0:8; slopes have intervals over them.
        steps: how many are taken.
        set: other settings, such as optimizer.lr=0.001 or model.depth=2; unless they say otherwise the task is the first of two operands (mod 3), six of nine examples at once.
        imports: what you wrote yourself: .py files or modules.
        figures: folder of the picture and its tables.
    """
    sizes = sorted({_width(text) for text in widths.split(",")})
    if len(sizes) < 3:
        raise BadInput(f"widths = {widths!r}; allowed: three different ones at least, such as 64,128,256")
    if steps < 1:
        raise BadInput(f"steps = {steps}; allowed: integers from 1 on")
    import numpy as np
    from tqdm import tqdm

    from grokking.coordinates import ALLOWED, FEW, slopes, specs_of
    from grokking.coordinates import coordinates as measured
    from grokking.coordinates_figure import drawn
    from grokking.extensions import import_extensions
    from grokking.plotting import Drawing, save
    from grokking.store import make_writable

    import_extensions(imports)
    own = told_beside(set, FLAGS)
    settings = {**own, "model.name": model, "optimizer.name": optimizer, "scaling.name": scaling}
    if scaling != "standard":
        settings["scaling.base_width"] = str(sizes[0])
    chosen = parse_seeds(seeds)
    for width in sizes:  # each may be refused, and none of them after half of the work
        specs_of(settings, width, chosen[:1], steps)
    make_writable(figures, "figures")
    table = measured(settings, tqdm(sizes, desc="widths"), chosen, steps)
    if not np.isfinite(table["size"]).all():
        wide = table.loc[~np.isfinite(table["size"]), "width"].min()
        raise BadInput(f"within {steps} steps numbers overflow at width {wide}; take a lower optimizer.lr")
    outer = table["name"].isin(("head", "scores"))  # which begin at 0, and so always change
    within = (table["what"] == "change") & ~outer
    if (table.loc[within, "size"] == 0).all():
        raise BadInput(f"{steps} steps change nothing that layers give out; take a higher optimizer.lr, or more steps")
    found = slopes(table)
    examples = _examples({**FEW, **own})
    figure = drawn(table, found, f"{model}, {optimizer}, {scaling}", examples, steps, ALLOWED)
    files = save(Drawing("coordinates", figure, {"": table, "slopes": found}, int(found["n"].min())), figures)
    print(found.to_string(index=False, float_format=lambda value: f"{value:+.2f}"))
    wrong = found[~found["passes"]]
    print(files[0])
    if wrong.empty:
        print(f"pass: all {len(found)} slopes are within {ALLOWED} of theory")
        return 0
    worst = ", ".join(f"{row['what']} of {row['name']} {row['slope']:+.2f}" for row in wrong.to_dict("records"))
    print(f"fail: {len(wrong)} of {len(found)} slopes are not within {ALLOWED} of theory: {worst}")
    apart = (wrong["slope_low"] > wrong["expected"]) | (wrong["slope_high"] < wrong["expected"])
    if not apart.all():  # an interval that is not known, of one seed, tells nothing either
        print(f"of {(~apart).sum()} of them the 95 % interval does not exclude theory; more --seeds would tell")
    return 1


def _width(text: str) -> int:
    if not text.strip().isascii() or not text.strip().isdecimal() or int(text) < 1:
        raise BadInput(f"widths = {text.strip()!r}; allowed: numbers from 1 on, such as 64,128,256")
    return int(text)


def _examples(told: "Settings") -> str:
    """On what is measured, in words."""
    batch = "full batch" if str(told["batch_size"]) == "0" else f"batch {told['batch_size']}"
    return f"{told['task.name']} (p = {told['task.p']}), {batch}"
