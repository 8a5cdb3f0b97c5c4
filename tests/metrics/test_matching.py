"""Overlaps of boxes without an inside, the thresholds of small ones, and which of equal overlaps counts."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.errors import DatasetError
from diffps.metrics.matching import box_iou, box_overlaps, iou_thresholds, mutual_matches
from diffps.metrics.similarity import dot, exact_unit_rows, rounding_bound

SIDES = st.integers(-3, 6)
BOXES = st.tuples(SIDES, SIDES, st.integers(0, 4), st.integers(0, 4))


@given(first=BOXES, second=BOXES)
def test_overlap_is_what_is_shared_of_what_either_covers(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    cells = [{(x + i, y + j) for i in range(width) for j in range(height)} for x, y, width, height in (first, second)]
    together = len(cells[0] | cells[1])
    expected = len(cells[0] & cells[1]) / together if together else 0.0
    a, b = (np.float32([x, y, x + width, y + height]) for x, y, width, height in (first, second))
    assert box_iou(a, b) == box_overlaps(a[None], b[None])[0, 0] == pytest.approx(expected)


CORNERS = st.floats(-1e4, 1e4, width=32)
LENGTHS = st.just(0.0) | st.floats(1 / 64, 1e4, width=32)
REAL_BOXES = st.lists(st.tuples(CORNERS, CORNERS, LENGTHS, LENGTHS), max_size=6)


def as_boxes(rows: list[tuple[float, ...]]) -> np.ndarray:
    found = np.float32(rows).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    return found


@given(REAL_BOXES, REAL_BOXES)
def test_overlaps_are_symmetric_parts_and_the_same_wherever_they_are_computed(
    first: list[tuple[float, ...]], second: list[tuple[float, ...]]
) -> None:
    a, b = as_boxes(first), as_boxes(second)
    found = box_overlaps(a, b)
    assert found.shape == (len(a), len(b))
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_array_equal(found, box_overlaps(b, a).T)
    np.testing.assert_allclose(found, np.reshape([box_iou(x, y) for x in a for y in b], found.shape), atol=1e-9)
    mirrored = box_overlaps(-a[:, [2, 3, 0, 1]], -b[:, [2, 3, 0, 1]])
    np.testing.assert_array_equal(found, mirrored)
    np.testing.assert_allclose(found, box_overlaps(4 * a, 4 * b), atol=1e-9)
    areas = (a[:, 2:] - a[:, :2]).astype(np.float64).prod(1)
    same = box_overlaps(a, a)
    np.testing.assert_array_equal(same.diagonal()[areas > 1e-6], 1)


@given(REAL_BOXES)
def test_a_threshold_is_what_a_box_off_by_ten_pixels_reaches_but_never_more_than_half(
    rows: list[tuple[float, ...]],
) -> None:
    boxes = as_boxes(rows)
    wider = boxes + np.float32([0, 0, 10, 10])
    reached = np.array([box_iou(box, other) for box, other in zip(boxes, wider, strict=True)])
    np.testing.assert_allclose(iou_thresholds(boxes, "protocol"), np.minimum(0.5, reached), atol=1e-3)
    assert iou_thresholds(boxes, "labels").tolist() == [0.5] * len(boxes)


@given(st.lists(BOXES, max_size=7), st.lists(BOXES, max_size=7), st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_matches_are_mutual_best_overlaps_and_nothing_else(
    truths: list[tuple[int, ...]], boxes: list[tuple[int, ...]], threshold: float
) -> None:
    """On a coarse grid many overlaps are equal, and the first counts."""
    true, found = as_boxes(truths), as_boxes(boxes)
    matched, best = mutual_matches(true, found, threshold)
    overlaps = box_overlaps(true, found)
    assert matched.shape == best.shape == (len(found),)
    for column in range(len(found)):
        if not len(true):
            assert (matched[column], best[column]) == (-1, 0)
            continue
        row = int(overlaps[:, column].argmax())
        assert best[column] == overlaps[row, column]
        mutual = overlaps[row].argmax() == column and overlaps[row, column] >= threshold
        assert matched[column] == (row if mutual else -1)
    of_somebody = matched[matched >= 0]
    assert len(set(of_somebody.tolist())) == len(of_somebody)


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


def test_rows_have_unit_length_on_a_grid_of_two_to_the_minus_24() -> None:
    rows = exact_unit_rows(np.array([[3.0, -4.0], [0.0, 0.0], [1e-30, 0.0]]), "embeddings", np.array([2, 0, 1, 0]))
    found = (rows.astype(np.float64) * 2**24).tolist()
    threefifths, fourfifths = 10066330, 13421773  # the nearest of 10066329.6 and 13421772.8
    assert found == [[2**24, 0], [threefifths, -fourfifths], [0, 0], [threefifths, -fourfifths]]
    fine = exact_unit_rows(np.array([[1.0, 0.3 / 2**24], [1.0, 0.6 / 2**24]]), "embeddings")
    assert (fine.astype(np.float64) * 2**24).tolist() == [[2**24, 0], [2**24, 1]]
    assert dot(rows[1], rows[3]) == (threefifths**2 + fourfifths**2) / 2**48
    with pytest.raises(DatasetError, match=r"^embeddings: shape \(2,\), expected \(n, d\)$"):
        exact_unit_rows(np.ones(2), "embeddings")
    with pytest.raises(DatasetError, match=r"^embeddings: row 1 has a NaN or infinite component$"):
        exact_unit_rows(np.array([[1.0], [np.inf], [np.nan]]), "embeddings")
