"""Images decoded as they are displayed: whole, or band by band so that a large one need not be copied."""

from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffps.errors import ImageError
from diffps.images.colour import to_rgb, white_of
from diffps.images.display import VERSION, Display, inspect
from diffps.images.opening import MAX_PIXELS, heic_plugin, image_file, sha256_of

T = TypeVar("T")
_BAND = 1 << 20  # pixels that are converted together
# What turns stored pixels upright, by orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Picture:
    """The decoded pixels of a file as displayed: ``height`` rows of ``width`` pixels, which ``rows`` hands out.

    ``dark``: of more than 8 bits, and at most a quarter of them used (:mod:`diffps.images.colour`).
    """

    def __init__(self, image: Image.Image, display: Display, white: float, dark: bool) -> None:
        self.dark = dark
        self._image, self._colours, self._white = image, display.colours, white
        # Pillow turns a TIFF while decoding it.
        self._orientation = 1 if display.format == "TIFF" else display.orientation
        self.width, self.height = reversed(image.size) if self._orientation >= 5 else image.size

    def rows(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Rows ``top`` to ``bottom`` (not included) as (bottom - top, width, 3) uint8 RGB."""
        width, height = self._image.size
        match self._orientation:
            case 1 | 2:
                box = (0, top, width, bottom)
            case 3 | 4:
                box = (0, height - bottom, width, height - top)
            case 5 | 6:
                box = (top, 0, bottom, height)
            case _:
                box = (width - bottom, 0, width - top, height)
        part = self._image if box == (0, 0, width, height) else self._image.crop(box)
        turn = _TURNS.get(self._orientation)
        converted = to_rgb(part, self._colours, self._white)
        return np.asarray(converted if turn is None else converted.transpose(turn))

    def bands(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(first row, rows) of bands that cover the picture from top to bottom."""
        step = max(1, _BAND // self.width)
        for top in range(0, self.height, step):
            yield top, self.rows(top, min(self.height, top + step))

    def pixels(self) -> NDArray[np.uint8]:
        """All of it, (height, width, 3)."""
        whole = np.empty((self.height, self.width, 3), np.uint8)
        for top, band in self.bands():
            whole[top : top + len(band)] = band
        return whole


def read_picture(
    path: Path | str,
    take: Callable[[Picture], T],
    *,
    max_pixels: int,
    digest: str | None = None,
    reduce_to: tuple[int, int] | None = None,
) -> T:
    """What ``take`` makes of the decoded picture in a file. Raises ImageError for what cannot be decoded whole.

    ``digest``: what the index called it; another file in its place is an ImageError. ``reduce_to``: (height, width)
    that is enough of it; where its display says reduced, it may come smaller, but not below that.
    """
    with image_file(path) as file:
        if digest is None:
            image, display = inspect(file, max_pixels)
        else:
            image, display = _inspect_indexed(file, digest, max_pixels)
        return take(decode(image, display, reduce_to))


def decode(image: Image.Image, display: Display, reduce_to: tuple[int, int] | None = None) -> Picture:
    """The decoded picture of an opened image, see :func:`read_picture`. Raises ImageError, and what Pillow raises."""
    drafted = None
    if display.reduced and reduce_to is not None:
        height, width = reversed(reduce_to) if display.swapped else reduce_to
        drafted = image.draft(None, (width, height))
    image.load()
    white, dark = white_of(image, display.colours) if display.colours.deep else (0.0, False)
    picture = Picture(image, display, white, dark)
    if drafted is None and (picture.width, picture.height) != (display.width, display.height):
        raise ImageError(
            f"its header says {display.width} x {display.height} pixels, and it decodes to {picture.width} x "
            f"{picture.height}; save it anew"
        )
    return picture


def load_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The displayed image, (height, width, 3) uint8 sRGB: EXIF orientation applied, transparency over white.

    Of several frames the first. Grey, palette, 16-bit, float, CMYK, Lab and alpha become 8-bit RGB, see
    :mod:`diffps.images.colour`. Raises ImageError for what cannot be decoded whole or has more than ``max_pixels``.
    """
    return read_picture(path, Picture.pixels, max_pixels=max_pixels)


def load_scene(path: Path | str, digest: str, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """As :func:`load_image`, of the file that the index calls ``digest``. Raises ImageError when it is another."""
    return read_picture(path, Picture.pixels, digest=digest, max_pixels=max_pixels)


def check_scene(path: Path | str, digest: str, *, max_pixels: int = MAX_PIXELS) -> None:
    """Raise ImageError where :func:`load_scene` would; costs less memory."""
    read_picture(path, lambda picture: None, digest=digest, max_pixels=max_pixels, reduce_to=(1, 1))


def measured_by() -> str:
    """The software and rules that sizes, notes and digests come from: those that others found are found anew."""
    return ", ".join(filter(None, [decoder(), f"rules {VERSION}", heic_plugin()]))


def decoder() -> str:
    """The library that decodes images and its version: another one may decode a JPEG to other pixels."""
    import PIL

    return f"pillow {PIL.__version__}"


def _inspect_indexed(file: BufferedReader, digest: str, max_pixels: int) -> tuple[Image.Image, Display]:
    """As :func:`inspect`. Raises ImageError for another file than the one that the index calls ``digest``."""
    changed = ImageError("changed since it was indexed; run `diffps index` again")
    sha256 = sha256_of(file)
    try:
        image, display = inspect(file, max_pixels)
    except Exception as error:
        if sha256 == digest:
            raise
        raise changed from error  # why another file cannot be read does not matter
    if display.digest(sha256) != digest:
        raise changed
    return image, display
