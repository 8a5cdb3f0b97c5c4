"""Small trees in the official layouts, written the way the real files are."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from tests.datasets.told import write_images

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
) -> Path:
    for folder in ("frames", "annotations"):
        (root / folder).mkdir(parents=True)
    for number, (name, rows) in enumerate([*train.items(), *test.items()]):
        Image.new("RGB", (100, 120), (number * 30, 0, 0)).save(root / "frames" / f"{name}.jpg")
        boxes = np.array(rows, np.float64).reshape(-1, 5)
        savemat(root / "annotations" / f"{name}.jpg.mat", {ANNOTATION_KEYS[number % 3]: boxes})
    savemat(root / "frame_train.mat", {"img_index_train": cells(list(train))})
    savemat(root / "frame_test.mat", {"img_index_test": cells(list(test))})
    savemat(root / "ID_train.mat", {"ID_train": np.array([[3, 7]], np.uint16)})
    savemat(root / "ID_test.mat", {"ID_test2": np.array([[21, 22]], np.uint16)})
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


def write_cuhk(root: Path) -> Path:
    (root / "Image" / "SSM").mkdir(parents=True)
    annotation = root / "annotation"
    (annotation / "test" / "train_test").mkdir(parents=True)
    for number, name in enumerate(CUHK_BOXES):
        Image.new("RGB", (320, 300), (number * 30, 0, 0)).save(root / "Image" / "SSM" / name)
    images = [
        {
            "imname": name,
            "nAppear": np.uint8(len(boxes)),
            "box": structs([{"idlocate": matlab_box(box), "ishard": np.uint8(0)} for box in boxes])
            if boxes
            else np.empty((1, 0), [("idlocate", object), ("ishard", object)]),
        }
        for name, boxes in CUHK_BOXES.items()
    ]
    savemat(annotation / "Images.mat", {"Img": structs(images)})
    savemat(annotation / "pool.mat", {"pool": cells(["s1.jpg", "s2.jpg", "s3.jpg", "s4.jpg"])})
    train = np.empty((len(CUHK_TRAIN), 1), object)
    for row, (name, places) in enumerate(CUHK_TRAIN.items()):
        scene = structs([{"imname": im, "idlocate": matlab_box(box), "ishard": np.uint8(0)} for im, box in places])
        train[row, 0] = structs([{"idname": name, "nAppear": np.uint8(len(places)), "scene": scene}])
    tests = annotation / "test"
    savemat(tests / "train_test" / "Train.mat", {"Train": train})
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


def alignps_json(images: dict[str, list[tuple[int, Sequence[float]]]], folder: str = "") -> dict[str, Any]:
    """AlignPS' form: ids from 0, one category, ``person_id`` in each annotation."""
    annotations = [(row, pid, box) for row, persons in enumerate(images.values()) for pid, box in persons]
    return {
        "categories": [{"id": 1, "name": "person", "supercategory": "object"}],
        "images": [
            {"file_name": folder + name, "id": row, "width": 100, "height": 120} for row, name in enumerate(images)
        ],
        "annotations": [
            {
                "area": int(box[2] * box[3]),
                "bbox": list(box),
                "category_id": 1,
                "id": number,
                "image_id": row,
                "iscrowd": 0,
                "person_id": pid,
                "segmentation": [],
            }
            for number, (row, pid, box) in enumerate(annotations)
        ],
    }


def write_prw_json(root: Path, names: tuple[str, str], folder: str = "") -> None:
    """Train identities numbered from 0 and -1, test identities raw and -2, as in the distributed files."""
    number = {3: 0, 7: 1, -2: -1}
    train = {f"{name}.jpg": [(number[int(row[0])], row[1:]) for row in rows] for name, rows in PRW_TRAIN.items()}
    test = {f"{name}.jpg": [(int(row[0]), row[1:]) for row in rows] for name, rows in PRW_TEST.items()}
    for name, images in zip(names, (train, test), strict=True):
        (root / name).write_text(json.dumps(alignps_json(images, folder)))


