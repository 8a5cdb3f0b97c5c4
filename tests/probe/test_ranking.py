from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.metrics.detection import average_precision
from diffps.probe.ranking import average_precisions, chance_precision, chance_variance


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_equal_to_the_average_precision_of_detection(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (3, 2, count)) / 7  # ties are common
    right = rng.random((2, count)) < 0.4
    found = average_precisions(scores, right)
    for place in np.ndindex(3, 2):
        hits = right[place[1]]
        expected = average_precision(hits, scores[place], int(hits.sum()))
        np.testing.assert_allclose(found[place], expected, equal_nan=True)


@pytest.mark.parametrize("total", [1, 2, 5, 7])
def test_chance_has_mean_and_variance_over_every_order(total: int) -> None:
    for right in range(1, total + 1):
        scores = -np.arange(float(total))
        every = [
            average_precision(np.isin(np.arange(total), chosen), scores, right)
            for chosen in combinations(range(total), right)
        ]
        counts = np.array([right]), np.array([total])
        np.testing.assert_allclose(chance_precision(*counts), np.mean(every))
        np.testing.assert_allclose(chance_variance(*counts), np.var(every), atol=1e-12)


def test_chance_with_nothing_to_find() -> None:
    counts = np.array([0, 0]), np.array([3, 0])
    assert np.isnan(chance_precision(*counts)).all()
    assert np.isnan(chance_variance(*counts)).all()


def test_chance_of_several_sizes_at_once() -> None:
    """A scene is judged alike whatever stands beside it."""
    right, total = np.array([2, 3, 1]), np.array([5, 7, 300])
    alone = [chance_variance(right[[row]], total[[row]])[0] for row in range(3)]
    np.testing.assert_allclose(chance_variance(right, total), alone)
