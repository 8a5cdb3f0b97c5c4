"""What the page needs of whoever searches, and what it shows of an answer."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffps.records import Detections
from diffps.search.answer import Answer, SearchedGallery
from diffps.search.calibration import odds
from stages.finding.photos import Photo

JPEG_QUALITY = 85


@dataclass(frozen=True, slots=True)
class DrawnBox:
    """A person in a picture that somebody brought: ``box`` (4,) x1, y1, x2, y2 in its pixels as displayed."""

    photo: Photo
    box: NDArray[np.float32]


Asked = int | DrawnBox  # a row of the gallery, or a box drawn by hand


class SearchService(Protocol):
    """A gallery that is loaded, and a head that embeds what is not in it. One call at a time."""

    @property
    def gallery(self) -> SearchedGallery:
        """All boxes."""

    @property
    def sizes(self) -> NDArray[np.int32]:
        """(m, 2) height and width of the gallery's images, as displayed."""

    def picture(self, image: int) -> NDArray[np.uint8]:
        """The pixels of an image of the gallery, as displayed. Raises ImageError where they are no longer there."""

    def detect(self, photo: Photo) -> Detections:
        """The people in a picture, boxes in its pixels."""

    def find(self, asked: Sequence[Asked], top: int) -> Answer:
        """Search the person that these boxes show."""


def shown_image(service: SearchService, number: int) -> dict[str, Any]:
    """An image of the gallery with its boxes, as JSON values: x, y, width, height."""
    gallery = service.gallery
    height, width = map(int, service.sizes[number])
    rows = np.flatnonzero(gallery.images == number)
    boxes = gallery.boxes[rows]
    sized = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(float).round(1).tolist()
    return {
        "number": number,
        "name": gallery.names[number],
        "width": width,
        "height": height,
        "boxes": [{"row": int(row), "box": box} for row, box in zip(rows, sized, strict=True)],
    }


def shown_answer(service: SearchService, answer: Answer) -> dict[str, Any]:
    """An answer as JSON values: its words, its hits in order, and the images that they lie in."""
    images = service.gallery.images
    numbers = {int(images[hit.row]) for hit in answer.hits}
    return {
        "verdict": answer.verdict,
        "notes": list(answer.notes),
        "threshold": answer.threshold,
        "promise": odds(answer.promise),
        "boxes": answer.boxes,
        "hits": [
            {
                "row": hit.row,
                "image": int(images[hit.row]),
                "similarity": hit.similarity,
                "same": hit.same_person,
                **({} if hit.fpir is None else _strangers(hit.fpir)),
            }
            for hit in answer.hits
        ],
        "images": {number: shown_image(service, number) for number in sorted(numbers)},
        "own": list(answer.own),
    }


def _strangers(share: float) -> dict[str, Any]:
    """Who finds somebody so alike, in words, and whether the words are of many."""
    if share > 0.99:
        return {"strangers": "nearly every stranger", "many": False}
    return {"strangers": f"{odds(share)} strangers", "many": share > 0.5}


def jpeg(picture: NDArray[np.uint8], side: int) -> bytes:
    """A picture (height, width, 3) as JPEG without any metadata, shrunk so that no side is longer than ``side``."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=JPEG_QUALITY)
    return buffer.getvalue()
