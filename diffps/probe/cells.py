"""What a position of a tap's grid stands for: whose it is, where that person's box lies, and how a box is pooled.

Boxes are (x1, y1, x2, y2) in canvas pixels; position (row, column) of an (h, w) grid covers canvas / (h, w) pixels.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from diffps.geometry import Canvas
from diffps.probe.config import ROI_COLUMNS, ROI_ROWS

OFFSETS = 4  # centre x and y from the cell's, log width, log height


@dataclass(frozen=True, slots=True)
class Grid:
    """A tap's positions on the canvas."""

    height: int
    width: int
    canvas: Canvas

    @property
    def cell(self) -> tuple[float, float]:
        """Width and height of a position in canvas pixels."""
        return self.canvas.width / self.width, self.canvas.height / self.height

    def centres(self) -> NDArray[np.float64]:
        """x and y of every position's centre, (h * w, 2), row by row."""
        return _centres(self)

    def owners(self, boxes: NDArray[np.floating]) -> NDArray[np.int64]:
        """(h * w,) index of the box a position belongs to, -1 for background.

        It belongs to a box that holds its centre, or whose centre it holds: so every person has a position on the
        coarsest grid. Of several boxes the smallest has it.
        """
        owner = np.full(self.height * self.width, -1, np.int64)
        boxes = np.asarray(boxes, np.float64)
        centres = self.centres()
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        columns = np.clip(middles[:, 0] // self.cell[0], 0, self.width - 1).astype(int)
        rows = np.clip(middles[:, 1] // self.cell[1], 0, self.height - 1).astype(int)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        for box in np.argsort(-areas, kind="stable"):  # smaller ones overwrite larger ones
            x1, y1, x2, y2 = boxes[box]
            inside = (centres[:, 0] >= x1) & (centres[:, 0] < x2) & (centres[:, 1] >= y1) & (centres[:, 1] < y2)
            inside[rows[box] * self.width + columns[box]] = True
            owner[inside] = box
        return owner

    def offsets(self, boxes: NDArray[np.floating], owner: NDArray[np.int64]) -> NDArray[np.float64]:
        """(h * w, 4) what the box regression has to give at each position of a person; 0 at the others."""
        boxes = np.asarray(boxes, np.float64)
        found = np.zeros((len(owner), OFFSETS))
        own = owner >= 0
        mine = boxes[owner[own]]
        found[own, :2] = (mine[:, :2] + mine[:, 2:]) / 2 - self.centres()[own]
        found[own, 2:] = np.log(mine[:, 2:] - mine[:, :2])
        return found

    def pooling(self, boxes: NDArray[np.floating], strips: int) -> NDArray[np.float64]:
        """RoIAlign of each box as weights of positions, (boxes, strips, h * w): 24 x 12 points, bilinear, averaged over
        each of the horizontal strips.

        Equal to torchvision's ``roi_align(..., (24, 12), sampling_ratio=1, aligned=True)`` averaged likewise: bilinear
        weights are products of a row's and a column's.
        """
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        x = _point_weights(boxes[:, 0] / self.cell[0], boxes[:, 2] / self.cell[0], ROI_COLUMNS, self.width)
        y = _point_weights(boxes[:, 1] / self.cell[1], boxes[:, 3] / self.cell[1], ROI_ROWS, self.height)
        columns = x.mean(1)
        rows = y.reshape(len(boxes), strips, ROI_ROWS // strips, self.height).mean(2)
        weights: NDArray[np.float64] = rows[..., None] * columns[:, None, None, :]
        return weights.reshape(len(boxes), strips, -1)


@cache
def _centres(grid: Grid) -> NDArray[np.float64]:
    x = (np.arange(grid.width) + 0.5) * grid.cell[0]
    y = (np.arange(grid.height) + 0.5) * grid.cell[1]
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def drawn_positions(count: int, most: int, seed: int, scene_id: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``most`` of ``count`` positions (all where there are no more), in ascending order, and a permutation of them by
    which labels are dealt anew. Both depend on the seed, the scene and the grid's size alone."""
    digest = hashlib.sha256(f"{seed}/positions/{scene_id}/{count}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    chosen = np.sort(generator.permutation(count)[:most])
    return chosen, generator.permutation(len(chosen))


def _point_weights(
    start: NDArray[np.float64], stop: NDArray[np.float64], points: int, size: int
) -> NDArray[np.float64]:
    """(n, points, size) bilinear weights of evenly spread points between two edges, in positions."""
    at = start[:, None] + (np.arange(points) + 0.5) / points * (stop - start)[:, None] - 0.5
    at = at.clip(0, size - 1)
    low = np.minimum(at.astype(int), size - 1)
    high = np.minimum(low + 1, size - 1)
    share = (at - low)[..., None]
    steps = np.arange(size)
    weights: NDArray[np.float64] = (low[..., None] == steps) * (1 - share) + (high[..., None] == steps) * share
    return weights
