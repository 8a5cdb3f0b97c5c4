"""Boxes of one image beside the image: which are kept, which are cut, and why the others are not."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.files import clip_boxes, corner_boxes
from diffps.datasets.findings import Findings, Kind

NOT_FINITE = "are not made of finite numbers"
NO_AREA = "have no width or no height"
TINY = "are narrower or lower than one pixel"
OUTSIDE = "lie outside their image"
HALF_OUTSIDE = "lie more than half outside their image and were cut at its edge"
CUT = "were cut at the edge of their image"


class KeptBoxes(NamedTuple):
    """``boxes`` (m, 4) float32 x1, y1, x2, y2 in the frame; ``kept`` (n,): which of the rows they are; how many were
    ``clipped``."""

    boxes: NDArray[np.float32]
    kept: NDArray[np.bool_]
    clipped: int


def keep_boxes(
    rows: NDArray[Any], size: tuple[int, int], min_box: tuple[int, int], findings: Findings, at: Callable[[int], str]
) -> KeptBoxes:
    """The rows (n, 4) x, y, w, h that are at least ``min_box`` = (width, height) large and lie in the frame of ``size``
    = (height, width), cut at its edge; (0, 0) is an unknown size. ``findings`` count the others by reason, ``at`` names
    a row.

    Width and height are added before cutting: cut first, a box that begins left of the frame would move.
    """
    sizes = np.asarray(rows, np.float64).reshape(-1, 4)[:, 2:]
    corners = corner_boxes(rows)
    cut = clip_boxes(corners, size)
    finite = np.isfinite(corners).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):  # of rows that are not finite, which are refused
        area = np.maximum(cut[:, 2:] - cut[:, :2], 0).prod(1, dtype=np.float64)
        whole = np.maximum(sizes, 0).prod(1)
    small = (sizes < min_box).any(1) & finite & any(min_box)
    empty = ~small & ~(whole > 0) & finite
    tiny = ~small & ~empty & (sizes < 1).any(1) & finite
    outside = ~small & ~empty & ~tiny & ~(area > 0) & finite
    kept = finite & ~small & ~empty & ~tiny & ~outside
    changed = kept & (cut != corners).any(1)
    half = changed & (area < whole / 2)
    findings.seen("boxes", len(corners))
    reasons: list[tuple[Any, Kind, str]] = [
        (~finite, "refused", NOT_FINITE),
        (small, "fine", f"are below {min_box[0]} x {min_box[1]} pixels and were left out"),
        (empty, "refused", NO_AREA),
        (tiny, "refused", TINY),
        (outside, "refused", OUTSIDE),
        (half, "doubtful", HALF_OUTSIDE),
        (changed & ~half, "repaired", CUT),
    ]
    for which, kind, reason in reasons:
        if which.any():
            findings.add(kind, reason, "boxes", at(int(which.argmax())), count=int(which.sum()))
    return KeptBoxes(cut[kept], kept, int(changed.sum()))
