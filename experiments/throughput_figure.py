"""The picture and the table of experiments/throughput.py, from its measured lines."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, get_args

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grokking.plotting import COLORS, GREY, Drawing, caption, style
from grokking.publish import markdown_table

COLOR = {"plain": GREY, "shortcuts": "#56B4E9", "cohort": "#0072B2", "compiled": "#D55E00"}
STEPS = 2_000
Part = Literal["ablation", "width", "muon", "precision", "cost"]
PARTS: tuple[Part, ...] = get_args(Part)
ROUNDS = 5
DEFAULT = {"p": 97, "width": 128, "depth": 1}


def drawing(table: pd.DataFrame) -> Drawing:
    """Of what was measured: ratios to the plain loop, form by form; rates by cohort width; and what p, width and depth cost."""
    panels = [panel for panel in PANELS if panel[0] in set(table["part"])]
    with style():
        size = sum(width for _, width, _, _ in panels)
        figure = Figure(figsize=(2.4 * size + 1.6, 3.6), layout="constrained")
        each = figure.subplots(1, len(panels), width_ratios=[width for _, width, _, _ in panels], squeeze=False)[0]
        for axes, (part, _, draw, _) in zip(each, panels, strict=True):
            draw(axes, table[table["part"] == part])
    rounds = int(table["rounds"].min())
    caption(
        figure,
        f"x + y mod p, causal transformer of width 128 and 4 heads, batch 512, AdamW, float32; medians of {rounds} rounds in which "
        f"all forms of a comparison take turns. {' '.join(words for *_, words in panels)} {table['machine'].iloc[0]}.",
    )
    return Drawing("throughput", figure, {"": table}, rounds, markdown=markdown)


def _bars(axes: Axes, table: pd.DataFrame) -> None:
    groups = list(table.groupby(["depth", "batch"], sort=False))
    for at, (_, lines) in enumerate(groups):
        lines = lines[lines["form"] != "plain"]
        for place, line in enumerate(lines.to_dict("records")):
            x, several = at + (place - (len(lines) - 1) / 2) * 0.2, line["cores"] > 1
            words = f"{line['form']}, {'all cores' if several else 'one core'}"
            (bar,) = axes.bar(x, line["ratio"], 0.19, color=COLOR[line["form"]], label=words if at == 0 else None)
            if several:
                bar.set(hatch="///", edgecolor="white", linewidth=0)
            axes.annotate(
                f"{line['ratio']:.1f}", (x, line["ratio"]), (0, 2), textcoords="offset points", ha="center", fontsize=7
            )
    axes.axhline(1, color=GREY, lw=1.2, label="plain loop, on as many cores")
    labels = [
        f"{depth} layer{'s' * (depth > 1)}\n{'batch 512' if batch else 'full batch'}" for (depth, batch), _ in groups
    ]
    axes.set_xticks(range(len(groups)), labels)
    axes.set_ylim(0, 1.3 * table["ratio"].max())
    axes.set(ylabel="run-steps per second, plain loop = 1", title="What brings how much")
    axes.legend(ncols=2, loc="upper center")
    axes.grid(visible=False, axis="x")


def _widths(axes: Axes, table: pd.DataFrame) -> None:
    for rate in table.loc[table["form"] == "plain", "run_steps_per_second"]:
        axes.axhline(rate, color=GREY, lw=1.2, label="plain loop, one run")
    for name, lines in table[table["form"] != "plain"].groupby("form", sort=False):
        axes.plot(lines["cohort"], lines["run_steps_per_second"], marker="o", ms=4, color=COLOR[str(name)], label=name)
        axes.fill_between(lines["cohort"], lines["least"], lines["most"], color=COLOR[str(name)], alpha=0.15, lw=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(table["cohort"])), [str(width) for width in sorted(set(table["cohort"]))], minor=False)
    if table["run_steps_per_second"].max() < 10 * table["run_steps_per_second"].min():
        axes.set_ylim(bottom=0)
    else:
        axes.set_yscale("log")
    axes.set(xlabel="runs in the cohort", ylabel="run-steps per second", title="Width of the cohort (p = 97)")
    axes.legend(loc="best")


def _costs(axes: Axes, table: pd.DataFrame) -> None:
    captured = table[table["form"] != "plain"]
    for name, color in (("p", COLORS["muon"]), ("width", COLORS["adamw"]), ("depth", COLORS["adam"])):
        others = [other for other in DEFAULT if other != name]
        lines = captured[(captured[others] == [DEFAULT[other] for other in others]).all(axis=1)].sort_values(name)
        words = f"{name} = {', '.join(map(str, lines[name]))}"
        times, milliseconds = lines[name] / DEFAULT[name], 1e3 / lines["run_steps_per_second"]
        axes.plot(times, milliseconds, marker="o", ms=4, color=color, label=words)
    axes.set_xscale("log", base=2)
    axes.set_xticks([0.25, 0.5, 1, 2], ["¼", "½", "1", "2"])
    axes.set_ylim(bottom=0)
    axes.set(xlabel="times the default (97, 128, 1)", ylabel="milliseconds per run-step", title="Cost")
    axes.legend(loc="upper left")


PANELS: tuple[tuple[str, float, Callable[[Axes, pd.DataFrame], None], str], ...] = (  # part, width, and what it shows
    (
        "ablation",
        1.7,
        _bars,
        "What brings how much: p = 97; run-steps per second over those of the plain PyTorch loop in the same round, on one core, and "
        "hatched on all cores (plain: PyTorch's own threads; compiled: a worker on each core).",
    ),
    ("width", 1.0, _widths, "Width of the cohort: bands from least to most."),
    ("cost", 1.0, _costs, "Cost: on one core."),
)


def markdown(table: pd.DataFrame) -> str:
    """Ablation (or where there is none the cohort's width), Muon and bfloat16 as a table of a document."""
    head, lines = "model, batch | form | run-steps/s | ratio | share of the measured matmul rate | memory", []
    first = "ablation" if (table["part"] == "ablation").any() else "width"
    for row in table[table["part"].isin([first, "muon", "precision"])].to_dict("records"):
        model = f"{_model(row)}, {row['optimizer']}" + (f", {row['precision']}" if row["part"] == "precision" else "")
        share, memory = (
            "–" if pd.isna(row.get(name)) else words.format(row[name])
            for name, words in (("share_of_product", "{:.0%}"), ("megabytes", "{:.0f} MB"))
        )
        form = row["form"] + (f" of {row['cohort']}" if row["cohort"] > 1 else "")
        form += f", {row['cores']} cores" if row["cores"] > 1 else ""
        rate = f"{row['run_steps_per_second']:.1f} ({row['least']:.1f} to {row['most']:.1f})"
        lines.append((model, form, rate, f"{row['ratio']:.2f}", share, memory))
    note = f"`{_command(table)}`, p = 97, {_taken(table)} "
    if _on_cpu(table):
        note += "One core and one thread where no number of cores stands. "
    note += "Ratio: to the first line of the comparison" + (" on as many cores" if _on_cpu(table) else "")
    return f"{markdown_table(head.split(' | '), lines)}\n\n{note}; median of the rounds' own."


def short(table: pd.DataFrame) -> str:
    """From the plain loop to the fastest form, on one core and on all, as a table of a document; needs the ablation."""
    ablation = table[table["part"] == "ablation"]
    places = ["one core" if cores == 1 else f"{cores} cores" for cores in sorted(set(ablation["cores"]))]
    head = ["model, batch", *(words for place in places for words in (f"{place}: plain loop → here", "ratio"))]
    lines = []
    for _, group in ablation.groupby(["depth", "batch"], sort=False):
        cells = [_model(group.iloc[0].to_dict())]
        for _, own in group.groupby("cores"):
            plain, ours = own["run_steps_per_second"].iloc[[0, -1]]
            cells += [f"{plain:.1f} → {ours:.1f}", f"{own['ratio'].iloc[-1]:.1f}"]
        lines.append(cells)
    first = ablation[(ablation["batch"] == 512) & (ablation["depth"] == 1)]
    rates = first.loc[first["cores"] == first["cores"].max(), "run_steps_per_second"]
    plain, ours = 3600 * rates.iloc[[0, -1]] / STEPS
    apart = 3600 * first["run_steps_per_second"].iloc[0] * first["cores"].max() / STEPS
    hourly = (
        f"{ours:,.0f} runs of {STEPS:,} steps an hour while training; by the plain loop {plain:,.0f}, or {apart:,.0f} if a process "
        "on each core lost nothing to the others"
    )
    note = f"Run-steps per second, {_taken(table)} One layer, batch 512, {places[-1]}: {hourly}."
    return f"{markdown_table(head, lines)}\n\n{note}"


def _command(table: pd.DataFrame) -> str:
    """What measured these lines."""
    parts, rounds = [*dict.fromkeys(table["part"])], table["rounds"].min()
    told = "" if _on_cpu(table) else " --device cuda"
    told += "" if rounds == ROUNDS else f" --rounds {rounds}"
    told += "" if set(parts) == set(PARTS) else f" --parts {' '.join(parts)}"
    return f"python experiments/throughput.py{told}"


def _on_cpu(table: pd.DataFrame) -> bool:
    return bool(table["machine"].str.contains(" CPU").all())


def _model(row: Mapping[Hashable, Any]) -> str:
    return f"{row['depth']} layer{'s' * (row['depth'] > 1)}, {row['batch'] or 'full'}"


def _taken(table: pd.DataFrame) -> str:
    return f"median of {table['rounds'].min()} rounds (least to most) in turns: {table['machine'].iloc[0]}."
