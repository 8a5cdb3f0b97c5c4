"""What a position of a tap's grid stands for, whose it is, and with which weights boxes are pooled from it.

Boxes are (x1, y1, x2, y2) in canvas pixels; position (row, column) of an (h, w) grid covers canvas / (h, w) pixels.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from diffps.geometry import Canvas
from diffps.probe.config import ROI_COLUMNS, ROI_ROWS
from diffps.probe.pooling import Weights
from diffps.probe.windows import around

# The middle of a window, above and below, both sides; from products of its rows (middle, outer) and columns (likewise).
PARTS = np.array([[1, 0, 0, 0], [0, 0, 1 / 3, 2 / 3], [0, 1 / 3, 0, 2 / 3]])


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

    def strips(self, boxes: NDArray[np.floating], count: int) -> Weights:
        """RoIAlign of ``boxes`` (n, 4) with 24 x 12 points, averaged over each of ``count`` horizontal strips.

        Equal to torchvision's ``roi_align(..., (24, 12), sampling_ratio=1, aligned=True)`` averaged likewise: bilinear
        weights are products of a row's and a column's.
        """
        y, x = self._points(boxes)
        rows = y.reshape(len(y), count, ROI_ROWS // count, self.height).mean(2)
        return Weights(rows, x.mean(1)[:, None], np.eye(count))

    def parts(self, windows: NDArray[np.floating]) -> Weights:
        """RoIAlign of ``windows`` (n, 4) half as wide and high again, in thirds down and across: the middle, what is
        above and below, and what is on both sides, which a mirrored picture would exchange. Positions beyond the canvas
        are those at its edge."""
        y, x = self._points(around(windows))
        down, across = (each.reshape(len(each), 3, -1, each.shape[-1]).mean(2) for each in (y, x))
        rows, columns = (np.stack([each[:, 1], each[:, ::2].mean(1)], axis=1) for each in (down, across))
        return Weights(rows, columns, PARTS)

    def _points(self, boxes: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n, 24, h) and (n, 12, w) weights of the points of RoIAlign."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        return (
            _point_weights(boxes[:, 1] / self.cell[1], boxes[:, 3] / self.cell[1], ROI_ROWS, self.height),
            _point_weights(boxes[:, 0] / self.cell[0], boxes[:, 2] / self.cell[0], ROI_COLUMNS, self.width),
        )


@cache
def _centres(grid: Grid) -> NDArray[np.float64]:
    x = (np.arange(grid.width) + 0.5) * grid.cell[0]
    y = (np.arange(grid.height) + 0.5) * grid.cell[1]
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


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
