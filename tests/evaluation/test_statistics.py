"""Intervals and tests against other ways of computing them."""

import numpy as np
import pytest
from scipy import stats

from comfyui_aot.aot.evaluation.statistics import percentiles, resampled_means, sign_test, wilson


@pytest.mark.parametrize(("right", "count"), [(0, 5), (5, 5), (1, 2), (37, 41), (812, 1000)])
def test_wilsons_interval_is_scipys(right, count):
    found = wilson(right / count, count)
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((right / count, expected.low, expected.high))


def test_an_interval_holds_its_value():
    for share in (0.0, 1 / 3, 1.0):
        found = wilson(share, 3)
        assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(("better", "worse"), [(3, 3), (10, 2), (0, 6), (41, 77)])
def test_the_sign_test_sums_the_binomial_tails(better, worse):
    count = better + worse
    tail = sum(stats.binom.pmf(i, count, 0.5) for i in range(min(better, worse) + 1))
    assert sign_test(better, worse) == pytest.approx(min(1.0, 2 * tail))


def test_without_a_difference_nothing_is_significant():
    assert sign_test(0, 0) == 1


def test_resampling_single_questions_spreads_as_theory_says():
    rng = np.random.default_rng(1)
    scores = (rng.random(400) < 0.7).astype(float)[:, None]
    draws = resampled_means(scores, np.ones_like(scores))
    share = scores.mean()
    assert draws.mean() == pytest.approx(share, abs=0.002)
    assert draws.std() == pytest.approx(np.sqrt(share * (1 - share) / 400), rel=0.05)


def test_questions_that_always_agree_within_a_clip_count_once():
    clips = np.random.default_rng(2).integers(0, 2, (100, 1)).astype(float)
    alone = resampled_means(clips, np.ones((100, 1)))
    tenfold = resampled_means(10 * clips, np.full((100, 1), 10.0))
    assert tenfold.std() == pytest.approx(alone.std())


def test_a_clip_with_more_questions_weighs_more():
    draws = resampled_means(np.array([[9.0], [0.0]]), np.array([[9.0], [1.0]]))
    assert set(np.unique(draws.round(6))) == {0.0, 0.9, 1.0}


def test_columns_are_drawn_together():
    scores = np.random.default_rng(3).random((50, 1))
    draws = resampled_means(np.hstack((scores, scores + 0.25)), np.ones((50, 2)))
    assert np.ptp(draws[:, 1] - draws[:, 0]) < 1e-9
    assert np.ptp(draws[:, 0]) > 0.05


def test_draws_without_any_question_of_a_column_are_not_numbers():
    draws = resampled_means(np.array([[1.0, 1.0], [1.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 0.0]]))
    assert (draws[:, 0] == 1).all()
    assert np.isnan(draws[:, 1]).mean() == pytest.approx(0.25, abs=0.02)
    assert np.nanmin(draws[:, 1]) == 1


def test_the_same_seed_gives_the_same_draws():
    scores = np.random.default_rng(4).random((20, 1))
    first, again, other = (resampled_means(scores, np.ones((20, 1)), seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_number_of_draws_is_as_asked():
    assert resampled_means(np.ones((3, 2)), np.ones((3, 2)), draws=1234).shape == (1234, 2)


def test_the_interval_leaves_a_fortieth_of_the_draws_on_either_side():
    found = percentiles(0.5, np.arange(1001) / 1000)
    assert (found.low, found.value, found.high) == pytest.approx((0.025, 0.5, 0.975))
