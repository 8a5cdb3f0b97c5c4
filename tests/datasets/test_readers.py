"""Whatever a data set holds, its reader gives back; a row that is broken is named in one line."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from diffps.datasets.coco import read_coco
from diffps.datasets.cuhk_sysu import read_cuhk_sysu
from diffps.datasets.folder import read_folder
from diffps.datasets.movienet import read_movienet
from diffps.datasets.posetrack import read_posetrack
from diffps.datasets.prw import read_prw
from diffps.records import SearchIndex
from tests.datasets.drawn import (
    EXAMPLES,
    FILES,
    PEOPLE,
    SIZE,
    Picture,
    boxes,
    break_annotation,
    check_album,
    corners,
    measure,
    one_line,
    pictures,
    write_pictures,
)
from tests.datasets.json_trees import alignps_json
from tests.datasets.trees import Box, cells, write_identities, write_image_boxes, write_protocol, write_prw

HEADINGS = ["split", "image", "x", "y", "w", "h", "person", "camera", "query"]


def csv_rows(album: list[Picture], marked: bool) -> list[list[str]]:
    return [
        [
            ("train", "test")[picture.test],
            picture.name,
            *map(str, person.box),
            person.name,
            "" if picture.camera is None else str(picture.camera),
            *(["01"[person.asked]] if marked else []),
        ]
        for picture in album
        for person in picture.persons
    ]


def write_table(root: Path, rows: list[list[str]], separator: str = ",", coding: str = "utf-8") -> Path:
    with (root / "persons.csv").open("w", encoding=coding, newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(HEADINGS[: len(rows[0])] if rows else HEADINGS)
        writer.writerows(rows)
    return root


@EXAMPLES
@given(
    album=pictures(PEOPLE),
    marked=st.booleans(),
    separator=st.sampled_from(",;\t|"),
    coding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_a_table_of_photographs(
    tmp_path_factory, album: list[Picture], marked: bool, separator: str, coding: str
) -> None:
    root = tmp_path_factory.mktemp("folder")
    write_pictures(root / "images", [picture.name for picture in album])
    rows = csv_rows(album, marked)
    write_table(root, rows, separator, coding)
    # The table names nobody but persons: an image without one is a test scene without a camera, after all others.
    named = [picture for picture in album if picture.persons]
    rest = sorted(picture.name for picture in album if not picture.persons)
    expected = [*named, *(Picture(name, True, None, []) for name in rest)]
    index = read_folder(root, measure=measure)
    check_album(index, expected, marked and bool(rows) and any(p.persons for p in named))
    if rows:
        broken = {1: "", 0: "both", 2: "1,5,5", 5: "wide", 3: "nan", 7: "1.5", 4: "1e999"} | (
            {8: "maybe"} if marked else {}
        )
        for row in {0, len(rows) - 1}:
            for column, value in broken.items():
                wrong = [list(cells) for cells in rows]
                wrong[row][column] = value
                write_table(root, wrong, separator, coding)
                one_line(lambda: read_folder(root, measure=measure), f"persons.csv line {row + 2}: ")


def coco_file(album: list[Picture], marked: bool, number: Callable[[int], Any]) -> dict[str, Any]:
    images, annotations = [], []
    for row, picture in enumerate(album):
        camera = {} if picture.camera is None else {"camera": picture.camera}
        images.append({"id": number(row), "file_name": picture.name, "width": SIZE[0], "height": SIZE[1], **camera})
        for person in picture.persons:
            mark = {"query": person.asked} if marked else {}
            who = {} if person.name in ("", -1) else {"person_id": person.name}
            annotations.append({"image_id": number(row), "bbox": list(person.box), **who, **mark})
    return {"images": images, "annotations": [{"id": 100 + row, **part} for row, part in enumerate(annotations)]}


@EXAMPLES
@given(
    album=pictures(PEOPLE | st.integers(0, 99) | st.sampled_from([2**53 + 1, 2**63 - 1])),
    marked=st.booleans(),
    number=st.sampled_from([lambda row: row, str, lambda row: f"img {row}", lambda row: 2**53 + row]),
)
def test_a_coco_file_of_photographs(tmp_path_factory, album: list[Picture], marked: bool, number: Any) -> None:
    root = tmp_path_factory.mktemp("coco")
    write_pictures(root / "images", [picture.name for picture in album])
    splits = {"train": [p for p in album if not p.test], "test": [p for p in album if p.test]}
    content = {split: coco_file(part, marked, number) for split, part in splits.items()}
    for split, part in content.items():
        (root / f"{split}.json").write_text(json.dumps(part), encoding="utf-8")
    everybody = [person for part in splits.values() for picture in part for person in picture.persons]
    check_album(read_coco(root, measure=measure), album, marked and bool(everybody))
    for split, part in content.items():
        changes: list[dict[str, Any]] = [{"bbox": [1, 2, 3]}, {"bbox": [1, 2, None, 4]}, {"image_id": "no image"}]
        changes += [
            {"person_id": [7]},
            {"person_id": 2**63},
            {"person_id": 1.5},
            {"query": "maybe"},
            {"bbox": [0, 0, 5, np.inf]},
        ]
        for change, row in zip(changes, range(len(part["annotations"])), strict=False):
            broken = break_annotation(part, row, change)
            (root / f"{split}.json").write_text(json.dumps(broken), encoding="utf-8")
            one_line(lambda: read_coco(root, measure=measure), f"{split}.json: annotation {100 + row}: ")
        (root / f"{split}.json").write_text(json.dumps(part), encoding="utf-8")


PIDS = st.sampled_from([-2, -1, 0, 1, 5, 21, 933, 5555, 65535])


@st.composite
def frames(draw: st.DrawFn, step: float = 0.25) -> dict[str, list[tuple[float, ...]]]:
    """PRW frames of cameras 0 to 9 and their rows pid, x, y, w, h."""
    names = draw(st.lists(st.from_regex(r"c[0-9]s[1-9]_[0-9]{6}", fullmatch=True), min_size=2, max_size=5, unique=True))
    rows = st.lists(st.tuples(PIDS, boxes(step)), max_size=3, unique_by=lambda row: row[1])
    return {name: [(pid, *box) for pid, box in draw(rows)] for name in names}


def check_prw(
    index: SearchIndex, splits: Sequence[Mapping[str, Any]], labels: Sequence[Sequence[int]], asked: Any
) -> None:
    numbers = [{pid: row for row, pid in enumerate(sorted(set(labels[0])))}, {pid: pid for pid in labels[1]}]
    expected = [
        (name, rows, number) for part, number in zip(splits, numbers, strict=True) for name, rows in part.items()
    ]
    assert [(scene.scene_id, scene.camera) for scene in index.scenes] == [
        (f"{n}.jpg", int(n[1])) for n, _, _ in expected
    ]
    assert [scene.split for scene in index.scenes] == ["train"] * len(splits[0]) + ["test"] * len(splits[1])
    for name, rows, number in expected:
        found = index.annotations[f"{name}.jpg"]
        assert found.boxes.tolist() == [corners(row[1:]) for row in rows]
        assert found.identities.tolist() == [number.get(row[0], -1) for row in rows]
    assert [(query.scene_id, query.identity, query.box.tolist()) for query in index.queries] == [
        (f"{name}.jpg", row[0], corners(row[1:])) for name, row in asked
    ]


@EXAMPLES
@given(found=frames(), labels=st.lists(PIDS.filter(lambda pid: pid >= 0), min_size=1, max_size=4), data=st.data())
def test_prw_in_both_forms(tmp_path_factory, found: dict[str, Any], labels: list[int], data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("prw") / "prw"
    cut = data.draw(st.integers(1, len(found) - 1))
    train, test = dict(list(found.items())[:cut]), dict(list(found.items())[cut:])
    asked = [(name, row) for name, rows in test.items() for row in rows if row[0] >= 0 and data.draw(st.booleans())]
    lines = ["{:d} {} {} {} {} {}".format(*row, name) for name, row in asked]
    write_prw(root, train, test, "\n".join(lines), (labels, labels))
    check_prw(read_prw(root, measure=measure), (train, test), (labels, labels), asked)
    if lines:
        row = data.draw(st.integers(0, len(lines) - 1))
        for wrong in (
            "7 0 0 10 c1s1_000001",
            lines[row].replace(" ", " x", 1),
            f"{lines[row]}9",
            "nobody " + lines[row],
        ):
            (root / "query_info.txt").write_text("\n".join([*lines[:row], wrong, *lines[row + 1 :]]))
            one_line(lambda: read_prw(root, measure=measure), f"query_info.txt line {row + 1}: ")
        (root / "query_info.txt").write_text("\n".join(lines))
    for name in (next(iter(train)), next(iter(test))):
        path = root / "annotations" / f"{name}.jpg.mat"
        whole = path.read_bytes()
        for table in (np.ones((2, 4)), np.array([[1.5, 0, 0, 9, 9]]), np.array([[np.nan, 0, 0, 9, 9]])):
            savemat(path, {"box_new": table})
            one_line(lambda: read_prw(root, measure=measure), path.name)
        path.write_bytes(whole)
    for split in ("train", "test"):
        (root / f"frame_{split}.mat").unlink()
    for split, part in (("train", train), ("test", test)):
        content = alignps_json({f"{name}.jpg": [(int(row[0]), row[1:]) for row in rows] for name, rows in part.items()})
        (root / f"{split}_pid.json").write_text(json.dumps(content))
    known = [int(row[0]) for rows in train.values() for row in rows if row[0] >= 0]
    check_prw(read_prw(root, measure=measure), (train, test), (known, labels), asked)
    for row in range(len(content["annotations"])):
        for change in ({"bbox": [1, 2, 3]}, {"image_id": 99}, {"person_id": "x"}, {"bbox": None}):
            (root / "test_pid.json").write_text(json.dumps(break_annotation(content, row, change)))
            one_line(lambda: read_prw(root, measure=measure), f"test_pid.json: annotation {row}: ")


class Listed(NamedTuple):
    """A data set whose galleries are listed: boxes of images, training identities, and (query, gallery) lines."""

    boxes: dict[str, list[Box]]
    test: list[str]
    train: dict[str, list[tuple[str, Box]]]
    lines: list[Any]


@st.composite
def listed(draw: st.DrawFn) -> Listed:
    names = [f"{name}.png" for name in draw(st.lists(FILES, min_size=3, max_size=5, unique=True))]
    whole = st.lists(boxes(1), min_size=1, max_size=3, unique=True).map(
        lambda rows: [tuple(map(int, row)) for row in rows]
    )
    found: dict[str, Any] = {name: draw(whole) for name in names}
    train, test = names[:1], names[1:]
    people: dict[str, list[tuple[str, Box]]] = {}
    for name in train:
        for box in found[name]:
            people.setdefault(draw(st.sampled_from(["p1", "p2", "nm30"])), []).append((name, box))
    lines, owners = [], dict[tuple[str, Box], int]()
    for _ in range(draw(st.integers(1, 3))):
        identity = draw(st.sampled_from([0, 7, 10581]))
        rows: list[tuple[str, Box | None]] = []
        for name in draw(st.lists(st.sampled_from(test), min_size=1, max_size=4)):
            box = draw(st.none() | st.sampled_from(found[name]))
            if box is not None and owners.setdefault((name, box), identity) != identity:
                box = None
            rows.append((name, box))
        own = draw(st.sampled_from(test))
        box = draw(st.sampled_from(found[own]))
        identity = owners.setdefault((own, box), identity)
        lines.append(((own, box, f"p{identity}"), [r for r in rows if r[1] is None or owners[r[0], r[1]] == identity]))
    return Listed(found, test, people, [line for line in lines if line[1]])


def check_listed(index: SearchIndex, found: Listed, gallery: str) -> None:
    train = [name for name in found.boxes if name not in found.test]
    order = [*train, *found.test]
    assert [(scene.scene_id, scene.split) for scene in index.scenes] == [
        (name, "train" if name in train else "test") for name in order
    ]
    known = {place: row for row, places in enumerate(found.train.values()) for place in places}
    for (own, box, name), rows in found.lines:
        for place in ((own, box), *rows):
            if place[1] is not None:
                known[place] = int(name[1:])
    for name in order:
        persons = index.annotations[name]
        assert persons.boxes.tolist() == [corners(box) for box in found.boxes[name]]
        assert persons.identities.tolist() == [known.get((name, box), -1) for box in found.boxes[name]]
    (only,) = index.galleries
    assert only.name == gallery
    queries = {query.query_id: query for query in index.queries}
    for number, ((own, box, name), rows) in enumerate(found.lines):
        query = queries[only.query_ids[number]]
        assert (query.scene_id, query.identity, query.box.tolist()) == (own, int(name[1:]), corners(box))
        assert [order[row] for row in only.scenes[number]] == [image for image, _ in rows]
        there = [(image, corners(place)) for image, place in rows if place is not None]
        places = zip(only.positive_scenes[number], only.positive_boxes[number].tolist(), strict=True)
        assert [(order[row], place) for row, place in places] == there


@EXAMPLES
@given(found=listed().filter(lambda found: found.lines), which=st.sampled_from(["cuhk", "movienet"]))
def test_listed_galleries(tmp_path_factory, found: Listed, which: str) -> None:
    root = tmp_path_factory.mktemp(which)
    cuhk = which == "cuhk"
    size, read = ("100", read_cuhk_sysu) if cuhk else ("2000", read_movienet)
    annotation = root / "annotation"
    protocol = annotation / f"test/train_test/TestG{size}.mat"
    write_pictures(root / ("Image/SSM" if cuhk else "Image"), list(found.boxes))
    write_protocol(protocol, protocol.stem, found.lines)
    write_image_boxes(annotation / "Images.mat", found.boxes)
    savemat(annotation / ("pool.mat" if cuhk else f"pool_{size}.mat"), {"pool": cells(found.test)})
    write_identities(protocol.with_name("Train.mat" if cuhk else "Train_app10.mat"), found.train)
    check_listed(read(root, measure=measure, min_box=(0, 0)), found, size)
    for row, ((own, box, name), rows) in enumerate(found.lines):
        for wrong in ((own, (1, 2, 3), name), (own, (5, 5, 0, 9), name), (own, box, "p-1")):
            lines = [*found.lines[:row], (wrong, rows), *found.lines[row + 1 :]]
            write_protocol(protocol, protocol.stem, lines)
            one_line(lambda: read(root, measure=measure), protocol.name, f": line {row + 1}: ")
    write_protocol(protocol, protocol.stem, found.lines)
    name = next(iter(found.boxes))
    write_image_boxes(annotation / "Images.mat", {**found.boxes, name: [(1, 2, 3)]})  # type: ignore[list-item]
    one_line(lambda: read(root, measure=measure), "Images.mat", f" on {name}: ")
    if cuhk:
        (annotation / "Images.mat").unlink()
        known = {place: row for row, places in enumerate(found.train.values()) for place in places}
        for split, members in (("train", [n for n in found.boxes if n not in found.test]), ("test", found.test)):
            persons = {name: [(known.get((name, box), -1), box) for box in found.boxes[name]] for name in members}
            # Images are known by their bare names there.
            content = alignps_json({name: persons[name] for name in members})
            (annotation / f"{split}_pid.json").write_text(json.dumps(content), encoding="utf-8")
        if not any(slash in name for slash in "/\\" for name in found.boxes):
            check_listed(read(root, measure=measure, min_box=(0, 0)), found, size)


@EXAMPLES
@given(album=pictures(PIDS.map(lambda pid: max(pid, -1))))
def test_posetrack(tmp_path_factory, album: list[Picture]) -> None:
    root = tmp_path_factory.mktemp("posetrack")
    write_pictures(root / "images", [picture.name for picture in album])
    (root / "annotations").mkdir()

    def write(name: str, part: list[Picture]) -> dict[str, Any]:
        content = coco_file(part, False, int)
        for image in content["images"]:
            image |= {"file_name": f"images/{image['file_name']}", "vid_id": image.pop("camera", None)}
        (root / "annotations" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        return content

    splits = {"train": [p for p in album if not p.test], "val": [p for p in album if p.test]}
    asked = [p._replace(persons=[each for each in p.persons if each.asked]) for p in splits["val"]]
    content = {name: write(name, part) for name, part in {**splits, "query": asked}.items()}
    everybody = [person for picture in album for person in picture.persons]
    check_album(read_posetrack(root, measure=measure), album, bool(everybody))
    for name, part in content.items():
        for row in range(len(part["annotations"])):
            for change in ({"bbox": [1, 2]}, {"image_id": 99}, {"person_id": "x"}, {"bbox": [0, 0, np.nan, 9]}):
                broken = break_annotation(part, row, change)
                (root / "annotations" / f"{name}.json").write_text(json.dumps(broken))
                one_line(lambda: read_posetrack(root, measure=measure), f"{name}.json: annotation {row}: ")
        (root / "annotations" / f"{name}.json").write_text(json.dumps(part))
