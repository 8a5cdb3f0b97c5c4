"""One's own data: a folder of images with a CSV of boxes and names, or a COCO file with person ids."""

import csv
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from diffps.datasets.files import Measure, clean_boxes, measure_images, require, summarise
from diffps.errors import DatasetError
from diffps.records import UNLABELLED, Annotations, Query, Scene, SearchIndex, Split

COLUMNS = ("split", "image", "x", "y", "w", "h", "person")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

IDENTITY_LIMIT = 2**63  # int64
CAMERA_LIMIT = 2**31  # int32 in the index
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)

Person = tuple[float, float, float, float, str]  # x, y, w, h, name; an empty name is unlabelled


def read_folder(root: Path, *, measure: Measure = measure_images, min_box: tuple[int, int] = (0, 0)) -> SearchIndex:
    """``root``/images with ``root``/persons.csv: columns split (train or test), image, x, y, w, h, person, and
    optionally query (1: this box is searched for) and camera (a number). Spaces around a cell do not count.

    Boxes are pixels of the image as displayed; an empty ``person`` is unlabelled. Images that the CSV does not name are
    test scenes without annotated persons. Without a ``query`` column every labelled person of the test split that is
    seen in another test scene is a query. Raises DatasetError naming file and line.
    """
    folder = require(root / "images", "folder", "folder of images")
    path = require(root / "persons.csv", "folder", "table of boxes")
    builder = _Builder()
    for number, line in _read_table(path):
        try:
            box = (float(line["x"]), float(line["y"]), float(line["w"]), float(line["h"]))
            camera = _whole(line["camera"], "camera", CAMERA_LIMIT) if line.get("camera") else None
            if line["split"] not in ("train", "test"):
                raise ValueError(f"split {line['split']!r} is neither train nor test")
            if not line["image"]:
                raise ValueError("no image is named")
            if line.get("query", "") not in ("1", "0", ""):
                raise ValueError(f"query {line['query']!r}: expected 1, 0 or nothing")
            query = line["query"] == "1" if "query" in line else None
            split: Split = "train" if line["split"] == "train" else "test"
            builder.add(line["image"], split, camera, (*box, line["person"]), query)
        except ValueError as error:
            raise DatasetError(f"folder: {path} line {number}: {error}") from None
    present = {entry.relative_to(folder).as_posix() for entry in sorted(folder.rglob("*")) if _is_image(entry)}
    for name in sorted(present - builder.splits.keys()):
        builder.add(name, "test", None, None, None)
    return builder.build("folder", "images", folder, present, measure, min_box)


def read_coco(root: Path, *, measure: Measure = measure_images, min_box: tuple[int, int] = (0, 0)) -> SearchIndex:
    """``root``/{train,test}.json in COCO form, images in ``root``/images. An annotation's ``person_id`` (or ``pid``) is
    the identity, negative or absent for unlabelled; ``query``: true marks queries, else as in :func:`read_folder`.

    Crowds are skipped, and annotations of other categories where one of ``categories`` is named person; the report
    counts both. train.json may be absent. Raises DatasetError naming file and annotation.
    """
    folder = require(root / "images", "coco", "folder of images")
    builder = _Builder()
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        builder.skipped[split] = Counter(other_categories=0, crowds=0)
        path = root / f"{split}.json"
        if split == "test" or path.exists():
            _add_coco(builder, split, require(path, "coco", f"{split} annotations"))
    present = {entry.relative_to(folder).as_posix() for entry in folder.rglob("*") if _is_image(entry)}
    return builder.build("coco", "images", folder, present, measure, min_box)


