"""A drawn person: an identity is clothing and build, the same in front of every camera."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffps.datasets.streets.brush import Brush, Colour

COLOURS: dict[str, Colour] = {
    "red": (196, 44, 42),
    "orange": (232, 128, 40),
    "yellow": (226, 202, 62),
    "green": (50, 140, 66),
    "blue": (48, 78, 188),
    "purple": (124, 60, 152),
    "pink": (236, 146, 178),
    "brown": (112, 74, 44),
    "white": (234, 234, 230),
    "gray": (128, 128, 130),
    "black": (30, 30, 34),
}
HAIR: dict[str, Colour] = {
    "black": (34, 28, 28),
    "brown": (98, 64, 38),
    "yellow": (214, 182, 96),
    "gray": (154, 152, 150),
}
SKIN: tuple[Colour, ...] = ((240, 206, 178), (214, 170, 132), (164, 116, 82), (106, 72, 52))
PARTS = ("head", "shirts", "pants", "shoes")  # part numbers are 1-based; 0 is skin, bag and everything else

Pattern = Literal["plain", "striped", "block"]
PATTERNS: tuple[Pattern, ...] = ("plain", "striped", "block")
Facing = Literal["front", "left", "right", "back"]
FACINGS: tuple[Facing, ...] = ("front", "left", "right", "back")


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What is kept of a person from camera to camera. Colours are names of COLOURS and HAIR."""

    number: int
    hair: str
    long_hair: bool
    hat: str | None
    skin: Colour
    shirt: str
    pattern: Pattern
    second: str  # colour of the stripes or of the lower half
    long_sleeves: bool
    pants: str
    short_pants: bool
    shoes: str
    bag: str | None
    height: float  # of an average person's
    girth: float


def make_identity(seed: int, number: int) -> Identity:
    """The ``number``-th person of the world ``seed``; numbers are drawn independently of each other."""
    rng = np.random.default_rng([seed, 17, number])
    names = list(COLOURS)
    shirt, second, pants, shoes, hat, bag = (names[i] for i in rng.integers(len(names), size=6))
    if second == shirt:
        second = names[(names.index(shirt) + 5) % len(names)]
    return Identity(
        number=number,
        hair=list(HAIR)[int(rng.integers(len(HAIR)))],
        long_hair=bool(rng.random() < 0.4),
        hat=hat if rng.random() < 0.2 else None,
        skin=SKIN[int(rng.integers(len(SKIN)))],
        shirt=shirt,
        pattern=PATTERNS[int(rng.integers(len(PATTERNS)))],
        second=second,
        long_sleeves=bool(rng.random() < 0.5),
        pants=pants,
        short_pants=bool(rng.random() < 0.25),
        shoes=shoes,
        bag=bag if rng.random() < 0.35 else None,
        height=float(rng.uniform(0.88, 1.08)),
        girth=float(rng.uniform(0.8, 1.3)),
    )


