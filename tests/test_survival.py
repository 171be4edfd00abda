import itertools
import warnings

import numpy as np
import pytest

from grokking.seeding import stream
from grokking.survival import (
    holm,
    kaplan_meier,
    median_steps,
    paired_permutation_test,
    probability_earlier,
    restricted_mean,
    restricted_mean_ratio,
    restricted_times,
    stratified_ratio,
    success_rate,
)

Z = 1.959963984540054

# Remission weeks of the 21 patients on 6-MP (Freireich et al. 1963, Blood 21:699); the others were censored.
WEEKS = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
RELAPSED = [index in (0, 1, 2, 4, 6, 9, 10, 14, 15) for index in range(21)]


def survival_at(curve, step):
    return curve.survival[np.searchsorted(curve.steps, step, side="right") - 1]


def test_kaplan_meier_matches_the_published_freireich_table():
    curve = kaplan_meier(WEEKS, RELAPSED)
    published = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    for week, share in published.items():
        assert survival_at(curve, week) == pytest.approx(share, abs=5e-4)


def test_kaplan_meier_matches_the_product_by_hand_and_holds_between_events():
    curve = kaplan_meier(WEEKS, RELAPSED)
    at_ten = 18 / 21 * 16 / 17 * 14 / 15
    for week in (10, 11, 12.9):
        assert survival_at(curve, week) == pytest.approx(at_ten, abs=1e-12)
    assert survival_at(curve, 35) == pytest.approx(at_ten * 11 / 12 * 10 / 11 * 6 / 7 * 5 / 6, abs=1e-12)


def test_log_log_band_matches_greenwood_by_hand():
    curve = kaplan_meier(WEEKS, RELAPSED)
    share = 18 / 21 * 16 / 17 * 14 / 15
    greenwood = 3 / (21 * 18) + 1 / (17 * 16) + 1 / (15 * 14)
    power = np.exp(Z * np.sqrt(greenwood) / abs(np.log(share)))
    at = list(curve.steps).index(10)
    assert (curve.low[at], curve.high[at]) == pytest.approx((share**power, share ** (1 / power)), abs=1e-12)
    assert (curve.low[at], curve.high[at]) == pytest.approx((0.503, 0.889), abs=5e-4)


def test_kaplan_meier_starts_at_step_zero_with_every_run():
    curve = kaplan_meier(WEEKS, RELAPSED)
    assert (curve.steps[0], curve.survival[0], curve.low[0], curve.high[0]) == (0, 1, 1, 1)
    assert np.all(np.diff(curve.steps) > 0)
    assert np.all(np.diff(curve.survival) <= 0)


def test_kaplan_meier_without_censoring_is_the_share_of_larger_steps():
    steps = np.array([400, 100, 300, 300, 200])
    curve = kaplan_meier(steps, [True] * 5)
    assert list(curve.steps) == [0, 100, 200, 300, 400]
    assert curve.survival == pytest.approx([np.mean(steps > step) for step in curve.steps])


@pytest.mark.parametrize("n", [1, 3])
def test_all_censored_is_a_flat_curve_without_a_band_or_a_median(n):
    curve = kaplan_meier([500] * n, [False] * n)
    assert list(curve.steps) == [0, 500] and list(curve.survival) == [1, 1]
    assert np.isnan(curve.low[1]) and np.isnan(curve.high[1])
    median = median_steps([500] * n, [False] * n)
    assert (median.value, median.low, median.high, median.n) == (None, None, None, n)


@pytest.mark.parametrize("n", [1, 3])
def test_all_at_the_same_step_has_a_median_but_no_interval(n):
    curve = kaplan_meier([500] * n, [True] * n)
    assert list(curve.survival) == [1, 0]
    assert np.isnan(curve.low[1]) and np.isnan(curve.high[1])
    median = median_steps([500] * n, [True] * n)
    assert (median.value, median.low, median.high, median.n) == (500, None, None, n)


def test_undefined_bounds_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kaplan_meier([100, 200, 300], [False, True, True])


def test_median_matches_the_freireich_data():
    median = median_steps(WEEKS, RELAPSED)
    # The low band is 0.432 at week 13 (0.503 before); the high band is 0.680 at week 23, so it has no upper end.
    assert (median.value, median.low, median.high, median.n) == (23, 13, None, 21)


