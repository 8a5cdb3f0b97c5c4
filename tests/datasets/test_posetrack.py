"""PoseTrack21's person search on a small tree in its layout."""

import json
from pathlib import Path
from typing import Any

import pytest

from diffps.datasets.posetrack import read_posetrack
from diffps.errors import DatasetError
from tests.datasets.json_trees import POSETRACK_FRAMES, posetrack_person, write_posetrack, write_posetrack_file
from tests.datasets.told import told


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_posetrack(tmp_path)


def test_queries_are_those_of_the_file(tree: Path) -> None:
    index = read_posetrack(tree)
    assert [(scene.scene_id, scene.split, scene.camera) for scene in index.scenes] == [
        (POSETRACK_FRAMES[0], "train", 1),
        (POSETRACK_FRAMES[1], "test", 342),
        (POSETRACK_FRAMES[2], "test", 342),
        (POSETRACK_FRAMES[3], "test", 522),
    ]
    assert index.scenes[0].path == f"images/{POSETRACK_FRAMES[0]}"
    assert index.annotations[POSETRACK_FRAMES[0]].identities.tolist() == [1, 0]
    assert [(query.scene_id, query.identity) for query in index.queries] == [(POSETRACK_FRAMES[1], 21)]
    assert index.galleries == ()
    assert told(index) == []
    assert told(index, "fine") == [
        "fine 1 images have regions that their authors' evaluation ignores; here detections in them count"
    ]


def test_queries_on_images_that_are_not_searched_get_a_gallery(tree: Path) -> None:
    write_posetrack_file(
        tree, "query", [1, 4], [posetrack_person(1, 21, [11, 10, 20, 40]), posetrack_person(4, 22, [40, 10, 20, 40])]
    )
    index = read_posetrack(tree)
    assert [query.scene_id for query in index.queries] == [POSETRACK_FRAMES[1], POSETRACK_FRAMES[4]]
    (gallery,) = index.galleries
    assert gallery.name == "val"
    assert [part.tolist() for part in gallery.scenes] == [[2, 3], [1, 2, 3]]
    assert [part.tolist() for part in gallery.positive_scenes] == [[2], [3]]
    assert gallery.positive_boxes[0].tolist() == [[12, 10, 32, 50]]
    assert index.report["galleries"] == {"val": 2}


def test_training_may_be_absent(tree: Path) -> None:
    (tree / "posetrack_person_search" / "train.json").unlink()
    assert {scene.split for scene in read_posetrack(tree).scenes} == {"test"}


@pytest.mark.parametrize("name", ["val", "query"])
def test_missing_files_are_named(tree: Path, name: str) -> None:
    (tree / "posetrack_person_search" / f"{name}.json").unlink()
    with pytest.raises(DatasetError, match=rf"PoseTrack21: {name} annotations missing: expected .*{name}.json"):
        read_posetrack(tree)


def test_missing_frames_are_counted_and_named(tree: Path) -> None:
    (tree / "images" / POSETRACK_FRAMES[2]).unlink()
    with pytest.raises(
        DatasetError, match=r"PoseTrack21: 1 of 4 files missing in .*images: val/000342.*; 4 files found there"
    ):
        read_posetrack(tree)


def test_frames_outside_the_folder_are_refused(tree: Path) -> None:
    path = tree / "posetrack_person_search" / "val.json"
    path.write_text(path.read_text().replace(f"images/{POSETRACK_FRAMES[1]}", "images/../../a.jpg"))
    with pytest.raises(DatasetError, match=r"PoseTrack21: ../../a.jpg is no file below .*images"):
        read_posetrack(tree)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"person_id": -1}, r"query.json: annotation 0: a query needs a person_id"),
        ({"image_id": 5}, r"query.json: annotation 0: image_id 5 is not among the images"),
        ({"bbox": [1, 2, 3]}, r"query.json: annotation 0: bbox \[1, 2, 3\]: expected"),
        ({"image_id": None}, r"query.json: annotation 0: image_id None: expected a number or text$"),
        ({"person_id": None}, r"query.json: annotation 0: a query needs a person_id$"),
        ({"person_id": "x"}, r"query.json: annotation 0: person_id 'x': expected a whole number"),
        ({"bbox": [1, 2, float("inf"), 4]}, r"query.json: annotation 0: box \[1.0, 2.0, inf, 4.0\] is not finite$"),
    ],
)
def test_mistakes_are_named(tree: Path, change: dict[str, Any], message: str) -> None:
    write_posetrack_file(tree, "query", [1], [posetrack_person(1, 21, [10, 10, 20, 40]) | change])
    with pytest.raises(DatasetError, match=message):
        read_posetrack(tree)


def test_mistakes_in_frames_are_named_and_the_first_number_is_a_person(tree: Path) -> None:
    path = tree / "posetrack_person_search" / "query.json"
    for change, message in (
        ({"vid_id": "x"}, r"query.json: image 0: vid_id 'x': expected a whole number below 2147483648$"),
        ({"id": None}, r"query.json: image 0: id None: expected a number or text$"),
        ({"file_name": ""}, r"query.json: image 0: file_name '': expected a path$"),
    ):
        write_posetrack_file(tree, "query", [1], [posetrack_person(1, 21, [10, 10, 20, 40])])
        content = json.loads(path.read_text())
        content["images"][0] |= change
        path.write_text(json.dumps(content))
        with pytest.raises(DatasetError, match=rf"^PoseTrack21: {tree}/posetrack_person_search/{message}"):
            read_posetrack(tree)
    persons = [posetrack_person(1, 0, [10, 10, 20, 40]), posetrack_person(1, -1, [40, 10, 20, 40])]
    for name in ("val", "query"):
        write_posetrack_file(tree, name, [1], persons[: 2 if name == "val" else 1])
    index = read_posetrack(tree)
    assert index.annotations[POSETRACK_FRAMES[1]].identities.tolist() == [0, -1]
    assert [query.identity for query in index.queries] == [0]
    assert index.galleries == ()
