"""The statistics of a comparison: the exact test, its intervals, Holm's correction and the sentences."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ela_yolo.study.statistics import (
    bootstrap_interval,
    holm,
    interval_over_images,
    min_p,
    paired_differences,
    sign_flip_p,
)


def differences(baseline, others):
    """Of scores by seed; the images have no part in them."""
    scores = {"plain": baseline, **others}
    return paired_differences(scores, {name: [[0.0]] * len(baseline) for name in scores})


VALUES = st.lists(st.integers(-50, 50), min_size=1, max_size=9)  # whole numbers: sums that are equal are equal exactly


@given(VALUES)
def test_the_test_is_what_brute_force_gives(values):
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((1, -1), repeat=len(values))
    ]
    expected = sum(each >= abs(sum(values)) for each in sums) / len(sums)
    assert sign_flip_p(values) == expected
    assert sign_flip_p([0.1 * value for value in values]) == expected  # where sums are equal but for rounding
    assert sign_flip_p([-value for value in values]) == expected
    assert min_p(len(values)) <= expected <= 1


@pytest.mark.parametrize(
    ("values", "p"),
    [([0.3, 0.1, 0.2, 0.5, 0.4], 2 / 32), ([-0.1] * 6, 2 / 64), ([0.1, -0.1, 0.2, -0.2], 1), ([0.0] * 5, 1), ([1], 1)],
)
def test_known_p_values(values, p):
    assert sign_flip_p(values) == p


@given(VALUES)
def test_the_interval_lies_within_the_values_around_the_mean(values):
    low, high = bootstrap_interval(values)
    assert min(values) <= low <= np.mean(values) + 1e-9 and np.mean(values) - 1e-9 <= high <= max(values)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval([0.1] * len(values)) == (0.1, 0.1)


def test_the_interval_of_many_values_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(size=400)
    half = 1.96 * values.std() / 20
    assert bootstrap_interval(values.tolist()) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_the_interval_over_images_is_of_the_same_draws_and_of_the_mean_over_the_seeds():
    """A model that is better by the same on every draw is better by just that, however much the draws differ."""
    draws = np.random.default_rng(0).normal(size=(2, 300))
    better = (draws + np.array([[0.1], [0.3]])).tolist()
    assert interval_over_images(draws.tolist(), better) == pytest.approx((0.2, 0.2))
    assert interval_over_images([[0.0] * 101], [range(101)]) == (2.5, 97.5)
    resampled = {"plain": draws.tolist(), "ela": (draws + 0.5).tolist()}
    (found,) = paired_differences({"plain": [1, 2], "ela": [2, 3]}, resampled)
    assert (found.images_low, found.images_high) == pytest.approx((0.5, 0.5)) and (found.low, found.high) == (1, 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm(p_values):
    """Against the definition: the largest of what it and all smaller ones are multiplied to."""
    adjusted = holm(p_values)
    ranked = sorted(p_values)
    for p, found in zip(p_values, adjusted, strict=True):
        steps = [min(1, (len(ranked) - i) * each) for i, each in enumerate(ranked) if each <= p]
        assert found == max(steps)
    assert holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.1], "nothing can be said with 1 seed; take 3 or more, and 6 or more to show anything"),
        ([0.1, 0.2], "nothing can be said with 2 seeds; take 3 or more, and 6 or more to show anything"),
        ([0.1] * 5, "a gain or loss cannot be shown with 5 seeds, since the exact test never falls below 0.05 with "),
        ([0.1] * 6, "a gain is shown; +0.1000 mAP50-95 on average of 6 seeds (95% interval +0.1000 to +0.1000, p = 0"),
        ([-0.1] * 6, "a loss is shown; -0.1000"),
        ([0.1] * 5 + [-0.1], "neither a gain nor a loss is shown; +0.0667"),
        ([0.0] * 8, "neither a gain nor a loss is shown; +0.0000"),
    ],
)
def test_verdicts(values, verdict):
    (found,) = differences([0.0] * len(values), {"ela": values})
    assert found.verdict.startswith(f"ela: {verdict}")
    if len(values) >= 3:
        assert found.verdict.endswith(f"{2 / 2 ** len(values):.2g} is the smallest that {len(values)} can give)")


def test_more_models_need_more_seeds():
    """With two models compared, six seeds give 2 * 2/64 at least."""
    six = differences([0.0] * 6, {"a": [0.1] * 6, "b": [0.2] * 6})
    assert [each.adjusted for each in six] == [4 / 64] * 2
    assert all("cannot be shown with 6 seeds" in each.verdict and "fewer than 7" in each.verdict for each in six)
    seven = differences([0.0] * 7, {"a": [0.1] * 7, "b": [0.1, -0.1] * 3 + [0.0]})
    assert ["a gain is shown" in each.verdict for each in seven] == [True, False]
    assert seven[1].verdict.startswith("b: neither")