def write_cuhk_json(tree: Path) -> None:
    """AlignPS' files with paths of its authors' machine; test persons have no number there."""
    known = {(image, box): row for row, places in enumerate(CUHK_TRAIN.values()) for image, box in places}
    images = {
        name: [(known.get((name, box), -1), box) for box in boxes if box[2] and box[3]]
        for name, boxes in CUHK_BOXES.items()
    }
    splits = {"train_pid": ("s5.jpg", "s6.jpg"), "test_new": ("s1.jpg", "s2.jpg", "s3.jpg", "s4.jpg")}
    for name, members in splits.items():
        content = alignps_json({image: images[image] for image in members}, "/raid/yy1/data/cuhk/Image/SSM/")
        (tree / "annotation" / f"{name}.json").write_text(json.dumps(content))
    for name in ("Images.mat", "pool.mat", "test/train_test/Train.mat"):
        (tree / "annotation" / name).unlink()


MOVIE_BOXES: dict[str, list[Box]] = {
    "tt01/shot_1.jpg": [(10, 10, 20, 40), (50, 10, 20, 40)],
    "tt01/shot_2.jpg": [(10, 10, 20, 40)],
    "tt02/shot_1.jpg": [(30, 10, 20, 40)],
    "tt02/shot_2.jpg": [(30, 10, 20, 40)],
    "tt02/shot_3.jpg": [(5, 5, 30, 60)],
}
MOVIE_TRAIN = {
    "nm07": [("tt01/shot_1.jpg", (10, 10, 20, 40)), ("tt01/shot_2.jpg", (10, 10, 20, 40))],
    "nm03": [("tt01/shot_1.jpg", (50, 10, 20, 40))],
}
MOVIE_POOLS = {
    "2000": ["tt02/shot_1.jpg", "tt02/shot_2.jpg"],
    "4000": ["tt02/shot_1.jpg", "tt02/shot_2.jpg", "tt02/shot_3.jpg"],
}
MOVIE_LINE = (("tt02/shot_1.jpg", (30, 10, 20, 40), "nm0011"), [("tt02/shot_2.jpg", (30, 10, 20, 40))])
MOVIE_MORE = (MOVIE_LINE[0], [*MOVIE_LINE[1], ("tt02/shot_3.jpg", None)])

Places = Sequence[tuple[str, Box]]


def as_cells(rows: Sequence[Sequence[object]]) -> np.ndarray:
    """An n x m MATLAB cell array."""
    array = np.empty((len(rows), len(rows[0])), object)
    for row, values in enumerate(rows):
        for column, value in enumerate(values):
            array[row, column] = value
    return array


def write_train(path: Path, people: dict[str, Places], in_cells: bool) -> None:
    if in_cells:
        rows = [
            [name, np.uint8(len(places)), as_cells([[image, matlab_box(box), np.uint8(0)] for image, box in places])]
            for name, places in people.items()
        ]
        savemat(path, {"Train": as_cells(rows)})
        return
    train = np.empty((len(people), 1), object)
    for row, (name, places) in enumerate(people.items()):
        scene = structs([{"imname": im, "idlocate": matlab_box(box), "ishard": np.uint8(0)} for im, box in places])
        train[row, 0] = structs([{"idname": name, "nAppear": np.uint8(len(places)), "scene": scene}])
    savemat(path, {"Train": train})


