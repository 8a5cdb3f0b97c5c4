"""A search service without a head: people are colours, and their embeddings what the pixels of their boxes are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffps.errors import ImageError
from diffps.records import Detections
from diffps.search.answer import PROMISE, Answer, SearchedGallery, find
from diffps.search.calibration import LEVELS, Calibration, SizeThresholds
from stages.finding.photos import Photo
from stages.finding.web.service import Asked, DrawnBox

COLOURS = np.random.default_rng(1).integers(40, 250, (40, 2, 3))  # of the shirt and the trousers of each person


def draw(people: Sequence[tuple[int, int, int, int]], size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """A picture of ``size`` (height, width) with people: number, x, y, height; a third as wide as they are tall."""
    rng = np.random.default_rng(seed)
    height, width = size
    shade = np.linspace(0, 40, height)[:, None, None] + rng.integers(150, 190, 3)
    picture = np.broadcast_to(shade, (height, width, 3)) + rng.normal(0, 4, (height, width, 3))
    for number, x, y, tall in people:
        shirt, trousers = COLOURS[number]
        wide = tall // 3
        picture[y : y + tall // 5, x + wide // 3 : x + 2 * wide // 3] = (214, 170, 132)
        picture[y + tall // 5 : y + 3 * tall // 5, x : x + wide] = shirt
        picture[y + 3 * tall // 5 : y + tall, x + wide // 5 : x + 4 * wide // 5] = trousers
    return picture.clip(0, 255).astype(np.uint8)


def embed(picture: NDArray[np.uint8], box: NDArray[np.floating]) -> NDArray[np.float32]:
    """Mean colours of eight strips, less the grey that all share."""
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    strips = np.array_split(picture[y1:y2, x1:x2].astype(np.float32), 8)
    vector = np.concatenate([strip.reshape(-1, 3).mean(0) if strip.size else np.zeros(3) for strip in strips]) - 120
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class FakeService:
    """``pictures`` of a few people each, ``seed`` decides who; ``calibrated`` or not."""

    def __init__(
        self, *, images: int = 14, seed: int = 0, calibrated: bool = True, odd_name: str | None = None
    ) -> None:
        rng = np.random.default_rng(seed)
        self.pictures: list[NDArray[np.uint8]] = []
        self.who: list[int] = []
        boxes, numbers, embeddings = [], [], []
        for image in range(images):
            size = (360, 480) if image % 3 else (560, 400)
            people = []
            for place in range(rng.integers(1, 5)):
                tall = int(rng.integers(110, 190))
                left = 15 + place * 95
                people.append((int(rng.integers(0, 12)), left, int(rng.integers(30, size[0] - tall - 10)), tall))
            picture = draw(people, size, image)
            self.pictures.append(picture)
            for who, x, y, tall in people:
                self.who.append(who)
                boxes.append(np.array([x, y, x + tall // 3, y + tall], np.float32))
                numbers.append(image)
                embeddings.append(embed(picture, boxes[-1]))
        self.names = [f"street/{image:03}.jpg" for image in range(images)]
        if odd_name is not None:
            self.names[0] = odd_name
        self.gallery = SearchedGallery(
            embeddings=[np.array(embeddings, np.float16)],
            boxes=np.array(boxes),
            scores=np.full(len(boxes), 0.9, np.float32),
            images=np.array(numbers, np.int32),
            names=self.names,
        )
        self.sizes = np.array([picture.shape[:2] for picture in self.pictures], np.int32)
        self.asked: list[Sequence[Asked]] = []
        self.calibrations = [calibration(pictures) for pictures in (1, 2)] if calibrated else []

    def picture(self, image: int) -> NDArray[np.uint8]:
        if self.names[image].startswith("gone"):
            raise ImageError(f"{self.names[image]}: no readable file")
        return self.pictures[image]

    def detect(self, photo: Photo) -> Detections:
        """Two people side by side where the picture is wide, nobody elsewhere."""
        picture, (height, width) = photo.pixels, photo.size
        if width < height:
            return Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 24), np.float32))
        boxes = np.array([[0.1, 0.1, 0.4, 0.9], [0.6, 0.1, 0.9, 0.9]], np.float32) * [width, height, width, height]
        embeddings = np.array([embed(picture, box) for box in boxes])
        return Detections(boxes.astype(np.float32), np.array([0.9, 0.8], np.float32), embeddings)

    def find(self, asked: Sequence[Asked], top: int) -> Answer:
        self.asked.append(asked)
        rows = np.concatenate([np.asarray(part) for part in self.gallery.embeddings]).astype(np.float32)
        queries = [embed(a.photo.pixels, a.box) if isinstance(a, DrawnBox) else rows[a] for a in asked]
        own = np.array([part for part in asked if isinstance(part, int)], np.int64)
        return find(np.array(queries), self.gallery, top=top, own=own, calibrations=self.calibrations, promise=PROMISE)


def calibration(pictures: int) -> Calibration:
    """One in a hundred at a similarity of 0.95."""
    thresholds = tuple(0.95 + 0.01 * (step - LEVELS.index(0.01)) for step in range(len(LEVELS)))
    row = SizeThresholds(boxes=1000, thresholds=thresholds, scale=0.01, least=0.001)
    mates = tuple(np.linspace(0.9, 1, 101).tolist())
    counts = {"identities": 400, "unmated": 800, "mated": 900, "scenes": 500, "pool": 2000}
    return Calibration(sizes=(row,), mates=mates, pictures=pictures, **counts)
