"""An answer as files, read back by those for whom they are."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from diffps.errors import ConfigError
from diffps.search.answer import Answer, Hit
from stages.finding.output import COLUMNS, write_answer
from tests.finding.fake import FakeService

ODD = 'a,"b"\nc.jpg'


def answer(calibrated: bool = True) -> tuple[Answer, dict[str, tuple[int, int]]]:
    service = FakeService(images=6, odd_name=ODD, calibrated=calibrated)
    sizes = {
        name: (int(height), int(width)) for name, (height, width) in zip(service.names, service.sizes, strict=True)
    }
    return service.find([4], 30), sizes


def two_hits() -> Answer:
    first = Hit(
        image="a.jpg", box=(1.0, 2.0, 30.0, 60.0), similarity=0.9, score=0.7, same_person=True, fpir=0.01, row=4
    )
    second = Hit(image="b.jpg", box=(5.0, 6.0, 7.0, 8.0), similarity=0.5, score=0.6, same_person=False, fpir=0.3, row=2)
    return Answer(
        hits=(first, second),
        boxes=9,
        images=3,
        pictures=1,
        promise=0.01,
        threshold=0.75,
        own=(),
        verdict="Found.",
        notes=(),
    )


def test_every_kind_holds_every_number_in_its_place(tmp_path: Path) -> None:
    for kind in ("csv", "json", "parquet", "coco.json"):
        write_answer(tmp_path / f"hits.{kind}", two_hits(), {"a.jpg": (480, 640), "b.jpg": (50, 40)})
    assert (tmp_path / "hits.csv").read_text().splitlines() == [
        "rank,image,x,y,width,height,similarity,score,same_person,fpir",
        "1,a.jpg,1.0,2.0,30.0,60.0,0.9,0.7,True,0.01",
        "2,b.jpg,5.0,6.0,7.0,8.0,0.5,0.6,False,0.3",
    ]
    table = pq.read_table(tmp_path / "hits.parquet")
    assert [str(field.type) for field in table.schema] == ["int32", "string", *["double"] * 6, "bool", "double"]
    assert [list(row.values()) for row in table.to_pylist()] == [
        [1, "a.jpg", 1.0, 2.0, 30.0, 60.0, 0.9, 0.7, True, 0.01],
        [2, "b.jpg", 5.0, 6.0, 7.0, 8.0, 0.5, 0.6, False, 0.3],
    ]
    assert (tmp_path / "hits.json").read_text() == json.dumps(two_hits().to_json(), indent=1) + "\n"
    common = {"category_id": 1, "iscrowd": 0}
    assert json.loads((tmp_path / "hits.coco.json").read_text()) == {
        "images": [
            {"id": 1, "file_name": "a.jpg", "height": 480, "width": 640},
            {"id": 2, "file_name": "b.jpg", "height": 50, "width": 40},
        ],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 1, "bbox": [1, 2, 30, 60], "area": 1800, "score": 0.9, "detection_score": 0.7}
            | {"same_person": True, "fpir": 0.01}
            | common,
            {"id": 2, "image_id": 2, "bbox": [5, 6, 7, 8], "area": 56, "score": 0.5, "detection_score": 0.6}
            | {"same_person": False, "fpir": 0.3}
            | common,
        ],
    }


def test_csv(tmp_path: Path) -> None:
    found, sizes = answer()
    write_answer(tmp_path / "hits.csv", found, sizes)
    with (tmp_path / "hits.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["image"] for row in rows] == [hit.image for hit in found.hits]
    assert ODD in {row["image"] for row in rows}
    assert [float(row["similarity"]) for row in rows] == [hit.similarity for hit in found.hits]
    assert rows[0]["same_person"] == str(found.hits[0].same_person)


@pytest.mark.parametrize("calibrated", [True, False])
def test_parquet(tmp_path: Path, calibrated: bool) -> None:
    found, sizes = answer(calibrated)
    write_answer(tmp_path / "hits.parquet", found, sizes)
    table = pq.read_table(tmp_path / "hits.parquet")
    assert tuple(table.column_names) == COLUMNS
    np.testing.assert_array_equal(table["similarity"].to_numpy(), [hit.similarity for hit in found.hits])
    assert table["same_person"].to_pylist() == [hit.same_person for hit in found.hits]
    assert table["rank"].to_pylist() == list(range(1, len(found.hits) + 1))


def test_json(tmp_path: Path) -> None:
    found, sizes = answer()
    write_answer(tmp_path / "hits.json", found, sizes)
    content = json.loads((tmp_path / "hits.json").read_text())
    assert content["verdict"] == found.verdict
    assert [hit["row"] for hit in content["hits"]] == [hit.row for hit in found.hits]


def test_coco(tmp_path: Path) -> None:
    found, sizes = answer()
    write_answer(tmp_path / "hits.coco.json", found, sizes)
    content = json.loads((tmp_path / "hits.coco.json").read_text())
    names = {image["id"]: image for image in content["images"]}
    for annotation, hit in zip(content["annotations"], found.hits, strict=True):
        image = names[annotation["image_id"]]
        assert (image["file_name"], (image["height"], image["width"])) == (hit.image, sizes[hit.image])
        assert (annotation["bbox"], annotation["score"]) == (list(hit.box), hit.similarity)


@pytest.mark.parametrize("kind", ["csv", "parquet", "json", "coco.json"])
def test_no_hits_are_a_file_too(tmp_path: Path, kind: str) -> None:
    found, sizes = FakeService(images=1).find([0], 0), {}
    write_answer(tmp_path / f"hits.{kind}", found, sizes)
    assert (tmp_path / f"hits.{kind}").stat().st_size > 0


@pytest.mark.parametrize("name", ["hits", "hits.xlsx", "json", "hits.csv.gz"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"its name ends with \.csv, \.json, \.parquet or \.coco\.json"):
        write_answer(tmp_path / name, *answer())
    assert not list(tmp_path.iterdir())
