"""Boxes beside their image, against one box at a time in plain Python."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffps.datasets.boxes import (
    CUT,
    HALF_OUTSIDE,
    NO_AREA,
    NOT_FINITE,
    OUTSIDE,
    TINY,
    keep_boxes,
)
from diffps.datasets.files import clip_boxes, corner_boxes
from diffps.datasets.findings import Findings
from diffps.datasets.plausible import overlaps
from diffps.metrics.matching import box_iou

NUMBERS = st.one_of(
    st.integers(-20, 130),
    st.floats(-20, 130, width=32),
    st.sampled_from([0, 0.5, 1, 50, 100, 1e300, np.nan, np.inf, -np.inf]),
)
LARGEST = float(np.finfo(np.float32).max)
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=8)
SIZES = st.tuples(st.integers(1, 120), st.integers(1, 120)) | st.just((0, 0))
WHOLE = st.lists(st.tuples(*[st.integers(0, 255)] * 4), max_size=8)


def verdict(row: tuple[float, ...], size: tuple[int, int], least: tuple[int, int]) -> tuple[str, list[float]]:
    """Why a box x, y, w, h is not kept or how it was changed, and what is left of it."""
    x, y, w, h = map(float, row)
    corners = [x, y, x + w, y + h]
    if not all(abs(value) < LARGEST for value in corners):
        return NOT_FINITE, []
    if any(least) and (w < least[0] or h < least[1]):
        return f"are below {least[0]} x {least[1]} pixels and were left out", []
    if w <= 0 or h <= 0:
        return NO_AREA, []
    if w < 1 or h < 1:
        return TINY, []
    height, width = size if any(size) else (np.inf, np.inf)
    cut = [min(max(value, 0.0), limit) for value, limit in zip(corners, [width, height] * 2, strict=True)]
    area = (cut[2] - cut[0]) * (cut[3] - cut[1])
    if area <= 0:
        return OUTSIDE, []
    if cut == corners:
        return "", cut
    return HALF_OUTSIDE if area < w * h / 2 else CUT, cut


@given(ROWS, SIZES, st.sampled_from([(0, 0), (10, 20)]))
def test_every_row_has_one_fate_and_what_is_kept_lies_in_the_image(
    rows: list[tuple[float, ...]], size: tuple[int, int], least: tuple[int, int]
) -> None:
    # Halves and quarters, so that what is computed in float32 is what Python computes.
    rows = [tuple(round(4 * value) / 4 if abs(value) < 1e6 else value for value in row) for row in rows]
    findings = Findings()
    found = keep_boxes(np.array(rows).reshape(-1, 4), size, least, findings, "row {}".format)
    expected = [verdict(row, size, least) for row in rows]
    assert found.kept.tolist() == [bool(box) for _, box in expected]
    assert found.boxes.tolist() == [box for _, box in expected if box]
    assert found.boxes.dtype == np.float32
    assert found.clipped == sum(why in (CUT, HALF_OUTSIDE) for why, _ in expected)
    told = {finding.reason: (finding.count, finding.example) for finding in findings.records()}
    reasons = [why for why, _ in expected]
    assert told == {why: (reasons.count(why), f"row {reasons.index(why)}") for why in reasons if why}
    # Once cut, nothing is cut again; only what is left with less than a pixel would now be left out.
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    again = keep_boxes(np.hstack([found.boxes[:, :2], sides]), size, (0, 0), Findings(), "row {}".format)
    np.testing.assert_array_equal(again.boxes, found.boxes[(sides >= 1).all(1)])
    assert again.clipped == 0


@given(WHOLE)
def test_corners_of_small_whole_numbers_do_not_run_over(rows: list[tuple[int, ...]]) -> None:
    """MATLAB saves boxes in the smallest type that holds them; right and bottom may not fit into it."""
    small = np.array(rows, np.uint8).reshape(-1, 4)
    assert corner_boxes(small).tolist() == [[x, y, x + w, y + h] for x, y, w, h in rows]


@given(ROWS, SIZES)
def test_cutting_twice_is_cutting_once(rows: list[tuple[float, ...]], size: tuple[int, int]) -> None:
    boxes = np.float32(np.clip(np.array(rows).reshape(-1, 4), -LARGEST, LARGEST))
    cut = clip_boxes(boxes, size)
    np.testing.assert_array_equal(clip_boxes(cut, size), cut)
    known = cut[np.isfinite(boxes).all(1)]
    height, width = size if any(size) else (np.inf, np.inf)
    assert ((known >= 0) & (known <= [width, height, width, height])).all()


@given(
    st.lists(st.tuples(*[st.floats(0, 500, width=32)] * 2, *[st.floats(1, 500, width=32)] * 2), min_size=1, max_size=6)
)
def test_overlaps_of_one_box_with_others_are_those_that_scores_use(rows: list[tuple[float, ...]]) -> None:
    boxes = np.float32(rows)
    boxes[:, 2:] += boxes[:, :2]
    expected = [box_iou(boxes[0], other) for other in boxes]
    np.testing.assert_allclose(overlaps(boxes[0], boxes), expected, atol=2e-3)


def test_what_is_just_large_enough_or_half_outside_is_kept_and_told() -> None:
    rows = np.array([[0, 0, 10, 20], [0, 0, 9.75, 20], [0, 0, 10, 19.75], [-10, 30, 20, 40], [-10.25, 30, 20, 40.0]])
    findings = Findings()
    found = keep_boxes(rows, (100, 100), (10, 20), findings, "row {}".format)
    assert found.kept.tolist() == [True, False, False, True, True]
    assert [(f.kind, f.reason, f.count, f.total, f.example) for f in findings.records()] == [
        ("fine", "are below 10 x 20 pixels and were left out", 2, 5, "row 1"),
        ("repaired", CUT, 1, 5, "row 3"),
        ("doubtful", HALF_OUTSIDE, 1, 5, "row 4"),
    ]
    small = keep_boxes(np.array([[0, 0, 1, 1], [0, 0, 0.75, 1], [100, 0, 5, 5.0]]), (9, 100), (0, 0), findings, str)
    assert small.kept.tolist() == [True, False, False]
    assert keep_boxes(rows, (100, 100), (0, 30), Findings(), str).kept.tolist() == [False, False, False, True, True]
