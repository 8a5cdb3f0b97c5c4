"""An album beside its image files: sizes, boxes, identities and queries, checked against each other, as an index."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.album import Album, Person, Photo, number_identities
from diffps.datasets.boxes import keep_boxes
from diffps.datasets.files import Measure, note_images
from diffps.datasets.findings import Findings, to_json
from diffps.datasets.plausible import LOST_QUERIES, NO_BOX_LEFT, compare_images, compare_names, compare_queries
from diffps.datasets.units import SCALED, box_scale, count_corner_boxes, require_pixels, require_widths
from diffps.names import from_text
from diffps.records import UNLABELLED, Annotations, Query, Scene, SearchIndex, Split

SPLITS: tuple[Split, ...] = ("train", "test")
CHOSEN = "were chosen: none is marked, so every named person who is seen in two test images is one"
LEFT_OUT = "belong to images whose boxes were left out"


class Kept(NamedTuple):
    """What is left of a photo's persons, and their ``boxes`` (n, 4) float32 x1, y1, x2, y2 in the scene."""

    boxes: NDArray[np.float32]
    persons: list[Person]


def assemble(
    dataset: str,
    album: Album,
    root: Path,
    prefix: str,
    *,
    measure: Measure,
    min_box: tuple[int, int],
    findings: Findings,
    way_out: str,
    skipped: Mapping[str, Mapping[str, int]] | None = None,
) -> SearchIndex:
    """The index of the album's photos, which lie in the folder ``prefix`` of ``root``; training images first. What is
    dropped is counted in ``findings``, which go with the report.

    ``way_out`` tells how boxes with a second corner are given. ``skipped``: what the reader left out of each split, for
    the report. Raises DatasetError where the boxes of the whole file mean something else than x, y, width, height.
    """
    album.tidy()
    order = sorted(album.photos, key=lambda name: album.photos[name].split == "test")
    facts = measure([root / prefix / from_text(name) for name in order])
    note_images(findings, order, facts)
    scenes = [
        Scene(
            scene_id=name,
            split=album.photos[name].split,
            path=f"{prefix}/{name}" if prefix else name,
            width=fact.width,
            height=fact.height,
            digest=fact.digest,
            camera=album.photos[name].camera,
        )
        for name, fact in zip(order, facts, strict=True)
    ]
    _check_units(dataset, album, scenes, findings, way_out)
    kept = {scene.scene_id: _keep(album.photos[scene.scene_id], scene, min_box, findings) for scene in scenes}
    names = {split: _names_left(album, kept, split, findings) for split in SPLITS}
    compare_names(names["train"], names["test"], findings)
    numbers = {split: number_identities(names[split], split) for split in SPLITS}
    annotations = {}
    for scene in scenes:
        boxes, persons = kept[scene.scene_id]
        known = numbers[scene.split]
        annotations[scene.scene_id] = Annotations(
            boxes, np.array([known.get(person.name, UNLABELLED) for person in persons], np.int64)
        )
    queries = _queries(kept, annotations, [scene.scene_id for scene in scenes if scene.split == "test"])
    if not _marked(kept):
        findings.add("fine", CHOSEN, "queries", count=len(queries))
    compare_images(scenes, findings)
    compare_queries(scenes, annotations, queries, findings)
    report: dict[str, object] = {"dataset": dataset, "min_box": list(min_box)}
    for split in SPLITS:
        counts = _count(album, kept, split) | dict((skipped or {}).get(split, {}))
        report[split] = counts | {"identities": len(numbers[split])}
    report |= {"queries": len(queries), "findings": to_json(findings.records())}
    return SearchIndex(
        scenes=tuple(scenes), annotations=annotations, queries=tuple(queries), galleries=(), report=report
    )


