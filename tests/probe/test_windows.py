import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from diffps.geometry import Canvas
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
