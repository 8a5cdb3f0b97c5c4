"""How the values in a file become the 8-bit sRGB a viewer shows: profiles, levels of more than 8 bits, transparency.

A profile is applied by LittleCMS (perceptual intent). One that moves no colour by more than two levels is sRGB under
another name, and the pixels stay as they are. One that cannot be read, or is for other channels than the image has,
does not count: the pixels are taken for sRGB, and reports say so.

White, of single-channel images with more than 8 bits, is 65535, or 2^n - 1 where a TIFF says n < 16 bits. Of 32-bit
integers and floats it is the least of 1 (floats only), 255 and 65535 that no pixel exceeds; above that they are
refused. What lies below 0 is black. Images that use no more than a quarter of the way to white are reported: they may
hold fewer bits than they say.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from diffps.errors import ImageError

ALIKE = 2  # levels of 255 by which two ways to write sRGB may differ
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # channels of an image -> colour space of a fitting profile
_GREY = ("1", "L", "LA", "La")
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
_BAND = 1 << 20  # pixels that are looked at together


@dataclass(frozen=True, kw_only=True, slots=True)
class Colours:
    """How the values of one image become sRGB.

    ``transform``: the profile's, None where the pixels are sRGB; from ``channels``: RGB, L or CMYK. ``broken``: there
    is a profile, and it does not count. ``deep``: one channel of more than 8 bits; white is ``declared``, or 0 where
    the values tell it. ``inverted``: its 0 is white. ``rule``: how that differs from plain 16 bits, else empty.
    """

    transform: ImageCms.ImageCmsTransform | None = None
    channels: str = "RGB"
    broken: bool = False
    deep: bool = False
    declared: float = 0.0
    inverted: bool = False
    rule: str = ""


def colours(image: Image.Image) -> Colours:
    """The way of an opened image to sRGB, from its header."""
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    grey = deep or image.mode in _GREY
    declared, inverted = _declared_white(image) if deep else (0.0, False)
    transform, channels, broken = None, "RGB", False
    if data := image.info.get("icc_profile"):
        try:
            space = _space(data)
            channels = "CMYK" if image.mode == "CMYK" else "L" if grey and space == "GRAY" else "RGB"
            if image.mode != "LAB":  # says itself which colours it means
                transform = _transform(data, channels)
        except Exception:  # LittleCMS, or Pillow on its behalf, raises anything on a profile of any bytes
            broken = True
    plain = not deep or (image.mode.startswith("I;16") and declared == 65535 and not inverted)
    return Colours(
        transform=transform,
        channels=channels,
        broken=broken,
        deep=deep,
        declared=declared,
        inverted=inverted,
        rule="" if plain else f"white {declared:g}{' inverted' * inverted}",
    )


def white_of(image: Image.Image, colours: Colours) -> tuple[float, bool]:
    """(white, whether no pixel exceeds a quarter of it) of a decoded deep image.

    Raises ImageError for values that no rule covers.
    """
    low, high = float("inf"), float("-inf")
    for band in _bands(image):
        if not np.isfinite(band).all():
            raise ImageError("some of its pixels are NaN or infinite; replace it or drop it")
        low, high = min(low, float(band.min())), max(high, float(band.max()))
    whites = [colours.declared] if colours.declared else [1.0] * (image.mode == "F") + [255.0, 65535.0]
    white = next((white for white in whites if high <= white), None)
    if white is None:
        raise ImageError(f"its pixels go up to {high:g}, for which no white is known; save it with 8 or 16 bits")
    return white, bool(low < 0 or 4 * high < white + (white > 1))


def to_rgb(image: Image.Image, colours: Colours, white: float = 0.0) -> Image.Image:
    """A decoded image, or a part of one, as sRGB in mode RGB; transparency over white. ``white``: of a deep one."""
    if colours.deep:
        values = np.asarray(image, np.float64)
        values = white - values if colours.inverted else values
        image = Image.fromarray((values / white * 255).clip(0, 255).round().astype(np.uint8))
    if image.mode == "LAB":
        return _apply(_lab(), image)
    if image.mode == "CMYK" and colours.transform is not None:
        return _apply(colours.transform, image)
    if image.has_transparency_data:
        overlay = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        if colours.transform is not None:
            alpha = overlay.getchannel("A")
            overlay = _managed(overlay.convert("RGB"), colours).convert("RGBA")
            overlay.putalpha(alpha)
        return Image.alpha_composite(Image.new("RGBA", overlay.size, "white"), overlay).convert("RGB")
    return _managed(image, colours)


def _managed(image: Image.Image, colours: Colours) -> Image.Image:
    if colours.transform is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    return _apply(colours.transform, image.convert(colours.channels))


def _apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # only in-place conversions return nothing
    return converted


def _declared_white(image: Image.Image) -> tuple[float, bool]:
    """(white by the header or 0, whether 0 is white) of a deep image."""
    if image.format != "TIFF":
        return 0.0 if image.mode == "F" else 65535.0, False  # PNG, PPM and JPEG 2000 come scaled to 16 bits
    tags = image.tag_v2  # type: ignore[attr-defined]
    inverted = tags.get(_TIFF_PHOTOMETRIC) == 0
    if not image.mode.startswith("I;16"):
        return 0.0, inverted
    bits = tags.get(_TIFF_BITS, (16,))[0]
    return (float(2**bits - 1) if 8 < bits < 16 else 65535.0), inverted


def _bands(image: Image.Image) -> Iterator[NDArray[np.generic]]:
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        yield np.asarray(image.crop((0, top, image.width, min(image.height, top + rows))))


@lru_cache(maxsize=16)
def _space(data: bytes) -> str:
    return str(ImageCms.ImageCmsProfile(io.BytesIO(data)).profile.xcolor_space).strip()


@lru_cache(maxsize=16)
def _transform(data: bytes, channels: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where that is no way at all. Raises ValueError for a profile of other channels."""
    if (space := _space(data)) != _SPACES[channels]:
        raise ValueError(f"a profile of {space} colours for an image of {channels}")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    transform = ImageCms.buildTransform(profile, _srgb(), channels, "RGB")
    if channels == "CMYK":
        return transform
    steps = np.arange(0, 256, 1 if channels == "L" else 15, dtype=np.uint8)
    samples = steps[None] if channels == "L" else np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    there = np.asarray(_apply(transform, Image.fromarray(samples)), np.int64)
    here = np.asarray(Image.fromarray(samples).convert("RGB"), np.int64)
    return None if np.abs(there - here).max() <= ALIKE else transform


@lru_cache(maxsize=1)
def _lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB")


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
