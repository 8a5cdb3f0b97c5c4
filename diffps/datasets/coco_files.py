"""COCO files on disk: where one's own lie and where Label Studio, CVAT and Roboflow put theirs, and what is in them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffps.datasets.files import summarise
from diffps.datasets.json_files import read_json
from diffps.datasets.layouts import locate
from diffps.datasets.words import whole
from diffps.errors import DatasetError
from diffps.records import Split

# In order of preference, for each split; the first that is there is read.
TRAIN_FILES = (
    "train.json",
    "annotations/instances_train.json",
    "annotations/instances_Train.json",
    "annotations/person_keypoints_train.json",
    "annotations/person_keypoints_Train.json",
    "train/_annotations.coco.json",
    "train_pid.json",  # AlignPS
    "annotation/train_pid.json",
    "annotation/train_pid_new.json",
)
TEST_FILES = (
    "test.json",
    "annotations/instances_test.json",
    "annotations/instances_Test.json",
    "annotations/person_keypoints_test.json",
    "annotations/person_keypoints_Test.json",
    "test/_annotations.coco.json",
    "annotations/instances_val.json",
    "annotations/instances_Validation.json",
    "annotations/person_keypoints_val.json",
    "annotations/person_keypoints_Validation.json",
    "valid/_annotations.coco.json",
    "annotations/instances_default.json",  # CVAT, where frames are in no subset
    "annotations/person_keypoints_default.json",
    "result.json",  # Label Studio
    "test_pid.json",  # AlignPS
    "annotation/test_pid.json",
    "annotation/test_new.json",
)


ID_LIMIT = 2**63


class CocoFile(NamedTuple):
    """One COCO file: its ``images``, ``annotations`` and ``categories``, not yet looked into."""

    path: Path
    images: list[Any]
    annotations: list[Any]
    categories: list[Any]


def find_coco(root: Path) -> tuple[dict[Split, Path], list[Path]]:
    """The file of each split, and COCO files that are not read. train may be absent. Raises DatasetError."""
    train, test = ([root / name for name in names if (root / name).is_file()] for names in (TRAIN_FILES, TEST_FILES))
    if not test:
        found = f"; {train[0]} is there" if train else ""
        try:
            locate(root, "test.json", "coco", "test annotations")
        except DatasetError as error:
            raise DatasetError(f"{error}{found}; other layouts have {summarise(TEST_FILES[1:], 20)}") from None
    splits: dict[Split, Path] = {"train": train[0]} if train else {}
    return splits | {"test": test[0]}, [*train[1:], *test[1:]]


def open_coco(path: Path, dataset: str = "coco") -> CocoFile:
    """The lists of a COCO file; ``categories`` may be absent. Raises DatasetError for another structure."""
    content = read_json(path, dataset)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        keys = summarise(map(str, content), 8) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise DatasetError(
            f"{dataset}: {path} is not a COCO file: expected the keys images and annotations, found {keys or 'none'}"
        )
    lists = [content["images"], content["annotations"], content.get("categories") or []]
    for name, part in zip(("images", "annotations", "categories"), lists, strict=True):
        if not isinstance(part, list):
            raise DatasetError(f"{dataset}: {path} is not a COCO file: {name} is {str(part)[:40]!r}, expected a list")
    return CocoFile(path, *lists)


def objects(items: list[Any], what: str, path: Path, dataset: str) -> Iterator[dict[str, Any]]:
    """The items, each of which must be an object. Raises DatasetError naming the first that is none."""
    for row, item in enumerate(items):
        if not isinstance(item, dict):
            raise DatasetError(f"{dataset}: {path}: {what} {row} is {str(item)[:40]!r}, expected an object")
        yield item


def coco_key(value: Any, what: str) -> str:
    """An id of any type as text: 7, 7.0 and "7" are one. Raises ValueError for what is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(whole(value, what, ID_LIMIT))
    raise ValueError(f"{what} {value!r}: expected a number or text")


def coco_box(annotation: Mapping[str, Any]) -> tuple[float, float, float, float]:
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"bbox {str(box)[:40]}: expected [x, y, width, height]")
    try:
        x, y, w, h = (float(part) for part in box)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"bbox {str(box)[:40]}: expected four numbers") from None
    return x, y, w, h
