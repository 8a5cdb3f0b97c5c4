"""How an image is displayed, told from its header: size, orientation, frame, colours. No other place decides it.

The index measures by it and the decoder obeys it, so that boxes and pixels lie in one frame.
"""

import hashlib
from dataclasses import dataclass
from io import BufferedReader
from typing import Literal, get_args

from PIL import ExifTags, Image

from diffps.errors import ImageError
from diffps.images.colour import Colours, colours
from diffps.images.opening import MAX_PIXELS, heic_plugin, open_image

Note = Literal["turned", "frames", "profile", "profile_broken", "exif_broken", "levels", "levels_dark", "reduced"]
NOTES: tuple[Note, ...] = get_args(Note)
# A larger JPEG is decoded at a half, a quarter or an eighth where that still covers the canvas (libjpeg's scaled
# decoding). The border is where Pillow begins to speak of a decompression bomb: no ordinary photograph lies beyond.
REDUCED_ABOVE = 89_478_485
VERSION = 1  # raised whenever a rule would give an image another size, other notes or other pixels
_SWAPPED = (5, 6, 7, 8)  # orientations that exchange width and height
_TIFF_SUBFILE, _TIFF_WIDTH, _TIFF_HEIGHT = 254, 256, 257
_LATE_CHUNKS = 100_000  # chunks of a PNG that are looked at for an orientation behind the pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Display:
    """What an image file shows.

    ``width`` and ``height`` in pixels as displayed. ``orientation``: 1 to 8 as EXIF counts them, 1 being upright as
    stored. ``colours``: how its values become sRGB. ``notes``: what a report counts. ``rules``: how the pixels differ
    from the plain decoding of the file's bytes, in words that change whenever the outcome would.
    """

    format: str
    width: int
    height: int
    orientation: int
    colours: Colours
    notes: tuple[Note, ...]
    rules: tuple[str, ...]

    @property
    def swapped(self) -> bool:
        """Width and height are exchanged against the file."""
        return self.orientation in _SWAPPED

    @property
    def reduced(self) -> bool:
        """Decoded smaller where the canvas allows it."""
        return "reduced" in self.notes

    def digest(self, sha256: str) -> str:
        """The name of what is displayed: the SHA-256 of the file's bytes, in hex, or where rules apply that of it and
        them: features made under other rules are never taken for these."""
        if not self.rules:
            return sha256
        return hashlib.sha256("\n".join([sha256, *self.rules]).encode()).hexdigest()


def inspect(file: BufferedReader, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, Display]:
    """The opened image in ``file`` and how it is displayed. To be called inside :func:`diffps.images.image_file`.

    Pixels are decoded only where a PNG keeps its orientation behind them. Of several frames the first counts. Raises
    ImageError, and what Pillow raises.
    """
    image = open_image(file, max_pixels)
    notes: list[Note] = []
    rules: list[str] = []
    width, height = image.size
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if tags.get(_TIFF_SUBFILE, 0) & 1:
            raise ImageError("a camera's raw file, whose first page is a preview; export it as JPEG or TIFF")
        width, height = tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]  # image.size is exchanged already
    orientation = _orientation(image, file)
    if orientation is None:
        notes.append("exif_broken")
        orientation = 1
    if orientation > 1:
        notes.append("turned")
    if orientation in _SWAPPED:
        width, height = height, width
    if getattr(image, "is_animated", False):
        notes.append("frames")
    found = colours(image)
    if found.broken:
        notes.append("profile_broken")
    if found.transform is not None:
        notes.append("profile")
        rules.append(f"profile to sRGB, {VERSION}")
    if found.deep:
        notes.append("levels")
    if found.rule:
        rules.append(f"{found.rule}, {VERSION}")
    if image.format in ("JPEG", "MPO") and width * height > REDUCED_ABOVE:
        notes.append("reduced")
        rules.append(f"reduced decoding, {VERSION}")
    if image.format == "HEIF" and (plugin := heic_plugin()):
        rules.append(plugin)  # recipes name Pillow's version, and not this
    return image, Display(
        format=image.format or "",
        width=width,
        height=height,
        orientation=orientation,
        colours=found,
        notes=tuple(notes),
        rules=tuple(rules),
    )


def _orientation(image: Image.Image, file: BufferedReader) -> int | None:
    """1 to 8; 1 where nothing or nonsense is said, None where the EXIF cannot be read."""
    if image.format == "PNG" and "exif" not in image.info and _has_late_orientation(file):
        image.load()  # also reads what lies behind the pixels
    try:
        # Not PngImageFile's own, which decodes the pixels of every PNG without EXIF.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF of any bytes; it says nothing about the pixels
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _has_late_orientation(file: BufferedReader) -> bool:
    """A PNG holds EXIF or XMP behind its pixels. Leaves the file where it was."""
    place = file.tell()
    file.seek(8)
    behind = late = False
    for _ in range(_LATE_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            break
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        behind |= kind == b"IDAT"
        if behind and kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
            start = file.read(min(size, 24))
            late |= kind == b"eXIf" or start.startswith((b"XML:com.adobe.xmp", b"Raw profile type exif"))
            size -= len(start)
        file.seek(size + 4, 1)
    file.seek(place)
    return late
