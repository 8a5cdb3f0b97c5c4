"""How many persons are found by the boxes a tap proposes."""

import numpy as np
from numpy.typing import NDArray

from diffps.compiled import compiled
from diffps.geometry import Canvas
from diffps.metrics.matching import IOU_THRESHOLD, box_iou

NMS = 0.5
REACH = 1.0  # of a window: its person's sides differ by a factor of e at most


def ranked_boxes(
    scores: NDArray[np.floating], offsets: NDArray[np.floating], windows: NDArray[np.float64], canvas: Canvas
) -> NDArray[np.float32]:
    """Boxes (..., P, 4) inside the canvas, strongest first: ``windows`` (P, 4) moved by ``offsets`` (..., 4, P), in the
    order of ``scores`` (..., P)."""
    middles, sizes = (windows[:, :2] + windows[:, 2:]).T / 2, (windows[:, 2:] - windows[:, :2]).T
    limits = np.array([canvas.width, canvas.height], np.float64)[:, None]
    middle = middles + offsets[..., :2, :] * sizes
    half = sizes * np.exp(offsets[..., 2:, :].clip(-REACH, REACH)) / 2
    boxes = np.concatenate([(middle - half).clip(0, limits), (middle + half).clip(0, limits)], axis=-2)
    # What only the rounding of sums tells apart keeps its order.
    order = np.argsort(-np.asarray(scores, np.float32), axis=-1, kind="stable")
    return np.take_along_axis(boxes, order[..., None, :], -1).swapaxes(-1, -2).astype(np.float32)


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
