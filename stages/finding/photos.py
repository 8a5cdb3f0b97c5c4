"""Photographs as a search meets them: what they are called, what they show, and whether they are photographs at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffps.errors import ConfigError, ImageError
from diffps.images import MAX_PIXELS, decode, image_bytes, image_file, inspect, sha256_of

MARKER = "streets.json"  # in a folder of scenes that this project drew


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture as displayed: ``pixels`` (height, width, 3) uint8; ``digest`` names its content, in hex; ``name`` is
    what people are told."""

    name: str
    pixels: NDArray[np.uint8]
    digest: str

    @classmethod
    def open(cls, path: Path, max_pixels: int = MAX_PIXELS) -> "Photo":
        """The picture in a file. Raises ImageError."""
        with image_file(path) as file:
            sha256 = sha256_of(file)
            image, display = inspect(file, max_pixels)
            return cls(str(path), decode(image, display).pixels(), display.digest(sha256))

    @classmethod
    def of(cls, data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> "Photo":
        """The picture in a file's content. Raises ImageError."""
        with image_bytes(data, name) as file:
            sha256 = sha256_of(file)
            image, display = inspect(file, max_pixels)
            return cls(name, decode(image, display).pixels(), display.digest(sha256))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.pixels.shape[:2]
        return height, width

    def box(self, wanted: Sequence[float]) -> NDArray[np.float32]:
        """A box x, y, width, height of this picture as x1, y1, x2, y2. Raises ConfigError for one that is none, or lies
        outside."""
        height, width = self.size
        if len(wanted) != 4 or not np.isfinite(wanted).all() or min(wanted[2:]) <= 0:
            given = ",".join(f"{value:g}" for value in wanted)
            raise ConfigError(f"box {given}: expected x,y,width,height in pixels, such as 120,80,60,190")
        x, y, w, h = map(float, wanted)
        # A pixel beyond the edge is how a rounded box ends; one that has no more than that is none.
        box = np.clip([x, y, x + w, y + h], 0, [width, height] * 2).astype(np.float32)
        if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1 or not (box[2:] > box[:2]).all():
            raise ConfigError(
                f"box {x:g},{y:g},{w:g},{h:g}: lies outside {self.name}, which is {width} x {height} pixels as "
                "displayed"
            )
        return box


def content_of(path: Path, max_pixels: int) -> tuple[str, tuple[int, int]]:
    """Digest and (height, width) of a picture as displayed, without decoding it. Raises ImageError."""
    with image_file(path) as file:
        sha256 = sha256_of(file)
        _, display = inspect(file, max_pixels)
        return display.digest(sha256), (display.height, display.width)


def is_drawn(path: Path) -> bool:
    """The file or folder lies in a folder of drawn streets."""
    whole = path.absolute()
    return any((folder / MARKER).is_file() for folder in (whole, *whole.parents))


def require_drawn(path: Path) -> None:
    """Raises ImageError where a head of the demo would be shown a photograph."""
    if not is_drawn(path):
        raise ImageError(
            f"{path}: this head was trained on drawn scenes, and its answers on photographs mean nothing; train one on "
            "photographs (docs/search.md says what that costs), or add --anyway to see them all the same"
        )
