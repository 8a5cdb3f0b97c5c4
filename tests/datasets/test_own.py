"""One's own data: CSV and COCO."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffps.datasets.own import read_coco, read_folder
from diffps.errors import DatasetError

CSV = """split,image,x,y,w,h,person,camera
train,a.jpg,10,10,20,40,ann,1
train,a.jpg,40,10,20,40,,1
train,b.jpg,10,10,20,40,bob,1
test,c.jpg,10,10,20,40,cat,1
test,sub/d.png,30,10,20,90,cat,2
test,sub/d.png,60,10,20,40,dan,2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for number, name in enumerate(["a.jpg", "b.jpg", "c.jpg", "sub/d.png", "e.jpg"]):
        Image.new("RGB", (100, 80), (number, 0, 0)).save(tmp_path / "images" / name)
    (tmp_path / "persons.csv").write_text(CSV)
    return tmp_path


def test_a_folder_with_a_table(folder: Path) -> None:
    index = read_folder(folder)
    assert [(scene.scene_id, scene.split, scene.camera) for scene in index.scenes] == [
        ("a.jpg", "train", 1),
        ("b.jpg", "train", 1),
        ("c.jpg", "test", 1),
        ("sub/d.png", "test", 2),
        ("e.jpg", "test", None),
    ]
    found = {name: persons.identities.tolist() for name, persons in index.annotations.items()}
    assert found == {"a.jpg": [0, -1], "b.jpg": [1], "c.jpg": [0], "sub/d.png": [0, 1], "e.jpg": []}
    assert index.annotations["sub/d.png"].boxes[0].tolist() == [30, 10, 50, 80]
    assert index.report["test"] == {
        "images": 3,
        "boxes": 3,
        "labelled": 3,
        "dropped": 0,
        "clipped": 1,
        "identities": 2,
    }


def test_whoever_is_seen_twice_is_a_query(folder: Path) -> None:
    queries = read_folder(folder).queries
    assert [(query.scene_id, query.identity) for query in queries] == [("c.jpg", 0), ("sub/d.png", 0)]


def test_queries_can_be_marked(folder: Path) -> None:
    lines = CSV.splitlines()
    marked = [lines[0] + ",query", *(line + ("," if n != 5 else ",1") for n, line in enumerate(lines[1:]))]
    (folder / "persons.csv").write_text("\n".join(marked))
    queries = read_folder(folder).queries
    assert [(query.scene_id, query.box.tolist()) for query in queries] == [("sub/d.png", [60, 10, 80, 50])]


def test_a_table_of_a_spreadsheet_on_windows(folder: Path) -> None:
    (folder / "persons.csv").write_bytes(b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode())
    assert len(read_folder(folder).queries) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("test,c.jpg,x,10,20,40,cat,1", r"persons.csv line 8: could not convert string to float: 'x'"),
        ("valid,c.jpg,1,10,20,40,cat,1", r"line 8: split 'valid' is neither train nor test"),
        ("train,c.jpg,1,10,20,40,cat,1", r"image c.jpg is in both splits"),
        ("test,,1,10,20,40,cat,1", r"line 8: no image is named"),
        ("test,zz.jpg,1,10,20,40,cat,1", r"1 of 6 images missing in .*images: zz.jpg; 5 images found there"),
        ("test,c.jpg,1,10,20,40,dan,2", r"line 8: image c.jpg has camera 1 and camera 2; an image has one"),
        ("test,c.jpg,1,10,20,40,dan,9e99", r"line 8: camera '9e99': expected a whole number below 2147483648"),
        ("test,c.jpg,1,10,inf,40,dan,1", r"line 8: box \[1.0, 10.0, inf, 40.0\] is not finite"),
        ("\ntest,c.jpg,1,10,y,40,dan,1", r"line 9: could not convert string to float: 'y'"),
    ],
)
def test_mistakes_in_the_table_are_named(folder: Path, line: str, message: str) -> None:
    (folder / "persons.csv").write_text(CSV + line + "\n")
    with pytest.raises(DatasetError, match=message):
        read_folder(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("test,c.jpg,1,10,20,40,cat,yes", r"persons.csv line 3: query 'yes': expected 1, 0 or nothing"),
        ("test,c.jpg,1,10,20,40,,1", r"line 3: a query needs a person's name"),
        ("train,c.jpg,1,10,20,40,cat,1", r"line 3: a query lies in a test image, this one is in train"),
    ],
)
def test_mistakes_in_queries_are_named(folder: Path, line: str, message: str) -> None:
    head = "split,image,x,y,w,h,person,query\ntrain,a.jpg,10,10,20,40,ann,0\n"
    (folder / "persons.csv").write_text(head + line + "\n")
    with pytest.raises(DatasetError, match=message):
        read_folder(folder)


