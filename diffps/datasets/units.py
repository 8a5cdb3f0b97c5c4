"""What the four numbers of a box mean, as far as the boxes and images of a whole file can tell: pixels or parts of the
image, width and height or a second corner, of this image or of a copy of another size."""

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.findings import Findings
from diffps.errors import DatasetError

SCALED = "have another size than when they were annotated; their boxes were scaled"
TURNED = "are turned by 90 degrees against their annotation, whose boxes were left out"
OTHER_SHAPE = "have another shape than when they were annotated; their boxes were left out"
CORNER_ONLY = "lie in the upper left {} % of their images, as all do: were smaller copies annotated?"
ENOUGH_BOXES = 20  # of people in photographs some reach the lower or the right part
CORNER = 0.6  # of width and height


def require_pixels(rows: NDArray[np.float64], where: str) -> None:
    """Raise DatasetError where most of the boxes (n, 4) lie within 0 to 1: those are parts of the image, and it is not
    to be seen whether x and y are a corner (as here) or the centre (as in YOLO files)."""
    parts = ((rows >= 0) & (rows <= 1)).all(1) & (rows[:, 2:] > 0).all(1)
    if len(rows) and parts.mean() > 0.5:
        raise DatasetError(
            f"{where}: {int(parts.sum())} of {len(rows)} boxes lie within 0 to 1, which are parts of the image; give "
            "pixels of the image as displayed: x and y of the upper left corner, width and height"
        )


def require_widths(rows: NDArray[np.float64], sizes: NDArray[np.int64], where: str, way_out: str) -> None:
    """Raise DatasetError where the boxes (n, 4) x, y, w, h of images of ``sizes`` (n, 2) height, width make sense only
    if w and h are a second corner: all of them lie in their images so, and half of them do not otherwise."""
    known = sizes.any(1)
    boxes, frames = rows[known], sizes[known][:, ::-1]
    if len(boxes) < 3:
        return
    corners = (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= frames + 1).all() and (boxes >= 0).all()
    inside = np.clip(frames - boxes[:, :2], 0, boxes[:, 2:]).prod(1)
    leaving = inside < 0.8 * boxes[:, 2:].prod(1)
    if corners and leaving.mean() > 0.5:
        raise DatasetError(
            f"{where}: {int(leaving.sum())} of {len(boxes)} boxes leave their image as x, y, width, height, and all "
            f"lie in it as x1, y1, x2, y2; {way_out}"
        )


def count_corner_boxes(rows: NDArray[np.float64], sizes: NDArray[np.int64], findings: Findings, example: str) -> None:
    """Doubt all boxes (n, 4) x, y, w, h where none of many reaches beyond the upper left part of its image."""
    known = sizes.any(1)
    if known.sum() < ENOUGH_BOXES:
        return
    reach = ((rows[known, :2] + rows[known, 2:]) / sizes[known][:, ::-1]).max()
    if reach < CORNER:
        findings.add("doubtful", CORNER_ONLY.format(round(100 * reach)), "boxes", example, count=int(known.sum()))


def box_scale(annotated: tuple[int, int] | None, displayed: tuple[int, int]) -> tuple[float, float] | str:
    """(x, y) factors from the image as annotated to it as displayed, both (height, width), or why there are none.

    Sizes agree where one is the other times a factor, rounded to whole pixels; unknown sizes agree with all.
    """
    if annotated is None or not any(displayed) or annotated == displayed:
        return 1.0, 1.0
    (h, w), (height, width) = annotated, displayed
    if abs(width * h - height * w) <= w + h:
        return width / w, height / h
    return TURNED if abs(width * w - height * h) <= w + h else OTHER_SHAPE
