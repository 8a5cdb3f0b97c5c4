"""What the four numbers of a box may mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.datasets.units import OTHER_SHAPE, TURNED, box_scale, require_pixels, require_widths
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