def write_movienet(root: Path, folder: str = "Image", annotation: str = "annotation", in_cells: bool = False) -> Path:
    write_images(root / folder, MOVIE_BOXES)
    tests = root / annotation / "test" / "train_test"
    tests.mkdir(parents=True)
    images = [
        {
            "imname": name,
            "nAppear": np.uint8(len(boxes)),
            "box": structs([{"idlocate": matlab_box(box), "ishard": np.uint8(0)} for box in boxes]),
        }
        for name, boxes in MOVIE_BOXES.items()
    ]
    savemat(root / annotation / "Images.mat", {"Img": structs(images)})
    for size, names in MOVIE_POOLS.items():
        savemat(root / annotation / f"pool_{size}.mat", {"pool": cells(names)})
    write_train(tests / "Train_app10.mat", MOVIE_TRAIN, in_cells)
    write_train(tests / "Train_app100.mat", {**MOVIE_TRAIN, "nm09": MOVIE_TRAIN["nm07"]}, in_cells)
    write_protocol(tests / "TestG2000.mat", "TestG2000", [MOVIE_LINE])  # type: ignore[list-item]
    write_protocol(tests / "TestG4000.mat", "TestG4000", [MOVIE_MORE])  # type: ignore[list-item]
    return root


POSETRACK_FRAMES = [
    "train/000001_bonn_train/000000.jpg",
    "val/000342_mpii_test/000000.jpg",
    "val/000342_mpii_test/000004.jpg",
    "val/000522_mpii_test/000008.jpg",
    "val/000522_mpii_test/000012.jpg",
]


def posetrack_frame(row: int) -> dict[str, Any]:
    name = POSETRACK_FRAMES[row]
    return {
        "is_labeled": True,
        "nframes": 4,
        "frame_id": 10000 + row,
        "id": 10000 + row,
        "vid_id": name.split("/")[1][:6],
        "file_name": f"images/{name}",
        "has_labeled_person": True,
        "ignore_regions_x": [[1, 2, 3]] if row == 3 else [],
        "ignore_regions_y": [[1, 2, 3]] if row == 3 else [],
    }


def posetrack_person(row: int, pid: int, box: list[float]) -> dict[str, Any]:
    return {
        "bbox": box,
        "bbox_head": [1, 1, 2, 2],
        "category_id": 1,
        "image_id": 10000 + row,
        "id": row * 100 + pid,
        "keypoints": [],
        "person_id": pid,
        "track_id": 0,
    }


def write_posetrack_file(root: Path, name: str, rows: list[int], persons: list[dict[str, Any]]) -> None:
    content = {
        "images": [posetrack_frame(row) for row in rows],
        "annotations": persons,
        "categories": [{"id": 1, "name": "person"}],
    }
    (root / "posetrack_person_search").mkdir(exist_ok=True)
    (root / "posetrack_person_search" / f"{name}.json").write_text(json.dumps(content))


def write_posetrack(root: Path) -> Path:
    write_images(root / "images", POSETRACK_FRAMES)
    write_posetrack_file(
        root, "train", [0], [posetrack_person(0, 7, [10, 10, 20, 40]), posetrack_person(0, 3, [50, 10, 20, 40])]
    )
    val = [
        posetrack_person(1, 21, [10, 10, 20, 40]),
        posetrack_person(2, 21, [12, 10, 20, 40]),
        posetrack_person(3, 22, [30, 10, 20, 40]),
    ]
    write_posetrack_file(root, "val", [1, 2, 3], val)
    write_posetrack_file(root, "query", [1], [posetrack_person(1, 21, [10, 10, 20, 40])])
    return root


EXPORTED_BOXES = [[10.5, 10.25, 20.0, 40.5], [40, 12, 22, 50]]


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_label_studio(root: Path) -> Path:
    """result.json beside images/, with names as the Windows version writes them; labels are the persons' names."""
    names = ["1a2b3c4d-gate.jpg", "5e6f7a8b-hall.jpg"]
    write_images(root / "images", names)
    annotations = [
        {
            "id": row,
            "image_id": row // 2,
            "category_id": row % 2,
            "segmentation": [],
            "bbox": EXPORTED_BOXES[row % 2],
            "ignore": 0,
            "iscrowd": 0,
            "area": 810.0,
        }
        for row in range(4)
    ]
    write_json(
        root / "result.json",
        {
            "images": [
                {"width": 100, "height": 80, "id": row, "file_name": f"images\\{name}"}
                for row, name in enumerate(names)
            ],
            "categories": [{"id": 0, "name": "anna"}, {"id": 1, "name": "bob"}],
            "annotations": annotations,
            "info": {"year": 2024, "version": "1.0", "description": "", "contributor": "Label Studio", "url": ""},
        },
    )
    return root


