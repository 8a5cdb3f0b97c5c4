"""Small trees in the official layouts, written the way the real files are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

PersonRow = tuple[float, float, float, float, float]  # pid, x, y, w, h

PRW_TRAIN: dict[str, list[PersonRow]] = {
    "c1s1_000001": [(7, 10, 20, 30, 60), (-2, 50, 20, 20, 40)],
    "c6s1_000002": [(3, -5, 10, 30, 60), (7, 40, 10, 20, 200)],
}
PRW_TEST: dict[str, list[PersonRow]] = {
    "c1s2_000003": [(21, 10, 20, 30, 60), (7, 60, 20, 20, 40)],
    "c2s2_000004": [(21, 30, 20, 30, 60), (21, 70, 20, 20, 50), (22, 5, 5, 0, 40)],
    "c3s2_000005": [],
    "c1s2_000006": [(22, 12.5, 20, 30, 60)],
}
PRW_QUERIES = "21 10 20 30 60 c1s2_000003\r\n22 12.5 20 30 60 c1s2_000006\r\n"
ANNOTATION_KEYS = ("box_new", "anno_file", "anno_previous")


def cells(names: Sequence[str]) -> np.ndarray:
    """An n x 1 MATLAB cell array of strings."""
    column = np.empty((len(names), 1), object)
    for row, name in enumerate(names):
        column[row, 0] = name
    return column


def write_prw(
    root: Path,
    train: Mapping[str, Sequence[PersonRow]] = PRW_TRAIN,
    test: Mapping[str, Sequence[PersonRow]] = PRW_TEST,
    queries: str = PRW_QUERIES,
    identities: tuple[Sequence[int], Sequence[int]] = ((3, 7), (21, 22)),
) -> Path:
    for folder in ("frames", "annotations"):
        (root / folder).mkdir(parents=True)
    for number, (name, rows) in enumerate([*train.items(), *test.items()]):
        Image.new("RGB", (100, 120), (number * 30, 0, 0)).save(root / "frames" / f"{name}.jpg")
        boxes = np.array(rows, np.float64).reshape(-1, 5)
        savemat(root / "annotations" / f"{name}.jpg.mat", {ANNOTATION_KEYS[number % 3]: boxes})
    savemat(root / "frame_train.mat", {"img_index_train": cells(list(train))})
    savemat(root / "frame_test.mat", {"img_index_test": cells(list(test))})
    for key, split, listed in zip(("ID_train", "ID_test2"), ("train", "test"), identities, strict=True):
        savemat(root / f"ID_{split}.mat", {key: np.array([listed], np.uint16)})
    (root / "query_info.txt").write_bytes(queries.encode())
    return root


Box = tuple[int, int, int, int]

# image -> boxes x, y, w, h; s5 and s6 are training images.
CUHK_BOXES: dict[str, list[Box]] = {
    "s1.jpg": [(200, 100, 100, 200), (10, 10, 20, 40), (5, 5, 0, 30)],
    "s2.jpg": [(30, 40, 50, 90)],
    "s3.jpg": [(40, 50, 60, 100), (150, 50, 60, 100)],
    "s4.jpg": [],
    "s5.jpg": [(100, 100, 200, 180), (10, 10, 8, 40)],
    "s6.jpg": [(20, 20, 40, 90)],
}
CUHK_TRAIN: dict[str, list[tuple[str, Box]]] = {
    "p7": [("s5.jpg", (100, 100, 200, 180)), ("s6.jpg", (20, 20, 40, 90))],
    "p3": [("s5.jpg", (10, 10, 8, 40))],
}
CuhkLine = tuple[tuple[str, Box, str], list[tuple[str, Box | None]]]  # query image, box, name; gallery
CUHK_LINES: list[CuhkLine] = [
    (("s1.jpg", (200, 100, 100, 200), "p11"), [("s2.jpg", (30, 40, 50, 90)), ("s4.jpg", None), ("s3.jpg", None)]),
    (
        ("s3.jpg", (40, 50, 60, 100), "p12"),
        [("s1.jpg", (10, 10, 20, 40)), ("s3.jpg", (40, 50, 60, 100)), ("s4.jpg", None)],
    ),
    (("s2.jpg", (30, 40, 50, 90), "p11"), [("s1.jpg", (200, 100, 100, 200)), ("s1.jpg", (200, 100, 100, 200))]),
]


def structs(rows: Sequence[Mapping[str, object]]) -> np.ndarray:
    """A 1 x n MATLAB struct array."""
    array = np.empty((1, len(rows)), [(name, object) for name in rows[0]]) if rows else np.empty((1, 0), object)
    for column, row in enumerate(rows):
        for name, value in row.items():
            array[0, column][name] = value
    return array


def matlab_box(box: Box | None) -> np.ndarray:
    """The smallest unsigned type that holds the numbers, as MATLAB saved them; a negative's is an empty double."""
    if box is None:
        return np.empty((1, 0))
    return np.array([box], np.uint8 if max(box) < 256 else np.uint16)