def _add_coco(builder: "_Builder", split: Split, path: Path) -> None:
    content = _read_json(path)
    names: dict[Any, str] = {}
    for image in content["images"]:
        try:
            number, name = image["id"], str(image["file_name"])
            if number in names:
                raise ValueError(f"{names[number]} and {name} both have the id {number}; give each its own")
            names[number] = name
            camera = None if image.get("camera") is None else _whole(image["camera"], "camera", CAMERA_LIMIT)
            builder.add(name, split, camera, None, None)
        except MALFORMED as error:
            raise DatasetError(f"coco: {path}: an image's id, file_name or camera: {_why(error)}") from None
    try:
        persons = {entry["id"] for entry in content["categories"] if str(entry["name"]).strip().lower() == "person"}
    except MALFORMED as error:
        raise DatasetError(f"coco: {path}: a category's id or name: {_why(error)}") from None
    for annotation in content["annotations"]:
        try:
            category = annotation.get("category_id")
            if persons and category is not None and category not in persons:
                builder.skipped[split]["other_categories"] += 1
            elif _flag(annotation, "iscrowd"):
                builder.skipped[split]["crowds"] += 1
            else:
                x, y, w, h = map(float, annotation["bbox"])
                given = annotation.get("person_id", annotation.get("pid"))
                person = UNLABELLED if given is None else _whole(given, "person_id", IDENTITY_LIMIT)
                box = (x, y, w, h, "" if person < 0 else str(person))
                builder.add(names[annotation["image_id"]], split, None, box, _flag(annotation, "query"))
        except MALFORMED as error:
            what = annotation.get("id", "without id") if isinstance(annotation, dict) else annotation
            raise DatasetError(f"coco: {path}: annotation {what}: {_why(error)}") from None


class _Builder:
    """Persons by image, in the order of the file."""

    def __init__(self) -> None:
        self.splits: dict[str, Split] = {}
        self._cameras: dict[str, int | None] = {}
        self._persons: dict[str, list[Person]] = {}
        self._queries: dict[str, list[bool | None]] = {}
        self.skipped: dict[str, Counter[str]] = {}

    def add(self, image: str, split: Split, camera: int | None, person: Person | None, query: bool | None) -> None:
        """One person, or an image without any. Raises ValueError for what contradicts itself or what came before."""
        if self.splits.setdefault(image, split) != split:
            raise ValueError(f"image {image} is in both splits")
        known = self._cameras.get(image)
        if None not in (known, camera) and known != camera:
            raise ValueError(f"image {image} has camera {known} and camera {camera}; an image has one")
        if person is not None and not np.isfinite(person[:4]).all():
            raise ValueError(f"box {list(person[:4])} is not finite")
        if query and split == "train":
            raise ValueError("a query lies in a test image, this one is in train; clear its query or move it to test")
        if query and not (person and person[4]):
            raise ValueError("a query needs a person's name")
        self._cameras[image] = known if camera is None else camera
        self._persons.setdefault(image, [])
        self._queries.setdefault(image, [])
        if person is not None:
            self._persons[image].append(person)
            self._queries[image].append(query)

    def build(
        self,
        dataset: str,
        prefix: str,
        folder: Path,
        present: set[str],
        measure: Measure,
        min_box: tuple[int, int],
    ) -> SearchIndex:
        missing = [name for name in self.splits if name not in present]
        if missing:
            raise DatasetError(
                f"{dataset}: {len(missing)} of {len(self.splits)} images missing in {folder}: {summarise(missing, 3)}; "
                f"{len(present)} images found there: {summarise(sorted(present), 3) or 'none'}"
            )
        numbers = {split: self._number_identities(split) for split in ("train", "test")}
        order = sorted(self.splits, key=lambda name: self.splits[name] == "test")
        scenes, annotations, marked, labelled = [], {}, [], []
        counts = {split: Counter(images=0, boxes=0, labelled=0, dropped=0, clipped=0) for split in ("train", "test")}
        for name, fact in zip(order, measure([folder / name for name in order]), strict=True):
            split = self.splits[name]
            scene = Scene(
                scene_id=name,
                split=split,
                path=f"{prefix}/{name}",
                width=fact.width,
                height=fact.height,
                digest=fact.digest,
                camera=self._cameras[name],
            )
            persons = self._persons[name]
            clean = clean_boxes(np.array([person[:4] for person in persons]), scene.size, min_box)
            identities = np.array([numbers[split].get(person[4], UNLABELLED) for person in persons], np.int64)
            kept = Annotations(clean.boxes, identities[clean.kept])
            scenes.append(scene)
            annotations[name] = kept
            counts[split].update(
                images=1,
                boxes=len(kept.boxes),
                labelled=int((kept.identities != UNLABELLED).sum()),
                dropped=int((~clean.kept).sum()),
                clipped=clean.clipped,
            )
            if split == "test":
                flags = np.array([bool(flag) for flag in self._queries[name]], bool)[clean.kept]
                for box, identity, flag in zip(kept.boxes, kept.identities.tolist(), flags, strict=True):
                    if identity != UNLABELLED:
                        labelled.append((name, box, identity))
                        marked += [(name, box, identity)] if flag else []
        if not any(flag is not None for name in order for flag in self._queries[name]):
            seen = Counter(identity for identity, _ in {(identity, name) for name, _, identity in labelled})
            marked = [entry for entry in labelled if seen[entry[2]] > 1]
        queries = [
            Query(query_id=f"{row:04d}", scene_id=name, box=box, identity=identity)
            for row, (name, box, identity) in enumerate(marked)
        ]
        return SearchIndex(
            scenes=tuple(scenes),
            annotations=annotations,
            queries=tuple(queries),
            galleries=(),
            report=_report(dataset, min_box, counts, self.skipped, numbers, len(queries)),
        )

    def _number_identities(self, split: str) -> dict[str, int]:
        """Train: 0..L-1. Test: the number itself where every name is one, else 0..M-1. In the order of the names."""
        persons = [person for name, part in self._persons.items() if self.splits[name] == split for person in part]
        names = sorted({person[4] for person in persons} - {""}, key=lambda name: (len(name), name))
        if split == "test" and all(_is_identity(name) for name in names):
            return {name: int(name) for name in names}
        return {name: number for number, name in enumerate(names)}