def write_cvat(root: Path) -> Path:
    """annotations/instances_default.json and images/default, tracks in attributes, ids from 1."""
    names = ["frame_000000.PNG", "frame_000001.PNG"]
    write_images(root / "images" / "default", names)
    annotations = [
        {
            "id": row + 1,
            "image_id": row // 2 + 1,
            "category_id": row % 2 + 1,
            "segmentation": [],
            "area": 810.0,
            "bbox": EXPORTED_BOXES[row % 2],
            "iscrowd": 0,
            "attributes": {"occluded": False, "rotation": 0.0, "track_id": row % 2, "keyframe": row < 2},
        }
        for row in range(4)
    ]
    write_json(
        root / "annotations" / "instances_default.json",
        {
            "licenses": [{"name": "", "id": 0, "url": ""}],
            "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
            "categories": [
                {"id": 1, "name": "person", "supercategory": ""},
                {"id": 2, "name": "car", "supercategory": ""},
            ],
            "images": [
                {
                    "id": row + 1,
                    "width": 100,
                    "height": 80,
                    "file_name": name,
                    "license": 0,
                    "flickr_url": "",
                    "coco_url": "",
                    "date_captured": 0,
                }
                for row, name in enumerate(names)
            ],
            "annotations": annotations,
        },
    )
    return root


def write_roboflow(root: Path) -> Path:
    """train, valid and test with images beside _annotations.coco.json; category 0 is the project."""
    for split, count in (("train", 3), ("valid", 1), ("test", 2)):
        names = [f"{split}{row}_jpg.rf.{row:032x}.jpg" for row in range(count)]
        write_images(root / split, names)
        write_json(
            root / split / "_annotations.coco.json",
            {
                "info": {"year": "2024", "version": "1", "description": "Exported from roboflow.com"},
                "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}],
                "categories": [
                    {"id": 0, "name": "street-people", "supercategory": "none"},
                    {"id": 1, "name": "person", "supercategory": "street-people"},
                ],
                "images": [
                    {
                        "id": row,
                        "license": 1,
                        "file_name": name,
                        "height": 80,
                        "width": 100,
                        "date_captured": "2024-01-01T00:00:00+00:00",
                        "extra": {"name": f"{split}{row}.jpg"},
                    }
                    for row, name in enumerate(names)
                ],
                "annotations": [
                    {
                        "id": row,
                        "image_id": row,
                        "category_id": 1,
                        "bbox": EXPORTED_BOXES[0],
                        "area": 810,
                        "segmentation": [],
                        "iscrowd": 0,
                    }
                    for row in range(count)
                ],
            },
        )
    return root


def write_folder_coco(root: Path) -> Path:
    """The folder's persons as a COCO file per split, beside its table."""
    write_folder(root)
    for split in ("train", "test"):
        lines = [line.split(",") for line in PERSONS_CSV.splitlines()[1:] if line.startswith(split)]
        names = sorted({line[1] for line in lines})
        images = [{"id": row, "file_name": name, "width": 100, "height": 80} for row, name in enumerate(names)]
        annotations = [
            {
                "id": row,
                "image_id": names.index(line[1]),
                "category_id": 1,
                "bbox": [float(part) for part in line[2:6]],
                "person_id": line[6] or None,
                "iscrowd": 0,
                "query": None,
            }
            for row, line in enumerate(lines)
        ]
        categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "car"}]
        write_json(root / f"{split}.json", {"images": images, "annotations": annotations, "categories": categories})
    return root
