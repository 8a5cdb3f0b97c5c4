"""Boxes through the canvas and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.errors import ConfigError
from diffps.geometry import Canvas, check_sides

SIDES = st.integers(1, 40).map(lambda n: 64 * n)
SIZES = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
BOXES = st.lists(st.tuples(*[st.floats(-100, 5000, width=32)] * 4), max_size=6).map(
    lambda rows: np.array(rows, np.float32).reshape(-1, 4)
)


@given(SIDES, SIDES, SIZES, BOXES)
def test_to_scene_inverts_to_canvas(height: int, width: int, size: tuple[int, int], boxes: np.ndarray) -> None:
    canvas = Canvas(height, width)
    back = canvas.to_scene(canvas.to_canvas(boxes, size), size)
    np.testing.assert_allclose(back, boxes, rtol=1e-6, atol=1e-30)


def test_stretches_each_axis_by_its_own_factor() -> None:
    boxes = Canvas(128, 256).to_canvas(np.array([[0, 0, 100, 50], [10, 20, 30, 40]]), (50, 100))
    np.testing.assert_allclose(boxes, [[0, 0, 256, 128], [25.6, 51.2, 76.8, 102.4]], rtol=1e-6)


@given(SIDES, BOXES)
def test_mirror_is_its_own_inverse_and_keeps_the_size(width: int, boxes: np.ndarray) -> None:
    canvas = Canvas(64, width)
    mirrored = canvas.mirror(boxes)
    np.testing.assert_allclose(canvas.mirror(mirrored), boxes, atol=1e-3)
    np.testing.assert_allclose(mirrored[:, 2] - mirrored[:, 0], boxes[:, 2] - boxes[:, 0], atol=1e-2)


def test_mirrored_box_covers_the_mirrored_pixels() -> None:
    image = np.zeros((64, 128), bool)
    image[10:20, 30:50] = True
    (x1, y1, x2, y2) = Canvas(64, 128).mirror(np.array([[30, 10, 50, 20]]))[0].astype(int)
    flipped = np.zeros_like(image)
    flipped[y1:y2, x1:x2] = True
    np.testing.assert_array_equal(flipped, image[:, ::-1])


@pytest.mark.parametrize("side", [0, -64, 63, 100])
def test_refuses_a_side_the_unet_cannot_halve(side: int) -> None:
    with pytest.raises(ConfigError, match=rf"canvas width {side}: .*multiple of 64; nearest are \d+ and \d+"):
        check_sides(64, side)
