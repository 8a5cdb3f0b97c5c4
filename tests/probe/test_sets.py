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


def of_shape(name: str, side: int, reid: float, megabytes: float = 1.0, channels: int = 8) -> Candidate:
    return Candidate(
        name=name, shape=FeatureShape(side, side, channels), megabytes=megabytes, reid=reid, detection=reid
    )


def test_detection_has_half_of_what_the_guidance_leaves() -> None:
    tap = of_shape("a", 8, 0.5)
    for budget, guidance, there in (
        (2.0, None, True),
        (1.99, None, False),
        (2.1, GUIDANCE, True),
        (2.0, GUIDANCE, False),
    ):
        found = choose_set([tap], guidance, budget, np.eye(1), lambda _: 0.5)
        assert (found is not None) == there
        if found is not None:
            assert found.taps.guidance == (None if guidance is None else "map.person")
            assert found.megabytes == pytest.approx(1.0 + (0.1 if guidance else 0))
            assert (found.taps.level3, found.taps.detection, found.reid) == (("a",), "a", 0.5)


def test_re_id_fills_the_budget_to_its_end() -> None:
    taps = [of_shape("a", 8, 0.5), of_shape("b", 8, 0.4), of_shape("c", 8, 0.3)]
    for budget, names in ((3.0, ("a", "b", "c")), (2.99, ("a", "b")), (2.0, ("a", "b"))):
        found = choose_set(taps, None, budget, np.eye(3), lambda names: float(len(names)))
        assert found is not None
        assert found.taps.level3 == names
        assert found.megabytes == len(names)


def test_three_starts_are_grown_and_five_taps_tried_at_a_step() -> None:
    tried: list[tuple[str, ...]] = []

    def together(names: tuple[str, ...]) -> float:
        tried.append(names)
        return 0.5  # nothing is gained, so nothing is added

    starts = [of_shape(f"s{side}", side, side / 100) for side in (8, 16, 32, 64)]
    found = choose_set(starts, None, 100, np.eye(4), together)
    assert found is not None
    assert [names for names in tried if len(names) == 1] == [("s64",), ("s32",), ("s16",)]
    assert found.taps.level3 == ("s64",)
    tried.clear()
    many = [of_shape(f"t{number}", 8, 1 - number / 10) for number in range(8)]
    shared = np.eye(8)
    shared[0, 1] = shared[1, 0] = 0.9  # the second says what the first says: 0.9 (1 - 0.9) is less than all others
    choose_set(many, None, 100, shared, together)
    assert tried == [("t0",), *(("t0", f"t{number}") for number in (2, 3, 4, 5, 6))]


def test_no_more_than_three_grids_and_the_finest_is_level_3() -> None:
    taps = [of_shape(f"s{side}", side, side / 100) for side in (8, 16, 32, 64)]
    found = choose_set(taps, None, 100, np.eye(4), lambda names: float(len(names)))
    assert found is not None
    assert (found.taps.level3, found.taps.level2, found.taps.level1) == (("s64",), ("s32",), ("s16",))
    wide = [of_shape("a", 8, 0.5), of_shape("b", 8, 0.4, channels=16)]
    only = choose_set(wide, None, 100, np.eye(2), lambda names: float(len(names)))
    assert only is not None
    assert only.taps.level3 == ("a",)
