import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokking.onset import Onset, onset, outcome

STEPS = np.arange(10, 101, 10)  # 10, 20, … 100
NEVER = [0.0] * 10
ALWAYS = [1.0] * 10


def found(validation, train=ALWAYS, steps=STEPS, threshold=0.95, linger=0.5):
    return onset(np.asarray(steps), np.array(train, float), np.array(validation, float), threshold, linger)


def from_step(step, steps=STEPS):
    return [float(at >= step) for at in steps]


def test_a_clean_crossing_is_memorised_generalised_and_sustained_at_the_first_evaluation_above():
    assert found(from_step(60), train=from_step(20)) == Onset(memorize=20, generalize=60, after=50, sustain=60)


def test_the_crossing_lies_after_the_evaluation_before_it_whatever_their_distance():
    result = found([0.1, 0.3, 0.97, 0.98, 0.99], train=[1.0] * 5, steps=[3, 17, 40, 41, 90])
    assert (result.after, result.generalize) == (17, 40)


def test_a_crossing_at_the_first_evaluation_lies_after_step_zero():
    result = found(ALWAYS)
    assert (result.after, result.generalize, result.sustain) == (0, 10, 10)


def test_a_spike_is_the_crossing_but_sustaining_starts_where_it_holds():
    spike = [0, 0, 0.96, 0.5, 0, 0.96, 0.97, 0.98, 0.99, 0.99]
    result = found(spike)
    assert (result.after, result.generalize, result.sustain) == (20, 30, 60)


def test_a_dip_within_the_linger_moves_sustaining_behind_the_dip():
    dip_at_60 = [0, 0, 0, 1, 1, 0, 1, 1, 1, 1]  # 40 lasts through 60, where it dips; 70 would have to last through 105
    assert found(dip_at_60).sustain is None
    assert found([0, 0, 0, 1, 1, 0, 1, 1, 1, 1], linger=0.25).sustain == 40  # through 50 only


def test_a_dip_right_behind_the_linger_does_not_unsustain():
    assert found([0, 0, 0, 1, 1, 1, 0, 0, 0, 0]).sustain == 40  # through 60, and the dip is at 70


