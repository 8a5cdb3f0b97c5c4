"""What the four numbers of a box may mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.datasets.findings import Findings
from diffps.datasets.units import (
    CORNER_ONLY,
    OTHER_SHAPE,
    TURNED,
    box_scale,
    count_corner_boxes,
    require_pixels,
    require_widths,
)
from diffps.errors import DatasetError

SIDES = st.integers(16, 6000)


@given(SIDES, SIDES, st.floats(0.05, 4))
def test_an_image_that_was_scaled_is_recognised_whatever_was_rounded(height: int, width: int, factor: float) -> None:
    for rounding in (np.floor, np.ceil, np.round):
        shown = int(max(rounding(height * factor), 1)), int(max(rounding(width * factor), 1))
        scale = box_scale((height, width), shown)
        assert not isinstance(scale, str)
        assert scale == pytest.approx((shown[1] / width, shown[0] / height))


@pytest.mark.parametrize(
    ("annotated", "shown", "scale"),
    [
        (None, (80, 100), (1, 1)),
        ((80, 100), (80, 100), (1, 1)),
        ((80, 100), (0, 0), (1, 1)),
        ((320, 400), (80, 100), (0.25, 0.25)),
        ((3000, 4000), (4000, 3000), TURNED),
        ((3000, 4000), (512, 512), OTHER_SHAPE),
        ((1080, 1920), (1088, 1920), OTHER_SHAPE),
    ],
)
def test_sizes_of_an_image(
    annotated: tuple[int, int] | None, shown: tuple[int, int], scale: tuple[float, float] | str
) -> None:
    assert box_scale(annotated, shown) == scale


def test_parts_of_an_image_are_refused_and_small_pixels_are_not() -> None:
    require_pixels(np.empty((0, 4)), "a.csv")
    require_pixels(np.array([[0, 0, 1, 1], [5, 5, 20, 40], [6, 6, 20, 40]]), "a.csv")
    with pytest.raises(DatasetError, match=r"a.csv: 2 of 3 boxes lie within 0 to 1"):
        require_pixels(np.array([[0.1, 0, 1, 1], [0.2, 0.3, 0.1, 0.4], [6, 6, 20, 40]]), "a.csv")


FRAME = np.array([1080, 1920])


@given(
    st.lists(st.tuples(st.integers(0, 1800), st.integers(0, 1000), st.integers(8, 120), st.integers(8, 80)), min_size=3)
)
def test_boxes_inside_their_images_are_never_taken_for_corners(rows: list[tuple[int, int, int, int]]) -> None:
    require_widths(np.array(rows, float), np.tile(FRAME, (len(rows), 1)), "a.csv", "")


def test_corners_are_recognised() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform((900, 500), (1700, 900), (20, 2))
    corners = np.concatenate([first, first + rng.uniform(20, 100, (20, 2))], axis=1)
    with pytest.raises(DatasetError, match=r"18 of 20 boxes leave their image .*; write it so"):
        require_widths(corners, np.tile(FRAME, (20, 1)), "a.csv", "write it so")


def test_half_of_the_boxes_within_0_to_1_may_be_pixels() -> None:
    parts, pixels, empty = [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.01, 1.0], [0.0, 0.5, 0.0, 0.2]
    require_pixels(np.array([parts, pixels]), "a.csv")
    require_pixels(np.array([parts, empty, [-0.01, 0, 1, 1]]), "a.csv")
    with pytest.raises(DatasetError, match=r"^a.csv: 3 of 5 boxes lie within 0 to 1, which are parts of the image"):
        require_pixels(np.array([parts, parts, parts, pixels, pixels]), "a.csv")


def corner_rows(leaving: int, staying: int) -> np.ndarray:
    """Corners in a frame of 100 x 100: those that leave it read as widths, and those that do not."""
    return np.array([[60, 60, 101, 101]] * leaving + [[10, 10, 40, 40]] * staying, float)


def test_corners_need_three_boxes_of_which_most_leave_their_image() -> None:
    sizes = np.full((9, 2), 100)
    for leaving, staying in ((2, 0), (2, 2)):
        require_widths(corner_rows(leaving, staying), sizes[: leaving + staying], "a.csv", "")
    for leaving, staying in ((3, 0), (2, 1)):
        with pytest.raises(DatasetError, match=f"a.csv: {leaving} of 3 boxes leave their image"):
            require_widths(corner_rows(leaving, staying), sizes[:3], "a.csv", "")
    with pytest.raises(DatasetError, match="3 of 3 boxes"):  # an image of no known size says nothing
        require_widths(corner_rows(4, 0), np.array([[100, 100]] * 3 + [[0, 0]]), "a.csv", "")
    with pytest.raises(DatasetError, match="2 of 3 boxes"):  # the first begins at the edges and stays
        require_widths(np.array([[0, 0, 90, 100.0], [60, 0, 100, 90], [50, 50, 101, 101]]), sizes[:3], "a.csv", "")


@pytest.mark.parametrize("other", [[60, 60, 101.5, 90], [60, 60, 90, 101.5], [-1, 60, 90, 90], [60, 60, 60, 90]])
def test_one_box_that_is_none_as_corners_speaks_for_widths(other: list[float]) -> None:
    require_widths(np.array([*corner_rows(3, 0).tolist(), other]), np.full((4, 2), 100), "a.csv", "")


def test_a_box_leaves_its_image_with_more_than_a_fifth() -> None:
    sizes = np.full((3, 2), 200)
    inside = np.array([[40, 10, 200, 50.0]] * 3)  # 160 of 200 columns
    require_widths(inside, sizes, "a.csv", "")
    with pytest.raises(DatasetError, match="3 of 3"):
        require_widths(inside + np.array([1, 0, 0, 0]), sizes, "a.csv", "")


@pytest.mark.parametrize(("count", "reach", "told"), [(20, 59.0, 59), (20, 60.0, None), (19, 30.0, None)])
def test_many_boxes_that_all_lie_in_the_upper_left_part(count: int, reach: float, told: int | None) -> None:
    findings = Findings()
    rows = np.array([[5, 5, 10, 10]] * (count - 1) + [[9, 9, 10, reach - 9]], float)
    sizes = np.array([[100, 200]] * count + [[0, 0]])
    count_corner_boxes(np.vstack([rows, [[500, 500, 1, 1]]]), sizes, findings, "a.csv line 2")
    found = [(finding.count, finding.reason, finding.example) for finding in findings.records()]
    assert found == ([(count, CORNER_ONLY.format(told), "a.csv line 2")] if told else [])


def test_sizes_agree_within_a_rounded_pixel() -> None:
    assert box_scale((2, 3), (3, 7)) == (7 / 3, 3 / 2)  # 14 and 9 differ by 5
    assert box_scale((2, 3), (7, 3)) == TURNED
    assert box_scale((300, 400), (30, 43)) == box_scale((300, 400), (43, 30)) == OTHER_SHAPE
