"""Cameras (background, light, perspective) and the things in a street that are no persons."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from diffps.datasets.streets.brush import Brush, Colour

OBJECTS = ("car", "pole", "sign", "tree", "bin")  # an object's label in the mask is its place here, from 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """A fixed camera. Lengths are fractions of the frame's side; ``gain`` is per channel on values of 0..1."""

    seed: int
    number: int
    horizon: float
    scale: float  # height of an average person per unit below the horizon
    gain: tuple[float, float, float]
    gamma: float
    offset: float
    quality: int  # of the JPEG file
    sky: Colour
    ground: Colour
    road: Colour
    kerb: float
    slant: float


def _tint(rng: np.random.Generator, low: int, high: int, spread: int) -> Colour:
    values = np.clip(rng.integers(low, high) + rng.integers(-spread, spread + 1, size=3), 0, 255)
    return int(values[0]), int(values[1]), int(values[2])


def make_camera(seed: int, number: int) -> Camera:
    """The ``number``-th camera of the world ``seed``."""
    rng = np.random.default_rng([seed, 23, number])
    cast = rng.uniform(0.7, 1.1) * rng.uniform(0.82, 1.15, size=3)
    return Camera(
        seed=seed,
        number=number,
        horizon=float(rng.uniform(0.22, 0.4)),
        scale=float(rng.uniform(0.8, 1.05)),
        gain=(float(cast[0]), float(cast[1]), float(cast[2])),
        gamma=float(rng.uniform(0.75, 1.35)),
        offset=float(rng.uniform(-0.02, 0.06)),
        quality=int(rng.integers(70, 93)),
        sky=_tint(rng, 160, 230, 20),
        ground=_tint(rng, 130, 205, 18),
        road=_tint(rng, 75, 150, 10),
        kerb=float(rng.uniform(0.3, 0.65)),
        slant=float(rng.uniform(-0.12, 0.12)),
    )


@lru_cache(maxsize=32)
def background(camera: Camera, size: int) -> Image.Image:
    """The empty street before ``camera``, RGB ``size`` x ``size``. Shared: copy before painting."""
    rng = np.random.default_rng([camera.seed, 29, camera.number])
    picture = Image.new("RGB", (size, size), camera.sky)
    draw = ImageDraw.Draw(picture)
    horizon = camera.horizon * size
    x = -float(rng.uniform(0, 0.1)) * size
    while x < size:
        width, roof = float(rng.uniform(0.1, 0.3)) * size, float(rng.uniform(0, 0.75)) * horizon
        wall = _tint(rng, 80, 200, 30)
        draw.rectangle((x, roof, x + width, horizon), fill=wall)
        pane = tuple(int(c * float(rng.uniform(0.5, 0.7))) for c in wall)
        step = float(rng.uniform(0.035, 0.055)) * size
        for row in np.arange(roof + step / 2, horizon - step * 0.6, step):
            for column in np.arange(x + step / 3, x + width - step * 0.6, step):
                draw.rectangle((column, row, column + step * 0.5, row + step * 0.55), fill=pane)
        x += width + float(rng.uniform(0, 0.05)) * size
    draw.rectangle((0, horizon, size, size), fill=camera.ground)
    kerb, slant = horizon + (size - horizon) * camera.kerb, camera.slant * size
    vanishing = float(rng.uniform(0.2, 0.8)) * size
    joint = tuple(int(c * 0.9) for c in camera.ground)
    for ray in range(-8, 9):
        draw.line(
            [(vanishing + ray * 0.03 * size, horizon), (vanishing + ray * 0.32 * size, size)], fill=joint, width=2
        )
    draw.polygon([(0, kerb + slant), (size, kerb - slant), (size, size), (0, size)], fill=camera.road)
    for mark in range(-1, 6):
        left = (mark + float(rng.uniform(0, 0.3))) * 0.22 * size
        middle = kerb + slant * (1 - 2 * left / size) + 0.12 * size
        draw.rectangle((left, middle, left + 0.11 * size, middle + 0.015 * size), fill=(222, 222, 214))
    return picture


def draw_object(brush: Brush, kind: str, x: float, y: float, h: float, rng: np.random.Generator) -> None:
    """Paint a ``kind`` of OBJECTS standing at (x, y) where an average person would be ``h`` pixels tall."""
    label = OBJECTS.index(kind) + 1
    if kind == "car":
        paint = _tint(rng, 40, 220, 60)
        length, height = h * float(rng.uniform(1.3, 1.7)), h * float(rng.uniform(0.6, 0.75))
        base, belt, roof = y - height * 0.16, y - height * 0.6, y - height
        cabin = [(-0.34, belt), (-0.2, roof), (0.2, roof), (0.38, belt)]
        brush.polygon(
            [(x + length * a, b) for a, b in cabin],
            (int(paint[0] * 0.8), int(paint[1] * 0.8), int(paint[2] * 0.8)),
            label,
        )
        glass = [(-0.28, belt), (-0.17, roof + height * 0.06), (0.17, roof + height * 0.06), (0.31, belt)]
        brush.polygon([(x + length * a, b) for a, b in glass], (62, 76, 92), label)
        brush.rectangle((x - length / 2, belt, x + length / 2, base), paint, label)
        wheel = height * 0.2
        for at in (-0.3, 0.3):
            brush.ellipse((x + length * at - wheel, y - 2 * wheel, x + length * at + wheel, y), (26, 26, 28), label)
    elif kind == "pole":
        metal = _tint(rng, 70, 120, 6)
        brush.rectangle((x - h * 0.03, y - h * 2.0, x + h * 0.03, y), metal, label)
        brush.rectangle((x - h * 0.16, y - h * 2.04, x + h * 0.16, y - h * 1.95), metal, label)
    elif kind == "sign":
        brush.rectangle((x - h * 0.022, y - h * 1.1, x + h * 0.022, y), (126, 126, 126), label)
        r = h * 0.17
        brush.ellipse((x - r, y - h * 1.3, x + r, y - h * 1.3 + 2 * r), _tint(rng, 60, 220, 80), label)
        brush.rectangle((x - r * 0.6, y - h * 1.17, x + r * 0.6, y - h * 1.1), (240, 240, 238), label)
    elif kind == "tree":
        brush.rectangle((x - h * 0.055, y - h * 1.0, x + h * 0.055, y), (88, 64, 44), label)
        leaf = (int(rng.integers(34, 84)), int(rng.integers(92, 142)), int(rng.integers(34, 72)))
        for _ in range(5):
            cx, cy = x + float(rng.uniform(-0.26, 0.26)) * h, y - float(rng.uniform(1.0, 1.5)) * h
            r = float(rng.uniform(0.2, 0.34)) * h
            brush.ellipse((cx - r, cy - r, cx + r, cy + r), leaf, label)
    else:
        paint = _tint(rng, 40, 170, 60)
        w, height = h * 0.16, h * float(rng.uniform(0.4, 0.55))
        brush.polygon([(x - w, y - height), (x + w, y - height), (x + w * 0.8, y), (x - w * 0.8, y)], paint, label)
        lid = (int(paint[0] * 0.7), int(paint[1] * 0.7), int(paint[2] * 0.7))
        brush.rectangle((x - w * 1.15, y - height * 1.15, x + w * 1.15, y - height), lid, label)
