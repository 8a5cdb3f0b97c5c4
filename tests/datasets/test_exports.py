"""COCO as Label Studio, CVAT and Roboflow write it, each in its own layout."""

import json
from pathlib import Path
from typing import Any

import pytest

from diffps.datasets.coco import read_coco
from diffps.datasets.findings import require_plausible
from diffps.errors import DatasetError
from tests.datasets.told import findings, told, write_images

BOXES = [[10.5, 10.25, 20.0, 40.5], [40, 12, 22, 50]]


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def label_studio(tmp_path: Path) -> Path:
    """result.json beside images/, with names as the Windows version writes them; labels are the persons' names."""
    names = ["1a2b3c4d-gate.jpg", "5e6f7a8b-hall.jpg"]
    write_images(tmp_path / "images", names)
    annotations = [
        {
            "id": row,
            "image_id": row // 2,
            "category_id": row % 2,
            "segmentation": [],
            "bbox": BOXES[row % 2],
            "ignore": 0,
            "iscrowd": 0,
            "area": 810.0,
        }
        for row in range(4)
    ]
    write(
        tmp_path / "result.json",
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
    return tmp_path


@pytest.fixture
def cvat(tmp_path: Path) -> Path:
    """annotations/instances_default.json and images/default, tracks in attributes, ids from 1."""
    names = ["frame_000000.PNG", "frame_000001.PNG"]
    write_images(tmp_path / "images" / "default", names)
    annotations = [
        {
            "id": row + 1,
            "image_id": row // 2 + 1,
            "category_id": row % 2 + 1,
            "segmentation": [],
            "area": 810.0,
            "bbox": BOXES[row % 2],
            "iscrowd": 0,
            "attributes": {"occluded": False, "rotation": 0.0, "track_id": row % 2, "keyframe": row < 2},
        }
        for row in range(4)
    ]
    write(
        tmp_path / "annotations" / "instances_default.json",
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
    return tmp_path


@pytest.fixture
def roboflow(tmp_path: Path) -> Path:
    """train, valid and test with images beside _annotations.coco.json; category 0 is the project."""
    for split, count in (("train", 3), ("valid", 1), ("test", 2)):
        names = [f"{split}{row}_jpg.rf.{row:032x}.jpg" for row in range(count)]
        write_images(tmp_path / split, names)
        write(
            tmp_path / split / "_annotations.coco.json",
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
                        "bbox": BOXES[0],
                        "area": 810,
                        "segmentation": [],
                        "iscrowd": 0,
                    }
                    for row in range(count)
                ],
            },
        )
    return tmp_path


def test_label_studio(label_studio: Path) -> None:
    with pytest.raises(DatasetError, match=r"none of the categories anna, bob is a person; .*category.name"):
        read_coco(label_studio)
    index = read_coco(label_studio, identity="category.name")
    assert [scene.scene_id for scene in index.scenes] == ["1a2b3c4d-gate.jpg", "5e6f7a8b-hall.jpg"]
    assert index.annotations["1a2b3c4d-gate.jpg"].identities.tolist() == [1, 0]
    assert index.annotations["1a2b3c4d-gate.jpg"].boxes.tolist() == [[10.5, 10.25, 30.5, 50.75], [40, 12, 62, 62]]
    assert len(index.queries) == 4
    assert findings(index, "doubtful", "refused") == []


def test_cvat(cvat: Path) -> None:
    index = read_coco(cvat, identity="attributes.track_id")
    assert [scene.scene_id for scene in index.scenes] == ["default/frame_000000.PNG", "default/frame_000001.PNG"]
    assert index.scenes[0].path == "images/default/frame_000000.PNG"
    assert [persons.identities.tolist() for persons in index.annotations.values()] == [[0], [0]]
    assert len(index.queries) == 2
    assert "fine 2 annotations are of categories that are no person (car) and were left out" in told(index, "fine")
    unasked = read_coco(cvat)
    assert unasked.queries == ()
    with pytest.raises(DatasetError, match=r"hold attributes.track_id, .*set index.identity=attributes.track_id"):
        require_plausible(findings(unasked))


def test_roboflow(roboflow: Path) -> None:
    index = read_coco(roboflow)
    assert [(scene.scene_id.split("_")[0], scene.split) for scene in index.scenes] == [
        ("train/train0", "train"),
        ("train/train1", "train"),
        ("train/train2", "train"),
        ("test/test0", "test"),
        ("test/test1", "test"),
    ]
    assert index.scenes[0].path == index.scenes[0].scene_id
    assert all(len(persons.boxes) == 1 for persons in index.annotations.values())
    assert "fine 1 annotation files are not read" in told(index, "fine")
    assert index.queries == ()
