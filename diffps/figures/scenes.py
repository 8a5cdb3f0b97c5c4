"""Whole scenes with boxes: who was looked for, everyone the head found, and what it made of them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from diffps.figures.pictures import fit
from diffps.figures.sheets import Image, Kind, Outline, Tile

LONGEST = 480  # pixels of a scene's longer side where it is opened from a crop
GROUND, STROKE = 205, 160  # greys of a placeholder


def scene_tile(
    image: Image,
    boxes: Iterable[tuple[NDArray[np.floating], Kind]],
    caption: str,
    alt: str,
    longest: int = LONGEST,
) -> Tile:
    """The whole of ``image`` with ``boxes`` (x1, y1, x2, y2 in its pixels), the last drawn on top."""
    size = np.array([image.shape[1], image.shape[0]] * 2, np.float64)
    outlines = []
    for box, kind in boxes:
        x1, y1, x2, y2 = np.clip(np.asarray(box, np.float64) / size, 0, 1).tolist()
        outlines.append(Outline(box=(x1, y1, x2, y2), kind=kind))
    return Tile(image=fit(image, longest), caption=caption, alt=alt, outlines=tuple(outlines))


def placeholder(width: int, height: int) -> Image:
    """Stands for a picture of this size that is gone: grey with a cross from corner to corner."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    rows, columns = rows / max(height - 1, 1), columns / max(width - 1, 1)
    crossed = np.minimum(abs(rows - columns), abs(rows + columns - 1)) < 0.008
    return np.repeat(np.where(crossed, STROKE, GROUND).astype(np.uint8)[..., None], 3, axis=-1)
