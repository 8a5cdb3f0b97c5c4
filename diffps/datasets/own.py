"""One's own data: a folder of images with a CSV of boxes and names, or a COCO file with person ids."""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffps.datasets.files import Measure, clean_boxes, measure_images, require, summarise
from diffps.errors import DatasetError
from diffps.records import UNLABELLED, Annotations, Query, Scene, SearchIndex, Split

COLUMNS = ("split", "image", "x", "y", "w", "h", "person")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

Person = tuple[float, float, float, float, str]  # x, y, w, h, name; an empty name is unlabelled


def read_folder(root: Path, *, measure: Measure = measure_images, min_box: tuple[int, int] = (0, 0)) -> SearchIndex:
    """``root``/images with ``root``/persons.csv: columns split (train or test), image, x, y, w, h, person, and
    optionally query (1: this box is searched for) and camera (a number).

    Boxes are pixels of the image as displayed; an empty ``person`` is unlabelled. Images that the CSV does not name are
    test scenes without annotated persons. Without a ``query`` column every labelled person of the test split that is
    seen in another test scene is a query. Raises DatasetError naming file and line.
    """
    folder = require(root / "images", "folder", "folder of images")
    path = require(root / "persons.csv", "folder", "table of boxes")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            lines = list(reader)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DatasetError(f"folder: {path} is not a CSV table in UTF-8 ({error}); save it as one") from None
    if missing:
        raise DatasetError(f"folder: {path} lacks the columns {', '.join(missing)}; found {reader.fieldnames}")
    builder = _Builder()
    for number, line in enumerate(lines, start=2):
        try:
            box = (float(line["x"]), float(line["y"]), float(line["w"]), float(line["h"]))
            camera = int(line["camera"]) if line.get("camera") else None
            if line["split"] not in ("train", "test"):
                raise ValueError(f"split {line['split']!r} is neither train nor test")
            if not line["image"]:
                raise ValueError("no image is named")
            query = {"1": True, "0": False}[line["query"] or "0"] if "query" in line else None
        except (ValueError, TypeError, KeyError) as error:
            raise DatasetError(f"folder: {path} line {number}: {error}") from None
        split: Split = "train" if line["split"] == "train" else "test"
        builder.add(line["image"], split, camera, (*box, line["person"] or ""), query)
    present = {entry.relative_to(folder).as_posix() for entry in sorted(folder.rglob("*")) if _is_image(entry)}
    for name in sorted(present - builder.splits.keys()):
        builder.add(name, "test", None, None, None)
    return builder.build("folder", "images", folder, present, measure, min_box)


def read_coco(root: Path, *, measure: Measure = measure_images, min_box: tuple[int, int] = (0, 0)) -> SearchIndex:
    """``root``/{train,test}.json in COCO form, images in ``root``/images. An annotation's ``person_id`` (or ``pid``) is
    the identity, negative or absent for unlabelled; ``query``: true marks queries, else as in :func:`read_folder`.

    train.json may be absent. Raises DatasetError naming file and annotation.
    """
    folder = require(root / "images", "coco", "folder of images")
    builder = _Builder()
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        path = root / f"{split}.json"
        if split == "train" and not path.exists():
            continue
        content = _read_json(require(path, "coco", f"{split} annotations"))
        try:
            names = {image["id"]: (str(image["file_name"]), _camera(image)) for image in content["images"]}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(
                f"coco: {path}: an image's id, file_name or camera: {type(error).__name__} {error}"
            ) from None
        for name, camera in names.values():
            builder.add(name, split, camera, None, None)
        for annotation in content["annotations"]:
            try:
                name, camera = names[annotation["image_id"]]
                x, y, w, h = map(float, annotation["bbox"])
                person = annotation.get("person_id", annotation.get("pid", UNLABELLED))
                text = "" if person is None or int(person) < 0 else str(int(person))
            except (KeyError, TypeError, ValueError) as error:
                what = annotation.get("id", "without id") if isinstance(annotation, dict) else annotation
                raise DatasetError(f"coco: {path}: annotation {what}: {type(error).__name__} {error}") from None
            builder.add(name, split, camera, (x, y, w, h, text), annotation.get("query"))
    present = {entry.relative_to(folder).as_posix() for entry in folder.rglob("*") if _is_image(entry)}
    return builder.build("coco", "images", folder, present, measure, min_box)


class _Builder:
    """Persons by image, in the order of the file."""

    def __init__(self) -> None:
        self.splits: dict[str, Split] = {}
        self._cameras: dict[str, int | None] = {}
        self._persons: dict[str, list[Person]] = {}
        self._queries: dict[str, list[bool | None]] = {}

    def add(self, image: str, split: Split, camera: int | None, person: Person | None, query: bool | None) -> None:
        """One person, or an image without any."""
        if self.splits.setdefault(image, split) != split:
            raise DatasetError(f"image {image} is in both splits")
        self._cameras[image] = camera if camera is not None else self._cameras.get(image)
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
            report=_report(dataset, min_box, counts, numbers, len(queries)),
        )

    def _number_identities(self, split: str) -> dict[str, int]:
        """Train: 0..L-1. Test: the name itself where all names are numbers, else 0..M-1. In the order of the names."""
        persons = [person for name, part in self._persons.items() if self.splits[name] == split for person in part]
        names = sorted({person[4] for person in persons} - {""}, key=lambda name: (len(name), name))
        if split == "test" and all(name.isdecimal() for name in names):
            return {name: int(name) for name in names}
        return {name: number for number, name in enumerate(names)}


def _report(
    dataset: str,
    min_box: tuple[int, int],
    counts: Mapping[str, Counter[str]],
    numbers: Mapping[str, Mapping[str, int]],
    queries: int,
) -> dict[str, object]:
    splits = {split: {**counts[split], "identities": len(numbers[split])} for split in counts}
    return {"dataset": dataset, "min_box": list(min_box), **splits, "queries": queries}


def _camera(image: Mapping[str, Any]) -> int | None:
    return None if image.get("camera") is None else int(image["camera"])


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _read_json(path: Path) -> dict[str, Sequence[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not {"images", "annotations"} <= content.keys():
            raise ValueError(f"expected the keys images and annotations, found {', '.join(content) or 'none'}")
    except (ValueError, AttributeError) as error:
        raise DatasetError(f"coco: {path} is not a COCO file: {error}") from None
    return dict(content)