def test_median_is_none_when_fewer_than_half_generalised_yet_its_low_end_exists():
    median = median_steps([100, 200, 300, *[1000] * 4], [True] * 3 + [False] * 4)
    assert median.value is None and median.high is None
    # After one event of seven: (6/7) ** exp(1.96 sqrt(1 / 42) / log(7/6)) = 0.334, already below a half.
    assert median.low == 100


def test_median_counts_censored_runs_as_slow():
    steps = [100, 200, 300, 1000, 1000]
    assert median_steps(steps, [True, True, True, False, False]).value == 300
    assert median_steps(steps[:3], [True] * 3).value == 200


@pytest.mark.parametrize("n", range(2, 101, 2))
def test_median_is_the_step_at_which_exactly_half_generalised_despite_rounding(n):
    generalized = np.arange(1, n + 1) <= n // 2 + 1  # one event beyond, so that a missed half shows
    median = median_steps(np.where(generalized, np.arange(1, n + 1), 1000), generalized)
    assert median.value == n // 2


def test_median_interval_is_closed_when_enough_runs_generalise():
    steps = np.arange(1, 101)
    median = median_steps(steps, [True] * 100)
    assert median.value == 50
    assert 38 <= median.low <= 42 and 57 <= median.high <= 61


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (3, 5), (5, 5), (12, 20), (1, 1)])
def test_success_rate_matches_the_closed_form_of_wilson(successes, n):
    rate = success_rate([True] * successes + [False] * (n - successes))
    p = successes / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    assert (rate.value, rate.low, rate.high) == pytest.approx((p, centre - half, centre + half), abs=1e-12)
    assert rate.n == n and rate.high > rate.low


def test_restricted_times_cut_at_the_horizon():
    times = restricted_times([100, 900, 2000, 1000], [True, True, True, False], 500)
    assert list(times) == [100, 500, 500, 500]


def test_a_run_censored_before_the_horizon_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"step 400 .* 10000000 steps\.$"):
        restricted_mean([100, 400], [True, False], 10_000_000)
    assert restricted_mean([100, 400], [True, False], 400).value == 250


def test_restricted_mean_matches_student_t_on_the_logit_by_hand():
    mean = restricted_mean([100, 200, 300, 400], [True, True, True, False], 400)
    # se² = 50,000 / 3 / 4; 250 of 400 is odds of 5 / 3, and d logit / dm = 400 / (250 · 150).
    half = 3.182446305284263 * np.sqrt(50_000 / 12) * 400 / (250 * 150)
    low, high = (400 / (1 + 3 / 5 * np.exp(-sign * half)) for sign in (-1, 1))
    assert (mean.value, mean.low, mean.high) == pytest.approx((250, low, high))
    assert mean.n == 4


def test_restricted_mean_interval_stays_within_the_horizon_and_is_the_plain_one_far_from_it():
    near = restricted_mean([100, *[1000] * 9], [True, *[False] * 9], 1000)
    assert 0 < near.low < near.value < near.high < 1000
    far = restricted_mean([990, 1000, 1010, 1000], [True] * 4, 1e9)
    half = 3.182446305284263 * np.sqrt(200 / 3) / 2
    assert (far.low, far.high) == pytest.approx((1000 - half, 1000 + half), rel=1e-4)


def test_one_run_or_pair_has_no_interval():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, ratio = restricted_mean([100], [True], 400), restricted_mean_ratio([100], [400])
    assert (mean.value, mean.low, mean.high) == (100, None, None)
    assert (ratio.value, ratio.low, ratio.high) == (0.25, None, None)


def test_restricted_mean_is_the_area_under_the_kaplan_meier_curve():
    times = stream(1, "area").lognormal(8, 1, 50)
    generalized = times < 5000
    steps = np.minimum(times, 5000)
    curve = kaplan_meier(steps, generalized)
    assert 0 < generalized.sum() < 50
    assert restricted_mean(steps, generalized, 5000).value == pytest.approx(
        np.sum(curve.survival[:-1] * np.diff(curve.steps))
    )


