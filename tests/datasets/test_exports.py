"""COCO as Label Studio, CVAT and Roboflow write it, each in its own layout."""

import shutil
from pathlib import Path

import pytest

from diffps.datasets.coco import read_coco
from diffps.datasets.findings import require_plausible
from diffps.errors import DatasetError
from tests.datasets.json_trees import write_cvat, write_json, write_label_studio, write_roboflow
from tests.datasets.told import findings, told, write_images


@pytest.fixture
def label_studio(tmp_path: Path) -> Path:
    return write_label_studio(tmp_path)


@pytest.fixture
def cvat(tmp_path: Path) -> Path:
    return write_cvat(tmp_path)


@pytest.fixture
def roboflow(tmp_path: Path) -> Path:
    return write_roboflow(tmp_path)


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


@pytest.mark.parametrize("name", ["frame_000000.PNG", "{}/frame_000000.PNG"])
def test_cvat_subsets_have_frames_of_one_name(tmp_path: Path, name: str) -> None:
    for subset in ("Train", "Test"):
        write_images(tmp_path / "images" / subset, ["frame_000000.PNG"])
        content = {"images": [{"id": 1, "file_name": name.format(subset)}], "annotations": []}
        write_json(tmp_path / f"annotations/instances_{subset}.json", content)
    index = read_coco(tmp_path)
    assert [(scene.scene_id, scene.split) for scene in index.scenes] == [
        ("Train/frame_000000.PNG", "train"),
        ("Test/frame_000000.PNG", "test"),
    ]
    assert findings(index, "repaired", "refused") == []


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


def test_roboflow_without_a_test_split_is_tested_on_valid(roboflow: Path) -> None:
    shutil.rmtree(roboflow / "test")
    assert [scene.scene_id.split("_")[0] for scene in read_coco(roboflow).scenes if scene.split == "test"] == [
        "valid/valid0"
    ]
