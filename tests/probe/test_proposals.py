import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou, nms

from diffps.geometry import Canvas
from diffps.probe.proposals import NMS, count_found, ranked_boxes

CANVAS = Canvas(64, 128)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.integers(0, 5, (count, 2)) * 10
    return np.concatenate([corners, corners + rng.choice([12, 20, 31], (count, 2))], 1).astype(np.float32)


@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(0, 6), st.integers(1, 8))
def test_suppression_is_torchvisions(seed: int, count: int, people: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    ranked, truths = np.stack([random_boxes(rng, count) for _ in range(3)]), random_boxes(rng, people)
    found = count_found(ranked, truths, most)
    for row, boxes in enumerate(torch.from_numpy(ranked)):
        kept = nms(boxes, -torch.arange(float(count)), NMS)[:most]
        overlaps = box_iou(torch.from_numpy(truths), boxes[kept])
        assert found[row] == (overlaps.amax(1) >= 0.5).sum() if people else found[row] == 0


def test_windows_move_to_their_persons_and_stay_inside_the_canvas() -> None:
    windows = np.array([[0.0, 0, 10, 20], [56, 22, 76, 42], [100, 40, 128, 64]])
    offsets = np.zeros((1, 4, 3))
    offsets[0, :, 1] = [-0.1, 0.5, np.log(0.5), np.log(2)]
    offsets[0, :, 2] = [0, 0, 9, 0]  # no further than by a factor of e
    found = ranked_boxes(np.array([[0.1, 0.9, 0.5]]), offsets, windows, CANVAS)
    np.testing.assert_allclose(found[0, 0], [59, 22, 69, 62], rtol=1e-6)
    np.testing.assert_allclose(found[0, 1], [114 - 14 * np.e, 40, 128, 64], rtol=1e-6)
    np.testing.assert_allclose(found[0, 2], [0, 0, 10, 20], rtol=1e-6)


def test_scores_that_only_rounding_tells_apart_keep_their_order() -> None:
    windows = np.array([[0.0, 0, 10, 20], [50, 0, 60, 20]])
    found = ranked_boxes(np.array([0.5, 0.5 + 1e-12]), np.zeros((4, 2)), windows, CANVAS)
    np.testing.assert_allclose(found, windows)