def test_restricted_mean_interval_covers_the_truth_despite_censoring():
    # Uniform on (0, 10,000) seen through 8,000: E[min(T, 8000)] = 8000 - 8000² / 20000.
    times = stream(2, "coverage").uniform(0, 10_000, (2000, 20))
    truth = 8000 - 8000**2 / 20_000
    means = [restricted_mean(np.minimum(run, 8000), run < 8000, 8000) for run in times]
    coverage = np.mean([mean.low <= truth <= mean.high for mean in means])
    assert 0.93 <= coverage <= 0.97


def test_dropping_censored_runs_prefers_the_wrong_arm():
    budget, repeats, n = 10_000, 300, 20
    draws = stream(3, "wrong arm")
    survivors_prefer_b = restricted_prefers_a = 0
    for _ in range(repeats):
        a = np.minimum(3000 * draws.lognormal(0, 0.3, n), budget - 1)
        works = draws.random(n) < 0.6
        b = np.where(works, np.minimum(2400 * draws.lognormal(0, 0.3, n), budget - 1), budget)
        survivors_prefer_b += works.any() and b[works].mean() < a.mean()
        mean_a, mean_b = restricted_mean(a, [True] * n, budget), restricted_mean(b, works, budget)
        restricted_prefers_a += mean_a.value < mean_b.value
    assert survivors_prefer_b / repeats > 0.9
    assert restricted_prefers_a / repeats > 0.9


def test_ratio_matches_the_delta_method_by_hand():
    # mean(a) = 200, mean(b) = 100, z = (-0.3, 0.1, 0.2), sd(z)² = 0.14 / 2, t(2) = 4.3027.
    ratio = restricted_mean_ratio([100, 200, 300], [80, 90, 130])
    factor = np.exp(4.302652729911275 * np.sqrt(0.07 / 3))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2, 2 / factor, 2 * factor))
    assert ratio.n == 3


def test_ratio_interval_covers_the_truth_and_pairing_narrows_it():
    draws = stream(4, "ratio coverage")
    shape = (2000, 30)
    seed_effect = draws.lognormal(0, 0.5, shape)  # shared by both arms of a seed
    a = 2000 * seed_effect * draws.lognormal(0, 0.2, shape)
    b = 1000 * seed_effect * draws.lognormal(0, 0.2, shape)
    ratios = [restricted_mean_ratio(*pair) for pair in zip(a, b, strict=True)]
    assert 0.92 <= np.mean([ratio.low <= 2 <= ratio.high for ratio in ratios]) <= 0.97
    unpaired = [restricted_mean_ratio(x, np.roll(y, 1)) for x, y in zip(a[:200], b[:200], strict=True)]
    assert np.mean([r.high / r.low for r in ratios]) < np.mean([r.high / r.low for r in unpaired])


def test_stratified_ratio_by_hand_takes_a_seed_as_one_observation():
    a, b = [100, 200, 300], [80, 90, 130]  # ratio 2, z = (-0.3, 0.1, 0.2)
    assert stratified_ratio([(a, b)]) == restricted_mean_ratio(a, b)
    both = stratified_ratio([(a, b), (b, a)])  # ratios 2 and 1/2, and z cancels
    assert (both.value, both.low, both.high, both.n) == pytest.approx((1, 1, 1, 3))
    twice = stratified_ratio([(a, b), (a, b)])  # the same seeds again tell nothing new
    assert (twice.value, twice.low, twice.high) == pytest.approx((2, *_ends(restricted_mean_ratio(a, b))))
    fresh = stratified_ratio([(a, b), ([200, 300, 100], [90, 130, 80])])  # z = (-0.1, 0.15, -0.05)
    assert fresh.high / fresh.value == pytest.approx(np.exp(4.302652729911275 * np.sqrt(0.035 / 2 / 3)))
    with pytest.raises(ValueError, match="same seeds"):
        stratified_ratio([(a, b), (a[:2], b[:2])])


def _ends(estimate):
    return estimate.low, estimate.high


def test_probability_earlier_is_wilsons_interval_where_nothing_ties():
    earlier = probability_earlier([1, 2, 3, 4, 5] * 2, [2, 3, 4, 3, 4] * 2)
    assert earlier.value == 3 / 5
    assert _ends(earlier) == pytest.approx(_ends(success_rate([True] * 6 + [False] * 4)))
    once = probability_earlier([*[1] * 63, 3], [2] * 64)  # Wilson's interval ends below 0.998
    assert once.high == pytest.approx(1 + np.log(0.95) / 64)
    assert once.low == pytest.approx(success_rate([True] * 63 + [False]).low)
    always = probability_earlier([1] * 10, [2] * 10)
    assert (always.value, always.high) == pytest.approx((1, 1))
    assert always.low == pytest.approx(10 / (10 + Z**2))


