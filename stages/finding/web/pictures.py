"""Pictures that the page was sent: kept in memory, as they came, the last few of them."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from diffps.errors import ImageError, PixelLimitError
from stages.finding.photos import Photo
from stages.finding.web.service import DrawnBox

MOST_PIXELS = 64_000_000
KEPT = 8
SMALLEST = 4  # pixels a box has on a side, at least


class SentPictures:
    """Under a name that cannot be guessed, each; the oldest make room."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, data: bytes) -> tuple[str, Photo]:
        """Keep a file; its name here and the picture in it. Raises ImageError for what is no picture, and for one
        that is too large, before its pixels are decoded."""
        try:
            picture = Photo.of(data, "The picture", MOST_PIXELS)
        except PixelLimitError as error:
            raise ImageError(f"Too many pixels; at most {MOST_PIXELS / 1e6:.0f} million are taken.") from error
        name = secrets.token_hex(8)
        with self._lock:
            self._files[name] = data
            while len(self._files) > KEPT:
                self._files.popitem(last=False)
        return name, picture

    def get(self, name: str) -> Photo:
        """A picture that was taken. Raises ImageError where it made room for others."""
        data = self._files.get(name) if isinstance(name, str) else None
        if data is None:
            raise ImageError("That picture is no longer here; choose it again.")
        return Photo.of(data, "The picture", MOST_PIXELS)


def drawn_box(photo: Photo, box: Sequence[float]) -> DrawnBox:
    """A box x, y, width, height, cut at the edges of its picture. Raises ImageError where nothing of it is left."""
    x, y, width, height = box
    x1, y1 = max(x, 0.0), max(y, 0.0)
    x2, y2 = min(x + width, photo.size[1]), min(y + height, photo.size[0])
    if not (x2 - x1 >= SMALLEST and y2 - y1 >= SMALLEST):
        raise ImageError("The box lies outside the picture, or is too small.")
    return DrawnBox(photo, np.array([x1, y1, x2, y2], np.float32))
