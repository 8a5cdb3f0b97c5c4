"""CUHK-SYSU as it lies on disk: Image/SSM, and MATLAB structs of boxes, training identities, queries and galleries; or
the JSON of boxes that AlignPS and those after it distribute, beside the official galleries."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.benchmark_json import JsonSplit, find_benchmark_json
from diffps.datasets.files import Measure, measure_images, summarise
from diffps.datasets.findings import Findings
from diffps.datasets.layouts import locate
from diffps.datasets.listed import Parts, index_listed
from diffps.datasets.matlab import read_mat, reading
from diffps.datasets.matrices import STRUCT, Matrices
from diffps.datasets.protocols import BoxKey, box_key, is_box, read_protocols
from diffps.errors import DatasetError
from diffps.records import SearchIndex, Split

DEFAULT_MIN_BOX = (10, 20)
SIZES = ("50", "100", "500", "1000", "2000", "4000")
SUBSETS = {"occlusion": ("Occlusion", "Occlusion1"), "resolution": ("Resolution", "Test_Size")}  # file, key
PUBLISHED = {
    "train": {"images": 11206, "boxes": 55272, "labelled": 15085, "identities": 5532},
    "test": {"images": 6978, "boxes": 40871, "labelled": 8345, "identities": 2900},
    "queries": 2900,
}
NAME = "CUHK-SYSU"
PROTOCOLS = "queries and galleries (TestG50 to TestG4000, at least one; each has the 2900 queries)"
IMAGE_COLUMNS = ("imname", "nAppear", "box")
BOX_COLUMNS = ("idlocate", "ishard")
PERSON_COLUMNS = ("idname", "nAppear", "scene")
SCENE_COLUMNS = ("imname", "idlocate", "ishard")


def read_cuhk_sysu(
    root: Path, *, measure: Measure = measure_images, min_box: tuple[int, int] = DEFAULT_MIN_BOX
) -> SearchIndex:
    """Read CUHK-SYSU at ``root`` with every gallery file that is there and readable. Boxes below ``min_box`` = (width,
    height) pixels are dropped from the annotations, never from queries and galleries.

    Train identities are 0..L-1 in the order of Train.mat; a test identity is the number in its name (p10581: 10581).
    Where Images.mat is missing and {train,test}_pid.json are there, boxes come from those. Raises DatasetError naming
    the file that is missing or wrong, ImageError for an image that cannot be opened.
    """
    locate(root, "Image/SSM", NAME, "folder of images")
    files = {} if (root / "annotation" / "Images.mat").exists() else find_benchmark_json(root, NAME)
    if files:
        return read_cuhk_json(root, "Image/SSM", files, measure=measure, min_box=min_box)
    pool = read_pool(locate(root, "annotation/pool.mat", NAME, "list of test images"), NAME)
    boxes = read_boxes(locate(root, "annotation/Images.mat", NAME, "boxes of all images"), NAME)
    unknown = [name for name in pool if name not in boxes]
    if unknown:
        raise DatasetError(f"{NAME}: pool.mat names {len(unknown)} images that Images.mat lacks: {summarise(unknown)}")
    test = set(pool)
    train_path = locate(root, "annotation/test/train_test/Train.mat", NAME, "training identities")
    parts = Parts(
        names={"train": [name for name in boxes if name not in test], "test": pool},
        boxes=boxes,
        train_labels=read_train_labels(train_path, "Train", NAME),
        at="Images.mat",
    )
    return _read(root, "Image/SSM", parts, measure, min_box)


def read_cuhk_json(
    root: Path, folder: str, files: Mapping[Split, JsonSplit], *, measure: Measure, min_box: tuple[int, int]
) -> SearchIndex:
    """CUHK-SYSU of AlignPS' JSON, images in ``root``/``folder``; test identities, queries and galleries are those of
    the TestG files, which the JSON does not hold. Raises DatasetError."""
    train = files.get("train")
    names = {split: list(file.persons) for split, file in files.items()}
    known: dict[BoxKey, int] = {}
    if train is not None:
        for name, (pids, boxes) in train.persons.items():
            known |= {
                box_key(name, box): int(pid) for pid, box in zip(pids, boxes, strict=True) if pid not in (-1, 5555)
            }
    order = {pid: number for number, pid in enumerate(sorted(set(known.values())))}
    parts = Parts(
        names={"train": names.get("train", []), "test": names["test"]},
        boxes={name: boxes for file in files.values() for name, (_, boxes) in file.persons.items()},
        train_labels={key: order[pid] for key, pid in known.items()},
        at=files["test"].path.name,
    )
    return _read(root, folder, parts, measure, min_box)


def _read(root: Path, folder: str, parts: Parts, measure: Measure, min_box: tuple[int, int]) -> SearchIndex:
    findings = Findings()
    tests = "annotation/test"
    files = {size: (root / tests / "train_test" / f"TestG{size}.mat", f"TestG{size}") for size in SIZES}
    if not any(path.exists() for path, _ in files.values()):
        locate(root, f"{tests}/train_test/TestG100.mat", NAME, PROTOCOLS)
    files |= {name: (root / tests / "subset" / f"{file}.mat", key) for name, (file, key) in SUBSETS.items()}
    protocols = read_protocols(files, SIZES, set(parts.names["test"]), NAME, findings)
    return index_listed(
        root,
        folder,
        parts,
        protocols,
        dataset=NAME,
        name="cuhk-sysu",
        measure=measure,
        min_box=min_box,
        findings=findings,
        expected=(*SIZES, *SUBSETS),
    )


def read_pool(path: Path, dataset: str) -> list[str]:
    """Names of the test images, in the file's order. Raises DatasetError."""
    _, matrix = read_mat(path, dataset, "list of test images", ["pool"])
    with reading(path, dataset):
        names = next(matrix.cells()).texts()
        if len(set(names)) < len(names):
            raise ValueError("it lists an image more than once")
    return names


