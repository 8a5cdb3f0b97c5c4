"""Arrays to images. An image is uint8 (h, w, 3), a map float (h, w), a feature float (h, w, c)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil

from diffps.figures.sheets import Image

Floats = NDArray[np.float64]

# Five anchors of "inferno", dark to bright: readable in print and by the colour-blind.
HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32)
ROUNDING = 1e-6  # relative; what varies less in float32 is noise, which must not be stretched into a pattern
CROP_MARGIN = 0.12  # of the box's height, on every side: a person is easier to recognise with a little surrounding


def normalise(values: NDArray[np.floating], low: float = 0.0, high: float = 100.0) -> NDArray[np.float32]:
    """Values of any shape scaled to [0, 1] between two percentiles; all zero where nothing varies beyond rounding."""
    values = np.nan_to_num(np.asarray(values, np.float32), posinf=0, neginf=0)
    bottom, top = np.percentile(values, [low, high])
    if top - bottom <= ROUNDING * max(abs(bottom), abs(top)):
        return np.zeros_like(values)
    return np.asarray(np.clip((values - bottom) / (top - bottom), 0, 1), np.float32)


def heat(values: NDArray[np.floating]) -> Image:
    """Map (h, w) in [0, 1] as colours, dark for 0 and bright for 1."""
    steps = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(values, steps, HEAT[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def resize(image: Image, width: int, height: int, *, smooth: bool = True) -> Image:
    """Image of the given size; ``smooth=False`` keeps the cells of a small map visible."""
    method = Pil.Resampling.BILINEAR if smooth else Pil.Resampling.NEAREST
    return np.asarray(Pil.fromarray(image).resize((max(1, width), max(1, height)), method))


def fit(image: Image, longest: int) -> Image:
    """Image shrunk so that its longer side is at most ``longest`` pixels; never enlarged."""
    height, width = image.shape[:2]
    factor = min(1.0, longest / max(height, width))
    if factor == 1.0:
        return image
    smaller = Pil.fromarray(image).resize(
        (max(1, round(width * factor)), max(1, round(height * factor))), Pil.Resampling.LANCZOS
    )
    return np.asarray(smaller)


def overlay(image: Image, values: NDArray[np.floating], strength: float = 0.65) -> Image:
    """Map (h, w) of any grid, min-max normalised, as heat over the darkened image it belongs to."""
    height, width = image.shape[:2]
    grid = np.asarray(
        Pil.fromarray(normalise(values)).resize((width, height), Pil.Resampling.BICUBIC), np.float32
    ).clip(0, 1)
    weight = strength * np.sqrt(grid)[..., None]
    grey = image.mean(axis=-1, keepdims=True) * 0.6 + image * 0.25
    return np.asarray((grey * (1 - weight) + heat(grid) * weight).round(), np.uint8)


def principal_axes(features: Sequence[NDArray[np.floating]], count: int = 3) -> tuple[Floats, Floats]:
    """Mean (c,) and the ``count`` strongest principal directions (count, c) of all positions of (h, w, c) features.

    Signs are fixed (the largest entry of each direction is positive) so that equal features give equal pictures.
    """
    rows = np.concatenate([np.asarray(each, np.float64).reshape(-1, each.shape[-1]) for each in features])
    mean = rows.mean(axis=0)
    _, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    axes = vectors[:, ::-1][:, :count].T
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    return mean, axes * np.where(largest < 0, -1.0, 1.0)[:, None]


def pca_rgb(features: Sequence[NDArray[np.floating]]) -> list[Image]:
    """Features (h, w, c) as images: their first three principal components, fitted together, as red, green and blue."""
    mean, axes = principal_axes(features)
    scores = [(np.asarray(each, np.float64) - mean) @ axes.T for each in features]
    stacked = np.concatenate([each.reshape(-1, each.shape[-1]) for each in scores])
    bottom, top = np.percentile(stacked, [1, 99], axis=0)
    span = np.where(top > bottom, top - bottom, 1.0)
    images = [(np.clip((each - bottom) / span, 0, 1) * 255).round().astype(np.uint8) for each in scores]
    return [np.pad(each, ((0, 0), (0, 0), (0, 3 - each.shape[-1]))) for each in images]


def high_frequency(feature: NDArray[np.floating]) -> tuple[NDArray[np.float32], float]:
    """Energy (h, w) of a feature (h, w, c) above half the Nyquist frequency, and its share of the whole, in [0, 1].

    The mean of each channel counts as neither.
    """
    centred = np.asarray(feature, np.float64) - np.mean(feature, axis=(0, 1))
    spectrum = np.fft.fft2(centred, axes=(0, 1))
    rows, columns = (np.abs(np.fft.fftfreq(side)) for side in feature.shape[:2])
    fine = np.maximum(rows[:, None], columns[None, :]) > 0.25
    part = np.fft.ifft2(spectrum * fine[..., None], axes=(0, 1)).real
    whole = float(np.square(centred).sum())
    energy = np.square(part).sum(axis=-1)
    return energy.astype(np.float32), float(energy.sum() / whole) if whole > 0 else 0.0


def crop(image: Image, box: Sequence[float] | NDArray[np.floating], longest: int = 192) -> Image:
    """The person in ``box`` (x1, y1, x2, y2 in the image's pixels) with a small margin, cut at the image's border."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in box)
    margin = CROP_MARGIN * (y2 - y1)
    left, top = int(np.clip(x1 - margin, 0, width - 1)), int(np.clip(y1 - margin, 0, height - 1))
    right, bottom = (
        int(np.clip(np.ceil(x2 + margin), left + 1, width)),
        int(np.clip(np.ceil(y2 + margin), top + 1, height)),
    )
    return fit(image[top:bottom, left:right], longest)


def letterbox(image: Image, width: int, height: int) -> Image:
    """Image scaled into a frame of the given size without changing its shape; the rest is mid-grey."""
    factor = min(width / image.shape[1], height / image.shape[0])
    inner = resize(image, round(image.shape[1] * factor), round(image.shape[0] * factor))[:height, :width]
    frame = np.full((height, width, 3), 128, np.uint8)
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    frame[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return frame
