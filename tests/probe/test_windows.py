import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from diffps.geometry import Canvas
from diffps.probe.proposals import ranked_boxes
from diffps.probe.windows import WINDOWS, around, draw_windows

CANVAS = Canvas(128, 192)
PEOPLE = np.array([[10, 10, 40, 100], [150, 60, 192, 128], [100, 20, 112, 50]], np.float32)


def test_windows_are_drawn_by_scene_seed_and_boxes() -> None:
    first = draw_windows("a", PEOPLE, CANVAS, 0)
    for one, other in zip(first, draw_windows("a", PEOPLE, CANVAS, 0), strict=True):
        assert np.array_equal(one, other)
    for other in (draw_windows("b", PEOPLE, CANVAS, 0), draw_windows("a", PEOPLE, CANVAS, 1)):
        assert not np.allclose(first.boxes, other.boxes)


@pytest.mark.parametrize("people", [PEOPLE[:1], PEOPLE, np.repeat(PEOPLE, 20, 0), PEOPLE[:1] * 0 + [0, 0, 1, 1]])
def test_what_a_window_is_said_to_show(people: np.ndarray) -> None:
    drawn = [draw_windows(f"s{number}", people, CANVAS, 0) for number in range(20)]
    for boxes, right, dealt, offsets in drawn:
        assert len(boxes) == WINDOWS
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= [192, 128]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        overlaps = box_iou(torch.from_numpy(boxes), torch.from_numpy(people).double()).numpy()
        assert np.array_equal(right, overlaps.max(1) >= 0.5)
        assert dealt.sum() == right.sum()
        assert not offsets[~right].any()
        sizes = boxes[right, 2:] - boxes[right, :2]
        middles = (boxes[right, :2] + boxes[right, 2:]) / 2 + offsets[right, :2] * sizes
        half = sizes * np.exp(offsets[right, 2:]) / 2
        moved = np.concatenate([middles - half, middles + half], 1)
        np.testing.assert_allclose(moved, people[overlaps.argmax(1)[right]], rtol=1e-6, atol=1e-5)
    shares = [each.right.mean() for each in drawn]
    assert 0.1 < np.mean(shares) < 0.6
    assert any((each.right != each.dealt).any() for each in drawn)


def test_around_a_window() -> None:
    np.testing.assert_allclose(around(np.array([[10, 20, 30, 60]])), [[5, 10, 35, 70]])


CORNERS = st.tuples(st.floats(0, 180), st.floats(0, 120), st.floats(1, 192), st.floats(1, 128))


@given(st.lists(CORNERS, min_size=1, max_size=30), st.integers(0, 99))
def test_offsets_lead_from_a_window_to_its_person(rows: list[tuple[float, ...]], seed: int) -> None:
    """Offsets that are predicted without an error give the persons' boxes, in the order of the scores."""
    people = np.array([[x, y, min(x + w, 192), min(y + h, 128)] for x, y, w, h in rows])
    boxes, right, dealt, offsets = draw_windows("a", people, CANVAS, seed)
    assert len(boxes) == WINDOWS
    assert ((boxes >= 0) & (boxes <= [192, 128] * 2)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert dealt.sum() == right.sum()
    overlaps = box_iou(torch.from_numpy(boxes), torch.from_numpy(people)).numpy()
    scores = np.random.default_rng(seed).permutation(WINDOWS)
    made = ranked_boxes(scores, offsets.T, boxes, CANVAS)
    assert ((made >= 0) & (made <= [192, 128] * 2)).all()
    for rank, window in enumerate(np.argsort(-scores)):
        # Of equal overlaps rounding may choose either: then the two persons' boxes overlap the window alike.
        nearest = people[overlaps[window] >= overlaps[window].max() - 1e-9] if right[window] else boxes[[window]]
        assert np.abs(nearest - made[rank]).max(1).min() < 1e-3


def test_the_windows_of_a_seed_stay_what_they_were() -> None:
    """So that probes of two versions can be compared."""
    drawn = draw_windows("a", PEOPLE, CANVAS, 0)
    expected = [
        [14.829, 0, 41.464, 77.99],
        [159.8, 16.848, 192, 115.234],
        [109.367, 0, 127.207, 23.219],
        [145.851, 73.074, 187.895, 128],
        [0, 65.735, 21.453, 128],
        [182.977, 0, 190.97, 31.235],
    ]
    np.testing.assert_allclose(drawn.boxes[:6], expected, atol=6e-4)
    assert np.flatnonzero(drawn.right).tolist() == [0, 3, 6, 9, 12, 15]
    assert np.flatnonzero(drawn.dealt).tolist() == [1, 5, 8, 10, 11, 12]
