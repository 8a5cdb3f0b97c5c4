"""An answer as lines for a terminal, and the people of a picture under their numbers."""

import io

import numpy as np
import pytest
from PIL import Image

from diffps.search.answer import Answer, Hit
from stages.finding.shown import answer_lines, numbered


def answer(*same: bool | None) -> Answer:
    hits = tuple(
        Hit(
            image=f"{row}.jpg",
            box=(1.4, 2.6, 30.0, 60.0),
            similarity=0.9 - row / 10,
            score=0.5,
            same_person=each,
            fpir=None,
            row=row,
        )
        for row, each in enumerate(same)
    )
    return Answer(
        hits=hits,
        boxes=9,
        images=4,
        pictures=1,
        promise=0.01,
        threshold=None if None in same else 0.75,
        own=(),
        verdict="Found.",
        notes=("Note.",),
    )


HEADING = "  rank  similarity  picture and box (x,y,width,height)"
FIRST, SECOND, THIRD = (f"  {row + 1:>4}       0.{9 - row}00  {row}.jpg 1,3,30,60" for row in range(3))
LINE = "  ----       0.750  the same person from here up"


@pytest.mark.parametrize(
    ("same", "lines"),
    [
        ((True, True, False), [HEADING, FIRST, SECOND, LINE, THIRD]),
        ((False, False), [HEADING, LINE, FIRST, SECOND]),
        ((True,), [HEADING, FIRST]),
        ((None, None), [HEADING, FIRST, SECOND]),
        ((), []),
    ],
)
def test_a_line_stands_where_the_threshold_lies(same: tuple[bool | None, ...], lines: list[str]) -> None:
    assert list(answer_lines(answer(*same))) == ["Found.", *lines, "Note."]


@pytest.mark.parametrize(("width", "shown"), [(400, 400), (3200, 1600)])
def test_people_have_a_frame_and_a_number_at_its_corner(width: int, shown: int) -> None:
    grey = np.full((width // 2, width, 3), 120, np.uint8)
    box = np.array([[0.25, 0.4, 0.5, 0.9], [0.75, 0.2, 0.95, 0.8]]) * [width, width // 2, width, width // 2]
    with Image.open(io.BytesIO(numbered(grey, box))) as image:
        pixels = np.asarray(image).astype(int)
        assert image.size == (shown, shown // 2)
        assert not image.getexif()
    red = pixels[..., 0] - pixels[..., 1] > 25  # JPEG keeps a quarter of the colours
    for x1, y1, x2, y2 in (box * shown / width).round().astype(int):
        middle = (y1 + y2) // 2
        assert red[middle, x1 : x1 + 2].any()
        assert red[middle, x2 - 2 : x2 + 1].any()
        assert red[y2 - 2 : y2 + 1, (x1 + x2) // 2].any()
        assert not red[middle, x1 + 10 : x2 - 10].any()
        assert red[y1 : y1 + 14, x1 : x1 + 6].mean() > 0.5  # what the number stands on
        assert red[y1 + 5 : y1 + 14, x1 + 4 : x1 + 8].mean() > 0.5  # beyond the frame's lines too
        white = pixels[y1 : y1 + 24, x1 : x1 + 20].min(2) > 180
        assert white.any()
    assert not red[:, : shown // 4 - 4].any()
