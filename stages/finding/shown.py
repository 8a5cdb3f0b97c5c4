"""An answer in a terminal, and a picture in which the people are numbered."""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffps.search.answer import Answer, Hit

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST_SIDE = 1600
INK, PAPER = (255, 255, 255), (176, 0, 32)


def answer_lines(answer: Answer) -> Iterator[str]:
    """The verdict, the ranking with a line where the threshold lies, and what it rests on."""
    yield answer.verdict
    if answer.hits:
        yield "  rank  similarity  picture and box (x,y,width,height)"
    below = False
    for rank, hit in enumerate(answer.hits, 1):
        if hit.same_person is False and not below:
            below = True
            yield f"  ----  {answer.threshold:>10.3f}  the same person from here up"
        yield f"  {rank:>4}  {hit.similarity:>10.3f}  {hit.image} {_box(hit)}"
    yield from answer.notes


def numbered(pixels: "NDArray[np.uint8]", boxes: "NDArray[np.floating]") -> bytes:
    """A picture (height, width, 3) with its boxes (n, 4) numbered from 1, as JPEG without any metadata."""
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    scale = image.width / pixels.shape[1]
    thick = max(2, image.height // 300)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(max(14, image.height // 30))
    for number, box in enumerate(np.asarray(boxes, float) * scale, 1):
        x1, y1, x2, y2 = box.tolist()
        draw.rectangle((x1, y1, x2, y2), outline=PAPER, width=thick)
        _, _, right, bottom = draw.textbbox((x1, y1), str(number), font=font)
        draw.rectangle((x1, y1, right + 2 * thick, bottom + 2 * thick), fill=PAPER)
        draw.text((x1 + thick, y1 + thick), str(number), fill=INK, font=font)
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def _box(hit: Hit) -> str:
    return ",".join(str(round(value)) for value in hit.box)
