"""Overlap of boxes, and which detection a true box is matched with."""

import numpy as np
from numpy.typing import NDArray

from diffps.compiled import compiled
from diffps.records import Convention

IOU_THRESHOLD = 0.5
BOX_SLACK = 10  # pixels a small box may be off in width and in height before the protocol calls it missed


@compiled()
def box_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes (4,) x1, y1, x2, y2; 0 when both are empty."""
    ax1, ay1, ax2, ay2 = np.float64(a[0]), np.float64(a[1]), np.float64(a[2]), np.float64(a[3])
    bx1, by1, bx2, by2 = np.float64(b[0]), np.float64(b[1]), np.float64(b[2]), np.float64(b[3])
    width, height = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return float(both / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both))


def box_overlaps(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """IoU (n, m) of boxes (n, 4) and (m, 4)."""
    a, b = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(axis=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    return np.asarray(shared / np.maximum(areas - shared, 1e-9))


def iou_thresholds(boxes: NDArray[np.floating], convention: Convention) -> NDArray[np.float64]:
    """IoU that counts as found for true boxes (n, 4): 0.5, and less for small boxes under ``protocol``."""
    if convention == "labels":
        return np.full(len(boxes), IOU_THRESHOLD)
    x1, y1, x2, y2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    width, height = x2 - x1, y2 - y1
    reachable: NDArray[np.float64] = width * height / ((width + BOX_SLACK) * (height + BOX_SLACK))
    return np.minimum(IOU_THRESHOLD, reachable)


@compiled()
def mutual_matches(
    truths: NDArray[np.float32], boxes: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Index of the true box each box is matched with, or -1 (n,); and the best IoU of each box (n,).

    A pair matches when each is the other's best overlap and that is at least ``threshold``. Of equal overlaps the first
    counts.
    """
    best_truth = np.full(len(boxes), -1, np.int64)
    best_iou = np.zeros(len(boxes), np.float64)
    best_box = np.full(len(truths), -1, np.int64)
    best_of_truth = np.full(len(truths), -1.0, np.float64)
    for j in range(len(boxes)):
        for i in range(len(truths)):
            iou = box_iou(truths[i], boxes[j])
            if best_truth[j] < 0 or iou > best_iou[j]:
                best_truth[j], best_iou[j] = i, iou
            if iou > best_of_truth[i]:
                best_box[i], best_of_truth[i] = j, iou
    for j in range(len(boxes)):
        i = best_truth[j]
        if i >= 0 and (best_box[i] != j or best_iou[j] < threshold):
            best_truth[j] = -1
    return best_truth, best_iou