@pytest.mark.parametrize(
    ("names", "identities"),
    [
        (("7", "12"), [7, 12]),
        (("7", "07"), [0, 1]),
        (("7", "9223372036854775807"), [7, 2**63 - 1]),
        (("7", "9223372036854775808"), [0, 1]),
        (("7", "9" * 5000), [0, 1]),
        (("7", "\u00b2"), [0, 1]),
    ],
)
def test_names_are_their_own_numbers_where_all_are_numbers(
    folder: Path, names: tuple[str, str], identities: list[int]
) -> None:
    lines = [f"test,c.jpg,{n}0,10,20,40,{name}" for n, name in enumerate(names)]
    (folder / "persons.csv").write_text("\n".join(["split,image,x,y,w,h,person", *lines]))
    assert read_folder(folder).annotations["c.jpg"].identities.tolist() == identities


def test_spaces_around_cells_do_not_count(folder: Path) -> None:
    (folder / "persons.csv").write_text(
        "split, image, x, y, w, h, person\ntest , c.jpg,1,10,20,40,anna \ntest,e.jpg,1,10,20,40, anna\n"
    )
    assert [query.scene_id for query in read_folder(folder).queries] == ["c.jpg", "e.jpg"]


def test_a_line_may_end_before_the_person(folder: Path) -> None:
    (folder / "persons.csv").write_text(CSV + "test,e.jpg,1,10,20,40\n")
    assert read_folder(folder).annotations["e.jpg"].identities.tolist() == [-1]


def test_a_table_in_another_encoding_is_named(folder: Path) -> None:
    (folder / "persons.csv").write_bytes(CSV.replace("ann", "J\u00f6rg").encode("cp1252"))
    with pytest.raises(DatasetError, match=r"persons.csv is not a CSV table in UTF-8"):
        read_folder(folder)


def test_missing_columns_are_named(folder: Path) -> None:
    (folder / "persons.csv").write_text("image,x,y\n")
    with pytest.raises(DatasetError, match=r"lacks the columns split, w, h, person; found \['image', 'x', 'y'\]"):
        read_folder(folder)
    (folder / "persons.csv").write_text("")
    with pytest.raises(DatasetError, match=r"persons.csv lacks the columns split, .*; found nothing"):
        read_folder(folder)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "persons.csv").rename(folder / "people.csv")
    with pytest.raises(
        DatasetError, match=r"table of boxes missing: expected .*persons.csv; .* holds images/, people.csv"
    ):
        read_folder(folder)
    with pytest.raises(DatasetError, match=r"coco: test annotations missing: expected .*test.json"):
        read_coco(folder)


IMAGES = [{"id": 5, "file_name": "c.jpg"}, {"id": 7, "file_name": "sub/d.png"}]


def write_coco(folder: Path, split: str, persons: list[dict[str, object]], **more: object) -> None:
    (folder / f"{split}.json").write_text(json.dumps({"images": IMAGES, "annotations": persons, **more}))


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


