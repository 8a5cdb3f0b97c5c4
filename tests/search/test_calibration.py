"""The record of a calibration: what lies between and beyond what was measured, and what is not taken for one."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.errors import CalibrationError
from diffps.search.calibration import LEVELS, Calibration, SizeThresholds, odds, reduced


def calibration(seed: int = 0, sizes: tuple[int, ...] = (1, 20, 500)) -> Calibration:
    rng = np.random.default_rng(seed)
    steps = rng.uniform(0, 0.05, (len(sizes), len(LEVELS)))
    thresholds = np.cumsum(np.cumsum(steps, axis=0), axis=1)
    return Calibration(
        sizes=tuple(
            SizeThresholds(boxes=n, thresholds=tuple(row.tolist()), scale=float(rng.uniform(0.01, 0.1)), least=least)
            for n, row, least in zip(sizes, thresholds, (0.001, 0.01, 0.05, 0.05), strict=False)
        ),
        mates=tuple(np.sort(rng.uniform(-1, 1, 101)).tolist()),
        pictures=1,
        identities=100,
        unmated=200,
        mated=300,
        scenes=400,
        pool=1000,
    )


CALIBRATIONS = st.builds(calibration, st.integers(0, 1000))
BOXES = st.floats(1, 1e7)
SHARES = st.floats(1e-6, 0.999)


@given(CALIBRATIONS, BOXES, SHARES)
def test_the_share_at_its_own_threshold_is_the_promise(record: Calibration, boxes: float, share: float) -> None:
    assert record.fpir(record.threshold(boxes, share), boxes) == pytest.approx(share, rel=1e-6)


@given(CALIBRATIONS, BOXES, BOXES, SHARES)
def test_more_boxes_never_need_less(record: Calibration, boxes: float, others: float, share: float) -> None:
    few, many = sorted((boxes, others))
    if LEVELS[-1] <= share <= LEVELS[0]:  # beyond them each size goes on with a scale of its own
        assert record.threshold(few, share) <= record.threshold(many, share) + 1e-9


@given(CALIBRATIONS, BOXES, st.lists(st.floats(-1, 1), min_size=2))
def test_the_more_alike_the_fewer_strangers(record: Calibration, boxes: float, similarities: list[float]) -> None:
    shares = record.fpir(np.sort(similarities), boxes)
    assert (np.diff(shares) <= 0).all()
    assert ((shares >= 0) & (shares <= 1)).all()


def test_measured_thresholds_come_out_as_they_are() -> None:
    record = calibration()
    for row in record.sizes:
        found = [record.threshold(row.boxes, level) for level in LEVELS]
        np.testing.assert_allclose(found, row.thresholds, atol=1e-12)
        assert record.least(row.boxes) == row.least


def test_between_sizes_thresholds_are_linear_in_the_logarithm() -> None:
    record = calibration()
    middle = math.sqrt(20 * 500)
    between = (record.threshold(20, 0.1) + record.threshold(500, 0.1)) / 2
    assert record.threshold(middle, 0.1) == pytest.approx(between)
    assert record.least(middle) == 0.05  # of the two the one that knows less


def test_beyond_the_largest_a_gallery_is_several_that_do_not_know_each_other() -> None:
    record = calibration()
    similarity = np.array(record.sizes[-1].thresholds)
    alone = record.fpir(similarity, 500)
    np.testing.assert_allclose(record.fpir(similarity, 5000), 1 - (1 - alone) ** 10, atol=1e-9)
    assert record.least(500.1) == 1


def test_beyond_the_smallest_level_the_tail_is_exponential() -> None:
    """Gumbel's law: e times the boxes cost one scale."""
    record = calibration()
    scale = record.sizes[-1].scale
    start = record.threshold(500, LEVELS[-1] / 2)
    assert record.threshold(500 * math.e, LEVELS[-1] / 2) == pytest.approx(start + scale, abs=1e-9)
    step = float(reduced(1e-5) - reduced(1e-4))
    assert record.threshold(500, 1e-5) == pytest.approx(record.threshold(500, 1e-4) + scale * step)


def test_pictures_below_a_threshold_are_counted_from_the_quantiles() -> None:
    record = calibration()
    assert record.fnir(-1.1) == 0
    assert record.fnir(1.1) == 1
    assert record.fnir(record.mates[50]) == pytest.approx(0.5, abs=0.01)


def test_the_table_for_people() -> None:
    record = calibration()
    rows = record.table(sizes=(20, 5000), levels=(0.1,))
    assert [row["measured"] for row in rows] == [True, False]
    assert rows[0]["threshold"] == record.threshold(20, 0.1)
    assert rows[0]["fnir"] == record.fnir(record.threshold(20, 0.1))


def test_a_record_survives_json() -> None:
    record = calibration()
    assert Calibration.from_json(json.loads(json.dumps(record.to_json()))) == record


