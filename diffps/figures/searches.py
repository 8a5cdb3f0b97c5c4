"""Pictures of what a search answered: rankings, and the ways to be wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffps.figures.pictures import crop
from diffps.figures.sheets import Image, Mark, Row, Sheet, Tile
from diffps.metrics.matching import box_overlaps as box_overlaps


@dataclass(frozen=True, kw_only=True, slots=True)
class Find:
    """A box in a scene, as a picture and in words: ``value`` is a similarity or a score, ``cause`` why it is shown."""

    scene_id: str
    image: Image
    box: NDArray[np.floating]
    value: float | None = None
    mark: Mark = "none"
    cause: str = ""

    def tile(self, caption: str, alt: str) -> Tile:
        """The crop."""
        return Tile(image=crop(self.image, self.box), caption=caption, alt=alt, mark=self.mark)


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """A query, its first results in order, and its average precision in [0, 1]; None where nobody is annotated to be
    found."""

    query_id: str
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
        remark = "nobody annotated to be found" if search.precision is None else f"AP {search.precision:.2f}"
        rows.append(Row(label=f"Query {search.query_id}", remark=remark, tiles=tuple(tiles)))
    note = "Queries are taken at even steps from the worst to the best average precision, not picked by hand."
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
            find.tile(_with_cause(_size(find), find), f"Missed person in {find.scene_id}, {_size(find)} pixels")
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
        rows.append(Row(label="Confused identities", remark=remark, tiles=tiles))
    return Sheet(title="Failures", rows=tuple(rows), note="The most telling cases of each kind.", tall=True)


def spread(values: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """``count`` positions at even steps through the order of ``values``, from the lowest to the highest."""
    order = np.argsort(values, kind="stable")
    if len(order) <= count:
        return order
    return np.asarray(order[np.linspace(0, len(order) - 1, count).round().astype(int)])


def _with_cause(text: str, find: Find) -> str:
    return ", ".join(filter(None, (text, find.cause)))


def _size(find: Find) -> str:
    width, height = (find.box[2:] - find.box[:2]).round().astype(int)
    return f"{width} × {height}"


def _case(query: Find, wrong: Find, right: Find) -> tuple[Tile, Tile, Tile]:
    return (
        query.tile("query", f"Query in {query.scene_id}"),
        wrong.tile(_with_cause(f"{wrong.value or 0:.2f}", wrong), f"Taken for the query, in {wrong.scene_id}"),
        right.tile(f"{right.value or 0:.2f}", f"The same person as in the query, in {right.scene_id}"),
    )