def test_coco_crowds_and_other_categories_are_skipped_and_counted(folder: Path) -> None:
    persons: list[dict[str, object]] = [
        {"image_id": 5, "bbox": [10, 10, 20, 40], "person_id": 1, "category_id": 3, "iscrowd": 0},
        {"image_id": 5, "bbox": [20, 10, 20, 40], "person_id": 2, "category_id": 4},
        {"image_id": 5, "bbox": [30, 10, 20, 40], "person_id": 3, "category_id": 3, "iscrowd": 1},
        {"image_id": 5, "bbox": [40, 10, 20, 40], "person_id": 4},
    ]
    categories = [{"id": 3, "name": "Person"}, {"id": 4, "name": "bicycle"}]
    write_coco(folder, "test", persons, categories=categories)
    index = read_coco(folder)
    assert index.annotations["c.jpg"].identities.tolist() == [1, 4]
    assert index.report["test"] == {
        "images": 2,
        "boxes": 2,
        "labelled": 2,
        "dropped": 0,
        "clipped": 0,
        "other_categories": 1,
        "crowds": 1,
        "identities": 2,
    }
    for unknowing in ([{"id": 4, "name": "pedestrian"}], [], None):
        write_coco(folder, "test", persons, categories=unknowing)
        assert read_coco(folder).annotations["c.jpg"].identities.tolist() == [1, 2, 4]


def test_coco_queries_can_be_marked(folder: Path) -> None:
    marks = [True, False, 1, 0, None]
    persons: list[dict[str, object]] = [
        {"image_id": 5, "bbox": [10 * n, 10, 20, 40], "person_id": n, "query": mark} for n, mark in enumerate(marks)
    ]
    write_coco(folder, "test", persons)
    assert [query.identity for query in read_coco(folder).queries] == [0, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": "false"}, r"test.json: annotation 9: query 'false': expected true, false, 1 or 0"),
        ({"query": True, "person_id": -1}, r"annotation 9: a query needs a person's name"),
        ({"iscrowd": "no"}, r"annotation 9: iscrowd 'no': expected true, false, 1 or 0"),
        ({"person_id": 1e20}, r"annotation 9: person_id 1e\+20: expected a whole number below 9223372036854775808"),
        ({"person_id": float("inf")}, r"annotation 9: person_id inf: expected a whole number"),
        ({"person_id": 1.5}, r"annotation 9: person_id 1.5: expected a whole number"),
        ({"bbox": [10, 10, float("nan"), 40]}, r"annotation 9: box .* is not finite"),
        ({"bbox": [10, 10, 10**400, 40]}, r"annotation 9: OverflowError"),
    ],
)
def test_mistakes_in_a_coco_annotation_are_named(folder: Path, change: dict[str, object], message: str) -> None:
    write_coco(folder, "test", [{"id": 9, "image_id": 5, "bbox": [10, 10, 20, 40], "person_id": 1, **change}])
    with pytest.raises(DatasetError, match=message):
        read_coco(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": None}, r"test.json is not a COCO file: annotations is null, expected a list"),
        ({"annotations": ["x"]}, r"test.json: annotation x: AttributeError"),
        ({"categories": [5]}, r"test.json: a category's id or name: TypeError"),
        (
            {"images": [*IMAGES, {"id": 5, "file_name": "e.jpg"}]},
            r"test.json: an image's id, .*: c.jpg and e.jpg both have the id 5; give each its own",
        ),
        ({"images": [{**IMAGES[0], "camera": 1e20}]}, r"an image's .*: camera 1e\+20: expected a whole number"),
        (
            {"images": [{**IMAGES[0], "camera": 1}, {**IMAGES[0], "id": 6, "camera": 2}]},
            r"test.json: .*image c.jpg has camera 1 and camera 2",
        ),
    ],
)
def test_mistakes_in_a_coco_file_are_named(folder: Path, change: dict[str, object], message: str) -> None:
    write_coco(folder, "test", [], **change)
    with pytest.raises(DatasetError, match=message):
        read_coco(folder)


def test_mistakes_in_coco_are_named(folder: Path) -> None:
    write_coco(folder, "test", [{"id": 9, "image_id": 6, "bbox": [10, 10, 20, 40]}])
    with pytest.raises(DatasetError, match=r"test.json: annotation 9: KeyError 6"):
        read_coco(folder)
    (folder / "test.json").write_text(json.dumps({"images": [{"id": 5}], "annotations": []}))
    with pytest.raises(DatasetError, match=r"test.json: an image's .*KeyError 'file_name'"):
        read_coco(folder)
    (folder / "test.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"test.json is not a COCO file"):
        read_coco(folder)