def test_a_collapse_after_sustaining_keeps_both_onsets():
    result = found([0, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    assert (result.generalize, result.sustain) == (20, 20)


def test_a_collapse_before_sustaining_keeps_only_the_crossing():
    result = found([0, 0, 0, 1, 1, 0, 0, 0, 0, 0])
    assert (result.generalize, result.sustain) == (40, None)


def test_a_crossing_too_near_the_end_is_not_known_as_sustained():
    assert found(from_step(70)).sustain is None
    assert found(from_step(70)).generalize == 70
    assert found(from_step(60)).sustain == 60


@pytest.mark.parametrize(("last", "sustain"), [(59, None), (60, 40), (61, 40)])
def test_sustaining_is_known_from_the_evaluation_that_reaches_its_end(last, sustain):
    assert found([0, 1, 1], train=[1] * 3, steps=[10, 40, last]).sustain == sustain


def test_the_evaluation_at_the_very_end_of_the_linger_counts():
    assert found([0, 1, 0], train=[1] * 3, steps=[10, 40, 60]).sustain is None
    assert found([0, 1, 0], train=[1] * 3, steps=[10, 40, 61]).sustain == 40


def test_without_linger_sustaining_is_crossing():
    assert found(from_step(100), linger=0.0).sustain == 100


def test_a_run_that_never_crosses_has_no_number():
    assert found(NEVER, train=NEVER) == Onset(memorize=None, generalize=None, after=None, sustain=None)


def test_memorising_does_not_need_generalising_nor_the_reverse():
    assert found(NEVER, train=from_step(30)) == Onset(memorize=30, generalize=None, after=None, sustain=None)
    assert found(from_step(30), train=NEVER) == Onset(memorize=None, generalize=30, after=20, sustain=30)


def test_values_that_meet_a_threshold_exactly_count_and_the_next_smaller_do_not():
    below = np.nextafter
    assert found([0.95] * 10, train=[0.99] * 10) == Onset(10, 10, 0, 10)
    assert found([below(0.95, 0)] * 10, train=[below(0.99, 0)] * 10) == Onset(None, None, None, None)


def test_the_threshold_is_for_validation_and_does_not_move_memorising():
    result = found([0.5] * 10, train=[0.98] * 9 + [0.99], threshold=0.5)
    assert (result.memorize, result.generalize) == (100, 10)


def test_accuracy_that_is_not_a_number_is_not_above_any_threshold():
    nan = float("nan")
    assert found([0, nan, 1, nan, 1, 1, 1, 1, 1, 1], train=[nan] * 10) == Onset(None, 30, 20, 50)


def test_one_evaluation_is_enough_for_a_crossing_but_not_for_sustaining():
    assert found([1], train=[1], steps=[10]) == Onset(10, 10, 0, None)


# --- property: an independent slow definition ---------------------------------------------------------------------


def slow_first(steps, accuracy, threshold):
    reached = [step for step, value in zip(steps, accuracy, strict=True) if value >= threshold]
    return min(reached) if reached else None


def slow_sustain(steps, accuracy, threshold, linger):
    """Earliest t, itself at or above, such that no evaluation in [t, (1 + linger) t] is below and t's end is seen."""
    for t in sorted(steps):
        window = [value for step, value in zip(steps, accuracy, strict=True) if t <= step <= (1 + linger) * t]
        if max(steps) >= (1 + linger) * t and min(window) >= threshold:
            return t
    return None


@st.composite
def curves(draw):
    gaps = draw(st.lists(st.integers(1, 40), min_size=1, max_size=25))
    accuracy = st.sampled_from([0.0, 0.5, 0.94, 0.95, 0.98, 0.99, 1.0])
    values = st.lists(accuracy, min_size=len(gaps), max_size=len(gaps))
    return np.cumsum(gaps), draw(values), draw(values)


# Lingers that a float holds exactly, so that (1 + linger) · t is exact too.
@given(curves(), st.sampled_from([0.5, 0.95, 0.99, 1.0]), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_onsets_agree_with_a_slow_definition_on_any_curve(curve, threshold, linger):
    steps, train, validation = curve
    result = found(validation, train=train, steps=steps, threshold=threshold, linger=linger)
    listed = steps.tolist()
    assert result.memorize == slow_first(listed, train, 0.99)
    assert result.generalize == slow_first(listed, validation, threshold)
    assert result.sustain == slow_sustain(listed, validation, threshold, linger)
    if result.generalize is None:
        assert result.after is None
    else:
        assert result.after == max([0, *(step for step in listed if step < result.generalize)])


@given(curves(), st.integers(1, 25))
def test_a_longer_curve_never_changes_what_a_shorter_one_knew(curve, cut):
    steps, train, validation = curve
    early = found(validation[:cut], train=train[:cut], steps=steps[:cut])
    late = found(validation, train=train, steps=steps)
    for event in ("memorize", "generalize", "after", "sustain"):
        known = getattr(early, event)
        assert known is None or known == getattr(late, event)


# --- the outcome columns ------------------------------------------------------------------------------------------

STEP_COLUMNS = ("steps_to_memorize", "steps_to_generalize", "steps_to_generalize_after", "steps_to_sustain")
EPOCH_COLUMNS = ("epochs_to_memorize", "epochs_to_generalize", "epochs_to_sustain")


def columns(found, diverged_at=None, steps_trained=100, batch_size=32, training_examples=64):
    return outcome(found, diverged_at, steps_trained, batch_size, training_examples)


def test_outcome_of_a_clean_run_is_complete():
    assert columns(Onset(20, 60, 50, 60), batch_size=32, training_examples=80) == {
        "status": "generalized",
        "memorized": True,
        "sustained": True,
        "steps_to_memorize": 20,
        "steps_to_generalize": 60,
        "steps_to_generalize_after": 50,
        "steps_to_sustain": 60,
        "delay": 40,
        "diverged_at": None,
        "steps_trained": 100,
        "steps_per_epoch": 2.5,
        "epochs_to_memorize": 20 * 32 / 80,
        "epochs_to_generalize": 60 * 32 / 80,
        "epochs_to_sustain": 60 * 32 / 80,
    }


def test_outcome_of_a_run_without_events_has_flags_and_no_numbers():
    row = columns(Onset(None, None, None, None))
    assert (row["status"], row["memorized"], row["sustained"]) == ("censored", False, False)
    assert all(row[name] is None for name in (*STEP_COLUMNS, *EPOCH_COLUMNS, "delay", "diverged_at"))
    assert row["steps_trained"] == 100


def test_generalising_before_memorising_keeps_the_negative_delay():
    assert columns(found(from_step(30), train=from_step(50)))["delay"] == -20


@pytest.mark.parametrize("event", [Onset(20, None, None, None), Onset(None, 60, 50, None)])
def test_delay_needs_both_ends(event):
    assert columns(event)["delay"] is None


def test_a_delay_of_zero_is_a_number():
    assert columns(Onset(60, 60, 50, None))["delay"] == 0


def test_a_run_that_diverges_before_crossing_is_diverged():
    row = columns(Onset(20, None, None, None), diverged_at=57)
    assert (row["status"], row["diverged_at"], row["memorized"]) == ("diverged", 57, True)
    assert row["steps_to_generalize"] is None


def test_a_run_that_diverges_after_crossing_is_generalized_with_diverged_at():
    row = columns(Onset(20, 50, 40, None), diverged_at=57)
    assert (row["status"], row["diverged_at"], row["steps_to_generalize"]) == ("generalized", 57, 50)
    assert row["sustained"] is False


def test_a_run_that_crossed_and_fell_back_is_generalized_but_not_sustained():
    row = columns(found([0, 0, 0, 1, 1, 0, 0, 0, 0, 0]))
    assert (row["status"], row["sustained"], row["steps_to_sustain"]) == ("generalized", False, None)


@pytest.mark.parametrize(("batch_size", "training_examples"), [(512, 1392), (64, 64), (1, 3)])
def test_epochs_are_steps_times_batch_over_training_examples(batch_size, training_examples):
    row = columns(Onset(20, 60, 50, 70), batch_size=batch_size, training_examples=training_examples)
    for event in ("memorize", "generalize", "sustain"):
        passes = row[f"steps_to_{event}"] * batch_size / training_examples
        assert row[f"epochs_to_{event}"] == pytest.approx(passes, rel=1e-12)


def test_step_counts_are_plain_integers():
    row = columns(found(from_step(60), train=from_step(20)))
    assert all(type(row[name]) is int for name in (*STEP_COLUMNS, "delay"))
    assert type(row["memorized"]) is bool
    assert type(row["sustained"]) is bool
