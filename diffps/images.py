"""Where images enter: any file that Pillow reads, as the RGB picture a viewer would show."""

import hashlib
import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from diffps.errors import ImageError
from diffps.geometry import Canvas
from diffps.records import View

if TYPE_CHECKING:
    from torch import Tensor

RESIZE_RULE = "stretch, bilinear, no antialias"
# What turns a picture upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow raises on bytes it cannot make an image of.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


def load_image(path: Path | str) -> NDArray[np.uint8]:
    """The displayed image, (height, width, 3) uint8 RGB: EXIF orientation applied, transparency over white.

    Grey, palette, 16-bit, CMYK and alpha become 8-bit RGB. Raises ImageError for what cannot be decoded whole.
    """
    return decode_image(read_image_file(path), path)


def load_scene(path: Path | str, digest: str) -> NDArray[np.uint8]:
    """As :func:`load_image`, of the file whose SHA-256 is ``digest``. Raises ImageError when it holds other bytes."""
    data = read_image_file(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise ImageError(f"{path}: changed since it was indexed; run `diffps index` again")
    return decode_image(data, path)


def decode_image(data: bytes, path: Path | str) -> NDArray[np.uint8]:
    """As :func:`load_image`, from the bytes of the file; ``path`` is what an error calls it."""
    try:
        with Image.open(io.BytesIO(data)) as file:
            return np.array(_to_rgb(_upright(file)))
    except UNREADABLE as error:
        reason = why_unreadable(data, error)
        raise ImageError(f"{path}: not a readable image ({reason}); replace it or drop it") from error


def decoder() -> str:
    """The library that decodes images and its version: another one may decode a JPEG to other pixels."""
    import PIL

    return f"pillow {PIL.__version__}"


def to_canvas_tensor(image: NDArray[np.uint8], canvas: Canvas, view: View = "identity") -> "Tensor":
    """``image`` (height, width, 3) stretched to the canvas, (3, canvas height, canvas width) float32 in [-1, 1].

    Bilinear without antialias. ``view`` hflip mirrors the canvas left-right after stretching.
    """
    import torch
    from torch.nn import functional as F

    pixels = torch.tensor(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    size = (canvas.height, canvas.width)
    stretched = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=False)[0]
    return stretched.flip(2) if view == "hflip" else stretched


def why_unreadable(data: bytes, error: Exception) -> str:
    """Why Pillow raised one of UNREADABLE on the bytes of a file, in a few words."""
    if not data:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"none of the formats Pillow reads; it begins with {data[:8]!r}"
    return " ".join(f"{type(error).__name__}: {error}".split())


def read_image_file(path: Path | str) -> bytes:
    """The bytes of a file. Raises ImageError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: no readable file ({error.strerror})") from error


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose writes the EXIF anew as well, and fails on odd fields that say nothing about the pixels.
    image.load()  # turns a TIFF by itself, and takes the tag away
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Pillow's own conversion clips at 255; these use more. Modes I and F do not say how much more.
        values = np.asarray(image, np.float64)
        peak = 65535.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 255.0
        return Image.fromarray((values / peak * 255).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        overlay = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", overlay.size, "white"), overlay).convert("RGB")
    return image.convert("RGB")
