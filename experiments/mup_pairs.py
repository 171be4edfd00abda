"""The coordinate check of every model with every optimizer that says how it updates.

    .venv/bin/python experiments/mup_pairs.py [--figures figures] [--publish]

Claim      Scaled by muP, every model changes as much by a step of every optimizer at every width (ours; the rules of
           grokking.scaling follow from how an optimizer updates).
Here       Models and optimizers at their defaults but for the learning rates below and without weight decay (of which ten steps tell
           nothing: grokking.coordinates.at_rest), scaled by muP from width 64 on; the first of two operands (mod 3), six of nine
           examples at once, 10 steps, 8 seeds (LSTM 64, perceptron 16, Shampoo 4); widths 64 to 512, perceptrons 64 to 1,024. Rates at
           which the loss falls by then, but not to nothing: 1e-3, Muon's 0.02, SGD's and EGD's (SGD but on embeddings) 0.02, and with momentum 0.005.
           What layers give out before training is the same for every optimizer, and of 256 seeds, as six examples say little of it.
Definition As in grokking.coordinates: the slope of log size against log width of each layer's output before training, of its
           change by 10 steps, and of each parameter's change as it acts, over the widest three widths; passes where it is
           within 0.1 of theory.

Each pair is written down as soon as it is measured, and not measured again: delete figures/mup_pairs.csv to start anew.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from tqdm import tqdm

from grokking.coordinates import ALLOWED, coordinates, slopes
from grokking.execute.unit import keep_freed_memory
from grokking.models import models
from grokking.optim import optimizers
from grokking.publish import PUBLISHED, markdown_table, rewrite_documents
from grokking.registry import Settings
from grokking.store.export import write_table

WIDTHS = (64, 128, 256, 512)
WIDE = (*WIDTHS, 1024)  # of perceptrons
SEEDS = range(8)
OTHERS = {"shampoo": range(4), "lstm": range(64), "mlp": range(16)}  # what is dear, and what is cheap
STARTS = range(256)  # before training
STEPS = 10
RATES = {
    "sgd": 0.02,
    "gradient_descent": 0.02,
    "egd": 0.02,
    "heavy_ball": 0.005,
    "nesterov": 0.005,
    "muon": 0.02,
}  # else 1e-3
RATE = 1e-3
OF_LIPSCHITZ = {"sgd": 2.0, "gradient_descent": 2.0, "heavy_ball": 1.0, "nesterov": 1.0, "egd": 1.0}
"""Of lipschitz_transformer: gradients pass convex sums and attention of a third, and at the rates above its keys do not move at all."""


def all_pairs() -> list[tuple[str, str]]:
    """Every model with every optimizer that says how it updates."""
    rules = [name for name in optimizers if optimizers[name].extra.get("update") is not None]
    return [(model, name) for model in models for name in rules]


def settings_of(model: str, name: str) -> Settings:
    """A pair, scaled by muP."""
    rates = {**RATES, **OF_LIPSCHITZ} if model == "lipschitz_transformer" else RATES
    own: Settings = {"model.name": model, "optimizer.name": name, "optimizer.lr": rates.get(name, RATE)}
    decay: Settings = {f"optimizer.{number}": 0.0 for number in optimizers[name].defaults if "weight_decay" in number}
    return {**own, **decay, "scaling.name": "mup", "scaling.base_width": WIDTHS[0]}


def widths_of(model: str) -> Sequence[int]:
    """The widths at which a model is measured."""
    return WIDE if model == "mlp" else WIDTHS


def checked(model: str, name: str) -> pd.DataFrame:
    """The slopes of a pair."""
    seeds = OTHERS.get(name, OTHERS.get(model, SEEDS))
    sizes = coordinates(settings_of(model, name), widths_of(model), seeds, STEPS)
    moved = slopes(sizes[sizes["what"] != "start"])
    return pd.concat([before_training(model), moved]).assign(model=model, optimizer=name)


@cache
def before_training(model: str) -> pd.DataFrame:
    """The slopes of what a model's layers give out at first."""
    return slopes(coordinates(settings_of(model, "sgd"), widths_of(model), STARTS, 0))


def measured(pairs: Sequence[tuple[str, str]], path: Path) -> Iterator[pd.DataFrame]:
    """The slopes of each pair, those that are in the table already as they are there, each put there as soon as it is known."""
    known = pd.read_csv(path) if path.exists() else pd.DataFrame({"model": [], "optimizer": []})
    for model, name in tqdm(pairs, desc="pairs"):
        own = known[(known["model"] == model) & (known["optimizer"] == name)]
        if own.empty:
            own = checked(model, name)
            known = pd.concat([known, own], ignore_index=True)
            write_table(known, path)
        yield own


def pairs_markdown(found: pd.DataFrame) -> str:
    """A line an optimizer, a column a model: pass, or how many slopes are off, how many of these by their whole interval, the farthest."""
    columns = list(dict.fromkeys(found["model"]))
    rows = []
    for name, lines in found.groupby("optimizer", sort=False):
        each = [_word(lines[lines["model"] == model]) for model in columns]
        rows.append((str(name), *each))
    return markdown_table(("optimizer", *columns), rows)


def _word(own: pd.DataFrame) -> str:
    if own.empty:
        return "not measured"
    wrong = own[~own["passes"]]
    if wrong.empty:
        return f"pass ({len(own)})"
    worst = wrong.loc[(wrong["slope"] - wrong["expected"]).abs().fillna(np.inf).idxmax()]
    slope = f"{worst['slope']:+.2f} [{worst['slope_low']:+.2f}, {worst['slope_high']:+.2f}]"
    if np.isnan(worst["slope"]):
        slope = "0 or not finite somewhere"
    return f"{len(wrong)} of {len(own)} off, {surely(wrong).sum()} surely: {slope}, {worst['what']} of {worst['name']}"


def surely(own: pd.DataFrame) -> pd.Series:
    """Whether the whole interval of a slope is farther from theory than is allowed."""
    return (own["slope_low"] - own["expected"] > ALLOWED) | (own["slope_high"] - own["expected"] < -ALLOWED)


def main(figures: Path = Path("figures"), publish: bool = False) -> None:
    """Measure what is not measured yet, and print.

    Args:
        figures: folder of the table, which is gone on with.
        publish: maintainers: also to figures/published, and rewrite the documents.
    """
    figures.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    found = pd.concat(measured(all_pairs(), figures / "mup_pairs.csv"), ignore_index=True)
    words = pairs_markdown(found)
    print(words)
    if publish:
        write_table(found, PUBLISHED / "mup_pairs.csv")
        (PUBLISHED / "mup_pairs.md").write_text(words + "\n")
        rewrite_documents()


if __name__ == "__main__":
    tyro.cli(main)
