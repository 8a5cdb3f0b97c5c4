"""PoseTrack21's person search: COCO-like train.json and val.json of video frames, and query.json with the queries."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffps.datasets.album import IDENTITY_LIMIT, Album, Person, Photo
from diffps.datasets.assembly import assemble
from diffps.datasets.coco_files import CocoFile, coco_box, coco_key, objects, open_coco
from diffps.datasets.files import Measure, measure_images
from diffps.datasets.findings import Findings
from diffps.datasets.layouts import locate, require_files
from diffps.datasets.plausible import overlaps
from diffps.datasets.words import CAMERA_LIMIT, whole
from diffps.errors import DatasetError
from diffps.records import Annotations, Gallery, Query, Scene, SearchIndex, Split

NAME = "PoseTrack21"
FOLDERS = ("posetrack_person_search", "annotations/posetrack_person_search", "annotations")
IGNORED_REGIONS = "have regions that their authors' evaluation ignores; here detections in them count"
GALLERY = "val"  # the images of val.json, where queries lie on others
SAME_BOX = 0.5  # IoU of a query's box and the annotated one of the same person


def read_posetrack(root: Path, *, measure: Measure = measure_images, min_box: tuple[int, int] = (0, 0)) -> SearchIndex:
    """Read PoseTrack21 at ``root``: images/, and train.json, val.json, query.json in posetrack_person_search/. Training
    may be absent. The camera is the number of the video.

    Queries are those of query.json. Where some lie on images that val.json does not name, those images are scenes too,
    and the gallery ``val`` lists the ones that are searched. Raises DatasetError naming file and annotation.
    """
    findings = Findings()
    locate(root, "images", NAME, "folder of images")
    folder = next((name for name in FOLDERS if (root / name / "val.json").exists()), FOLDERS[0])
    paths = {name: locate(root, f"{folder}/{name}.json", NAME, f"{name} annotations") for name in ("val", "query")}
    if (root / folder / "train.json").exists():
        paths = {"train": root / folder / "train.json", **paths}
    album = Album(findings)
    for kind, path in paths.items():
        if kind != "query":
            file = open_coco(path, NAME)
            photos = _add_frames(album, file, "train" if kind == "train" else "test", findings)
            for photo, person in _persons(file, photos, query=False):
                album.add_person(photo, person)
    searched = [name for name, photo in album.photos.items() if photo.split == "test"]
    asked = open_coco(paths["query"], NAME)
    for photo, person in _persons(asked, _add_frames(album, asked, "test", findings), query=True):
        _ask(album, photo, person)
    require_files(root / "images", list(album.photos), NAME)
    way_out = "if so, write bbox as x, y, width, height"
    index = assemble(
        "posetrack", album, root, "images", measure=measure, min_box=min_box, findings=findings, way_out=way_out
    )
    if len(searched) == sum(photo.split == "test" for photo in album.photos.values()):
        return index
    galleries = (_gallery(index.scenes, index.annotations, index.queries, set(searched)),)
    return replace(index, galleries=galleries, report={**index.report, "galleries": {GALLERY: len(index.queries)}})


def _add_frames(album: Album, file: CocoFile, split: Split, findings: Findings) -> dict[str, Photo]:
    """Photos by the file's image ids, whether they are there or not."""
    photos: dict[str, Photo] = {}
    ignored = 0
    for row, image in enumerate(objects(file.images, "image", file.path, NAME)):
        at = f"{file.path.name} image {row}"
        try:
            key, name = coco_key(image.get("id"), "id"), image.get("file_name")
            if not isinstance(name, str) or not name:
                raise ValueError(f"file_name {name!r}: expected a path")
            video = None if image.get("vid_id") is None else whole(image["vid_id"], "vid_id", CAMERA_LIMIT)
            photos[key] = album.add_photo(name.removeprefix("images/"), split, at, camera=video)
            ignored += bool(image.get("ignore_regions_x"))
        except ValueError as error:
            raise DatasetError(f"{NAME}: {file.path}: image {row}: {error}") from None
    findings.add("fine", IGNORED_REGIONS, "images", file.path.name, count=ignored)
    return photos


def _persons(file: CocoFile, photos: Mapping[str, Photo], *, query: bool) -> Sequence[tuple[Photo, Person]]:
    """The file's annotations."""
    found = []
    for row, annotation in enumerate(objects(file.annotations, "annotation", file.path, NAME)):
        at = f"{file.path.name} annotation {annotation.get('id', row)}"
        try:
            key = coco_key(annotation.get("image_id"), "image_id")
            if key not in photos:
                raise ValueError(f"image_id {key} is not among the images")
            pid = -1 if annotation.get("person_id") is None else annotation["person_id"]
            pid = whole(pid, "person_id", IDENTITY_LIMIT)
            person = Person(coco_box(annotation), "" if pid < 0 else str(pid), query, at)
            if not np.isfinite(person.box).all():
                raise ValueError(f"box {list(person.box)} is not finite")
            if query and not person.name:
                raise ValueError("a query needs a person_id")
        except ValueError as error:
            raise DatasetError(f"{NAME}: {file.path}: annotation {row}: {error}") from None
        found.append((photos[key], person))
    return found


def _ask(album: Album, photo: Photo, query: Person) -> None:
    """Mark the person whom the query is, or add them where val.json does not know them."""
    for row, person in enumerate(photo.persons):
        if person.name == query.name and overlaps(_corners(query), _corners(person)[None])[0] >= SAME_BOX:
            photo.persons[row] = person._replace(query=True)
            return
    album.add_person(photo, query)


def _corners(person: Person) -> Any:
    x, y, w, h = person.box
    return np.array([x, y, x + w, y + h], np.float32)


def _gallery(
    scenes: Sequence[Scene], annotations: Mapping[str, Annotations], queries: Sequence[Query], searched: set[str]
) -> Gallery:
    """For each query the searched scenes but its own, and where its person is in them."""
    rows = np.array([row for row, scene in enumerate(scenes) if scene.scene_id in searched], np.int32)
    places: dict[int, list[tuple[int, Any]]] = {}
    for row in rows.tolist():
        persons = annotations[scenes[row].scene_id]
        for identity in set(persons.identities.tolist()):
            first = int((persons.identities == identity).argmax())
            places.setdefault(identity, []).append((row, persons.boxes[first]))
    members, positive_scenes, positive_boxes = [], [], []
    for query in queries:
        own = next((row for row in rows.tolist() if scenes[row].scene_id == query.scene_id), -1)
        found = [place for place in places.get(query.identity, []) if place[0] != own]
        members.append(rows[rows != own])
        positive_scenes.append(np.array([row for row, _ in found], np.int32))
        positive_boxes.append(np.array([box for _, box in found], np.float32).reshape(-1, 4))
    return Gallery(
        name=GALLERY,
        query_ids=tuple(query.query_id for query in queries),
        scenes=tuple(members),
        positive_scenes=tuple(positive_scenes),
        positive_boxes=tuple(positive_boxes),
    )
