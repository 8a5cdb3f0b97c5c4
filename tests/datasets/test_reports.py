"""What an index says of itself, line by line, for one tree of each layout with something odd in every place.

``reports.json`` was read line by line once. Where a change is meant, what a test shows is what it should hold.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scipy.io import savemat

from diffps.datasets.coco import read_coco
from diffps.datasets.cuhk_sysu import read_cuhk_sysu
from diffps.datasets.findings import from_json, lines
from diffps.datasets.folder import read_folder
from diffps.datasets.movienet import read_movienet
from diffps.datasets.posetrack import read_posetrack
from diffps.datasets.prw import read_prw
from diffps.records import SearchIndex
from tests.datasets.json_trees import posetrack_person, write_posetrack, write_posetrack_file
from tests.datasets.movie_trees import write_movienet, write_train
from tests.datasets.told import write_images
from tests.datasets.trees import cells, write_identities, write_image_boxes, write_protocol, write_prw


def said(index: SearchIndex, root: Path) -> list[str]:
    """Findings as people read them, the counts as ``where key value``, then who is where and who is asked for."""
    counts = {key: value for key, value in index.report.items() if key != "findings"}
    findings = from_json(index.report["findings"])  # type: ignore[arg-type]
    found = [line.replace(str(root), "ROOT") for line in lines(findings)]
    found += flat(counts)
    for scene in index.scenes:
        persons = index.annotations[scene.scene_id]
        places = zip(persons.identities.tolist(), persons.boxes.tolist(), strict=True)
        shown = "; ".join(f"{identity} at {box}" for identity, box in places)
        found.append(f"{scene.split} {scene.scene_id}, camera {scene.camera}: {shown or 'nobody'}")
    for query in index.queries:
        found.append(f"query {query.query_id} on {query.scene_id}: {query.identity} at {query.box.tolist()}")
    for gallery in index.galleries:
        rows = zip(gallery.query_ids, gallery.scenes, gallery.positive_scenes, gallery.positive_boxes, strict=True)
        for query_id, scenes, where, boxes in rows:
            line = f"in {scenes.tolist()}: {where.tolist()} at {boxes.tolist()}"
            found.append(f"gallery {gallery.name}, query {query_id} {line}")
    return found


def flat(values: Any, path: str = "") -> Iterator[str]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from flat(value, f"{path} {key}".strip())
    else:
        yield f"{path} {json.dumps(values)}"


def prw(root: Path) -> SearchIndex:
    train = {
        "c1s1_000001": [(7, 10, 20, 30, 60), (7, 50, 20, 20, 40), (-2, 10, 80, 30, 30)],
        "c2s1_000002": [(3, 90, 10, 30, 60), (21, 40, 10, 20, 200), (7, 1, 1, 5, 5)],
        "c3s1_000003": [(-2, 10, 20, 30, 60), (-2, 10, 20, 30, 60)],
    }
    test = {
        "c1s2_000004": [(21, 10, 20, 30, 60), (22, 60, 20, 0.5, 40), (23, 60, 20, 20, 40), (7, 0, 0, 20, 20)],
        "c2s2_000005": [(21, 30, 20, 30, 60), (21, 70, 20, 20, 50), (22, 200, 5, 20, 40)],
        "c3s2_000006": [],
    }
    lines = "21 10 20 30 60 c1s2_000004\n\n24 30 20 30 160 c2s2_000005.jpg\n23 61 21 20 40 c1s2_000004\n"
    write_prw(root, train, test, lines, ((3, 5, 7), (21, 22, 23, 7)))  # type: ignore[arg-type]
    (root / "frames" / "c3s2_000006.jpg").write_bytes((root / "frames" / "c1s2_000004.jpg").read_bytes())
    return read_prw(root, min_box=(10, 10))


def write_listed(root: Path) -> Path:
    """CUHK-SYSU with a box of two persons, labels without boxes, an image listed twice, and files that nobody lists."""
    boxes: dict[str, Any] = {
        "t1.jpg": [(10, 10, 20, 40), (50, 10, 20, 40), (70, 10, 8, 40), (5, 5, 30, 70)],
        "t2.jpg": [(10, 10, 20, 40), (60, 10, 60, 40)],
        "s1.jpg": [(10, 10, 20, 40), (50, 10, 20, 40), (5, 5, 9, 9), (80, 60, 90, 60)],
        "s2.jpg": [(10, 10, 20, 40), (50, 10, 20, 40)],
        "s3.jpg": [],
    }
    people: dict[str, Any] = {
        "p9": [("t1.jpg", (10, 10, 20, 40)), ("t1.jpg", (50, 10, 20, 40)), ("t2.jpg", (60, 10, 60, 40))],
        "p2": [("t1.jpg", (70, 10, 8, 40)), ("t2.jpg", (11, 10, 20, 40))],
    }
    one, two, other = (10, 10, 20, 40), (50, 10, 20, 40), (5, 5, 9, 9)
    galleries: dict[str, Any] = {
        "TestG50": [
            (("s1.jpg", one, "p11"), [("s2.jpg", one), ("s3.jpg", None)]),
            (("s1.jpg", two, "p12"), [("s2.jpg", one), ("s1.jpg", other)]),
            (("s2.jpg", two, "p013"), [("s3.jpg", None), ("s3.jpg", None), ("s1.jpg", two)]),
        ],
        "TestG4000": [(("s1.jpg", (12, 10, 20, 40), "p11"), [("s3.jpg", None), ("s2.jpg", one)])],
    }
    annotation = root / "annotation"
    tests = annotation / "test/train_test"
    write_images(root / "Image/SSM", [*boxes, "x1.jpg", "x2.jpg"])
    for name, rows in galleries.items():
        write_protocol(tests / f"{name}.mat", name, rows)
    (tests / "TestG100.mat").write_bytes(b"")
    write_image_boxes(annotation / "Images.mat", boxes)
    savemat(annotation / "pool.mat", {"pool": cells(["s1.jpg", "s2.jpg", "s3.jpg"])})
    write_identities(tests / "Train.mat", people)
    return root


def cuhk_sysu(root: Path) -> SearchIndex:
    return read_cuhk_sysu(write_listed(root))


def movienet(root: Path) -> SearchIndex:
    write_movienet(root)
    people: dict[str, Any] = {
        "nm1": [("tt02/shot_1.jpg", (30, 10, 20, 40)), ("tt02/shot_2.jpg", (30, 10, 20, 40))],
        "nm2": [("tt01/shot_1.jpg", (10, 10, 20, 40))],
    }
    write_train(root / "annotation/test/train_test/Train_app50.mat", people, False)
    write_train(root / "annotation/test/train_test/Train_app10.mat", people, False)
    (root / "Image/tt02/shot_9.jpg").touch()
    return read_movienet(root)


def posetrack(root: Path) -> SearchIndex:
    write_posetrack(root)
    asks = [
        posetrack_person(1, 21, [10, 10, 20, 20]),  # half of the annotated one
        posetrack_person(2, 21, [12, 10, 20, 19]),  # less than half of it
        posetrack_person(4, 22, [40, 10, 20, 40]),
        posetrack_person(4, 5, [70, 10, 20, 40]),
    ]
    write_posetrack_file(root, "query", [1, 2, 4], asks)
    return read_posetrack(root)


def coco(root: Path) -> SearchIndex:
    write_images(root / "images", ["a.jpg", "b.jpg", "sub/c.jpg", "d.jpg", "e.jpg", "f.jpg", "left/g.jpg"])
    box = [10, 10, 20, 40]
    images = [
        {"id": 1, "file_name": "b.jpg", "width": 200, "height": 160, "camera": 3},
        {"id": 2, "file_name": "C.jpg", "width": 80, "height": 100},
        {"id": 3, "file_name": "x/y/d.jpg"},
        {"id": 4, "file_name": "e.jpg", "width": 300, "height": 80},
    ]
    persons: list[dict[str, Any]] = [
        {"id": 1, "image_id": 1, "bbox": [20, 20, 40, 80], "person_id": "ann", "query": 1},
        {"id": 2, "image_id": 1, "bbox": [100, 20, 60, 80], "person_id": "5555"},
        {"id": 3, "image_id": 2, "bbox": box, "person_id": "ann", "query": True},
        {"image_id": 3, "bbox": box, "person_id": "ann", "attributes": {"rotation": 3}},
        {"image_id": 3, "bbox": [10, 70, 20, 40], "person_id": "None", "attributes": {"rotation": 0.0}},
        {"image_id": 4, "bbox": box, "person_id": "bob"},
        {"image_id": 3, "bbox": [90, 10, 30, 40], "pid": 7, "person_id": "7"},
        {"image_id": 3, "bbox": box, "category_id": 2},
        {"image_id": 3, "bbox": box, "category_id": 3},
        {"image_id": 3, "bbox": box, "category_id": 1, "ignore": "yes"},
    ]
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(("People", "dog", "car"))]
    content = {"images": images, "annotations": persons, "categories": categories}
    (root / "test.json").write_text(json.dumps(content))
    train = [{"id": 0, "file_name": "a.jpg"}], [{"image_id": 0, "bbox": box, "person_id": "bob"}] * 2
    (root / "train.json").write_text(json.dumps({"images": train[0], "annotations": train[1]}))
    (root / "result.json").touch()
    (root / "train_pid.json").touch()
    return read_coco(root)


def folder(root: Path) -> SearchIndex:
    write_images(root / "images", ["a.jpg", "b.jpg", "sub/c.jpg", "d.jpg"])
    (root / "images" / "notes.txt").write_text("notes")
    (root / "images" / "e.jpg").write_text("no picture")
    rows = [
        "train,a.jpg,10,10,20,40,1.0,,",
        "train,a.jpg,10,10,20,40,1.0,,",
        "train,a.jpg,50,10,20,40,02.0,,x",
        "Testing,x/b.jpg,10,10,20,40,1.0,y,",
        "test,x/b.jpg,10,10,20,40,3.0,,",
        "test,x/b.jpg,60,10,20,40,3.0,,",
        "test,C.jpg,10,10,20,40,?,,",
        "test,sub/C.jpg,80,10,50,40,nan,no,",
        "test,C.jpg,40,10,20,40,1.0,,y",
    ]
    (root / "persons.csv").write_text("\n".join(["split,image,x,y,w,h,person,query,a,b", *rows]))
    return read_folder(root, min_box=(5, 5))


READERS = {each.__name__: each for each in (prw, cuhk_sysu, movienet, posetrack, coco, folder)}


@pytest.mark.parametrize("name", READERS)
def test_the_report_is_the_recorded_one(tmp_path: Path, name: str) -> None:
    recorded = json.loads(Path(__file__).with_name("reports.json").read_text(encoding="utf-8"))
    assert said(READERS[name](tmp_path), tmp_path) == recorded[name]
