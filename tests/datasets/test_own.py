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
    ],
)
def test_mistakes_in_the_table_are_named(folder: Path, line: str, message: str) -> None:
    (folder / "persons.csv").write_text(CSV + line + "\n")
    with pytest.raises(DatasetError, match=message):
        read_folder(folder)


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


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "persons.csv").rename(folder / "people.csv")
    with pytest.raises(
        DatasetError, match=r"table of boxes missing: expected .*persons.csv; .* holds images/, people.csv"
    ):
        read_folder(folder)
    with pytest.raises(DatasetError, match=r"coco: test annotations missing: expected .*test.json"):
        read_coco(folder)


def write_coco(folder: Path, split: str, persons: list[dict[str, object]]) -> None:
    images = [{"id": 5, "file_name": "c.jpg"}, {"id": 7, "file_name": "sub/d.png"}]
    (folder / f"{split}.json").write_text(json.dumps({"images": images, "annotations": persons}))


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
