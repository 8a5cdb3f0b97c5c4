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


@given(SIDES, SIDES, SIZES, st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=6))
def test_what_lies_in_the_scene_lies_in_the_canvas_in_the_same_order(
    height: int, width: int, size: tuple[int, int], parts: list[tuple[float, ...]]
) -> None:
    """Corners as parts of the image: both frames know the same parts, and the image's edges are the canvas's."""
    canvas = Canvas(height, width)
    frame = np.array([size[1], size[0]] * 2)
    stretched = np.array([width, height] * 2)
    scene = np.sort(np.array([*parts, (0, 0, 1, 1)]).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    found = canvas.to_canvas(scene * frame, size)
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= stretched)).all()
    assert (found[:, 2:] >= found[:, :2]).all()
    np.testing.assert_allclose(found, scene * stretched, rtol=1e-6, atol=1e-30)
    np.testing.assert_array_equal(found[-1], [0, 0, width, height])


@given(SIDES, SIZES, BOXES)
def test_a_mirrored_scene_is_a_mirrored_canvas(width: int, size: tuple[int, int], boxes: np.ndarray) -> None:
    canvas, here = Canvas(64, width), Canvas(*size)
    after, before = canvas.to_canvas(here.mirror(boxes), size), canvas.mirror(canvas.to_canvas(boxes, size))
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6 * width * max(1, 5000 / size[1]))


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


@given(st.integers(-200, 5000), st.sampled_from([8, 16, 64]))
def test_the_sides_that_are_named_are_the_nearest_that_are_taken(side: int, multiple: int) -> None:
    taken = range(multiple, 6000, multiple)
    if side in taken:
        check_sides(side, multiple, multiple)
        return
    with pytest.raises(ConfigError) as caught:
        check_sides(multiple, side, multiple)
    _, _, named = str(caught.value).partition("nearest are ")
    lower, higher = map(int, named.split(" and "))
    assert {lower, higher} <= set(taken)
    assert higher == lower + multiple
    assert min(abs(each - side) for each in taken) in (abs(lower - side), abs(higher - side))
