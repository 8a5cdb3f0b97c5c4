"""One's own data as COCO files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffps.datasets.coco import read_coco
from diffps.errors import DatasetError
from tests.datasets.told import findings, told

IMAGES: list[dict[str, Any]] = [{"id": 5, "file_name": "c.jpg"}, {"id": 7, "file_name": "sub/d.png"}]


def write_coco(folder: Path, split: str, persons: list[dict[str, Any]], **more: object) -> None:
    (folder / f"{split}.json").write_text(json.dumps({"images": IMAGES, "annotations": persons, **more}))


def two(**more: object) -> list[dict[str, Any]]:
    """An annotation on each of the two images."""
    return [{"id": n, "image_id": image, "bbox": [10, 10, 20, 40], **more} for n, image in enumerate((5, 7))]


def test_coco_with_person_ids(folder: Path) -> None:
    write_coco(
        folder,
        "test",
        [
            {"id": 1, "image_id": 5, "bbox": [10, 10, 20, 40], "person_id": 41},
            {"id": 2, "image_id": 7, "bbox": [10, 10, 20, 40], "person_id": 41},
            {"id": 3, "image_id": 7, "bbox": [50, 10, 20, 40], "person_id": -1},
            {"id": 4, "image_id": 7, "bbox": [70, 10, 20, 40]},
        ],
    )
    index = read_coco(folder)
    assert [scene.scene_id for scene in index.scenes] == ["c.jpg", "sub/d.png"]
    assert index.annotations["sub/d.png"].identities.tolist() == [41, -1, -1]
    np.testing.assert_array_equal(index.queries[0].box, [10, 10, 30, 50])
    assert len(index.queries) == 2
    assert told(index) == []


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_read_over(folder: Path, coding: str) -> None:
    content = {"images": IMAGES, "annotations": two(person_id="J\u00f6rg")}
    (folder / "test.json").write_bytes(json.dumps(content, ensure_ascii=False).encode(coding))
    assert len(read_coco(folder).queries) == 2


def test_ids_may_be_of_any_type(folder: Path) -> None:
    images = [{"id": "5", "file_name": "c.jpg"}, {"id": "d-7", "file_name": "sub/d.png"}]
    persons = [
        {"image_id": 5, "bbox": [10, 10, 20, 40], "person_id": "ann", "category_id": "1"},
        {"image_id": "d-7", "bbox": ["10", 10.0, 20, 40], "person_id": "ann", "category_id": 1.0},
    ]
    categories = [{"id": 1, "name": "pedestrian"}]
    (folder / "test.json").write_text(json.dumps({"images": images, "annotations": persons, "categories": categories}))
    assert [query.scene_id for query in read_coco(folder).queries] == ["c.jpg", "sub/d.png"]


@pytest.mark.parametrize(
    "name",
    [
        r"images\c.jpg",
        "./c.jpg",
        "/raid/someone/data/c.jpg",
        r"D:\photos\c.jpg",
        "c%2Ejpg",
        "/data/local-files/?d=x/c.jpg",
    ],
)
def test_paths_of_any_style_name_an_image(folder: Path, name: str) -> None:
    (folder / "test.json").write_text(json.dumps({"images": [{"id": 0, "file_name": name}], "annotations": []}))
    assert [scene.scene_id for scene in read_coco(folder).scenes] == ["c.jpg"]


def test_crowds_and_other_categories_are_left_out_and_counted(folder: Path) -> None:
    persons: list[dict[str, Any]] = [
        {"image_id": 5, "bbox": [10, 10, 20, 40], "person_id": 1, "category_id": 3, "iscrowd": 0},
        {"image_id": 5, "bbox": [20, 10, 20, 40], "person_id": 2, "category_id": 4},
        {"image_id": 5, "bbox": [30, 10, 20, 40], "person_id": 3, "category_id": 3, "iscrowd": 1},
        {"image_id": 5, "bbox": [35, 10, 20, 40], "person_id": 3, "category_id": 3, "ignore": True},
        {"image_id": 5, "bbox": [40, 10, 20, 40], "person_id": 4},
    ]
    write_coco(folder, "test", persons, categories=[{"id": 3, "name": "Person"}, {"id": 4, "name": "bicycle"}])
    index = read_coco(folder)
    assert index.annotations["c.jpg"].identities.tolist() == [1, 4]
    assert index.report["test"] == {
        "images": 2,
        "boxes": 2,
        "labelled": 2,
        "dropped": 0,
        "other_categories": 1,
        "crowds": 2,
        "identities": 2,
    }
    assert told(index, "fine")[1:-1] == [
        "fine 1 annotations are of categories that are no person (bicycle) and were left out",
        "fine 2 annotations are marked iscrowd or ignore and were left out",
    ]
    for none in ([], None):
        write_coco(folder, "test", persons, categories=none)
        assert read_coco(folder).annotations["c.jpg"].identities.tolist() == [1, 2, 4]


def test_categories_below_a_person_are_persons(folder: Path) -> None:
    categories = [{"id": 1, "name": "child", "supercategory": "person"}, {"id": 2, "name": "car"}]
    write_coco(folder, "test", [*two(category_id=1), *two(category_id=2)], categories=categories)
    assert [len(persons.boxes) for persons in read_coco(folder).annotations.values()] == [1, 1]


def test_categories_of_which_none_is_a_person_are_refused(folder: Path) -> None:
    categories = [{"id": 1, "name": "ann"}, {"id": 2, "name": "bob"}]
    write_coco(folder, "test", two(category_id=1), categories=categories)
    with pytest.raises(
        DatasetError, match=r"none of the categories ann, bob is a person; .*index.identity=category.name"
    ):
        read_coco(folder)
    index = read_coco(folder, identity="category.name")
    assert index.annotations["c.jpg"].identities.tolist() == [0]
    assert len(index.queries) == 2


def test_keypoints_and_segmentation_are_not_looked_at(folder: Path) -> None:
    write_coco(
        folder, "test", two(person_id=1, keypoints="?", segmentation={"counts": "x"}, area=None, num_keypoints=-1)
    )
    assert len(read_coco(folder).queries) == 2


@pytest.mark.parametrize(
    ("identity", "more"),
    [
        ("track_id", {"track_id": 3}),
        ("attributes.track_id", {"attributes": {"track_id": 3, "occluded": False}}),
        ("attributes.who.name", {"attributes": {"who": {"name": "ann"}}}),
    ],
)
def test_another_key_is_the_identity_where_that_is_asked_for(folder: Path, identity: str, more: dict[str, Any]) -> None:
    write_coco(folder, "test", two(**more))
    assert len(read_coco(folder, identity=identity).queries) == 2
    with pytest.raises(DatasetError, match=r"no annotation has the key other, which index.identity names"):
        read_coco(folder, identity="other")


def test_a_track_that_nobody_called_an_identity_is_doubted(folder: Path) -> None:
    write_coco(folder, "test", two(attributes={"track_id": 3}))
    index = read_coco(folder)
    assert index.queries == ()
    assert told(index) == [
        "doubtful 2 annotations hold attributes.track_id, which may tell persons apart: "
        "set index.identity=attributes.track_id if it does"
    ]


@pytest.mark.parametrize("nobody", ["nan", "None", "", None, float("nan"), -7, "-1", "unknown"])
def test_nobody_in_the_spellings_programs_use(folder: Path, nobody: object) -> None:
    write_coco(folder, "test", two(person_id=nobody))
    assert read_coco(folder).annotations["c.jpg"].identities.tolist() == [-1]


def test_queries_can_be_marked(folder: Path) -> None:
    marks = [True, False, 1, 0, None, "yes"]
    persons: list[dict[str, Any]] = [
        {"image_id": 5, "bbox": [10 * n, 10, 20, 40], "person_id": n, "query": mark} for n, mark in enumerate(marks)
    ]
    write_coco(folder, "test", persons)
    assert [query.identity for query in read_coco(folder).queries] == [0, 2, 5]


def test_boxes_of_images_shrunk_after_annotating_are_scaled(folder: Path) -> None:
    images = [{**image, "width": 400, "height": 320} for image in IMAGES]
    persons = [{**person, "bbox": [200, 160, 80, 120]} for person in two(person_id=1)]
    (folder / "test.json").write_text(json.dumps({"images": images, "annotations": persons}))
    index = read_coco(folder)
    assert index.annotations["c.jpg"].boxes.tolist() == [[50, 40, 70, 70]]
    assert told(index) == ["repaired 2 images have another size than when they were annotated; their boxes were scaled"]


def test_boxes_of_images_of_another_shape_are_refused_and_counted(folder: Path) -> None:
    images = [{**image, "width": 512, "height": 512} for image in IMAGES]
    (folder / "test.json").write_text(json.dumps({"images": images, "annotations": two(person_id=1)}))
    index = read_coco(folder)
    assert [(finding.count, finding.of) for finding in findings(index)] == [(2, "images"), (2, "boxes"), (1, "persons")]


def test_turned_rectangles_are_doubted(folder: Path) -> None:
    write_coco(folder, "test", two(person_id=1, attributes={"rotation": 12.5}))
    assert told(read_coco(folder)) == [
        "doubtful 2 boxes are turned (attributes.rotation); their upright rectangle was read"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": "maybe"}, r"test.json: annotation 9: query 'maybe': expected 1, 0, true, false"),
        ({"query": True, "person_id": -1}, r"annotation 9: a query needs a person's name"),
        ({"iscrowd": "perhaps"}, r"annotation 9: iscrowd 'perhaps': expected"),
        ({"person_id": 1e20}, r"annotation 9: identity 1e\+20: expected a whole number below 9223372036854775808"),
        ({"person_id": float("inf")}, r"annotation 9: identity inf: expected a whole number"),
        ({"person_id": 1.5}, r"annotation 9: identity 1.5: expected a whole number"),
        ({"person_id": [1]}, r"annotation 9: identity \[1\]: expected a whole number"),
        ({"person_id": True}, r"annotation 9: identity True: expected a whole number"),
        ({"pid": 2}, r"annotation 9: person_id 1 and pid 2 differ; keep one"),
        ({"bbox": [10, 10, float("nan"), 40]}, r"annotation 9: box .* is not finite"),
        ({"bbox": [10, 10, 10**400, 40]}, r"annotation 9: bbox .*expected four numbers"),
        ({"bbox": [10, 10, 20]}, r"annotation 9: bbox \[10, 10, 20\]: expected \[x, y, width, height\]"),
        ({"bbox": None}, r"annotation 9: bbox None: expected \[x, y, width, height\]"),
        ({"image_id": 6}, r"annotation 9: image_id 6 is not among the images"),
        ({"image_id": None}, r"annotation 9: image_id None: expected a number or text"),
        ({"category_id": 8}, r"annotation 9: category_id 8 is not among the categories"),
    ],
)
def test_mistakes_in_an_annotation_are_named(folder: Path, change: dict[str, object], message: str) -> None:
    person = {"id": 9, "image_id": 5, "bbox": [10, 10, 20, 40], "person_id": 1, **change}
    write_coco(folder, "test", [person], categories=[{"id": 1, "name": "person"}])
    with pytest.raises(DatasetError, match=message):
        read_coco(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": None}, r"test.json is not a COCO file: annotations is 'None', expected a list"),
        ({"annotations": ["x"]}, r"test.json: annotation 0 is 'x', expected an object"),
        (
            {"annotations": ["x"], "categories": [{"id": 1, "name": "car"}]},
            r"test.json: annotation 0 is 'x', expected an object",
        ),
        ({"categories": [5]}, r"test.json: category 0 is '5', expected an object"),
        ({"categories": [{"id": 1}]}, r"test.json: category 0: name None: expected text"),
        (
            {"images": [*IMAGES, {"id": 5, "file_name": "e.jpg"}]},
            r"test.json: image 2: c.jpg and e.jpg both have the id 5; give each its own",
        ),
        ({"images": [{"id": 5}]}, r"test.json: image 0: file_name None: expected a path"),
        ({"images": [{"file_name": "c.jpg"}]}, r"test.json: image 0: id None: expected a number or text"),
        ({"images": [{**IMAGES[0], "camera": 1e20}]}, r"image 0: camera 1e\+20: expected a whole number"),
        ({"images": [{**IMAGES[0], "width": -1, "height": 1}]}, r"image 0: the image is -1 x 1 pixels large"),
        (
            {"images": [{**IMAGES[0], "camera": 1}, {**IMAGES[0], "id": 6, "camera": 2}]},
            r"test.json: image 1: image c.jpg has camera 1 and camera 2",
        ),
    ],
)
def test_mistakes_in_a_file_are_named(folder: Path, change: dict[str, object], message: str) -> None:
    write_coco(folder, "test", [], **change)
    with pytest.raises(DatasetError, match=message):
        read_coco(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"test.json is not a COCO file: expected the keys images and annotations, found a list"),
        ("{}", r"test.json is not a COCO file: .* found none"),
        ("<html>", r"test.json is not a JSON file: Expecting value"),
        ("[" * 100_000, r"test.json is nested too deeply"),
        ('{"a":' * 50_000, r"test.json is nested too deeply"),
        ('{"images": [], "annotations": [], "annotations": []}', r"the key 'annotations' is there twice"),
        ('{"images": [], "annotations": [' + "9" * 10_000 + "]}", r"test.json is not a JSON file"),
        ("\ud800".encode("utf-8", "surrogatepass"), r"test.json is not a JSON file"),
    ],
)
def test_other_content_is_refused_in_one_line(folder: Path, content: str | bytes, message: str) -> None:
    (folder / "test.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError, match=message) as caught:
        read_coco(folder)
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"coco: test annotations missing: expected .*test.json; .* holds images/"):
        read_coco(folder)
    write_coco(folder, "train", [])
    with pytest.raises(DatasetError, match=r"test annotations missing: expected .*; .*train.json is there"):
        read_coco(folder)


def test_missing_images_are_counted_and_named(folder: Path) -> None:
    write_coco(folder, "test", [], images=[*IMAGES, {"id": 1, "file_name": "z.jpg"}])
    with pytest.raises(
        DatasetError, match=r"1 of 3 images missing in .*: z.jpg \(first: test.json image 2\); 5 images"
    ):
        read_coco(folder)


def test_two_paths_are_not_taken_for_one_image(folder: Path) -> None:
    images = [{"id": 0, "file_name": "gate/c.jpg"}, {"id": 1, "file_name": "hall/c.jpg"}]
    (folder / "test.json").write_text(json.dumps({"images": images, "annotations": []}))
    with pytest.raises(DatasetError, match=r"image 1: images gate/c.jpg and hall/c.jpg would both be c.jpg"):
        read_coco(folder)


def test_images_that_no_file_names_are_counted(folder: Path) -> None:
    write_coco(folder, "test", [])
    assert "fine 3 image files are named by no annotation file and were not read" in told(read_coco(folder), "fine")
