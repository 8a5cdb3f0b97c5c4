"""Drawn photographs with persons on them, and what their index is to be."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from diffps.datasets.files import ImageFacts
from diffps.datasets.words import is_nobody
from diffps.errors import DatasetError
from diffps.records import SearchIndex

SIZE = (100, 80)  # width, height
NOBODY = re.compile("^-1$")
EXAMPLES = settings(max_examples=12)
_BYTES = BytesIO()
Image.new("RGB", SIZE).save(_BYTES, "PNG")


class Somebody(NamedTuple):
    """A box x, y, w, h, who it is of (nobody knows: "" or -1), and whether it is searched for."""

    box: tuple[float, float, float, float]
    name: Any
    asked: bool


class Picture(NamedTuple):
    name: str
    test: bool
    camera: int | None
    persons: list[Somebody]


def measure(paths: Sequence[Path]) -> list[ImageFacts]:
    return [ImageFacts(*SIZE, f"{row:064x}") for row, _ in enumerate(paths)]


def write_pictures(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(_BYTES.getvalue())


@st.composite
def boxes(draw: st.DrawFn, step: float = 0.25) -> tuple[float, float, float, float]:
    """Inside the image, from 2 x 2 pixels up to all of it, edges included; as multiples of ``step``."""
    sides = []
    for side in SIZE:
        first = draw(st.sampled_from([0.0, side - 2]) | st.integers(0, int((side - 2) / step)).map(lambda n: n * step))
        last = draw(
            st.just(float(side)) | st.integers(int((first + 2) / step), int(side / step)).map(lambda n: n * step)
        )
        sides.append((first, last - first))
    (x, w), (y, h) = sides
    return x, y, w, h


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8)
ODD = [
    "a,b",
    'say "hi"',
    "7",
    "007",
    "8",
    "Åsa",
    "名前",
    "x;y|z",
    "Ann Lee",
    "\u202eabc",
    "o'Neil",
    "%41",
    "nan ny",
    "1e5",
]
PEOPLE = (st.sampled_from(["", *ODD]) | TEXT.map(str.strip)).filter(
    lambda name: not is_nobody(name) and not re.fullmatch(r"\d+\.0+", name)
)
FILES = st.sampled_from(
    [
        "a",
        "b c",
        "name, with commas",
        "ünï",
        "図",
        "d%20e",
        "sub/a",
        "sub/sub/图",
        "q'uote",
        'q"uote',
        "100%",
        "back\\slash",
    ]
)


@st.composite
def pictures(draw: st.DrawFn, people: st.SearchStrategy[Any], least: int = 1) -> list[Picture]:
    names = draw(st.lists(FILES, min_size=least, max_size=5, unique=True))
    found = []
    for name in names:
        rows = draw(st.lists(st.tuples(boxes(), people, st.booleans()), max_size=3, unique_by=lambda row: row[0]))
        test = draw(st.booleans())
        persons = [Somebody(box, who, asked and test and who not in ("", -1)) for box, who, asked in rows]
        found.append(Picture(f"{name}.png", test, draw(st.sampled_from([None, 0, 1, 2**31 - 1])), persons))
    return found


def corners(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def numbered(names: set[str], test: bool) -> dict[str, int]:
    """Numbers of persons as the documents say: their own in a test split that has only such, else in order of names."""
    ordered = sorted(names - {""}, key=lambda name: (len(name), name))
    whole = all(re.fullmatch(r"0|[1-9][0-9]{0,18}", name) and int(name) < 2**63 for name in ordered)
    return {name: int(name) if test and whole else row for row, name in enumerate(ordered)}


def check_album(index: SearchIndex, album: list[Picture], marked: bool) -> None:
    """The index of photographs of one's own, in the order of their first mention, training ones first."""
    album = [
        picture._replace(persons=[each._replace(name=NOBODY.sub("", str(each.name))) for each in picture.persons])
        for picture in sorted(album, key=lambda picture: picture.test)
    ]
    assert [(scene.scene_id, scene.split == "test", scene.camera) for scene in index.scenes] == [
        (picture.name, picture.test, picture.camera) for picture in album
    ]
    known = {
        test: numbered({person.name for picture in album if picture.test is test for person in picture.persons}, test)
        for test in (False, True)
    }
    for picture in album:
        found = index.annotations[picture.name]
        assert found.boxes.tolist() == [corners(person.box) for person in picture.persons]
        assert found.identities.tolist() == [known[picture.test].get(p.name, -1) for p in picture.persons]
    rows = [(picture.name, person) for picture in album if picture.test for person in picture.persons if person.name]
    seen = Counter(who for _, who in {(name, person.name) for name, person in rows})
    asked = [(name, person) for name, person in rows if (person.asked if marked else seen[person.name] > 1)]
    assert [(query.scene_id, query.identity, query.box.tolist()) for query in index.queries] == [
        (name, known[True][person.name], corners(person.box)) for name, person in asked
    ]


def one_line(read: Callable[[], object], *parts: str) -> None:
    """Reading ends in one line that has these parts in it."""
    with pytest.raises(DatasetError) as caught:
        read()
    said = str(caught.value)
    assert said.isprintable()
    assert [part for part in parts if part not in said] == [], said


def break_annotation(content: dict[str, Any], row: int, change: Mapping[str, Any]) -> dict[str, Any]:
    annotations = list(content["annotations"])
    annotations[row] = {**annotations[row], **change}
    return {**content, "annotations": annotations}
