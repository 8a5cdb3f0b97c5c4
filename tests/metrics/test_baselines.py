"""Colour histograms counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.metrics.baselines import chance_level, colour_histograms

RED, GREEN, BLUE, GREY, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (130, 130, 130), (0, 0, 0)
# Hue in eighths of the circle, saturation and value in quarters.
CELLS = {RED: (0, 3, 3), GREEN: (2, 3, 3), BLUE: (5, 3, 3), GREY: (0, 0, 2), BLACK: (0, 0, 0)}
STRIPS = [[RED], [GREEN, GREEN, GREEN, BLACK], [BLUE], [GREY], [BLACK], [RED, GREEN, BLUE, GREY]]


def place(strip: int, colour: tuple[int, int, int]) -> int:
    hue, saturation, value = CELLS[colour]
    return strip * 128 + hue * 16 + saturation * 4 + value


def picture() -> np.ndarray:
    """Six strips of two rows, four pixels wide, from row 3 and column 5 on; white around them."""
    image = np.full((20, 16, 3), 255, np.uint8)
    for strip, colours in enumerate(STRIPS):
        image[3 + 2 * strip : 5 + 2 * strip, 5:9] = (colours * 4)[:4]
    return image


def test_each_strip_is_a_histogram_of_its_own_whose_root_is_taken() -> None:
    expected = np.zeros((2, 6 * 128))
    for strip, colours in enumerate(STRIPS):
        for colour in colours:
            expected[0, place(strip, colour)] += 1 / len(colours)
    found = colour_histograms(picture(), np.array([[5.4, 3.3, 8.6, 14.7], [12.0, 4.0, 12.0, 9.0]]))
    assert found.shape == (2, 768)
    np.testing.assert_allclose(found, np.sqrt(expected), rtol=1e-6)  # of the box without a width nothing


@pytest.mark.parametrize(
    ("box", "strips"), [((-4.0, -6.0, 4.0, 6.0), [3, 4, 5]), ((12.0, 14.0, 40.0, 26.0), [0, 1, 2])]
)
def test_of_a_box_beyond_the_picture_what_lies_in_it_counts(box: tuple[float, ...], strips: list[int]) -> None:
    image = np.full((20, 16, 3), (255, 0, 0), np.uint8)
    found = colour_histograms(image, np.array([box])).reshape(6, 128)
    assert np.flatnonzero(found.sum(1)).tolist() == strips
    assert found[strips, 15].tolist() == [1.0] * 3


def test_the_first_row_and_column_count() -> None:
    image = np.zeros((12, 4, 3), np.uint8)
    image[:, 0], image[0] = (255, 0, 0), (0, 0, 255)
    found = colour_histograms(image, np.array([[-1.0, 0.0, 2.0, 12.0]])).reshape(6, 128) ** 2
    assert found[0, [0, 15, place(0, BLUE)]] == pytest.approx([1 / 4, 1 / 4, 1 / 2])  # black, red, blue
    assert found[5, [0, 15]] == pytest.approx([1 / 2, 1 / 2])


CORNERS = st.floats(-6, 26)


@given(st.integers(0, 9), st.tuples(CORNERS, CORNERS), st.tuples(*[st.floats(0, 30)] * 2))
def test_a_strip_is_the_colours_of_its_rows_or_nothing(
    seed: int, corner: tuple[float, float], sides: tuple[float, float]
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (20, 16, 3), np.uint8)
    box = np.array([*corner, corner[0] + sides[0], corner[1] + sides[1]])
    found = colour_histograms(image, box[None]).reshape(6, 128) ** 2
    columns = image[:, max(0, round(box[0])) : max(0, round(box[2]))]
    rows = np.linspace(box[1], box[3], 7).round().astype(int).clip(min=0)
    for strip, top, bottom in zip(found, rows, rows[1:], strict=False):
        pixels = columns[top:bottom]
        if not pixels.size:
            assert not strip.any()
            continue
        alone = colour_histograms(pixels, np.array([[0, 0, pixels.shape[1], pixels.shape[0]]])).reshape(6, 128) ** 2
        parts = [len(part) for part in np.split(pixels, np.linspace(0, len(pixels), 7).round().astype(int)[1:-1])]
        np.testing.assert_allclose(strip, np.average(alone, axis=0, weights=parts), atol=1e-6)
        assert strip.sum() == pytest.approx(1, abs=1e-5)


class Drawn:
    """A task of two queries that keeps what it is asked to score; run n has n tenths."""

    queries = ("q0", "q1")

    def __init__(self) -> None:
        self.asked: list[tuple[np.ndarray, ...]] = []

    def score(self, *given: np.ndarray) -> "Drawn":
        self.asked.append(given)
        return self

    def summary(self) -> dict[str, float]:
        value = len(self.asked) / 10
        return {"map": value, "top1": value + 1, "top5": value + 2, "top10": value + 3, "recall": 9.0, "queries": 2}


def test_chance_is_the_mean_of_five_draws_of_queries_and_detections() -> None:
    task, boxes, scenes, rng = Drawn(), np.ones((3, 4)), np.array([0, 0, 4]), np.random.default_rng(0)
    found = chance_level(task, boxes, scenes)  # type: ignore[arg-type]
    assert found == pytest.approx({"map": 0.3, "top1": 1.3, "top5": 2.3, "top10": 3.3})
    assert len(task.asked) == 5
    for queries, embeddings, *rest in task.asked:
        size = queries.shape[1]
        assert np.array_equal(queries, rng.normal(size=(2, size)))
        assert np.array_equal(embeddings, rng.normal(size=(3, size)))
        assert rest[0] is boxes
        assert rest[1] is scenes
