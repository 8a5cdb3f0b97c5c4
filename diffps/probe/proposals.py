"""How many persons are found by the boxes a tap proposes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffps.compiled import compiled
from diffps.geometry import Canvas
from diffps.metrics.matching import IOU_THRESHOLD, box_iou

CANDIDATES = 256  # positions of an image, strongest first, from which boxes are chosen
NMS = 0.5


def candidates(scores: Tensor, offsets: Tensor, centres: Tensor, canvas: Canvas) -> NDArray[np.float32]:
    """Boxes (..., m, 4) inside the canvas of the strongest of n positions, strongest first.

    ``scores`` (..., n); ``offsets`` (..., 4, n) of their boxes from their ``centres`` (2, n).
    """
    order = scores.topk(min(CANDIDATES, scores.shape[-1])).indices
    chosen = offsets.gather(-1, order[..., None, :].expand(*offsets.shape[:-1], -1))
    middle = chosen[..., :2, :] + centres[:, order].movedim(0, -2)
    limits = torch.tensor([canvas.width, canvas.height], dtype=offsets.dtype, device=offsets.device)[:, None]
    half = chosen[..., 2:, :].minimum(limits.log()).exp() / 2
    low, high = (middle - half).clamp_min(0).minimum(limits), (middle + half).minimum(limits)
    boxes = torch.cat([low, high.maximum(low)], dim=-2).mT
    found: NDArray[np.float32] = boxes.float().cpu().numpy()
    return found


@compiled()
def count_found(boxes: NDArray[np.float32], truths: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """(T,) how many of ``truths`` (n, 4) overlap one of the first ``most`` boxes of each ranking (T, m, 4) by an IoU of
    0.5 or more, after greedy suppression of boxes that overlap a stronger one by more than 0.5."""
    found = np.zeros(len(boxes), np.int64)
    for row in range(len(boxes)):
        kept = np.zeros(most, np.int64)
        count = 0
        for candidate in range(boxes.shape[1]):
            free = True
            for other in range(count):
                if box_iou(boxes[row, kept[other]], boxes[row, candidate]) > NMS:
                    free = False
                    break
            if free:
                kept[count] = candidate
                count += 1
                if count == most:
                    break
        for truth in range(len(truths)):
            for other in range(count):
                if box_iou(boxes[row, kept[other]], truths[truth]) >= IOU_THRESHOLD:
                    found[row] += 1
                    break
    return found