def _check_units(dataset: str, album: Album, scenes: Sequence[Scene], findings: Findings, way_out: str) -> None:
    """Refuse or doubt boxes by what all of them have in common."""
    persons = [(person, scene) for scene in scenes for person in album.photos[scene.scene_id].persons]
    if not persons:
        return
    rows = np.array([person.box for person, _ in persons])
    sizes = np.array([album.photos[scene.scene_id].size or scene.size for _, scene in persons])
    where = f"{dataset}: {persons[0][0].at} and others"
    require_pixels(rows, where)
    require_widths(rows, sizes, where, way_out)
    count_corner_boxes(rows, sizes, findings, persons[0][0].at)


def _keep(photo: Photo, scene: Scene, min_box: tuple[int, int], findings: Findings) -> Kept:
    """The photo's persons whose boxes are kept, in pixels of the scene."""
    scale = box_scale(photo.size, scene.size)
    example = f"{photo.at}: {scene.scene_id}"
    if isinstance(scale, str):
        findings.add("refused", scale, "images", example)
        findings.seen("boxes", len(photo.persons))
        findings.add("refused", LEFT_OUT, "boxes", example, count=len(photo.persons))
        return Kept(np.empty((0, 4), np.float32), [])
    if scale != (1.0, 1.0):
        findings.add("repaired", SCALED, "images", example)
    rows = np.array([person.box for person in photo.persons]).reshape(-1, 4) * np.tile(scale, 2)
    boxes = keep_boxes(rows, scene.size, min_box, findings, lambda row: f"{photo.persons[row].at}: {scene.scene_id}")
    return Kept(boxes.boxes, [person for person, is_kept in zip(photo.persons, boxes.kept, strict=True) if is_kept])


def _names_left(album: Album, kept: Mapping[str, Kept], split: Split, findings: Findings) -> set[str]:
    """Names of the split's persons who have a box; those who have none, and queries without one, are counted."""
    members = [name for name, photo in album.photos.items() if photo.split == split]
    persons = [person for name in members for person in album.photos[name].persons]
    left = [person for name in members for person in kept[name].persons]
    names = {person.name for person in left} - {""}
    lost = {person.name: person for person in persons if person.name and person.name not in names}
    for name, person in lost.items():
        findings.add("refused", NO_BOX_LEFT, "persons", f"{person.at}: {name}")
    findings.seen("persons", len(names) + len(lost))
    asked, answered = ([person for person in part if person.query] for part in (persons, left))
    findings.seen("marked queries", len(asked))
    rows = {person.at for person in answered}
    for person in asked:
        if person.at not in rows:
            findings.add("refused", LOST_QUERIES, "marked queries", person.at)
    return names


def _queries(kept: Mapping[str, Kept], annotations: Mapping[str, Annotations], test: Sequence[str]) -> list[Query]:
    """The marked persons of the ``test`` scenes; where nothing was said of marks, all who are seen in two of them."""
    rows = [(name, row, person) for name in test for row, person in enumerate(kept[name].persons) if person.name]
    if _marked(kept):
        asked = [entry for entry in rows if entry[2].query]
    else:
        seen = Counter(person for person, _ in {(person.name, name) for name, _, person in rows})
        asked = [entry for entry in rows if seen[entry[2].name] > 1]
    return [
        Query(
            query_id=f"{number:04d}",
            scene_id=name,
            box=annotations[name].boxes[row],
            identity=int(annotations[name].identities[row]),
        )
        for number, (name, row, _) in enumerate(asked)
    ]


def _marked(kept: Mapping[str, Kept]) -> bool:
    """Somebody was said to be a query, or not to be one."""
    return any(person.query is not None for photo in kept.values() for person in photo.persons)


def _count(album: Album, kept: Mapping[str, Kept], split: Split) -> dict[str, int]:
    members = [name for name, photo in album.photos.items() if photo.split == split]
    persons = [person for name in members for person in kept[name].persons]
    return {
        "images": len(members),
        "boxes": len(persons),
        "labelled": sum(bool(person.name) for person in persons),
        "dropped": sum(len(album.photos[name].persons) for name in members) - len(persons),
    }
