"""PRW's query_info.txt: a line per query, "pid x y w h frame"."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.album import IDENTITY_LIMIT
from diffps.datasets.files import clip_boxes, corner_boxes
from diffps.datasets.words import number, whole
from diffps.errors import DatasetError
from diffps.records import Query, Scene


class Asked(NamedTuple):
    """A line of query_info.txt: ``box`` (4,) x, y, w, h."""

    line: int
    identity: int
    box: NDArray[np.float64]
    name: str


def parse_queries(path: Path) -> list[Asked]:
    """The lines of query_info.txt. Raises DatasetError naming the line."""
    asked = []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise DatasetError(f"PRW: {path} cannot be read as text") from None
    for line, words in enumerate(text.split("\n"), start=1):
        fields = words.split()  # also takes the carriage return of a CRLF file
        if not fields:
            continue
        try:
            pid, x, y, w, h = fields[:5]
            (name,) = fields[5:]
            box = np.array([number(part) for part in (x, y, w, h)])
            asked.append(Asked(line, whole(pid, "pid", IDENTITY_LIMIT), box, f"{name.removesuffix('.jpg')}.jpg"))
        except ValueError:
            shown = words.strip()[:80]
            raise DatasetError(f"PRW: {path} line {line}: expected 'pid x y w h frame', found {shown!r}") from None
    return asked


def place_queries(path: Path, scenes: Mapping[str, Scene]) -> tuple[Query, ...]:
    """Queries in the file's order, cut at their frames. Raises DatasetError for one that lies in no test frame."""
    queries: list[Query] = []
    for asked in parse_queries(path):
        scene = scenes.get(asked.name)
        if scene is None or scene.split != "test":
            frame = asked.name.removesuffix(".jpg")
            raise DatasetError(f"PRW: {path} line {asked.line}: frame {frame} is not in frame_test.mat")
        box = clip_boxes(corner_boxes(asked.box), scene.size)[0]
        if not (np.isfinite(box).all() and (box[2:] > box[:2]).all()):
            raise DatasetError(f"PRW: {path} line {asked.line}: box {asked.box.tolist()} lies outside its frame")
        query_id = f"{len(queries):04d}"
        queries.append(Query(query_id=query_id, scene_id=scene.scene_id, box=box, identity=asked.identity))
    return tuple(queries)