def draw_person(
    brush: Brush, who: Identity, label: int, x: float, y: float, h: float, rng: np.random.Generator
) -> None:
    """Paint ``who`` standing at (x, y), ``h`` pixels tall; part p gets the label ``label + p``.

    Pose, facing and small colour changes come from ``rng``: they differ from scene to scene.
    """
    facing = FACINGS[int(rng.integers(4))]
    side = {"left": -1, "right": 1}.get(facing, 0)
    stride = float(rng.uniform(0.01, 0.055)) * h * float(rng.choice((-1, 1)))
    swing = float(rng.uniform(-0.06, 0.09)) * h

    def shade(colour: Colour, factor: float = 1.0) -> Colour:
        jitter = rng.integers(-6, 7, size=3)
        r, g, b = (int(np.clip(c * factor + j, 0, 255)) for c, j in zip(colour, jitter, strict=True))
        return r, g, b

    skin, shirt, pants = shade(who.skin), shade(COLOURS[who.shirt]), shade(COLOURS[who.pants])
    dark_shirt, dark_pants = shade(COLOURS[who.shirt], 0.86), shade(COLOURS[who.pants], 0.86)
    second, shoes, hair = shade(COLOURS[who.second]), shade(COLOURS[who.shoes]), shade(HAIR[who.hair])
    body, head, shirts, trousers, feet = (label + part for part in range(5))

    depth = 0.75 if side else 1.0  # a body seen from the side is narrower
    shoulder, waist = h * 0.118 * who.girth * depth, h * 0.095 * who.girth * depth
    top, neck, hip, ankle = y - h, y - h * 0.845, y - h * 0.49, y - h * 0.045
    leg = h * 0.055 * who.girth

    if who.bag and facing == "front":
        _bag(brush, shade(COLOURS[who.bag]), body, x, neck, h, 0.13)
    for sign, colour in ((-1, dark_pants), (1, pants)):
        foot = x + sign * (waist * 0.5 + stride)
        end = hip + (ankle - hip) * (0.48 if who.short_pants else 1.0)
        knee_x = x + (foot - x) * (0.5 if who.short_pants else 1.0)
        if who.short_pants:
            brush.line([(x + sign * waist * 0.4, end), (foot, ankle)], skin, leg * 1.2, body)
        left, right = (x - waist, x + waist * 0.12) if sign < 0 else (x - waist * 0.12, x + waist)
        brush.polygon([(left, hip - 1), (right, hip - 1), (knee_x + leg, end), (knee_x - leg, end)], colour, trousers)
        toe = h * 0.03 * side
        brush.ellipse((foot - h * 0.052 + toe, y - h * 0.055, foot + h * 0.052 + toe, y), shoes, feet)

    _arm(brush, who, -1, x, shoulder, neck, h, swing, (dark_shirt, skin), (shirts, body))
    torso = [(x - shoulder, neck), (x + shoulder, neck), (x + waist, hip), (x - waist, hip)]
    brush.polygon(torso, shirt, shirts)
    if who.pattern == "block":
        mid = (neck + hip) / 2
        half = (shoulder + waist) / 2
        brush.polygon([(x - half, mid), (x + half, mid), (x + waist, hip), (x - waist, hip)], second, shirts)
    elif who.pattern == "striped":
        for band in range(3):
            at = neck + (hip - neck) * (0.18 + 0.28 * band)
            half = shoulder + (waist - shoulder) * (at - neck) / (hip - neck)
            brush.rectangle((x - half, at, x + half, at + (hip - neck) * 0.13), second, shirts)
    _arm(brush, who, 1, x, shoulder, neck, h, -swing, (dark_shirt, skin), (shirts, body))
    if who.bag and facing != "front":
        offset = 0.0 if facing == "back" else -side * shoulder * 1.1
        _bag(brush, shade(COLOURS[who.bag]), body, x + offset, neck, h, 0.085 if facing == "back" else 0.06)
    _head(brush, who, facing, side, x, top, neck, h, (skin, hair, shade(COLOURS[who.hat]) if who.hat else None), head)


def _arm(
    brush: Brush,
    who: Identity,
    sign: int,
    x: float,
    shoulder: float,
    neck: float,
    h: float,
    swing: float,
    colours: tuple[Colour, Colour],
    labels: tuple[int, int],
) -> None:
    width = h * 0.05 * (0.5 + 0.5 * who.girth)
    start = (x + sign * shoulder * 0.92, neck + h * 0.025)
    elbow = (x + sign * (shoulder + h * 0.03), neck + h * 0.17)
    hand = (x + sign * (shoulder + h * 0.03) + swing, neck + h * 0.33)
    sleeve = 0 if who.long_sleeves else 1
    brush.line([elbow, hand], colours[sleeve], width * 0.9, labels[sleeve])
    brush.line([start, elbow], colours[0], width, labels[0])


def _bag(brush: Brush, colour: Colour, label: int, x: float, neck: float, h: float, half: float) -> None:
    brush.rectangle((x - half * h, neck + h * 0.03, x + half * h, neck + h * 0.27), colour, label)


def _head(
    brush: Brush,
    who: Identity,
    facing: Facing,
    side: int,
    x: float,
    top: float,
    neck: float,
    h: float,
    colours: tuple[Colour, Colour, Colour | None],
    label: int,
) -> None:
    skin, hair, hat = colours
    r = h * 0.07
    brush.rectangle((x - r * 0.4, neck - h * 0.03, x + r * 0.4, neck + 1), skin, label)
    if who.long_hair:
        brush.ellipse((x - r * 1.15, top, x + r * 1.15, top + h * 0.2), hair, label)
    brush.ellipse((x - r, top, x + r, top + h * 0.145), hair, label)
    if facing != "back":
        shift = side * r * 0.4
        brush.ellipse((x - r * 0.8 + shift, top + h * 0.045, x + r * 0.8 + shift, top + h * 0.142), skin, label)
    if hat:
        brush.rectangle(
            (x - r * 1.25 + side * r * 0.4, top + h * 0.03, x + r * 1.25 + side * r * 0.4, top + h * 0.05), hat, label
        )
        brush.ellipse((x - r * 0.95, top - h * 0.015, x + r * 0.95, top + h * 0.07), hat, label)
