"""Pictures stretched to the canvas, without more memory than the rows and columns that the canvas is made of."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.geometry import Canvas
from diffps.images.opening import MAX_PIXELS
from diffps.images.picture import Picture, read_picture
from diffps.records import View

if TYPE_CHECKING:
    from torch import Tensor

RESIZE_RULE = "stretch, bilinear, no antialias"


class _Read(NamedTuple):
    """The pixels of a picture of ``height`` x ``width`` that a canvas is made of: (rows, columns, 3) uint8."""

    height: int
    width: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    pixels: NDArray[np.uint8]


def canvas_tensor(
    path: Path | str,
    canvas: Canvas,
    view: View = "identity",
    *,
    digest: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> "Tensor":
    """The displayed image in a file on the canvas: :func:`to_canvas_tensor` of ``load_image(path)``, to the bit.

    Only an image whose display says reduced differs: it is decoded at the smallest of 1/8, 1/4, 1/2 that still covers
    the canvas. ``digest``: what the index calls the file. Raises ImageError.
    """
    # The picture is gone before the canvas is made.
    read = read_picture(
        path,
        lambda picture: _read(picture, canvas),
        digest=digest,
        max_pixels=max_pixels,
        reduce_to=(canvas.height, canvas.width),
    )
    return _stretch(read, canvas, view)


def to_canvas_tensor(image: NDArray[np.uint8], canvas: Canvas, view: View = "identity") -> "Tensor":
    """``image`` (height, width, 3) stretched to the canvas, (3, canvas height, canvas width) float32 in [-1, 1].

    Bilinear without antialias. ``view`` hflip mirrors the canvas left-right after stretching.
    """
    height, width, _ = image.shape
    rows, columns = _needed(height, canvas.height), _needed(width, canvas.width)
    return _stretch(_Read(height, width, rows, columns, _at(image, rows, columns)), canvas, view)


def _read(picture: Picture, canvas: Canvas) -> _Read:
    rows, columns = _needed(picture.height, canvas.height), _needed(picture.width, canvas.width)
    pixels = np.empty((len(rows), len(columns), 3), np.uint8)
    for top, band in picture.bands():
        first, last = np.searchsorted(rows, (top, top + len(band)))
        pixels[first:last] = _at(band, rows[first:last] - top, columns)
    return _Read(picture.height, picture.width, rows, columns, pixels)


def _at(pixels: NDArray[np.uint8], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Those rows and columns; a view where they are all of them."""
    height, width, _ = pixels.shape
    taken = pixels if len(rows) == height else pixels[rows]
    return taken if len(columns) == width else taken[:, columns]


def _stretch(read: _Read, canvas: Canvas, view: View) -> "Tensor":
    """The stretch of the whole picture, of which only the pixels that are read are ever written: the rest of its
    memory is never touched, so the system provides none. Channels come last, since PyTorch rounds each layout its own
    way."""
    import torch
    from torch.nn import functional as F

    height, width, rows, columns, pixels = read
    values = pixels.astype(np.float32)
    values /= 127.5
    values -= 1
    whole = torch.from_numpy(values)
    if len(rows) < height or len(columns) < width:
        whole = torch.empty(height, width, 3)  # not NumPy's, which asks for huge pages: those are provided in one go
        whole[torch.from_numpy(rows)[:, None], torch.from_numpy(columns)] = torch.from_numpy(values)
    size = (canvas.height, canvas.width)
    stretched = F.interpolate(whole.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False, antialias=False)
    stretched = stretched[0]
    return stretched.flip(2) if view == "hflip" else stretched


def _needed(source: int, target: int) -> NDArray[np.int64]:
    """Which of ``source`` pixels in a line the bilinear stretch to ``target`` reads, sorted; all if more than half.

    They lie left and right of (i + 1/2) source / target - 1/2, which PyTorch computes in single precision.
    """
    centres = (np.arange(target) + 0.5) * (source / target) - 0.5
    slack = 1e-3 + 1e-6 * source
    left = np.floor([centres - slack, centres + slack])
    read = np.unique(np.stack([left, left + 1]).clip(0, source - 1)).astype(np.int64)
    return read if 2 * len(read) <= source else np.arange(source)
