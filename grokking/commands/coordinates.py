"""`grokking coordinates`: the coordinate check of a model, an optimizer and a scaling rule, with a verdict on every layer."""

from pathlib import Path
from typing import TYPE_CHECKING

from grokking.commands.arguments import Imports, Set, parse_seeds, told
from grokking.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SHOWN = {  # what → title of its panel
    "start": "given out at the start",
    "change": "changed by {steps} steps",
    "update": "parameters moved, as they act",
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
        widths: values of model.width, the smallest of which is the base width.
        seeds: such as 0:8; slopes have intervals over them.
        steps: how many are taken.
        set: other settings, such as optimizer.lr=0.001 or model.depth=2; unless they say otherwise the task is x + y (mod 5), a dozen examples at once.
        imports: what you wrote yourself: .py files or modules.
        figures: folder of the picture and its tables.
    """
    sizes = sorted({_width(text) for text in widths.split(",")})
    if len(sizes) < 3:
        raise BadInput(f"widths = {widths!r}; allowed: three different ones at least, such as 64,128,256")
    if steps < 1:
        raise BadInput(f"steps = {steps}; allowed: integers from 1 on")
    from tqdm import tqdm

    from grokking.coordinates import ALLOWED, slopes
    from grokking.coordinates import coordinates as measured
    from grokking.extensions import import_extensions
    from grokking.plotting import Drawing, save

    import_extensions(imports)
    settings = {**told(set, {}), "model.name": model, "optimizer.name": optimizer, "scaling.name": scaling}
    if scaling != "standard":
        settings["scaling.base_width"] = str(sizes[0])
    table = measured(settings, tqdm(sizes, desc="widths"), parse_seeds(seeds), steps)
    found = slopes(table)
    figure = _drawn(table, found, ", ".join([model, optimizer, scaling, *set]), steps)
    files = save(Drawing("coordinates", figure, {"": table, "slopes": found}, int(found["n"].min())), figures)
    print(found.to_string(index=False, float_format=lambda value: f"{value:+.2f}"))
    wrong = found[~found["passes"]]
    print(files[0])
    if wrong.empty:
        print(f"pass: all {len(found)} slopes are within {ALLOWED} of theory")
        return 0
    worst = ", ".join(f"{row['what']} of {row['name']} {row['slope']:+.2f}" for row in wrong.to_dict("records"))
    print(f"fail: {len(wrong)} of {len(found)} slopes are not within {ALLOWED} of theory: {worst}")
    return 1


def _width(text: str) -> int:
    if not text.strip().isascii() or not text.strip().isdecimal() or int(text) < 1:
        raise BadInput(f"widths = {text.strip()!r}; allowed: numbers from 1 on, such as 64,128,256")
    return int(text)


def _drawn(table: "pd.DataFrame", found: "pd.DataFrame", title: str, steps: int) -> "Figure":
    """A panel for each thing measured, a line for each layer; dashed: not as theory has it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    from grokking.coordinates import ALLOWED
    from grokking.plotting import caption, style

    names = list(dict.fromkeys(found["name"].str.removesuffix(".weight")))
    passes = found.set_index(["what", "name"])["passes"]
    with style():
        import matplotlib

        colors = dict(
            zip(names, matplotlib.colormaps["turbo"](range(10, 250, max(1, 240 // len(names)))), strict=False)
        )
        figure = Figure(figsize=(11, 4), layout="constrained")
        for axes, (what, words) in zip(figure.subplots(1, len(SHOWN)), SHOWN.items(), strict=True):
            for name, own in table[table["what"] == what].groupby("name", sort=False):
                if (what, name) in passes:
                    size = own.groupby("width")["size"].mean()
                    plain = str(name).removesuffix(".weight")
                    dash = "-" if passes[what, name] else (0, (2, 1.5))
                    axes.plot(size.index, size, "o", ls=dash, ms=3, lw=1.2, color=colors[plain], label=plain)
            axes.set(xscale="log", yscale="log", xlabel="width (log)", title=words.format(steps=steps))
            axes.set_xticks(sorted(table["width"].unique()), sorted(table["width"].unique()))
            axes.minorticks_off()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        figure.axes[0].set_ylabel("root mean square, or norm (log)")
        handles = {t: h for axes in figure.axes for h, t in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles, loc="outside right upper", fontsize=7)
        caption(
            figure,
            f"Coordinate check of {title}; n = {int(found['n'].min())} seeds, where nothing else is named on x + y (mod 5), full batch. Mean over "
            f"seeds; dashed: the slope is more than {ALLOWED:g} off theory, by which all are flat, but for scores at the start (and attention's), "
            "which fall as 1/√width.",
        )
    return figure
