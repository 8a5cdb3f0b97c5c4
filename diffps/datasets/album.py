"""Images and the persons on them as a table or a COCO file tells of them, before any image was opened."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from diffps.datasets.findings import Findings
from diffps.records import Split

IDENTITY_LIMIT = 2**63  # int64

SAME_ROW = "repeat another one of the same image, box and person, and were left out"
SAME_BOX = "have the box of somebody else"
TWICE = "are a second one of the same person in one image"
PLACEHOLDER = "belong to a person named 5555, which loaders of CUHK-SYSU call somebody without a name"


class Person(NamedTuple):
    """Somebody on an image: ``box`` x, y, w, h in pixels of the image as annotated; ``name`` is empty for nobody known;
    ``query`` None where nothing was said; ``at`` names the row."""

    box: tuple[float, float, float, float]
    name: str
    query: bool | None
    at: str


@dataclass(slots=True)
class Photo:
    """One image: ``size`` (height, width) as its annotation tells it, if it does."""

    split: Split
    at: str
    camera: int | None = None
    size: tuple[int, int] | None = None
    persons: list[Person] = field(default_factory=list)


class Album:
    """Photos by name, in the order of their first mention. What contradicts itself or what came before is refused."""

    def __init__(self, findings: Findings) -> None:
        self.photos: dict[str, Photo] = {}
        self._findings = findings

    def add_photo(
        self, name: str, split: Split, at: str, *, camera: int | None = None, size: tuple[int, int] | None = None
    ) -> Photo:
        """The photo of that name, made where it is new. Raises ValueError where it was told otherwise before."""
        photo = self.photos.setdefault(name, Photo(split, at))
        if photo.split != split:
            raise ValueError(f"image {name} is in both splits")
        if None not in (photo.camera, camera) and photo.camera != camera:
            raise ValueError(f"image {name} has camera {photo.camera} and camera {camera}; an image has one")
        if None not in (photo.size, size) and photo.size != size:
            raise ValueError(
                f"image {name} is {_shape(photo.size)} and {_shape(size)} pixels large; an image has one size"
            )
        photo.camera = photo.camera if camera is None else camera
        photo.size = photo.size or size
        return photo

    def add_person(self, photo: Photo, person: Person) -> None:
        """Raises ValueError for a box that is not finite, and for a query that nobody could find."""
        if not np.isfinite(person.box).all():
            raise ValueError(f"box {list(person.box)} is not finite")
        if person.query and photo.split == "train":
            raise ValueError("a query lies in a test image, this one is in train; clear its query or move it to test")
        if person.query and not person.name:
            raise ValueError("a query needs a person's name")
        photo.persons.append(person)

    def tidy(self) -> None:
        """Leave out rows that are there twice, and count persons who contradict each other."""
        for name, photo in self.photos.items():
            seen: dict[tuple[tuple[float, ...], str], int] = {}
            persons: list[Person] = []
            for person in photo.persons:
                key = (person.box, person.name)
                if key not in seen:
                    seen[key] = len(persons)
                    persons.append(person)
                    continue
                first = persons[seen[key]]
                persons[seen[key]] = first._replace(query=first.query or person.query)
                self._findings.seen("boxes")
                self._findings.add("repaired", SAME_ROW, "boxes", f"{person.at}: {name}")
            photo.persons = persons
            self._count_contradictions(name, persons)

    def _count_contradictions(self, name: str, persons: Iterable[Person]) -> None:
        boxes: set[tuple[float, ...]] = set()
        names: set[str] = set()
        for person in persons:
            at = f"{person.at}: {name}"
            if person.box in boxes:
                self._findings.add("doubtful", SAME_BOX, "boxes", at)
            elif person.name and person.name in names:
                self._findings.add("doubtful", TWICE, "boxes", at)
            if person.name == "5555":
                self._findings.add("doubtful", PLACEHOLDER, "boxes", at)
            boxes.add(person.box)
            names.add(person.name)


def number_identities(names: Iterable[str], split: Split) -> dict[str, int]:
    """Train: 0..L-1. Test: the number itself where every name is one, else 0..M-1. In the order of the names."""
    ordered = sorted(set(names) - {""}, key=lambda name: (len(name), name))
    if split == "test" and all(_is_identity(name) for name in ordered):
        return {name: int(name) for name in ordered}
    return {name: number for number, name in enumerate(ordered)}


def _is_identity(name: str) -> bool:
    """A number as Python writes it: 7, but not 07, which is somebody else."""
    return name.isdecimal() and len(name) < 20 and str(int(name)) == name and int(name) < IDENTITY_LIMIT


def _shape(size: tuple[int, int] | None) -> str:
    return f"{size[1]} x {size[0]}" if size else "of no size"