def write_protocol(path: Path, key: str, lines: Sequence[CuhkLine]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "Query": structs([{"imname": image, "idlocate": matlab_box(box), "ishard": np.uint8(0), "idname": name}]),
            "Gallery": structs([{"imname": im, "idlocate": matlab_box(b), "ishard": np.uint8(0)} for im, b in gallery]),
        }
        for (image, box, name), gallery in lines
    ]
    savemat(path, {key: structs(rows)})


def write_image_boxes(path: Path, boxes: Mapping[str, Sequence[Box]]) -> None:
    """Images.mat."""
    images = [
        {
            "imname": name,
            "nAppear": np.uint8(len(boxes)),
            "box": structs([{"idlocate": matlab_box(box), "ishard": np.uint8(0)} for box in boxes])
            if boxes
            else np.empty((1, 0), [("idlocate", object), ("ishard", object)]),
        }
        for name, boxes in boxes.items()
    ]
    savemat(path, {"Img": structs(images)})


def write_identities(path: Path, people: Mapping[str, Sequence[tuple[str, Box]]]) -> None:
    """Train.mat."""
    train = np.empty((len(people), 1), object)
    for row, (name, places) in enumerate(people.items()):
        scene = structs([{"imname": im, "idlocate": matlab_box(box), "ishard": np.uint8(0)} for im, box in places])
        train[row, 0] = structs([{"idname": name, "nAppear": np.uint8(len(places)), "scene": scene}])
    savemat(path, {"Train": train})


def write_cuhk(root: Path) -> Path:
    (root / "Image" / "SSM").mkdir(parents=True)
    annotation = root / "annotation"
    tests = annotation / "test"
    (tests / "train_test").mkdir(parents=True)
    for number, name in enumerate(CUHK_BOXES):
        Image.new("RGB", (320, 300), (number * 30, 0, 0)).save(root / "Image" / "SSM" / name)
    write_image_boxes(annotation / "Images.mat", CUHK_BOXES)
    savemat(annotation / "pool.mat", {"pool": cells(["s1.jpg", "s2.jpg", "s3.jpg", "s4.jpg"])})
    write_identities(tests / "train_test" / "Train.mat", CUHK_TRAIN)
    write_protocol(tests / "train_test" / "TestG50.mat", "TestG50", CUHK_LINES[:2])
    write_protocol(tests / "train_test" / "TestG100.mat", "TestG100", CUHK_LINES[:2])
    write_protocol(tests / "subset" / "Occlusion.mat", "Occlusion1", CUHK_LINES[1:2])
    write_protocol(tests / "subset" / "Resolution.mat", "Test_Size", CUHK_LINES[2:])
    return root


PERSONS_CSV = """split,image,x,y,w,h,person,camera
train,a.jpg,10,10,20,40,ann,1
train,a.jpg,40,10,20,40,,1
train,b.jpg,10,10,20,40,bob,1
test,c.jpg,10,10,20,40,cat,1
test,sub/d.png,30,10,20,90,cat,2
test,sub/d.png,60,10,20,40,dan,2
"""


def write_folder(root: Path) -> Path:
    (root / "images" / "sub").mkdir(parents=True)
    for number, name in enumerate(["a.jpg", "b.jpg", "c.jpg", "sub/d.png", "e.jpg"]):
        Image.new("RGB", (100, 80), (number * 30, 0, 0)).save(root / "images" / name)
    (root / "persons.csv").write_text(PERSONS_CSV)
    return root
