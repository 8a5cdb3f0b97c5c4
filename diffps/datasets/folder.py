"""One's own photographs: a folder of images and a CSV table of boxes and names."""

import re
from collections.abc import Iterable
from pathlib import Path

from diffps.datasets.album import Album, Person
from diffps.datasets.assembly import assemble
from diffps.datasets.csv_table import Table, read_table
from diffps.datasets.discovery import find_images
from diffps.datasets.files import Measure, measure_images, summarise
from diffps.datasets.findings import Findings
from diffps.datasets.image_names import ImageNames, missing_images
from diffps.datasets.layouts import locate
from diffps.datasets.words import CAMERA_LIMIT, NOBODY_NAMED, SIDE_LIMIT, SPLITS, flag, is_nobody, number, whole
from diffps.errors import DatasetError
from diffps.names import normal
from diffps.records import SearchIndex

FLOAT_NAME = re.compile(r"\d+\.0+")
FLOAT_NAMES = "are whole numbers written with a point (7.0) and were read without (7)"


def read_folder(
    root: Path, *, measure: Measure = measure_images, min_box: tuple[int, int] = (0, 0), identity: str = ""
) -> SearchIndex:
    """``root``/images with ``root``/persons.csv: columns split (train or test), image, x, y, w, h, person, and
    optionally query (1: this box is searched for), camera (a number), image_width and image_height (of the image that
    was annotated). x1, y1, x2, y2 and other usual headings read as well; ``identity`` names another column of persons.

    Boxes are pixels of the image as displayed; an empty ``person`` is unlabelled. Images that the table does not name
    are test scenes without annotated persons. Without a ``query`` column every labelled person of the test split who is
    seen in two test scenes is a query. Raises DatasetError naming file and line.
    """
    findings = Findings()
    found = find_images(locate(root, "images", "folder", "folder of images"))
    found.note(findings)
    album, missing = _read_album(root, found.images, identity, findings)
    if missing:
        raise missing_images("folder", missing, len(album.photos) + len(missing), found)
    for name in found.images:
        if name not in album.photos:
            album.add_photo(name, "test", "")
    return assemble(
        "folder",
        album,
        root,
        "images",
        measure=measure,
        min_box=min_box,
        findings=findings,
        way_out="if so, head the columns x1, y1, x2, y2",
    )


def images_of(root: Path, person: str, scene_ids: Iterable[str], identity: str = "") -> set[str]:
    """Those of ``scene_ids`` on which the table of ``root`` names ``person``, as :func:`read_folder` reads it; the
    images may be gone. Raises DatasetError."""
    album, _ = _read_album(root, scene_ids, identity, Findings())
    wanted = {normal(person), normal(_without_point(person))}
    photos = album.photos.items()
    return {name for name, photo in photos if wanted & {normal(each.name) for each in photo.persons}}


def _read_album(root: Path, images: Iterable[str], identity: str, findings: Findings) -> tuple[Album, dict[str, str]]:
    """Those of ``images`` that the table names, with their persons, and the line of each that is missing."""
    path = locate(root, "persons.csv", "folder", "table of boxes")
    names, album = ImageNames(images), Album(findings)
    table = read_table(path, identity)
    _tell(path, table, findings)
    whole_names = _whole_names(table)
    missing: dict[str, str] = {}
    for line, row in table.rows:
        at = f"{path.name} line {line}"
        try:
            _add_row(album, names, row, table, whole_names, missing, at, findings)
        except ValueError as error:
            raise DatasetError(f"folder: {path} line {line}: {error}") from None
    return album, missing


def _add_row(
    album: Album,
    names: ImageNames,
    row: dict[str, str],
    table: Table,
    whole_names: bool,
    missing: dict[str, str],
    at: str,
    findings: Findings,
) -> None:
    """One line of the table. Raises ValueError."""
    x, y, w, h = (number(row[name], comma=table.commas) for name in "xywh")
    split = SPLITS.get(row["split"].casefold())
    if split is None:
        raise ValueError(f"split {row['split']!r} is neither train nor test")
    if not row["image"]:
        raise ValueError("no image is named")
    camera = whole(row["camera"], "camera", CAMERA_LIMIT) if row.get("camera") else None
    size = _size(row)
    query = flag(row["query"], "query") if "query" in row else None
    image = names.find(row["image"], findings, at)
    if image is None:
        missing.setdefault(row["image"], at)
        return
    photo = album.add_photo(image, split, at, camera=camera, size=size)
    box = (x, y, w - x, h - y) if table.corners else (x, y, w, h)
    album.add_person(photo, Person(box, _name(row["person"], whole_names, at, findings), query, at))


def _name(written: str, whole_names: bool, at: str, findings: Findings) -> str:
    """A person's name; empty for nobody."""
    if is_nobody(written):
        findings.add("repaired", NOBODY_NAMED.format(written), "boxes", at)
        return ""
    if whole_names and written:
        findings.add("repaired", FLOAT_NAMES, "boxes", at)
        return _without_point(written)
    return written


def _without_point(name: str) -> str:
    return name.split(".")[0] if FLOAT_NAME.fullmatch(name) else name


def _whole_names(table: Table) -> bool:
    """All names are numbers like 7.0: a column that a program took for measurements."""
    names = [row["person"] for _, row in table.rows if row["person"] and not is_nobody(row["person"])]
    return bool(names) and all(FLOAT_NAME.fullmatch(name) for name in names)


def _size(row: dict[str, str]) -> tuple[int, int] | None:
    """(height, width) of the image that was annotated."""
    if not row.get("image_width") and not row.get("image_height"):
        return None
    height, width = (whole(row[name], name, SIDE_LIMIT) for name in ("image_height", "image_width"))
    if min(height, width) < 1:
        raise ValueError(f"the image is {width} x {height} pixels large")
    return height, width


def _tell(path: Path, table: Table, findings: Findings) -> None:
    findings.add("fine", f"was read: {table.dialect}", "table", path.name)
    if table.unread:
        findings.add("fine", "are not read", "columns", summarise(table.unread), count=len(table.unread))
