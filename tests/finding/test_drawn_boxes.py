"""Boxes that people give or draw in a picture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.errors import ConfigError, ImageError
from stages.finding.photos import Photo
from stages.finding.web.pictures import SMALLEST, drawn_box

PHOTO = Photo("x.jpg", np.zeros((40, 60, 3), np.uint8), "")
NUMBERS = st.one_of(
    st.integers(-5, 70), st.floats(-5, 70), st.sampled_from([np.nan, np.inf, -np.inf, 1e300, 0.5, -1.0])
)
BOX = st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS)


@given(BOX | st.lists(NUMBERS, max_size=6))
def test_a_box_given_in_pixels_lies_in_its_picture_or_is_refused_in_a_line(wanted: tuple[float, ...]) -> None:
    if len(wanted) == 4 and np.isfinite(wanted).all():
        x, y, w, h = map(float, wanted)
        inside = w > 0 and h > 0 and min(x, y) >= -1 and x + w <= 61 and y + h <= 41
    else:
        inside = False
    if not inside:
        with pytest.raises(ConfigError) as caught:
            PHOTO.box(wanted)
        assert str(caught.value).isprintable()
        return
    try:
        found = PHOTO.box(wanted)
    except ConfigError:
        # What lies only in the pixel beyond the edge, or in less than float32 tells apart, is no box of the picture.
        assert min(min(x + w, 60) - max(x, 0), min(y + h, 40) - max(y, 0)) < 1e-3
        return
    np.testing.assert_allclose(found, [max(x, 0), max(y, 0), min(x + w, 60), min(y + h, 40)], rtol=1e-6, atol=1e-6)
    assert found.dtype == np.float32
    assert (found[2:] > found[:2]).all()


def test_a_box_may_end_a_pixel_beyond_each_edge_and_no_more() -> None:
    assert PHOTO.box((-1, -1, 62, 42)).tolist() == [0, 0, 60, 40]
    for beyond in ((-1.1, 5, 9, 9), (5, -1.1, 9, 9), (5, 5, 56.1, 9), (5, 5, 9, 36.1)):
        with pytest.raises(ConfigError, match="lies outside"):
            PHOTO.box(beyond)


@pytest.mark.parametrize("beside", [(-1, 5, 1, 30), (60, 5, 1, 30), (-0.5, 5, 0.4, 30), (5, 40.2, 9, 0.5)])
def test_a_box_in_the_pixel_beyond_the_edge_is_none(beside: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"lies outside x.jpg, which is 60 x 40 pixels"):
        PHOTO.box(beside)


@given(BOX)
def test_a_box_that_is_drawn_is_cut_at_the_edges(box: tuple[float, ...]) -> None:
    x, y, w, h = map(float, box)
    cut = [max(x, 0), max(y, 0), min(x + w, 60), min(y + h, 40)]
    if not all(cut[i + 2] - cut[i] >= SMALLEST for i in range(2)):
        with pytest.raises(ImageError, match="outside the picture"):
            drawn_box(PHOTO, box)
        return
    found = drawn_box(PHOTO, box).box
    np.testing.assert_allclose(found, cut, rtol=1e-6, atol=1e-6)
    assert ((found >= 0) & (found <= [60, 40, 60, 40])).all()
