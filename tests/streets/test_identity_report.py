"""What a person is described by lies where the person's box does."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffps.pretraining.identity_report import STRIPS, Box, strip_histograms, strip_means

SIDE = 48
CELLS = st.sampled_from([1, 2, 3, 4, 8, 16, 48])


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """Of whole pixels, a multiple of the strips high."""
    x1, y1 = draw(st.integers(0, SIDE - 1)), draw(st.integers(0, SIDE - STRIPS))
    rows = draw(st.integers(1, (SIDE - y1) // STRIPS)) * STRIPS
    return x1, y1, draw(st.integers(x1 + 1, SIDE)), y1 + rows


@given(boxes(), CELLS, CELLS, st.integers(0, 99))
def test_means_over_strips_are_those_of_the_pixels(box: Box, height: int, width: int, seed: int) -> None:
    grid = np.random.default_rng(seed).normal(size=(2, height, width)).astype(np.float32)
    pixels = np.repeat(np.repeat(grid, SIDE // height, axis=1), SIDE // width, axis=2)
    x1, y1, x2, y2 = box
    strips = np.split(pixels[:, y1:y2, x1:x2], STRIPS, axis=1)
    expected = np.concatenate([strip.mean((1, 2), dtype=np.float64) for strip in strips])
    np.testing.assert_allclose(strip_means(grid, box, SIDE), expected, atol=1e-5)


@given(boxes(), st.integers(0, 99))
def test_histograms_count_the_pixels_of_the_box_alone(box: Box, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    found = strip_histograms(image, box).reshape(STRIPS, 64) ** 2
    np.testing.assert_allclose(found.sum(1), 1)
    x1, y1, x2, y2 = box
    alone = np.zeros_like(image)
    alone[y1:y2, x1:x2] = image[y1:y2, x1:x2]
    np.testing.assert_array_equal(strip_histograms(alone, box).reshape(STRIPS, 64) ** 2, found)
    first = image[y1 : y1 + (y2 - y1) // STRIPS, x1:x2].reshape(-1, 3).astype(int) // 64 @ [16, 4, 1]
    np.testing.assert_allclose(found[0], np.bincount(first, minlength=64) / len(first), atol=1e-12)
