import numpy as np
import pytest
from scipy.stats import norm, t

from diffps.probe.intervals import Sums, by_group, estimate, family_bounds, known_bounds, near_best, resample
from diffps.probe.ranking import chance_precision, chance_variance


def test_sums_by_group() -> None:
    values = np.array([[1.0, 2, 3, 4], [0, 0, 1, 1]])
    sums = by_group(values, np.array([7, 2, 7, 7]))
    assert sums.above.tolist() == [[2, 8], [0, 2]]
    assert sums.below.tolist() == [1, 3]
    np.testing.assert_allclose(sums.ratio, values.mean(1))


def test_groups_are_drawn_and_not_what_is_in_them() -> None:
    """A hundred equal values in each of four groups are four pieces of evidence, not four hundred."""
    groups = np.repeat(np.arange(4), 100)
    values = np.repeat([0.0, 1, 0, 1], 100)
    found = estimate(0.5, resample(by_group(values, groups), 2000, 0))
    alone = estimate(0.5, resample(by_group(values, np.arange(400)), 2000, 0))
    assert found.high - found.low >= 0.9
    assert alone.high - alone.low < 0.12


def test_intervals_cover() -> None:
    """The mean of 40 groups lies in its 95 % interval about 95 times in 100."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        values = rng.normal(0.4, 0.2, 40)
        found = estimate(values.mean(), resample(Sums(values, np.ones(40)), 400, trial))
        held += found.low <= 0.4 <= found.high
    assert 180 <= held <= 199


def test_a_tap_is_near_the_best_where_their_difference_may_be_nothing() -> None:
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 0.3, 50)  # hard and easy persons are so for every tap
    values = np.stack([0.60 + shared, 0.595 + shared + rng.normal(0, 0.1, 50), 0.5 + shared, np.full(50, np.nan)])
    sums = Sums(values, np.ones(50))
    found = near_best(sums.ratio, resample(sums, 1000, 0))
    assert found.tolist() == [True, True, False, False]
    # Each on its own could not be told apart: their intervals overlap.
    draws = resample(sums, 1000, 0)
    assert estimate(sums.ratio[2], draws[2]).high > estimate(sums.ratio[0], draws[0]).low


def test_a_family_of_tests_raises_few_alarms_and_sees_what_is_there() -> None:
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(100):
        excess = Sums(rng.normal(0, 0.1, (20, 30)), np.ones(30))
        alarms += bool((abs(excess.ratio) > family_bounds(excess, 20)).any())
    assert alarms <= 12
    leak = Sums(rng.normal(0.1, 0.1, (20, 30)), np.ones(30))
    assert (leak.ratio > family_bounds(leak, 20)).mean() > 0.8


def test_known_variances_raise_few_alarms_with_few_groups() -> None:
    """Random orders of 16 positions in thirty scenes: skewed, and an estimated error is often too small."""
    rng = np.random.default_rng(3)
    right, total = rng.integers(2, 8, 30), np.full(30, 16)
    orders = np.argsort(rng.random((200, 20, 30, 16)), -1) < right[:, None]
    precision = (np.cumsum(orders, -1) / np.arange(1, 17) * orders).sum(-1) / right
    excess = (precision - chance_precision(right, total)).mean(-1)
    bounds = known_bounds(np.tile(chance_variance(right, total), (20, 1)), 20)
    assert 0 < (abs(excess) > bounds).any(-1).mean() <= 0.1
    assert np.isinf(known_bounds(np.zeros((2, 0)), 2)).all()


@pytest.mark.parametrize("groups", [0, 1])
def test_nothing_can_be_said_of_one_group(groups: int) -> None:
    assert np.isinf(family_bounds(Sums(np.zeros((2, groups)), np.ones(groups)), 2)).all()
    draws = resample(Sums(np.zeros((2, groups)), np.ones(groups)), 100, 0)
    assert draws.shape == (2, 100)


def test_numbers_of_intervals() -> None:
    """Student's and the normal quantile, each for as many tests as there are, on sums by hand."""
    sums = Sums(np.array([[1.0, 2, 3, 4], [0, 0, 0, 1]]), np.array([1.0, 2, 1, 2]))
    np.testing.assert_allclose(sums.ratio, [10 / 6, 1 / 6])
    residual = sums.above - sums.ratio[:, None] * sums.below
    errors = np.sqrt((residual**2).sum(1) * 4 / 3) / 6
    expected = t.ppf(1 - 0.05 / 8, 3) * np.maximum(errors, np.median(errors))
    np.testing.assert_allclose(family_bounds(sums, 4), expected)
    variances = np.array([[0.01, 0.04], [0, 0.09]])
    np.testing.assert_allclose(known_bounds(variances, 3), norm.ppf(1 - 0.05 / 6) * np.sqrt([0.05, 0.09]) / 2)
    assert estimate(0.5, np.arange(41.0)) == (0.5, pytest.approx(1), pytest.approx(39))
    assert estimate(0.5, np.array([np.nan, 1.0, 3.0]))[1:] == pytest.approx((1.05, 2.95))
    assert np.isnan(estimate(0.5, np.full(3, np.nan))[1:]).all()
    assert np.isnan(Sums(np.zeros(2), np.zeros(2)).ratio)
    # The draws of a seed stay what they were.
    drawn = resample(Sums(np.array([1.0, 2, 3, 4]), np.ones(4)), 6, 7)
    assert drawn.tolist() == [2.0, 3.0, 2.5, 2.5, 3.0, 1.75]


def test_groups_are_summed_in_their_order() -> None:
    sums = by_group(np.array([[1.0, 2, 4, 8]]), np.array([7, 3, 7, 9]))
    assert sums.above.tolist() == [[2, 5, 8]]
    assert sums.below.tolist() == [1, 2, 1]
    empty = by_group(np.zeros((2, 0)), np.zeros(0, int))
    assert (empty.above.shape, empty.below.shape) == ((2, 0), (0,))


def test_a_difference_that_touches_nothing_is_near() -> None:
    draws = np.stack([np.linspace(1, 2, 41), np.linspace(1, 2, 41) - 0.5, np.linspace(1, 2, 41)])
    assert near_best(np.array([3.0, 2.0, 1.0]), draws).tolist() == [True, False, True]
    assert near_best(np.array([np.nan]), draws[:1]).tolist() == [False]