def read_boxes(path: Path, dataset: str) -> dict[str, NDArray[np.float64]]:
    """Image name -> boxes (n, 4) x, y, w, h of Images.mat. Raises DatasetError."""
    _, matrix = read_mat(path, dataset, "boxes of all images", ["Img"])
    with reading(path, dataset):
        images = next(matrix.records(IMAGE_COLUMNS, ("imname", "box")))
        names = images["imname"].texts()
        if len(set(names)) < len(names):
            raise ValueError("it lists an image more than once")
        boxes = {}
        for name, persons in zip(names, images["box"].records(BOX_COLUMNS, BOX_COLUMNS[:1]), strict=True):
            rows = persons["idlocate"].numbers()
            wrong = next((row for row in rows if not is_box(row)), None)
            if wrong is not None:
                raise ValueError(f"box {wrong.tolist()} on {name}: expected x, y, width, height")
            boxes[name] = np.array(rows).reshape(-1, 4)
    return boxes


def read_train_labels(path: Path, key: str, dataset: str) -> dict[BoxKey, int]:
    """Identity, from 0 in the file's order, of each labelled training box. Raises DatasetError."""
    _, matrix = read_mat(path, dataset, "training identities", [key])
    labels: dict[BoxKey, int] = {}
    with reading(path, dataset):
        for identity, person in enumerate(_people(matrix)):
            for scene in person["scene"].records(SCENE_COLUMNS, SCENE_COLUMNS[:2]):
                places = zip(scene["imname"].texts(), scene["idlocate"].numbers(), strict=True)
                labels |= {box_key(image, box): identity for image, box in places}
    return labels


def _people(matrix: Matrices) -> Iterator[dict[str, Matrices]]:
    """A person after the other: a cell with a struct each (CUHK-SYSU), or a row of cells each (MovieNet-PS)."""
    cells = next(matrix.cells())
    if cells.kinds() <= {STRUCT}:
        yield from cells.records(PERSON_COLUMNS, ("scene",))
        return
    rows = next(matrix.records(PERSON_COLUMNS, ("scene",)))
    for row in range(len(rows["scene"].starts)):
        yield {"scene": Matrices(matrix.words, rows["scene"].starts[row : row + 1])}
