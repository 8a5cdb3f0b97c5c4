from itertools import pairwise

import numpy as np
import pytest

from diffps.features import FeatureShape
from diffps.probe.sets import Candidate, choose_set

FINE, WIDE, MIDDLE = FeatureShape(32, 32, 8), FeatureShape(32, 32, 32), FeatureShape(16, 16, 8)


def candidate(name: str, shape: FeatureShape, reid: float, detection: float) -> Candidate:
    megabytes = shape.height * shape.width * shape.channels / 8192
    return Candidate(name=name, shape=shape, megabytes=megabytes, reid=reid, detection=detection)


GUIDANCE = Candidate(name="map.person", shape=FeatureShape(8, 8, 1), megabytes=0.1, reid=0, detection=0)
TAPS = [
    candidate("a", FINE, 0.60, 0.5),
    candidate("twin", FINE, 0.59, 0.4),
    candidate("b", FINE, 0.50, 0.9),
    candidate("wide", WIDE, 0.65, 0.95),
    candidate("c", MIDDLE, 0.40, 0.6),
]
SHARED = np.eye(5)
SHARED[0, 1] = SHARED[1, 0] = 0.99


def together(names: tuple[str, ...]) -> float:
    """The best alone, and a gain for each that says something else; the twin says nothing else."""
    own = {tap.name: tap.reid for tap in TAPS}
    kinds = {"twin": "a"}
    return max(own[name] for name in names) + 0.05 * (len({kinds.get(name, name) for name in names}) - 1)


def test_a_set_under_a_budget() -> None:
    found = choose_set(TAPS, GUIDANCE, 3.5, SHARED, together)
    assert found is not None
    # b is read once for both; "wide" costs four and does not fit.
    assert found.taps.detection == "b"
    assert found.taps.guidance == "map.person"
    assert set(found.taps.level3) == {"a", "b"}
    assert found.taps.level2 == ("c",)
    assert found.megabytes == pytest.approx(0.1 + 1 + 1 + 0.25)
    assert found.reid == pytest.approx(0.7)


def test_taps_of_one_level_have_one_width() -> None:
    found = choose_set(TAPS, GUIDANCE, 100, SHARED, together)
    assert found is not None
    assert found.taps.detection == "wide"
    assert len({tap.shape for tap in TAPS if tap.name in found.taps.level3}) == 1


def test_more_bytes_are_never_worse_and_never_exceeded() -> None:
    budgets = [0.4, 0.7, 1.3, 2.2, 3.0, 5.0, 9.0]
    found = [choose_set(TAPS, GUIDANCE, budget, SHARED, together) for budget in budgets]
    assert all(each is None or each.megabytes <= budget for each, budget in zip(found, budgets, strict=True))
    scores = [-1 if each is None else each.reid for each in found]
    assert all(less <= more for less, more in pairwise(scores))


def test_nothing_fits() -> None:
    assert choose_set(TAPS, GUIDANCE, 0.2, SHARED, together) is None


def test_taps_without_a_score_are_left_out() -> None:
    taps = [*TAPS, candidate("odd", MIDDLE, float("nan"), float("nan"))]
    shared = np.full((6, 6), np.nan)
    found = choose_set(taps, GUIDANCE, 50, shared, together)
    assert found is not None
    assert "odd" not in found.taps.names
