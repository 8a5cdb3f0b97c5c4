"""The drawing is that of its version: what is drawn again from the same seeds is what ``drawn.json`` recorded.

Where a change is meant, and the drawing has another version: ``json.dumps(drawing(), indent=0)`` is the file's content.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffps.datasets.streets.brush import Box, Brush, Colour, Point
from diffps.datasets.streets.captions import caption
from diffps.datasets.streets.people import draw_person, make_identity
from diffps.datasets.streets.scene import draw_scene
from diffps.datasets.streets.scenery import OBJECTS, background, draw_object, make_camera

RECORDED = json.loads(Path(__file__).with_name("drawn.json").read_text(encoding="utf-8"))


class Strokes(Brush):
    """Paints nothing, and keeps a number for each stroke: every coordinate, colour and label counts."""

    def __init__(self) -> None:
        self.made: list[float] = []

    def polygon(self, points: Sequence[Point], colour: Colour, label: int) -> None:
        self.made.append(along(np.ravel(points), colour, [1, label]))

    def ellipse(self, box: Box, colour: Colour, label: int) -> None:
        self.made.append(along(box, colour, [2, label]))

    def rectangle(self, box: Box, colour: Colour, label: int) -> None:
        self.made.append(along(box, colour, [3, label]))

    def line(self, points: Sequence[Point], colour: Colour, width: float, label: int) -> None:
        self.made.append(along(np.ravel(points), colour, [4, width, label]))


def along(*parts: Any) -> float:
    """All numbers along a direction of its own, to nine digits."""
    values = np.concatenate([np.ravel(np.asarray(part, np.float64)) for part in parts])
    return float(f"{float(values @ np.cos(1.7 * np.arange(len(values)) + 0.3)):.9g}")


def person(number: int) -> list[float]:
    brush = Strokes()
    draw_person(brush, make_identity(1, number), 6, 50.0, 190.0, 120.0 + number, np.random.default_rng(number))
    return brush.made


def thing(kind: str, seed: int) -> list[float]:
    brush = Strokes()
    draw_object(brush, kind, 70.0, 180.0, 90.0 + seed, np.random.default_rng(seed))
    return brush.made


def camera(number: int) -> list[float]:
    """What is fixed of it, then its empty street at two sizes."""
    made = make_camera(2, number)
    fixed = [along(value) for value in astuple(made)]
    return [*fixed, along(background(made, 64)), along(background(made, 150))]


def scene(seed: int) -> list[Any]:
    """The picture and its masks, then each person who is seen."""
    people = [make_identity(seed, number) for number in range(3 * seed)]
    drawn = draw_scene(make_camera(seed, 1 + seed), people, np.random.default_rng(seed), size=80 + 20 * seed)
    pixels = [along(part) for part in (drawn.image, drawn.instances, drawn.parts, drawn.objects)]
    return [*pixels, *([p.who.number, *p.box, along(p.height, p.visible)] for p in drawn.persons)]


def captions() -> list[str]:
    rng = np.random.default_rng(5)
    people = [make_identity(0, number) for number in range(30)]
    things: Iterable[list[str]] = ([], ["car"], ["tree", "bin"])
    return [caption(people[n : n + k], some, rng) for n in range(6) for k in range(4) for some in things]


def drawing() -> dict[str, Any]:
    return {
        **{f"person {number}": person(number) for number in range(36)},
        **{
            f"{kind} {seed}": thing(kind, seed) for kind in OBJECTS for seed in (0, 1, 7, 34)
        },  # of 7 and 34, paint is cut
        **{f"camera {number}": camera(number) for number in range(1, 5)},
        **{f"scene {seed}": scene(seed) for seed in range(5)},
        "captions": captions(),
    }


def test_the_drawing_is_the_recorded_one() -> None:
    drawn = json.loads(json.dumps(drawing()))
    assert drawn.keys() == RECORDED.keys()
    for name, recorded in RECORDED.items():
        if name == "captions":
            assert drawn[name] == recorded
            continue
        assert len(drawn[name]) == len(recorded), name
        for part, (made, expected) in enumerate(zip(drawn[name], recorded, strict=True)):
            assert made == pytest.approx(expected, rel=1e-7, abs=1e-7), f"{name}, {part}"


def test_a_brush_paints_the_colour_into_the_picture_and_the_label_into_the_mask() -> None:
    picture, labels = Image.new("RGB", (40, 40)), Image.new("L", (40, 40))
    brush = Brush(picture, labels)
    brush.polygon([(0, 0), (9, 0), (9, 9), (0, 9)], (1, 2, 3), 4)
    brush.ellipse((20, 0, 29, 9), (5, 6, 7), 8)
    brush.rectangle((0, 20, 9, 29), (9, 10, 11), 12)
    brush.line([(20, 25), (39, 25)], (13, 14, 15), 4.4, 16)
    brush.line([(0, 35), (9, 35)], (17, 18, 19), 0.2, 20)  # the thinnest one
    brush.shadow((20, 30, 29, 39), (21, 22, 23))
    colours, mask = np.asarray(picture), np.asarray(labels)
    for label, count in ((4, 100), (12, 100), (16, 80), (20, 10)):
        assert (mask == label).sum() == count
    assert 70 < (mask == 8).sum() < 90
    for label in (4, 8, 12, 16, 20):
        assert (colours[mask == label] == [label - 3, label - 2, label - 1]).all()
    assert set(map(tuple, colours[mask == 0].tolist())) == {(0, 0, 0), (21, 22, 23)}
