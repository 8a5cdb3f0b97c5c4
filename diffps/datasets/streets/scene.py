"""One street scene: a picture, and beside it what is where. The person-search path reads only the picture and boxes."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffps.datasets.streets.brush import Brush
from diffps.datasets.streets.people import Identity, draw_person
from diffps.datasets.streets.scenery import OBJECTS, Camera, background, draw_object

MAX_PERSONS = 40  # labels of persons and their parts share one byte with the objects
_FIRST = len(OBJECTS) + 1
_PARTS = 5
_OVERSAMPLING = 2  # painted at twice the size, then averaged: edges without stairs
_MIN_VISIBLE = 0.15
_MIN_PIXELS = 48


@dataclass(frozen=True, slots=True)
class DrawnPerson:
    """A person one can see. ``box`` x1, y1, x2, y2 in pixels bounds the visible part; ``height`` is of the whole body;
    ``visible`` is the share of the body's pixels not hidden by others or by the frame's edge."""

    who: Identity
    box: tuple[int, int, int, int]
    height: float
    visible: float


@dataclass(frozen=True, slots=True)
class DrawnScene:
    """``image`` (S, S, 3) uint8; ``persons`` the visible ones.

    On the side, for training a backbone only: ``instances`` (S, S) uint8, 0 or i + 1 where ``persons[i]`` is seen;
    ``parts`` (S, S) uint8, 0 or a 1-based index into PARTS; ``objects`` (S, S) uint8, the same into OBJECTS.
    """

    camera: Camera
    image: NDArray[np.uint8]
    persons: tuple[DrawnPerson, ...]
    instances: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    objects: NDArray[np.uint8]

    def jpeg(self) -> bytes:
        """The image as the camera's JPEG file."""
        buffer = io.BytesIO()
        Image.fromarray(self.image).save(buffer, "JPEG", quality=self.camera.quality)
        return buffer.getvalue()


def draw_scene(camera: Camera, people: Sequence[Identity], rng: np.random.Generator, *, size: int = 256) -> DrawnScene:
    """Place ``people`` and up to five objects before ``camera`` and take the picture.

    A person of whom less than 15 % (or 48 pixels) is seen is not among ``persons`` and in no mask.
    """
    if len(people) > MAX_PERSONS:
        raise ValueError(f"a scene holds at most {MAX_PERSONS} persons, got {len(people)}")
    side = size * _OVERSAMPLING
    picture = background(camera, side).copy()
    labels = Image.new("L", (side, side))
    brush = Brush(picture, labels)

    standing = _place(camera, people, rng, side)
    for _ in range(int(rng.integers(0, 6))):
        kind = OBJECTS[int(rng.integers(len(OBJECTS)))]
        x, y, h = _spot(camera, rng, side)
        standing.append((y, x, h, kind))
    shadow = (int(camera.road[0] * 0.72), int(camera.road[1] * 0.72), int(camera.road[2] * 0.72))
    shapes: dict[int, tuple[float, int]] = {}
    for y, x, h, what in sorted(standing, key=lambda entry: entry[0]):  # the nearest last
        brush.shadow((x - h * 0.16, y - h * 0.025, x + h * 0.16, y + h * 0.02), shadow)
        if isinstance(what, str):
            draw_object(brush, what, x, y, h, rng)
        else:
            draw_person(brush, people[what], _FIRST + what * _PARTS, x, y, h, rng)
            shapes[what] = (h / _OVERSAMPLING, round(0.17 * (h / _OVERSAMPLING) ** 2 * people[what].girth))

    image = _photograph(camera, picture.reduce(_OVERSAMPLING), rng)
    mask = np.asarray(labels)[::_OVERSAMPLING, ::_OVERSAMPLING]
    who = np.where(mask >= _FIRST, (mask.astype(np.int64) - _FIRST) // _PARTS, -1)
    instances = np.zeros(mask.shape, np.uint8)
    persons: list[DrawnPerson] = []
    for index, (height, full) in sorted(shapes.items()):
        seen = who == index
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        pixels = int(seen.sum())
        if pixels < max(_MIN_PIXELS, _MIN_VISIBLE * full):
            continue
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        persons.append(DrawnPerson(people[index], box, height, min(1.0, pixels / full)))
        instances[seen] = len(persons)
    parts = np.where(instances > 0, (mask - np.uint8(_FIRST)) % _PARTS, 0).astype(np.uint8)
    objects = np.where(mask < _FIRST, mask, 0).astype(np.uint8)
    return DrawnScene(camera, image, tuple(persons), instances, parts, objects)


def _spot(camera: Camera, rng: np.random.Generator, side: int) -> tuple[float, float, float]:
    """x, y of the feet and the height of an average person there."""
    low = 0.17 * side
    high = min(0.62 * side, camera.scale * (1.0 - camera.horizon) * side)
    h = low + (high - low) * float(rng.random()) ** 1.2
    return float(rng.uniform(0.03, 0.97)) * side, camera.horizon * side + h / camera.scale, h


def _place(
    camera: Camera, people: Sequence[Identity], rng: np.random.Generator, side: int
) -> list[tuple[float, float, float, int | str]]:
    standing: list[tuple[float, float, float, int | str]] = []
    for index, who in enumerate(people):
        for _ in range(12):  # mostly apart, sometimes one before the other
            x, y, h = _spot(camera, rng, side)
            apart = all(abs(x - x2) > 0.28 * max(h, h2) for _, x2, h2, _ in standing)
            if apart or rng.random() < 0.05:
                break
        standing.append((y, x, h * who.height, index))
    return standing


def _photograph(camera: Camera, picture: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    levels = np.arange(256, dtype=np.float64) / 255.0
    light = float(rng.uniform(0.92, 1.08))
    curves = [light * gain * levels**camera.gamma + camera.offset for gain in camera.gain]
    table = np.clip(np.concatenate(curves) * 255.0, 0, 255).astype(np.uint8)
    exposed = np.asarray(picture.point(table.tolist()), dtype=np.int16)
    noise = np.rint(rng.standard_normal(exposed.shape[:2], dtype=np.float32) * 2.5).astype(np.int16)
    photograph: NDArray[np.uint8] = np.clip(exposed + noise[..., None], 0, 255).astype(np.uint8)
    return photograph
