"""The JSON in COCO form that AlignPS, and PSTR and others after it, distribute for PRW and CUHK-SYSU: boxes and
identities, but neither queries nor galleries, which stay in the benchmarks' own files."""

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.album import IDENTITY_LIMIT
from diffps.datasets.coco_files import CocoFile, objects, open_coco
from diffps.datasets.words import whole
from diffps.errors import DatasetError
from diffps.records import Split

FOLDERS = (".", "annotation", "annotations", "annotations_coco", "anno")
FILES: dict[Split, tuple[str, ...]] = {
    "train": ("train_pid.json", "train_pid_new.json", "train.json"),
    "test": ("test_pid.json", "test_new.json", "test_det_pid.json", "test_det.json", "val_pid.json", "test.json"),
}
PRW_FRAME = re.compile(r"c[1-6]s[1-9]_\d{6}\.jpg")
CUHK_IMAGE = re.compile(r"s\d{1,5}\.jpg")
CUHK_ENOUGH = 1000  # images named s1.jpg and so on may be anybody's; CUHK-SYSU has 6978 and more in a file

Persons = tuple[NDArray[np.int64], NDArray[np.float64]]


class JsonSplit(NamedTuple):
    """One split: identities (n,), negative where not known, and boxes (n, 4) x, y, w, h of each image, in order."""

    path: Path
    persons: dict[str, Persons]


def find_benchmark_json(root: Path, dataset: str) -> dict[Split, JsonSplit]:
    """The files of both splits below ``root``; empty where there is none for the test split. Raises DatasetError."""
    paths: dict[Split, Path] = {}
    for split, names in FILES.items():
        found = [root / folder / name for folder in FOLDERS for name in names if (root / folder / name).is_file()]
        if found:
            paths[split] = found[0]
    if "test" not in paths:
        return {}
    return {split: as_benchmark(open_coco(path, dataset), dataset) for split, path in paths.items()}


def recognise(files: Collection[CocoFile], root: Path) -> Literal["PRW", "CUHK-SYSU"] | None:
    """The benchmark that COCO files are of, by the names of their images; None where they mark queries themselves."""
    if any(part.get("query") is not None for file in files for part in file.annotations if isinstance(part, dict)):
        return None
    names = [str(image.get("file_name")) for file in files for image in file.images if isinstance(image, dict)]
    bare = [_bare(name) for name in names]
    if bare and all(PRW_FRAME.fullmatch(name) for name in bare):
        return "PRW"
    theirs = len(bare) >= CUHK_ENOUGH or (root / "Image" / "SSM").is_dir() or any("SSM/" in name for name in names)
    return "CUHK-SYSU" if bare and theirs and all(CUHK_IMAGE.fullmatch(name) for name in bare) else None


def as_benchmark(file: CocoFile, dataset: str) -> JsonSplit:
    """Boxes and identities by the image's bare name, whatever machine its path is of. Raises DatasetError."""
    names: dict[Any, str] = {}
    for row, image in enumerate(objects(file.images, "image", file.path, dataset)):
        key, name = image.get("id"), image.get("file_name")
        if not isinstance(key, (int, str)) or not isinstance(name, str) or not _bare(name) or key in names:
            raise DatasetError(f"{dataset}: {file.path}: image {row} has no id of its own, or no file_name")
        names[key] = _bare(name)
    if len(set(names.values())) < len(names):
        raise DatasetError(f"{dataset}: {file.path}: two images have the same name")
    pids: dict[str, list[int]] = {name: [] for name in names.values()}
    boxes: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    for row, annotation in enumerate(objects(file.annotations, "annotation", file.path, dataset)):
        try:
            name = names[annotation["image_id"]]
            pid = whole(annotation.get("person_id", -1), "person_id", IDENTITY_LIMIT)
            x, y, w, h = (float(part) for part in annotation["bbox"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = str(error) if isinstance(error, ValueError) else "image_id or bbox are missing or wrong"
            raise DatasetError(f"{dataset}: {file.path}: annotation {row}: {reason}") from None
        pids[name].append(pid)
        boxes[name].append([x, y, w, h])
    persons = {
        name: (np.array(pids[name], np.int64), np.array(boxes[name], np.float64).reshape(-1, 4)) for name in pids
    }
    return JsonSplit(file.path, persons)


def _bare(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name