def without(value: dict[str, Any], *path: str | int) -> dict[str, Any]:
    changed = json.loads(json.dumps(value))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return changed


def changed(value: dict[str, Any], new: object, *path: str | int) -> dict[str, Any]:
    result = json.loads(json.dumps(value))
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return result


GOOD = calibration().to_json()
BAD = {
    "no object": [],
    "nothing": {},
    "no mates": without(GOOD, "mates"),
    "other levels": changed(GOOD, [0.1], "levels"),
    "a key more": {**GOOD, "more": 1},
    "no sizes": changed(GOOD, [], "sizes"),
    "a size without its scale": without(GOOD, "sizes", 0, "scale"),
    "a threshold less": without(GOOD, "sizes", 1, "thresholds", 0),
    "falling thresholds": changed(GOOD, 9.0, "sizes", 1, "thresholds", 0),
    "a threshold that is no number": changed(GOOD, "high", "sizes", 1, "thresholds", 0),
    "NaN": changed(GOOD, math.nan, "sizes", 1, "thresholds", 0),
    "no scale": changed(GOOD, 0, "sizes", 2, "scale"),
    "sizes out of order": changed(GOOD, 5000, "sizes", 1, "boxes"),
    "falling mates": changed(GOOD, 2.0, "mates", 0),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_calibration_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(CalibrationError, match="not one that this version wrote") as caught:
        Calibration.from_json(BAD[name])  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0, 1, -0.1, math.nan])
def test_promises_that_cannot_be_meant(share: float) -> None:
    with pytest.raises(CalibrationError, match="must lie between 0 and 1"):
        calibration().threshold(100, share)


def test_an_empty_gallery_has_no_threshold() -> None:
    with pytest.raises(CalibrationError, match="nothing to search"):
        calibration().threshold(0, 0.1)


def test_shares_in_words() -> None:
    assert odds(0.01) == "one in 100"
    assert odds(0.0012345) == "one in 810"
    assert odds(0.4) == "one in 2"
    assert odds(0.83) == "83% of"
    assert odds(1e-9) == "fewer than one in 1,000"


def test_the_least_that_is_a_calibration() -> None:
    one = calibration(sizes=(1,))
    assert replace(one, mates=(0.0, 0.0)).fnir(0.5) == 1
    level = replace(one.sizes[0], thresholds=(0.5,) * len(LEVELS), boxes=0.5)
    assert replace(one, sizes=(level,)).measured_boxes == 0.5
    for changes in (
        {"mates": (0.5,)},
        {"mates": (0.0, math.inf)},
        {"sizes": ()},
        {"sizes": (replace(level, boxes=0.0),)},
        {"sizes": (level, level)},
        {"sizes": (replace(level, least=math.nan),)},
        {"sizes": (replace(level, scale=0.0),)},
        {"sizes": (replace(level, thresholds=(0.5,) * 12),)},
    ):
        with pytest.raises(CalibrationError) as caught:
            replace(one, **changes)
        assert str(caught.value) == "calibration: not one that this version wrote; calibrate the head again"


def test_the_table_for_people_has_a_row_for_each_size_and_level() -> None:
    rows = calibration().table()
    assert [(row["boxes"], row["fpir"]) for row in rows] == [
        (boxes, level) for boxes in (100, 1000, 10_000, 100_000) for level in (0.01, 0.1)
    ]
    assert [row["measured"] for row in rows] == [False, True] + [False] * 6
    assert set(rows[0]) == {"boxes", "fpir", "threshold", "fnir", "measured"}
    exact = calibration().table(sizes=(500,), levels=(0.05, 0.0499))
    assert [row["measured"] for row in exact] == [True, False]


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.5, "one in 2"),
        (0.501, "50% of"),
        (0.001, "one in 1,000"),
        (0.00099, "fewer than one in 1,000"),
        (0.02, "one in 50"),
    ],
)
def test_shares_in_words_at_their_edges(share: float, told: str) -> None:
    assert odds(share) == told


def test_pictures_at_a_threshold_are_not_below_it() -> None:
    record = replace(calibration(), mates=(0.1, 0.2, 0.2, 0.4))
    assert record.fnir([0.1, 0.2, 0.3, 0.4, 0.5]).tolist() == [0, 0.25, 0.75, 0.75, 1]


def test_less_than_one_box_is_nothing_to_search() -> None:
    assert calibration().threshold(1, 0.1) == pytest.approx(calibration().sizes[0].thresholds[4])
    with pytest.raises(CalibrationError, match=r"^boxes 0.9: there is nothing to search$"):
        calibration().threshold(0.9, 0.1)
    with pytest.raises(CalibrationError, match=r"^fpir 1: must lie between 0 and 1$"):
        calibration().threshold(5, 1)
