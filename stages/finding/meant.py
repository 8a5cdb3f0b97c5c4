"""Who is meant in a picture of a query, among those that the head finds in it."""

import numpy as np
from numpy.typing import NDArray

from diffps.errors import ConfigError
from diffps.records import Detections
from stages.finding.folders import FOUND
from stages.finding.photos import Photo

CANDIDATE = 0.05  # of a picture in which nobody is found, boxes above it are named


class SeveralPeopleError(ConfigError):
    """More people in a query than one, and nobody said which: ``people`` with their boxes in ``photo``."""

    def __init__(self, message: str, photo: Photo, people: Detections) -> None:
        super().__init__(message)
        self.photo, self.people = photo, people


def box_meant(photo: Photo, candidates: Detections, person: int | None) -> NDArray[np.float32]:
    """The box (4,) of the only person among ``candidates``, most certain first and above CANDIDATE, or of that with the
    number ``person``, from 1. Raises ConfigError where nobody is found, or no such number; SeveralPeopleError."""
    found = candidates.scores >= FOUND
    people = Detections(candidates.boxes[found], candidates.scores[found], candidates.embeddings[found])
    if not len(people):
        seen = "there is no candidate either"
        if len(candidates):
            best = f"the best candidate, {_text(candidates.boxes[0])}, scores {candidates.scores[0]:.2f}"
            seen = f"{best} where {FOUND} is needed"
        raise ConfigError(
            f"{photo.name}: no person is found in it ({seen}); say where one is with --box x,y,width,height"
        )
    if person is None and len(people) > 1:
        raise SeveralPeopleError(
            f"{photo.name}: {len(people)} people are in it; say which with --person 1 to {len(people)}, or with --box",
            photo,
            people,
        )
    if person is not None and not 1 <= person <= len(people):
        raise ConfigError(f"person {person}: {photo.name} shows {len(people)}; expected 1 to {len(people)}")
    box: NDArray[np.float32] = people.boxes[(person or 1) - 1]
    return box


def _text(box: NDArray[np.floating]) -> str:
    """x1, y1, x2, y2 as "120,80,60,190": x, y, width, height in whole pixels, as --box takes it."""
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    return f"{x1},{y1},{x2 - x1},{y2 - y1}"
