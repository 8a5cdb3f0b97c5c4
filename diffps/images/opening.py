"""What an image is: a regular file that one of the known formats opens, of no more pixels than allowed."""

import hashlib
import io
import logging
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BufferedReader
from pathlib import Path

from PIL import Image, UnidentifiedImageError, features

from diffps.errors import ImageError, PixelLimitError
from diffps.images.contents import HEAD, describe

# Raster formats of photographs. Named one by one because Pillow's list holds programs (EPS runs Ghostscript) and
# formats without a signature, which take any bytes for an image. A JPEG of several pictures (MPO) comes as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "PPM", "AVIF", "HEIF")
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
        *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
        *(".avif", ".avifs", ".heic", ".heif", ".heics", ".heifs", ".hif"),
    )
)
MAX_PIXELS = 178_956_970  # what Pillow takes before it speaks of a decompression bomb
# Above so many pixels a file has at least a byte for every so many: an empty page in grey packs a thousand into one, a
# photograph ten. What packs more is a bomb or has a damaged header, and would cost memory and seconds for nothing.
PACKED_PIXELS, PACKED_RATIO = 1 << 24, 10_000

# Told on stderr without the file's name: odd fields of EXIF and TIFF, on which nothing here depends, and what
# open_image says better.
logging.getLogger("PIL").addHandler(logging.NullHandler())
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(Tiff|Jpeg|Png)ImagePlugin")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextmanager
def image_file(path: Path | str) -> Iterator[BufferedReader]:
    """The file opened for reading; links are followed. Opening never waits, as it would for the other end of a FIFO.

    Raises ImageError for what is missing, may not be read or is no regular file. Whatever goes wrong while the image in
    it is read becomes an ImageError as well, which names the file and what lies there.
    """
    try:
        _require_regular(path, Path(path).stat())
        file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path}: no readable file ({getattr(error, 'strerror', error)})") from error
    with file:
        _require_regular(path, os.fstat(file.fileno()))
        with _explained(path, file):
            yield file


@contextmanager
def image_bytes(data: bytes, name: str) -> Iterator[BufferedReader]:
    """The same of a file's content that never lay on this disk; ``name`` is what errors call it."""
    file: BufferedReader = BufferedReader(io.BytesIO(data))  # type: ignore[assignment]
    with file, _explained(name, file):
        yield file


def kind_of(mode: int) -> str | None:
    """What a file of this ``st_mode`` is instead of a regular one; None for a regular one."""
    kinds = {
        stat.S_IFREG: None,
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFLNK: "a link",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def open_image(file: BufferedReader, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in ``file``, its pixels not yet decoded. To be called inside :func:`image_file`.

    Raises PixelLimitError for one of more than ``max_pixels`` pixels, and what Pillow raises for what is no image.
    """
    _raise_pillows_limit(max_pixels)
    try:
        image = Image.open(file, formats=_formats())
        pixels = image.width * image.height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = int(re.findall(r"\d+", str(error))[0])
    if pixels > max_pixels:
        raise PixelLimitError(
            f"has {pixels:,} pixels, more than the {max_pixels:,} allowed; make it smaller or raise index.max_pixels"
        )
    size = file.seek(0, os.SEEK_END)
    if pixels > max(PACKED_PIXELS, PACKED_RATIO * size):
        raise PixelLimitError(f"claims {pixels:,} pixels in {size:,} bytes: a decompression bomb or a damaged header")
    if not pixels:
        raise ImageError("has no pixels; replace it or drop it")
    return image


def sha256_of(file: BufferedReader) -> str:
    """Of the file's bytes, in hex; the file is at its start again afterwards."""
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return digest


@contextmanager
def _explained(name: Path | str, file: BufferedReader) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise type(error)(f"{name}: {error}") from error
    except Exception as error:  # on hostile bytes Pillow and LittleCMS raise whatever they stumble over
        raise ImageError(f"{name}: not a readable image ({_why(file, error)}); replace it or drop it") from error


def _require_regular(path: Path | str, status: os.stat_result) -> None:
    if (kind := kind_of(status.st_mode)) is not None:
        raise ImageError(f"{path}: no regular file ({kind})")


def _why(file: BufferedReader, error: Exception) -> str:
    """What lies in a file that Pillow does not know, or what it said."""
    if isinstance(error, UnidentifiedImageError):
        file.seek(0)
        return describe(file.read(HEAD), decodes=_optional())
    return " ".join(f"{type(error).__name__}: {error}".split())


@cache
def _formats() -> tuple[str, ...]:
    """FORMATS, without those that need what is not installed."""
    return tuple(name for name in FORMATS if name != "HEIF" or "HEIC" in _optional())


def heic_plugin() -> str | None:
    """The plugin that reads HEIC and its version, None where there is none."""
    if "HEIC" not in _optional():
        return None
    import pillow_heif

    return f"pillow-heif {pillow_heif.__version__}"


@cache
def _optional() -> frozenset[str]:
    """Which of AVIF and HEIC can be read here."""
    found = {"AVIF"} if features.check("avif") else set()
    try:
        import pillow_heif
    except ImportError:
        return frozenset(found)
    pillow_heif.register_heif_opener()
    return frozenset({*found, "HEIC"})


def _raise_pillows_limit(max_pixels: int) -> None:
    # Some formats ask for Pillow's own limit before a size can be compared here. It is never lowered.
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
