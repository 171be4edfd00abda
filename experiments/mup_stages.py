"""From the standard parametrization to muP one part at a time.

    .venv/bin/python experiments/mup_stages.py [--figures figures] [--measured mup_stages.csv] [--publish]

Claim      With the standard parametrization and fixed initial values what layers give out, and what steps change in it, grows with the
           width; each part of muP repairs one thing, and with all of them nothing changes with the width but the scores before
           training (Dey et al. 2025, The Practitioner's Guide to the Maximal Update Parameterization, with GPT-2 on text).
Here       The transformer of `grokking run`, initial values N(0, 0.02²), AdamW at 1e-3 without decay; the first of two operands (mod
           3), six of nine examples at once, 10 steps, 16 seeds; widths 64 to 512.
Definition As in grokking.coordinates: the slope of log size against log width of each layer's output before training, of its
           change by 10 steps, and of each parameter's change as it acts, over the widest three widths; passes where it is
           within 0.1 of theory.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

from grokking.coordinates import ALLOWED, coordinates, slopes
from grokking.coordinates_figure import ALL_FLAT, SHOWN, layer_colors, layer_legend, sizes
from grokking.execute.unit import machine
from grokking.plotting import Drawing, caption, save, style
from grokking.publish import PUBLISHED, markdown_table, rewrite_documents
from grokking.registry import Settings
from grokking.roles import Role
from grokking.scaling import Factors, Part, Place, mup, scaling

WIDTHS = (64, 128, 256, 512)
SEEDS = range(16)
STEPS = 10
ADAMW: Settings = {"optimizer.name": "adamw", "optimizer.lr": 1e-3, "optimizer.weight_decay": 0.0}
STAGED: Settings = {"model.name": "transformer", "init.name": "normal", "init.std": 0.02, **ADAMW}


@scaling
def hidden_init(part: Part, base_width: int = 64) -> Factors:
    """Initial values of hidden matrices like 1 / √fan_in, as muP has them; nothing else."""
    return Factors(init=mup(part).init) if part.role is Role.HIDDEN else Factors()


@scaling
def hidden_rate(part: Part, base_width: int = 64) -> Factors:
    """And their learning rates like 1 / fan_in."""
    return Factors(init=mup(part).init, lr=mup(part).lr) if part.role is Role.HIDDEN else Factors()


@scaling
def logits_root(part: Part, base_width: int = 64) -> Factors:
    """And what enters the head divided by the root of the width."""
    return Factors(forward=part.width**-0.5) if part.role is Place.READOUT else hidden_rate(part)


@scaling
def logits_width(part: Part, base_width: int = 64) -> Factors:
    """By the width itself."""
    return mup(part) if part.role is Place.READOUT else hidden_rate(part)


STAGES = {  # scaling rule → what it adds
    "standard": "standard",
    "hidden_init": "+ hidden init",
    "hidden_rate": "+ hidden rate",
    "logits_root": "+ scores / √width",
    "logits_width": "+ scores / width",
    "mup": "+ attention / channels",
}


def staged(seeds: Sequence[int] = SEEDS, widths: Sequence[int] = WIDTHS) -> pd.DataFrame:
    """Sizes at every stage: the columns of `grokking.coordinates.coordinates`, and `stage`."""
    tables = []
    for rule in tqdm(STAGES, desc="stages"):
        own: Settings = {} if rule == "standard" else {"scaling.name": rule, "scaling.base_width": widths[0]}
        tables.append(coordinates({**STAGED, **own}, widths, seeds, STEPS).assign(stage=rule))
    return pd.concat(tables, ignore_index=True)


def by_stage(table: pd.DataFrame) -> pd.DataFrame:
    """The slopes at every stage."""
    return pd.concat([slopes(own).assign(stage=stage) for stage, own in table.groupby("stage", sort=False)])


def draw_stages(table: pd.DataFrame, found: pd.DataFrame) -> Drawing:
    """A column a stage: what layers give out before training, and what steps change in it, over the width."""
    rows = [what for what in SHOWN if what != "update"]
    n, widths = int(found["n"].min()), sorted(table["width"].unique())
    colors = layer_colors(found.loc[found["what"].isin(rows), "name"])
    with style():
        figure = Figure(figsize=(14, 5.6), layout="constrained")
        grid = figure.subplots(2, len(STAGES), sharex=True, sharey="row")
        for line, what in zip(grid, rows, strict=True):
            for axes, stage in zip(line, STAGES, strict=True):
                own, slope = (part[(part["stage"] == stage) & (part["what"] == what)] for part in (table, found))
                sizes(axes, own, slope, colors)
            line[0].set_ylabel(f"{SHOWN[what].format(steps=STEPS)} (log)")
        for axes, title in zip(grid[0], STAGES.values(), strict=True):
            axes.set_title(title, fontsize=10)
        for axes in grid[1]:
            axes.set_xlabel("width (log)")
        layer_legend(figure)
        caption(
            figure,
            f"Transformer, AdamW (lr {ADAMW['optimizer.lr']:g}), initial values N(0, 0.02²) at width {widths[0]}; the first of two operands (mod 3), full batch; each column "
            f"has what those before it have. Root mean squares, mean of n = {n} seeds. Solid: the slope of the widest three is within {ALLOWED:g} of theory ({ALL_FLAT}); "
            f"dashed: it is not. Trained on: {machine('cpu')}.",
        )
    return Drawing("mup_stages", figure, {"": table, "slopes": found}, n, None, None)


def stages_markdown(found: pd.DataFrame) -> str:
    """How many slopes of each stage are as theory has them, how far from it they lie, and the farthest."""
    rows = []
    for stage, own in found.groupby("stage", sort=False):
        off = (own["slope"] - own["expected"]).abs()
        worst = own.loc[off.idxmax()]
        counts = [f"{part['passes'].sum()} of {len(part)}" for _, part in own.groupby("what", sort=False)]
        every = ((own["slope_all"] - own["expected"]).abs() <= ALLOWED).sum()
        farthest = f"{worst['slope']:+.2f}, not {worst['expected']:g} ({worst['what']} of {worst['name']})"
        rows.append((STAGES[str(stage)], *counts, f"{off.mean():.2f}", farthest, f"{every} of {len(own)}"))
    return markdown_table(
        ("stage", "start", "change", "update", "mean distance", "farthest slope", "by all widths"), rows
    )


def main(figures: Path = Path("figures"), measured: Path | None = None, publish: bool = False) -> None:
    """Measure, draw and print.

    Args:
        figures: folder of the picture and the tables.
        measured: a mup_stages.csv of before: draw that, and measure nothing.
        publish: maintainers: also to figures/published, and rewrite the documents.
    """
    table = pd.read_csv(measured) if measured else staged()
    found = by_stage(table)
    words = stages_markdown(found)
    for folder in (figures, PUBLISHED) if publish else (figures,):
        print(save(draw_stages(table, found), folder)[0])
        (folder / "mup_stages.md").write_text(words + "\n")
    print(words)
    if publish:
        rewrite_documents()


if __name__ == "__main__":
    tyro.cli(main)