def _report(
    dataset: str,
    min_box: tuple[int, int],
    counts: Mapping[str, Counter[str]],
    skipped: Mapping[str, Counter[str]],
    numbers: Mapping[str, Mapping[str, int]],
    queries: int,
) -> dict[str, object]:
    splits = {split: {**counts[split], **skipped.get(split, {}), "identities": len(numbers[split])} for split in counts}
    return {"dataset": dataset, "min_box": list(min_box), **splits, "queries": queries}


def _is_identity(name: str) -> bool:
    """Whether a name is a number as Python writes it: 7, but not 07, which is somebody else."""
    return name.isdecimal() and len(name) < 20 and str(int(name)) == name and int(name) < IDENTITY_LIMIT


def _whole(value: Any, what: str, limit: int) -> int:
    """``value`` as the integer it is. Raises ValueError."""
    number = None
    with suppress(TypeError, ValueError, OverflowError):
        number = int(value)
    if number is None or (isinstance(value, float) and value != number) or not -limit <= number < limit:
        raise ValueError(f"{what} {value!r}: expected a whole number below {limit}")
    return number


def _flag(annotation: Mapping[str, Any], name: str) -> bool | None:
    """A key that is true, false, 1, 0, or (None) not there. Raises ValueError."""
    value = annotation.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or value not in (0, 1):
        raise ValueError(f"{name} {value!r}: expected true, false, 1 or 0")
    return bool(value)


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _read_table(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Lines of the table with their numbers, cells by column; what a line ends before is empty."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
        except (UnicodeDecodeError, csv.Error) as error:
            raise DatasetError(f"folder: {path} is not a CSV table in UTF-8 ({error}); save it as one") from None
    rows = [(number, row) for number, row in rows if any(row)]
    header = rows[0][1] if rows else []
    if missing := [name for name in COLUMNS if name not in header]:
        raise DatasetError(f"folder: {path} lacks the columns {', '.join(missing)}; found {header or 'nothing'}")
    return [(number, dict(zip_longest(header, row[: len(header)], fillvalue=""))) for number, row in rows[1:]]


def _read_json(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists images, annotations and categories; the last may be absent."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not {"images", "annotations"} <= content.keys():
            raise ValueError(f"expected the keys images and annotations, found {', '.join(content) or 'none'}")
        lists = {name: content[name] for name in ("images", "annotations")}
        lists["categories"] = content.get("categories") or []
        for name, part in lists.items():
            if not isinstance(part, list):
                raise ValueError(f"{name} is {json.dumps(part)[:40]}, expected a list")
    except (ValueError, AttributeError) as error:
        raise DatasetError(f"coco: {path} is not a COCO file: {error}") from None
    return lists
