"""Windows of a scene that every tap is asked about: does this one show a person, and where does that person's box lie?

A trained head decides about windows too, anchors and RoIs, not about positions of a grid. The same windows are put to
all taps, so that a fine grid and a coarse one answer the same question.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.geometry import Canvas
from diffps.metrics.matching import IOU_THRESHOLD, box_overlaps

WINDOWS = 18  # a scene
LITTLE, FAR = 0.25, 1.0  # a true box's width and height by which a window's centre may be off
STRETCH = 0.5  # of a window moved far, and of one put anywhere: sides change by a factor between exp(-0.5) and exp(0.5)


class Windows(NamedTuple):
    """``boxes`` (P, 4) in canvas pixels; ``right`` (P,) where one overlaps a person's box by an IoU of 0.5 or more,
    ``offsets`` (P, 4) to the box it overlaps most, 0 for those that are not right: x and y of its centre in the
    window's width and height, log of the ratios of both; ``dealt`` (P,) is ``right`` in a random order."""

    boxes: NDArray[np.float64]
    right: NDArray[np.bool_]
    dealt: NDArray[np.bool_]
    offsets: NDArray[np.float64]


def draw_windows(scene_id: str, truths: NDArray[np.floating], canvas: Canvas, seed: int) -> Windows:
    """Windows of a scene whose persons have boxes ``truths`` (n, 4), one at least; decided by these, the seed and the
    scene alone.

    They have the sizes of true boxes. A third is moved a little, a third far, and a third lies anywhere: persons, what
    is beside persons, and background.
    """
    digest = hashlib.sha256(f"{seed}/windows/{scene_id}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    truths, limits = np.asarray(truths, np.float64), np.array([canvas.width, canvas.height], np.float64)
    middles, sizes = (truths[:, :2] + truths[:, 2:]) / 2, truths[:, 2:] - truths[:, :2]
    turns = -(-WINDOWS // len(truths))
    whose = np.concatenate([generator.permutation(len(truths)) for _ in range(turns)])[:WINDOWS]
    kind = np.arange(WINDOWS) % 3
    share = np.where(kind == 0, LITTLE, FAR)[:, None]
    moved = middles[whose] + share * generator.uniform(-1, 1, (WINDOWS, 2)) * sizes[whose]
    stretched = sizes[whose] * np.exp(STRETCH * share * generator.uniform(-1, 1, (WINDOWS, 2)))
    moved = np.where(kind[:, None] == 2, generator.uniform(0, 1, (WINDOWS, 2)) * limits, moved).clip(0, limits)
    boxes = np.concatenate([moved - stretched / 2, moved + stretched / 2], 1).clip(0, np.tile(limits, 2))
    overlaps = box_overlaps(boxes, truths)
    nearest, right = overlaps.argmax(1), overlaps.max(1) >= IOU_THRESHOLD
    middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    offsets = np.concatenate([(middles[nearest] - middle) / size, np.log(sizes[nearest] / size)], 1)
    return Windows(boxes, right, right[generator.permutation(WINDOWS)], np.where(right[:, None], offsets, 0.0))


def around(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """``boxes`` (n, 4) half as wide and high again: what surrounds a person tells where the person ends."""
    boxes = np.asarray(boxes, np.float64)
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * 0.75
    return np.concatenate([middle - half, middle + half], 1)
