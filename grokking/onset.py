"""From accuracy curves to when a run memorised, generalised, and stayed so."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MEMORIZED = 0.99  # training accuracy from which on a run counts as having memorised

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Onset:
    """When things happened, in steps; None where they did not happen within the curve."""

    memorize: int | None
    generalize: int | None
    after: int | None  # the evaluation before `generalize` (0: none): the crossing lies in (after, generalize]
    sustain: int | None


def onset(steps: NDArray[np.int64], train: Curve, validation: Curve, threshold: float, linger: float) -> Onset:
    """Onsets of one run from its accuracies `train` and `validation` [evaluation] at `steps` [evaluation].

    Memorised: first evaluation with training accuracy >= 0.99. Generalised: first with validation accuracy >=
    threshold. Sustained: the first such evaluation t from which every evaluation through (1 + linger) · t is >=
    threshold too; it is known once the curve reaches (1 + linger) · t.
    """
    above = validation >= threshold
    first = _first(above)
    return Onset(
        memorize=_at(steps, _first(train >= MEMORIZED)),
        generalize=_at(steps, first),
        after=None if first is None else int(steps[first - 1]) if first else 0,
        sustain=_sustain(steps, above, linger),
    )


def _first(hit: NDArray[np.bool_]) -> int | None:
    return int(np.argmax(hit)) if hit.any() else None


def _at(steps: NDArray[np.int64], index: int | None) -> int | None:
    return None if index is None else int(steps[index])


def _sustain(steps: NDArray[np.int64], above: NDArray[np.bool_], linger: float) -> int | None:
    for index in np.flatnonzero(above):
        end = steps[index] + linger * steps[index]
        if steps[-1] < end:
            return None  # not known yet, and neither is it for any later evaluation
        if above[index:][steps[index:] <= end].all():
            return int(steps[index])
    return None


def outcome(
    found: Onset, diverged_at: int | None, steps_trained: int, batch_size: int, training_examples: int
) -> dict[str, object]:
    """The outcome columns of the runs table: flags beside numbers, None where there is no number.

    `status` is generalized (crossed the threshold, whatever came after), diverged (went non-finite before that) or
    censored (at the budget). Epochs are passes over the training set: steps · batch_size / training_examples.
    """
    per_step = batch_size / training_examples
    crossed = found.generalize is not None
    delay = None if found.generalize is None or found.memorize is None else found.generalize - found.memorize
    columns: dict[str, object] = {
        "status": "generalized" if crossed else "diverged" if diverged_at is not None else "censored",
        "memorized": found.memorize is not None,
        "sustained": found.sustain is not None,
        "steps_to_memorize": found.memorize,
        "steps_to_generalize": found.generalize,
        "steps_to_generalize_after": found.after,
        "steps_to_sustain": found.sustain,
        "delay": delay,
        "diverged_at": diverged_at,
        "steps_trained": steps_trained,
        "steps_per_epoch": 1 / per_step,
    }
    for event in ("memorize", "generalize", "sustain"):
        steps = getattr(found, event)
        columns[f"epochs_to_{event}"] = None if steps is None else steps * per_step
    return columns