def test_probability_earlier_counts_ties_half_and_solves_its_own_equation():
    a, b = [10, 20, 500, 500, 30, 500], [20, 30, 500, 500, 10, 400]
    found = probability_earlier(a, b)
    assert found.value == (2 + 2 / 2) / 6
    wide = probability_earlier(a * 4, b * 4)  # 3 pairs from an end the interval is another
    for p in _ends(wide):
        assert (found.value - p) ** 2 == pytest.approx(Z**2 * (p * (1 - p) - 8 / 24 * 24 / 28 / 4) / 24)
    nothing = probability_earlier([500, 500], [500, 500])
    assert (nothing.value, nothing.low, nothing.high) == (0.5, None, None)


def sign_flip_p(a, b):
    differences = np.log(a) - np.log(b)
    flips = np.array(list(itertools.product([-1, 1], repeat=len(a))))
    null = np.abs((flips * differences).mean(axis=1))
    return np.mean(null >= abs(differences.mean()) - 1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13])
def test_permutation_test_equals_the_enumeration_of_all_sign_flips(n):
    draws = stream(5, "flips", n)
    a, b = draws.lognormal(8.3, 0.5, n), draws.lognormal(8, 0.5, n)
    test = paired_permutation_test(a, b)
    assert test.p_value == pytest.approx(sign_flip_p(a, b), abs=1e-12)
    assert (test.smallest_p, test.n) == (2 / 2**n, n)


def test_sampled_permutation_test_is_near_the_enumeration_and_repeats_exactly():
    draws = stream(6, "sampled")
    a, b = draws.lognormal(8.2, 0.5, 14), draws.lognormal(8, 0.5, 14)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    test = paired_permutation_test(a, b)
    assert test.p_value == pytest.approx(sign_flip_p(a, b), abs=0.02)
    assert paired_permutation_test(a, b) == test
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_no_p_value_is_below_the_smallest_p():
    for n in (1, 2, 5, 13, 14, 30):
        test = paired_permutation_test(np.arange(1, n + 1) * 1e4, np.arange(1, n + 1.0))
        assert test.p_value >= test.smallest_p
        if n != 14:  # at 14 a sample of 10,000 of the 16,384 flips may hold the extreme one
            assert test.p_value == test.smallest_p
    assert paired_permutation_test([9, 9, 9, 9, 9], [1, 1, 1, 1, 1]).p_value == 0.0625


def test_permutation_test_of_equal_arms_gives_one():
    assert paired_permutation_test([1000] * 5, [1000] * 5).p_value == 1
    test = paired_permutation_test([900, 1000, 1000, 800, 700], [500, 1000, 1000, 100, 50])
    assert test.p_value == 2 / 2**3  # two ties, both arms censored: three pairs are left


def test_holm_matches_hand_values_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == pytest.approx([1, 1])
    assert holm([0.02]) == pytest.approx([0.02])
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])


@pytest.mark.parametrize(
    "call",
    [
        lambda: success_rate([]),
        lambda: success_rate([0.0, float("nan")]),
        lambda: success_rate([True, None]),
        lambda: success_rate([[True]]),
        lambda: kaplan_meier([], []),
        lambda: kaplan_meier([100], [True, False]),
        lambda: median_steps([0, 100], [True, True]),
        lambda: median_steps([float("nan")], [True]),
        lambda: median_steps([float("inf")], [False]),
        lambda: restricted_mean([100], [True], 0),
        lambda: restricted_mean([100], [True], float("inf")),
        lambda: restricted_mean_ratio([100, 200], [100]),
        lambda: restricted_mean_ratio([], []),
        lambda: paired_permutation_test([100], [100, 200]),
        lambda: paired_permutation_test([100, -1], [100, 200]),
        lambda: paired_permutation_test([], []),
        lambda: holm([]),
        lambda: holm([0.5, 1.5]),
        lambda: holm([float("nan")]),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call):
    with pytest.raises(ValueError, match=r"^[^.]*(\.\d+[^.]*)*\.$"):
        call()
