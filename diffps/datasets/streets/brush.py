"""Every shape is painted twice: its colour into the picture, its label into the mask."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]


class Brush:
    """Paints on ``picture`` (RGB) and ``labels`` (L) at once; both are changed in place."""

    def __init__(self, picture: Image.Image, labels: Image.Image) -> None:
        self._picture = ImageDraw.Draw(picture)
        self._labels = ImageDraw.Draw(labels)

    def polygon(self, points: Sequence[Point], colour: Colour, label: int) -> None:
        self._picture.polygon(points, fill=colour)
        self._labels.polygon(points, fill=label)

    def ellipse(self, box: Box, colour: Colour, label: int) -> None:
        self._picture.ellipse(box, fill=colour)
        self._labels.ellipse(box, fill=label)

    def rectangle(self, box: Box, colour: Colour, label: int) -> None:
        self._picture.rectangle(box, fill=colour)
        self._labels.rectangle(box, fill=label)

    def line(self, points: Sequence[Point], colour: Colour, width: float, label: int) -> None:
        pixels = max(1, round(width))
        self._picture.line(points, fill=colour, width=pixels)
        self._labels.line(points, fill=label, width=pixels)

    def shadow(self, box: Box, colour: Colour) -> None:
        """Colour without a label."""
        self._picture.ellipse(box, fill=colour)
