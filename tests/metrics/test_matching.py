"""Overlaps of boxes without an inside, the thresholds of small ones, and which of equal overlaps counts."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.metrics.matching import box_iou, box_overlaps, iou_thresholds, mutual_matches
from diffps.metrics.similarity import rounding_bound

SIDES = st.integers(-3, 6)
BOXES = st.tuples(SIDES, SIDES, st.integers(0, 4), st.integers(0, 4))


@given(first=BOXES, second=BOXES)
def test_overlap_is_what_is_shared_of_what_either_covers(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    cells = [{(x + i, y + j) for i in range(width) for j in range(height)} for x, y, width, height in (first, second)]
    together = len(cells[0] | cells[1])
    expected = len(cells[0] & cells[1]) / together if together else 0.0
    a, b = (np.float32([x, y, x + width, y + height]) for x, y, width, height in (first, second))
    assert box_iou(a, b) == box_overlaps(a[None], b[None])[0, 0] == pytest.approx(expected)


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [0, 0, 5, 0], [2, 2, 2, 2]])
def test_a_line_overlaps_nothing_not_even_itself(box: list[float]) -> None:
    empty = np.float32(box)
    assert box_iou(empty, empty) == 0
    assert box_overlaps(empty[None], empty[None]).tolist() == [[0.0]]


def test_a_small_box_may_be_ten_pixels_off_in_width_and_in_height() -> None:
    """20 x 30 reaches 600 / (30 x 40) = 0.5; what is smaller reaches less."""
    boxes = np.float32([[5, 5, 25, 35], [0, 0, 10, 30], [0, 0, 10, 10], [7, 9, 107, 209]])
    assert iou_thresholds(boxes, "protocol") == pytest.approx([0.5, 300 / 800, 100 / 400, 0.5])
    assert iou_thresholds(boxes, "labels").tolist() == [0.5] * 4


def test_of_equal_overlaps_the_first_counts_and_only_mutual_ones_match() -> None:
    truths = np.float32([[0, 0, 4, 4], [0, 0, 4, 4], [10, 0, 14, 4]])
    boxes = np.float32([[0, 0, 4, 3], [0, 0, 4, 3], [10, 0, 14, 2], [30, 0, 34, 4]])
    matched, best = mutual_matches(truths, boxes, 0.5)
    assert matched.tolist() == [0, -1, 2, -1]  # the last lies nowhere
    assert best.tolist() == [0.75, 0.75, 0.5, 0.0]
    assert mutual_matches(truths, boxes, 0.51)[0].tolist() == [0, -1, -1, -1]
    assert mutual_matches(truths[:0], boxes, 0.5)[0].tolist() == [-1] * 4


@pytest.mark.parametrize("dimensions", [1, 16, 256, 2048])
def test_the_rounding_bound_is_higham_s_for_rows_a_thousandth_too_long(dimensions: int) -> None:
    u = Fraction(dimensions, 2**24)
    assert rounding_bound(dimensions) == pytest.approx(float(Fraction(1001, 1000) * u / (1 - u)), rel=1e-12)
