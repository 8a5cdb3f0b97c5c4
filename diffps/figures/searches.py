"""Pictures of what a search answered: rankings, and the ways to be wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffps.figures.pictures import crop
from diffps.figures.scenes import LONGEST, scene_tile
from diffps.figures.sheets import Image, Kind, Mark, Row, Sheet, Tile
from diffps.metrics.matching import box_overlaps as box_overlaps

FAILURES_NOTE = (
    "The most telling cases of each kind. Under a missed person: the box's width and height in pixels, and what became "
    "of it. “Below the threshold”: the head's own box was dropped for its low score; “not proposed”: there never was "
    "one; “found loosely”: a box is there, too far off. Under a detection: its score, from 0 to 1. IoU: the area two "
    "boxes share, over the area they cover together; 1 is the same box. Under a confused identity: similarity."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Find:
    """A box in a scene, as a picture and in words: ``value`` is a similarity or a score, ``cause`` why it is shown.

    ``found`` (n, 4): everyone the head found in that scene; where it is given the crop opens as the whole scene.
    ``wanted`` (m, 4): annotated persons that the box should have been on. ``gone``: the picture is a placeholder.
    """

    scene_id: str
    image: Image
    box: NDArray[np.floating]
    value: float | None = None
    mark: Mark = "none"
    cause: str = ""
    found: NDArray[np.floating] | None = None
    wanted: NDArray[np.floating] | None = None
    gone: bool = False

    def tile(self, caption: str, alt: str) -> Tile:
        """The crop."""
        if self.gone:
            caption, alt = f"{caption}, picture gone", f"{alt}; the picture is gone"
        opens = None if self.found is None else self.scene(alt)
        return Tile(image=crop(self.image, self.box), caption=caption, alt=alt, mark=self.mark, opens=opens)

    def scene(self, alt: str, longest: int = LONGEST) -> Tile:
        """The whole scene: everyone found there, who should have been, and on top the box itself."""
        found = () if self.found is None else self.found
        others = [box for box in found if not np.allclose(box, self.box, atol=0.5)]
        wanted = () if self.wanted is None or self.mark == "right" else self.wanted
        boxes: list[tuple[NDArray[np.floating], Kind]] = [(box, "other") for box in others]
        boxes += [(box, "annotated") for box in wanted]
        boxes.append((self.box, self.mark))
        said = f"{self.scene_id}: {len(found)} found here" + (f"; {self.cause}" if self.cause else "")
        return scene_tile(self.image, boxes, said, f"The whole scene. {alt}", longest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """A query, its first results in order, and its average precision in [0, 1]; None where nobody is annotated to be
    found. ``kind`` says which query it is, such as "A good query"."""

    query_id: str
    kind: str
    query: Find
    results: tuple[Find, ...]
    precision: float | None


def ranking_sheet(searches: Sequence[Search]) -> Sheet:
    """A row per query: the person looked for, then the first results."""
    rows = []
    for search in searches:
        tiles = [search.query.tile("query", f"Query {search.query_id} in {search.query.scene_id}")]
        for rank, found in enumerate(search.results, start=1):
            word = {"right": "right", "wrong": "wrong", "none": "unjudged"}[found.mark]
            value = "" if found.value is None else f"{found.value:.2f}"
            alt = f"Rank {rank}, {word}, similarity {value}, in {found.scene_id}"
            tiles.append(found.tile(_with_cause(value, found), alt))
        known = "nobody annotated to be found" if search.precision is None else f"AP {100 * search.precision:.1f} %"
        rows.append(Row(label=search.kind, remark=f"{search.query_id}, {known}", tiles=tuple(tiles)))
    note = (
        "A row is one search: the person looked for, then the boxes the head finds most similar, with their cosine "
        "similarity. Green with a tick is right, orange and dashed is wrong and says why. Queries are taken by their "
        "place in the order of average precision (AP), not picked by hand. A crop opens as its whole scene: the hit in "
        "thick lines, everyone else the head found in thin ones; where it is wrong, dotted, the person looked for."
    )
    return Sheet(title="Rankings", rows=tuple(rows), note=note, tall=True)


def failures_sheet(
    missed: Sequence[Find],
    unannotated: Sequence[Find],
    confused: Sequence[tuple[Find, Find, Find]],
    loose: Sequence[Find] = (),
) -> Sheet:
    """``missed`` annotated persons, each with its cause, ``loose`` boxes around one with their IoU as cause, detections
    where nobody is annotated, and ``confused`` (query, wrong first result, right answer)."""
    rows = []
    if missed:
        tiles = tuple(
            find.tile(_with_cause(_size(find), find), f"Missed person in {find.scene_id}, {_size(find)}")
            for find in missed
        )
        rows.append(Row(label="Missed persons", remark="annotated, not detected; the largest", tiles=tiles))
    for label, finds, remark in (
        ("Loose boxes", loose, "around an annotated person, at an IoU under 0.5; the most confident"),
        (
            "Nobody annotated",
            unannotated,
            "a false alarm, or a person whom the annotations leave out; the most confident",
        ),
    ):
        if finds:
            tiles = tuple(
                find.tile(_with_cause(f"{find.value or 0:.2f}", find), f"{label}: detection in {find.scene_id}")
                for find in finds
            )
            rows.append(Row(label=label, remark=remark, tiles=tiles))
    if confused:
        tiles = tuple(tile for case in confused for tile in _case(*case))
        remark = "who was looked for, who came first, and who should have; the most similar"
        rows.append(Row(label="Confused identities", remark=remark, tiles=tiles, together=3))
    return Sheet(title="Failures", rows=tuple(rows), note=FAILURES_NOTE, tall=True)


def telling(values: NDArray[np.floating], count: int) -> list[tuple[str, int]]:
    """Up to ``count`` positions of ``values`` with what each is: that of the median, of the 90th and of the 10th
    percentile, then others at even steps from the highest to the lowest."""
    order = np.argsort(-np.asarray(values), kind="stable")
    last = len(order) - 1
    if last < 0:
        return []
    places = {"A median query": round(last / 2), "A good query": round(last / 10), "A bad query": round(last * 9 / 10)}
    chosen: dict[int, str] = {}
    for label, place in places.items():
        chosen.setdefault(place, label)
    for place in np.linspace(0, last, count).round().astype(int).tolist():
        chosen.setdefault(place, "Another query")
    return [(label, int(order[place])) for place, label in list(chosen.items())[:count]]


def _with_cause(text: str, find: Find) -> str:
    return ", ".join(filter(None, (text, find.cause)))


def _size(find: Find) -> str:
    width, height = (find.box[2:] - find.box[:2]).round().astype(int)
    return f"{width} × {height} px"


def _case(query: Find, wrong: Find, right: Find) -> tuple[Tile, Tile, Tile]:
    return (
        query.tile("query", f"Query in {query.scene_id}"),
        wrong.tile(_with_cause(f"{wrong.value or 0:.2f}", wrong), f"Taken for the query, in {wrong.scene_id}"),
        right.tile(f"{right.value or 0:.2f}", f"The same person as in the query, in {right.scene_id}"),
    )
