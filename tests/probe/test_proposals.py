import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou, nms

from diffps.geometry import Canvas
from diffps.probe.proposals import NMS, candidates, count_found

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


def test_boxes_of_the_strongest_positions_lie_inside_the_canvas() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5]])
    centres = torch.tensor([[10.0, 64.0, 127.0], [10.0, 32.0, 60.0]])
    offsets = torch.zeros(1, 4, 3)
    offsets[0, 2] = torch.tensor([20.0, 16.0, 1e9]).log()
    offsets[0, 3] = torch.tensor([1.0, 30.0, 40.0]).log()
    found = candidates(scores, offsets, centres, CANVAS)
    np.testing.assert_allclose(found[0, 0], [56, 17, 72, 47], rtol=1e-6)
    np.testing.assert_allclose(found[0, 1], [63, 40, 128, 64], rtol=1e-6)
    np.testing.assert_allclose(found[0, 2], [0, 9.5, 20, 10.5], rtol=1e-6)
