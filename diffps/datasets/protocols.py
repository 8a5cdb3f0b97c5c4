"""TestG*.mat and its like: lines of a query, the images of its gallery, and where the person is in them."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.files import summarise
from diffps.datasets.findings import Findings
from diffps.datasets.matlab import reading, stream_records
from diffps.datasets.matrices import Matrices
from diffps.errors import DatasetError

WHAT = "queries and galleries"
LOST = "cannot be read, which costs its gallery only: {}"
OWN_IMAGE = "list the image of their query"
LISTED_TWICE = "list an image twice"
QUERY_COLUMNS = ("imname", "idlocate", "ishard", "idname")  # as MATLAB's files have them
IDENTITY = re.compile(r"[A-Za-z_]*0*(\d{1,18})")

BoxKey = tuple[str, tuple[float, ...]]  # image and its box x, y, w, h, as the files spell them


class Row(NamedTuple):
    """A person in an image: ``box`` (4,) x, y, w, h."""

    image: str
    box: NDArray[np.float64]


class Protocol(NamedTuple):
    """One line of a TestG, Occlusion or Resolution file: ``images`` of the gallery in order, and its ``positives``."""

    identity: int
    query: Row
    images: list[str]
    positives: list[Row]


def box_key(image: str, box: NDArray[np.float64]) -> BoxKey:
    """What tells an image's boxes apart."""
    return image, tuple(box.tolist())


def read_protocols(
    files: Mapping[str, tuple[Path, str]],
    needed: Collection[str],
    members: Collection[str],
    dataset: str,
    findings: Findings,
) -> dict[str, list[Protocol]]:
    """The lines of each of the ``files`` (path, key) that is there, by gallery name. ``members``: the test images.

    One that cannot be read is left out with a finding. Raises its DatasetError where none of ``needed`` is left.
    """
    found: dict[str, list[Protocol]] = {}
    failures: list[DatasetError] = []
    for name, (path, key) in files.items():
        if not path.exists():
            continue
        findings.seen("gallery files")
        try:
            lines = read_protocol(path, key, dataset)
            outside = [image for line in lines for image in (line.query.image, *line.images) if image not in members]
            if outside:
                raise DatasetError(f"{dataset}: {path} names images that are no test images: {summarise(outside, 3)}")
        except DatasetError as error:
            failures.append(error)
            findings.add("repaired", LOST.format(str(error).removeprefix(f"{dataset}: ")), "gallery files", path.name)
        else:
            found[name] = lines
    if failures and not found.keys() & set(needed):
        raise failures[0]
    return found


def read_protocol(path: Path, key: str, dataset: str = "CUHK-SYSU") -> list[Protocol]:
    """The lines of one protocol file. Raises DatasetError for another structure."""
    lines: list[Protocol] = []
    shared: dict[str, str] = {}  # each name once: TestG4000 repeats 6978 of them 11.6 million times
    with reading(path, dataset):
        for element in stream_records(path, dataset, WHAT, key, ("Query", "Gallery")):
            try:
                lines.append(_line(element, shared, len(lines) + 1))
            except ValueError as error:
                raise ValueError(f"line {len(lines) + 1}: {error}") from None
        if not lines:
            raise ValueError("it has no lines")
    return lines


def count_oddities(protocols: Mapping[str, Sequence[Protocol]], findings: Findings) -> dict[str, dict[str, list[int]]]:
    """Rows (counted from 1, as MATLAB does) that list the query's image, or a scene more than once, by gallery."""
    oddities = {}
    for name, lines in protocols.items():
        own = [n for n, line in enumerate(lines, 1) if line.query.image in line.images]
        twice = [n for n, line in enumerate(lines, 1) if len(set(line.images)) < len(line.images)]
        for reason, rows in ((OWN_IMAGE, own), (LISTED_TWICE, twice)):
            if rows:
                findings.add("doubtful", reason, "gallery lines", f"gallery {name} line {rows[0]}", count=len(rows))
        oddities[name] = {"query_image_in_gallery": own, "scene_listed_twice": twice}
    return oddities


def _line(element: Mapping[str, Matrices], shared: dict[str, str], number: int) -> Protocol:
    query = next(element["Query"].records(QUERY_COLUMNS, QUERY_COLUMNS[:2]))
    gallery = next(element["Gallery"].records(QUERY_COLUMNS[:3], QUERY_COLUMNS[:2]))
    # MovieNet-PS may name nobody: there each line is a person of its own.
    identity = _identity(query["idname"].texts()[0]) if "idname" in query else number
    image, box = query["imname"].texts()[0], query["idlocate"].numbers()[0]
    images = [shared.setdefault(name, name) for name in gallery["imname"].texts()]
    boxes = gallery["idlocate"].numbers()
    positives = [Row(name, part) for name, part in zip(images, boxes, strict=True) if len(part)]
    wrong = next((row for row in (Row(image, box), *positives) if not is_box(row.box)), None)
    if wrong is not None or not (box[2:] > 0).all():
        found = wrong or Row(image, box)
        raise ValueError(f"box {found.box.tolist()} on {found.image}: expected x, y, width, height")
    return Protocol(identity, Row(image, box), images, positives)


def is_box(box: NDArray[np.float64]) -> bool:
    """Four numbers that fit pixels of an image."""
    return len(box) == 4 and bool((np.abs(box) < 2**31).all())


def _identity(name: str) -> int:
    """The number in a name: 10581 of p10581. Raises ValueError where there is none."""
    match = IDENTITY.fullmatch(name)
    if match is None:
        raise ValueError(f"identity {name!r}: expected letters and a number, like p10581")
    return int(match[1])
