"""A table of persons as programs write one: its separator, coding and headings found out and said."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffps.datasets.words import COMMA_NUMBER
from diffps.errors import DatasetError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
# Headings that can mean one thing only; "id", "name", "label" and "class" can mean several and are not read.
HEADINGS = {
    "split": ("split", "subset", "set"),
    "image": ("image", "file", "file_name", "filename", "image_name", "image_path", "image_file", "img"),
    "person": ("person", "person_id", "personid", "pid", "identity", "person_name"),
    "query": ("query", "is_query"),
    "camera": ("camera", "cam", "camera_id", "cam_id", "camid"),
    "image_width": ("image_width", "img_width"),
    "image_height": ("image_height", "img_height"),
}
BOXES = (  # left, top, then width and height, or right and bottom where the third begins with x, r or m
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("left", "top", "width", "height"),
    ("bbox_x", "bbox_y", "bbox_w", "bbox_h"),
    ("bbox_left", "bbox_top", "bbox_width", "bbox_height"),
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
NEEDED = ("split", "image", "x, y, w, h", "person")


class Table(NamedTuple):
    """``rows``: (line, cells by meaning) of a CSV file; ``corners``: w and h are a second corner; ``commas``: decimal
    commas are used; ``dialect``: how it is written, for people; ``unread``: headings that mean nothing here."""

    rows: list[tuple[int, dict[str, str]]]
    corners: bool
    commas: bool
    dialect: str
    unread: list[str]


class Headings(NamedTuple):
    """Column of each meaning, what headings remain, and whether boxes have a second corner."""

    columns: dict[str, int]
    unread: list[str]
    corners: bool


def read_table(path: Path, identity: str = "") -> Table:
    """The table at ``path``. ``identity``: the heading of the column that tells persons apart, where it is another
    one than usual. Raises DatasetError naming what is missing, or there twice."""
    text, coding = _decode(path)
    lines = text.split("\n", 1)
    if lines[0].strip().casefold().startswith("sep=") and len(lines) > 1:  # a line that Excel reads and writes
        text = "\n" + lines[1]
    separator = _separator(text)
    rows = list(_cells(path, text, separator))
    if not rows:
        raise DatasetError(f"folder: {path} is empty; expected a line of headings: {', '.join(NEEDED)}")
    heading = rows[0][1]
    headings = _meanings(path, heading, identity)
    cells = [(line, _by_meaning(path, line, row, heading, headings.columns)) for line, row in rows[1:]]
    commas = _has_decimal_commas(path, cells) if separator != "," else False
    dialect = f"{SEPARATORS[separator]} between cells, {coding}" + ", decimal commas" * commas
    return Table(cells, headings.corners, commas, dialect, headings.unread)


def _has_decimal_commas(path: Path, cells: Sequence[tuple[int, Mapping[str, str]]]) -> bool:
    """Some boxes have decimal commas. Raises DatasetError where all of these may as well divide thousands."""
    written = [(line, row[name]) for line, row in cells for name in "xywh" if COMMA_NUMBER.fullmatch(row[name])]
    if written and all(THOUSANDS.fullmatch(text) for _, text in written):
        line, text = written[0]
        raise DatasetError(
            f"folder: {path} line {line}: {text} may be a decimal fraction or thousands; write no commas"
        )
    return bool(written)


def _decode(path: Path) -> tuple[str, str]:
    """Text and the name of its coding."""
    try:
        data = path.read_bytes()
        coding = next((coding for mark, coding in MARKS.items() if data.startswith(mark)), "utf-8")
        text = data.decode(coding)
        if "\0" in text:
            raise ValueError("it holds zero bytes")
    except OSError as error:
        raise DatasetError(f"folder: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DatasetError(f"folder: {path} is not a CSV table in UTF-8 ({error}); save it as one") from None
    shown = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8 with a byte order mark", "utf-16": "UTF-16"}
    return text, shown[coding]


def _separator(text: str) -> str:
    """What divides the first line that is not empty into most cells."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max(SEPARATORS, key=lambda mark: first.count(mark))  # the first one where none is there


def _cells(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DatasetError(f"folder: {path} line {reader.line_num}: {error}; a quotation mark too many?") from None


def _meanings(path: Path, heading: Sequence[str], identity: str) -> Headings:
    names = [_plain(name) for name in heading]
    if identity and _plain(identity) not in names:
        raise DatasetError(
            f"folder: {path} has no column {identity}, which index.identity names; found {_shown(heading)}"
        )
    meanings = HEADINGS | ({"person": (_plain(identity),)} if identity else {})
    columns: dict[str, int] = {}
    for meaning, spellings in meanings.items():
        found = [column for column, name in enumerate(names) if name in spellings]
        if len(found) > 1:
            both = " and ".join(f"{heading[column]} (column {column + 1})" for column in found)
            raise DatasetError(f"folder: {path} has several columns for the {meaning}: {both}; keep one")
        if found:
            columns[meaning] = found[0]
    corners = _box_columns(path, heading, names, columns)
    missing = [name for name in NEEDED if name not in columns and (name != "x, y, w, h" or "x" not in columns)]
    if missing:
        raise DatasetError(f"folder: {path} lacks the columns {', '.join(missing)}; found {_shown(heading)}")
    if ("image_width" in columns) != ("image_height" in columns):
        raise DatasetError(f"folder: {path} has a column for one side of the images only; give both, or none")
    unread = [name for column, name in enumerate(heading) if name and column not in columns.values()]
    return Headings(columns, unread, corners)


def _box_columns(path: Path, heading: Sequence[str], names: Sequence[str], columns: dict[str, int]) -> bool:
    """Add the columns of the box, and of the image's size where the box has none of that name."""
    twice = [name for name, count in Counter(names).items() if count > 1 and any(name in box for box in BOXES)]
    if twice:
        raise DatasetError(f"folder: {path} has the column {twice[0]} more than once; keep one")
    fitting = [box for box in BOXES if set(box) <= set(names)]
    if not fitting:
        return False
    if len(fitting) > 1 and not all(set(box[2:]) <= {"w", "h", "width", "height"} and box[0] == "x" for box in fitting):
        both = " and ".join(", ".join(box) for box in fitting[:2])
        raise DatasetError(f"folder: {path} has columns for several boxes: {both}; keep one")
    columns |= {meaning: names.index(name) for meaning, name in zip("xywh", fitting[0], strict=True)}
    if {"width", "height"} <= set(names) and "width" not in fitting[0] and "image_width" not in columns:
        columns |= {"image_width": names.index("width"), "image_height": names.index("height")}
    return fitting[0][2][0] in "xr"


def _by_meaning(
    path: Path, line: int, row: Sequence[str], heading: Sequence[str], columns: Mapping[str, int]
) -> dict[str, str]:
    """Cells by meaning; what a line ends before is empty."""
    if any(row[len(heading) :]):
        raise DatasetError(
            f"folder: {path} line {line}: {len(row)} cells under {len(heading)} headings; put quotation marks around "
            "cells that hold the separator"
        )
    return {meaning: row[column] if column < len(row) else "" for meaning, column in columns.items()}


def _plain(heading: str) -> str:
    """A heading as it is compared: "Person ID" and person_id are one."""
    return heading.casefold().replace(" ", "_")


def _shown(heading: Sequence[str]) -> str:
    return str(list(heading)) if len(heading) <= 20 else f"{list(heading[:20])} and {len(heading) - 20} more"
