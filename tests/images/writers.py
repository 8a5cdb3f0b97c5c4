"""Image files of every kind, written by hand where Pillow cannot."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ORIENTATION = 0x0112
# Suffix -> modes that the format holds.
MODES = {
    ".jpg": ("L", "RGB", "CMYK"),
    ".png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    ".tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    ".webp": ("RGB", "RGBA"),
    ".avif": ("RGB", "RGBA"),
    ".heic": ("RGB", "RGBA"),
    ".gif": ("1", "L", "P"),
    ".bmp": ("1", "L", "P", "RGB"),
    ".jp2": ("L", "LA", "RGB", "RGBA", "I;16"),
    ".ppm": ("L", "RGB", "I"),
    ".mpo": ("RGB",),
}
ORIENTED = (".jpg", ".png", ".tif", ".webp", ".avif", ".heic", ".mpo")  # formats whose files can say it
ANIMATED = (".gif", ".tif", ".webp", ".png", ".mpo")  # Pillow's encoder of animated AVIF crashes
EXACT = (".png", ".tif", ".bmp", ".gif", ".ppm")  # written without loss in the modes above


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels (height, width, 3), no two rows or columns alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def in_mode(pixels: NDArray[np.uint8], mode: str) -> Image.Image:
    """The pixels in one of Pillow's modes; levels of more than 8 bits use their range."""
    grey = pixels[..., 0]
    match mode:
        case "I;16":
            return Image.fromarray(grey.astype(np.uint16) * 257)
        case "I":
            return Image.fromarray(grey.astype(np.int32) * 257)
        case "F":
            return Image.fromarray(grey.astype(np.float32) / 255)
        case "LAB":
            return Image.frombytes("LAB", grey.shape[::-1], pixels.tobytes())
        case _:
            image = Image.fromarray(pixels).convert(mode)
            if mode in ("LA", "RGBA"):
                image.putalpha(Image.fromarray(pixels[::-1, :, 1]))
            return image


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


def upright(pixels: NDArray[Any], value: int) -> NDArray[Any]:
    """What a viewer shows of stored pixels, by the EXIF standard's table of the corner that row 0 and column 0 are."""
    turned = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: pixels.swapaxes(0, 1)[:, ::-1],
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: pixels.swapaxes(0, 1)[::-1],
    }
    return turned.get(value, pixels)


def png_with_late_orientation(path: Path, image: Image.Image, value: int) -> Path:
    """A PNG whose eXIf chunk lies behind the pixels, where the format allows it."""
    early, plain = io.BytesIO(), io.BytesIO()
    image.save(early, "PNG", exif=orientation(value))
    image.save(plain, "PNG")
    data, whole = early.getvalue(), plain.getvalue()
    at = data.index(b"eXIf") - 4
    chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
    end = whole.index(b"IEND") - 4
    path.write_bytes(whole[:end] + chunk + whole[end:])
    return path


def tiff(path: Path, data: bytes, size: tuple[int, int], tags: dict[int, int]) -> Path:
    """An uncompressed TIFF of one strip and one sample per pixel; ``tags`` are SHORTs. ``size`` = (height, width)."""
    height, width = size
    fields = {256: width, 257: height, 259: 1, 262: 1, 277: 1, 278: height, 279: len(data)} | tags
    fields[273] = 8 + 2 + 12 * (len(fields) + 1) + 4
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(fields)) + rows + bytes(4) + data)
    return path


def twelve_bits(values: NDArray[np.uint16]) -> bytes:
    """Rows of an even number of values below 4096, two in three bytes, as a TIFF of 12 bits holds them."""
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1)
    return packed.astype(np.uint8).tobytes()


WHITE = (0.9642, 1.0, 0.8249)  # D50
P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))


def rgb_profile(primaries: Sequence[Sequence[float]], gamma: float | None = None) -> bytes:
    """An ICC profile of a display with these primaries (XYZ, D50); ``gamma`` None is sRGB's own curve."""
    curves = {name: _curve(gamma) for name in (b"rTRC", b"gTRC", b"bTRC")}
    columns = {name: _xyz(xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    return _profile(b"RGB ", b"XYZ ", b"mntr", {b"wtpt": _xyz(WHITE), **columns, **curves})


def grey_profile(gamma: float | None) -> bytes:
    return _profile(b"GRAY", b"XYZ ", b"mntr", {b"wtpt": _xyz(WHITE), b"kTRC": _curve(gamma)})


def cmyk_profile(paper: Sequence[int], full_cyan: Sequence[int]) -> bytes:
    """An ICC profile in which no ink is Lab ``paper``, cyan alone ``full_cyan``, and any other full ink black."""
    corners = [
        (0, 128, 128) if any(inks[1:]) else tuple(full_cyan if inks[0] else paper) for inks in np.ndindex(2, 2, 2, 2)
    ]
    head = struct.pack(">4sIBBBB", b"mft1", 0, 4, 3, 2, 0) + struct.pack(
        ">9i", *(65536 * (i % 4 == 0) for i in range(9))
    )
    ramp = bytes(range(256))
    table = head + ramp * 4 + bytes(value for corner in corners for value in corner) + ramp * 3
    return _profile(b"CMYK", b"Lab ", b"prtr", {b"wtpt": _xyz(WHITE), b"A2B0": table})


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return struct.pack(">4sIIH", b"curv", 0, 1, round(gamma * 256))
    x = np.linspace(0, 1, 1024)
    y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return struct.pack(">4sII", b"curv", 0, len(y)) + (y * 65535).round().astype(">u2").tobytes()


def _profile(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"test\0"
    tags = {b"desc": struct.pack(">4sII", b"desc", 0, len(text)) + text + bytes(78), **tags}
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02400000, kind, space, connection)
    head += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + table + body
