"""What a figure is before anybody draws it: a sheet of labelled images, or a chart. The page lays both out itself;
``diffps.figures.render`` draws them into one PNG or SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Mark = Literal["right", "wrong", "none"]
# A box in a scene: the hit that is told of, as right, wrong or unjudged; somebody else whom the head found; a person
# who is annotated and should have been found.
Kind = Literal["right", "wrong", "none", "other", "annotated"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """A box drawn over an image: x1, y1, x2, y2 as fractions of its width and height, in [0, 1]."""

    box: tuple[float, float, float, float]
    kind: Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One image (h, w, 3) uint8, what stands under it, and what somebody who cannot see it should be told.

    ``outlines`` are drawn over it; ``opens`` is the whole of what it shows a part of.
    """

    image: Image
    caption: str = ""
    alt: str = ""
    mark: Mark = "none"
    outlines: tuple[Outline, ...] = ()
    opens: "Tile | None" = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Tiles that belong together, with a heading and, where it helps, a remark; ``together`` of them, one behind the
    other, make one case that no line may break."""

    label: str
    tiles: tuple[Tile, ...]
    remark: str = ""
    together: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """Rows of images under one title; ``note`` says how to read them. ``tall`` tiles are crops of persons."""

    title: str
    rows: tuple[Row, ...]
    note: str = ""
    tall: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A curve y over x, of equal length; ``area`` fills it down to zero, ``points`` marks every value, ``steps`` goes
    along x first; not ``joined`` leaves the points alone."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    area: bool = False
    points: bool = False
    steps: bool = False
    joined: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One horizontal bar per value; ``values`` pairs a name with its length."""

    label: str
    values: Sequence[tuple[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Heat:
    """A table in shades: ``values`` by row and column, None where there is nothing; ``marked`` (row, column) are
    outlined. The palest shade stands for ``low`` and less, the fullest for ``high`` and more."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    low: float
    high: float
    marked: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Lines over one pair of axes, groups of bars, or a heat map. ``markers`` are vertical lines: position and label;
    ``flat`` is for a chart that stands below numbers; values along the axes in ``shares`` are fractions, written in
    percent."""

    title: str
    x_label: str
    y_label: str = ""
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    heat: Heat | None = None
    markers: tuple[tuple[float, str], ...] = ()
    log_y: bool = False
    shares: Literal["", "x", "y", "xy"] = ""
    flat: bool = False
    note: str = ""
    summary: str = ""


Picture = Sheet | Chart
