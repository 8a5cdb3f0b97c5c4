"""One's own data as COCO files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffps.datasets.coco import read_coco
from diffps.datasets.coco_files import coco_key, find_coco
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


def message(folder: Path, **arguments: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        read_coco(folder, **arguments)
    return str(caught.value).replace(str(folder), "ROOT")


def test_what_is_long_is_shown_to_its_fortieth_character(folder: Path) -> None:
    long = "y" * 50
    write_coco(folder, "test", [{"image_id": 5, "bbox": long}])
    assert message(folder) == f"coco: ROOT/test.json: annotation 0: bbox {'y' * 40}: expected [x, y, width, height]"
    write_coco(folder, "test", [{"image_id": 5, "bbox": [0, 0, 0, long]}])
    assert message(folder).endswith(f"bbox [0, 0, 0, '{'y' * 29}: expected four numbers")
    write_coco(folder, "test", [long])  # type: ignore[list-item]
    assert message(folder) == f"coco: ROOT/test.json: annotation 0 is {'y' * 40!r}, expected an object"
    write_coco(folder, "test", [], categories=long)
    assert message(folder).endswith(f"test.json is not a COCO file: categories is {'y' * 40!r}, expected a list")
    (folder / "test.json").write_text(json.dumps({f"k{number}": 1 for number in range(9)}))
    assert message(folder).endswith("found k0, k1, k2, k3, k4, k5, k6, k7 and 1 more")


def test_the_file_of_each_split_and_those_that_are_not_read(tmp_path: Path) -> None:
    names = ("train.json", "train_pid.json", "result.json", "test.json", "annotations/instances_val.json")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    splits, others = find_coco(tmp_path)
    assert splits == {"train": tmp_path / "train.json", "test": tmp_path / "test.json"}
    assert others == [tmp_path / name for name in ("train_pid.json", "annotations/instances_val.json", "result.json")]
    for name in ("test.json", "result.json", "annotations/instances_val.json"):
        (tmp_path / name).unlink()
    expected = f"; {tmp_path}/train.json is there; other layouts have annotations/instances_test.json, "
    with pytest.raises(DatasetError) as caught:
        find_coco(tmp_path)
    assert expected in str(caught.value)
    assert str(caught.value).endswith("test_pid.json, annotation/test_pid.json, annotation/test_new.json")
    (tmp_path / "train.json").unlink()
    (tmp_path / "train_pid.json").unlink()
    (tmp_path / "test_pid.json").touch()
    assert find_coco(tmp_path) == ({"test": tmp_path / "test_pid.json"}, [])


@pytest.mark.parametrize(("value", "key"), [(7, "7"), (7.0, "7"), ("7", "7"), (-1, "-1"), ("a b", "a b")])
def test_ids_as_text(value: object, key: str) -> None:
    assert coco_key(value, "id") == key


@pytest.mark.parametrize("value", [True, None, [1], 7.5, 2**63])
def test_what_is_no_id(value: object) -> None:
    with pytest.raises(ValueError, match=r"^id .*: expected a (whole )?number"):
        coco_key(value, "id")


def test_sizes_of_images_need_both_sides_of_at_least_one_pixel(folder: Path) -> None:
    for size in ({"width": 200}, {"height": 160}, {"width": 0, "height": 160}, {"width": 200, "height": None}):
        write_coco(folder, "test", two(person_id=1), images=[{**image, **size} for image in IMAGES])
        assert told(read_coco(folder)) == []
    write_coco(folder, "test", [], images=[{**IMAGES[0], "width": 5, "height": -1}])
    assert message(folder) == "coco: ROOT/test.json: image 0: the image is 5 x -1 pixels large"
    write_coco(folder, "test", [], images=[{**IMAGES[0], "width": 1.5, "height": 1}])
    assert message(folder).endswith("image 0: width 1.5: expected a whole number below 2147483648")
    write_coco(folder, "test", [], images=[{**IMAGES[0], "width": 1, "height": 1}])
    assert [finding.of for finding in findings(read_coco(folder), "refused")] == ["images"]  # a size, of another shape


def test_one_image_in_two_files_has_one_split_camera_and_size(folder: Path) -> None:
    test, train = [{**IMAGES[0], "id": 9, "width": 100, "height": 80}], [{**IMAGES[0], "width": 200, "height": 160}]
    write_coco(folder, "test", [], images=[*test, {**train[0], "id": 8}])
    assert message(folder) == (
        "coco: ROOT/test.json: image 1: image c.jpg is 100 x 80 and 200 x 160 pixels large; an image has one size"
    )
    write_coco(folder, "train", [], images=train)
    write_coco(folder, "test", [], images=test)
    assert message(folder).endswith("image 0: image c.jpg is in both splits")
    images = [{**IMAGES[0], "camera": 0}, {**test[0], "id": 7}, {**IMAGES[0], "id": 8}, {**test[0], "camera": 0}]
    (folder / "train.json").unlink()
    write_coco(folder, "test", [], images=images)
    assert [(scene.camera, scene.size) for scene in read_coco(folder).scenes] == [(0, (80, 100))]


def test_the_key_that_most_annotations_have_is_asked_about(folder: Path) -> None:
    persons = [*two(track_id=1), {"id": 5, "image_id": 5, "bbox": [50, 10, 20, 40], "identity": 3, "track_id": 2}]
    write_coco(folder, "test", persons)
    assert told(read_coco(folder)) == [
        "doubtful 3 annotations hold track_id, which may tell persons apart: set index.identity=track_id if it does"
    ]
    write_coco(folder, "test", [*persons, {"id": 6, "image_id": 7, "bbox": [50, 10, 20, 40], "person_id": "ann"}])
    assert told(read_coco(folder)) == []
    write_coco(folder, "test", [])
    assert len(read_coco(folder, identity="track_id").scenes) == 2  # nothing to ask for is no mistake
    write_coco(folder, "test", two(a=1, b=2))
    assert message(folder, identity="who").endswith("names; the first one has id, image_id, bbox, a, b")


@pytest.mark.parametrize(("value", "doubted"), [(0, False), (0.0, False), (None, False), (0.5, True), (-90, True)])
def test_only_turned_rectangles_are_doubted(folder: Path, value: object, doubted: bool) -> None:
    write_coco(folder, "test", two(person_id=1, attributes={"rotation": value}))
    assert bool(told(read_coco(folder))) is doubted


def test_annotations_without_a_category_are_persons(folder: Path) -> None:
    categories = [{"id": 1, "name": "car", "supercategory": " Human "}, {"id": 2, "name": "dog"}]
    write_coco(folder, "test", two(), categories=categories[1:])
    assert [len(persons.boxes) for persons in read_coco(folder).annotations.values()] == [1, 1]
    write_coco(folder, "test", [*two(category_id=1), *two(), *two(category_id=2)], categories=categories)
    assert read_coco(folder).report["test"]["other_categories"] == 2  # type: ignore[index]


def test_categories_of_one_id_have_one_name(folder: Path) -> None:
    categories = [{"id": 1, "name": "Person "}, {"id": "1", "name": "Person "}]
    write_coco(folder, "test", two(category_id=1.0), categories=categories)
    assert [len(persons.boxes) for persons in read_coco(folder).annotations.values()] == [1, 1]
    write_coco(folder, "test", two(category_id=1), categories=[*categories, {"id": 1, "name": "car"}])
    assert message(folder) == "coco: ROOT/test.json: category 2: Person  and car both have the id 1"


def test_names_of_persons_are_whole_numbers_or_text(folder: Path) -> None:
    both = {"pid": 7, "person_id": "7"}
    write_coco(folder, "test", two(**both))
    assert read_coco(folder).annotations["c.jpg"].identities.tolist() == [7]
    write_coco(folder, "test", two(person_id="nan"))
    assert told(read_coco(folder)) == [
        "repaired 2 boxes are named as programs name nobody (nan) and were read as unlabelled"
    ]
    write_coco(folder, "test", two(person_id=-2))
    assert told(read_coco(folder)) == []
    write_coco(folder, "test", two(person_id=-2.0))
    assert told(read_coco(folder)) == [
        "repaired 2 boxes are named as programs name nobody (-2) and were read as unlabelled"
    ]
