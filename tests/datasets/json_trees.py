"""Small trees whose annotations are JSON: AlignPS, PoseTrack21, and what three programs export as COCO."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.datasets.told import write_images
from tests.datasets.trees import (
    CUHK_BOXES,
    CUHK_TRAIN,
    PERSONS_CSV,
    PRW_TEST,
    PRW_TRAIN,
    write_folder,
)


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
