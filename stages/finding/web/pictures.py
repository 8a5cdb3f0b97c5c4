"""Pictures that the page was sent: kept in memory, as they came, the last few of them."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffps.errors import ImageError, PixelLimitError
from diffps.images import load_bytes
from stages.finding.web.service import DrawnBox

MOST_PIXELS = 64_000_000
KEPT = 8
SMALLEST = 4  # pixels a box has on a side, at least


class SentPictures:
    """Under a name that cannot be guessed, each; the oldest make room."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, data: bytes) -> tuple[str, NDArray[np.uint8]]:
        """Keep a file; its name here and its pixels as displayed. Raises ImageError for what is no picture, and for one
        that is too large, before its pixels are decoded."""
        try:
            picture = load_bytes(data, "The picture", max_pixels=MOST_PIXELS)
        except PixelLimitError as error:
            raise ImageError(f"Too many pixels; at most {MOST_PIXELS / 1e6:.0f} million are taken.") from error
        name = secrets.token_hex(8)
        with self._lock:
            self._files[name] = data
            while len(self._files) > KEPT:
                self._files.popitem(last=False)
        return name, picture

    def get(self, name: str) -> NDArray[np.uint8]:
        """The pixels of a picture that was taken. Raises ImageError where it made room for others."""
        data = self._files.get(name) if isinstance(name, str) else None
        if data is None:
            raise ImageError("That picture is no longer here; choose it again.")
        return load_bytes(data, "The picture")


def drawn_box(picture: NDArray[np.uint8], box: Sequence[float]) -> DrawnBox:
    """A box x, y, width, height, cut at the edges of its picture. Raises ImageError where nothing of it is left."""
    x, y, width, height = box
    x1, y1 = max(x, 0.0), max(y, 0.0)
    x2, y2 = min(x + width, picture.shape[1]), min(y + height, picture.shape[0])
    if not (x2 - x1 >= SMALLEST and y2 - y1 >= SMALLEST):
        raise ImageError("The box lies outside the picture, or is too small.")
    return DrawnBox(picture, np.array([x1, y1, x2, y2], np.float32))
