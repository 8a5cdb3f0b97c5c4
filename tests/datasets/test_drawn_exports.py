"""Whatever Label Studio, CVAT and Roboflow export as COCO is read back; a row that is broken is named in one line."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.datasets.coco import read_coco
from tests.datasets.drawn import (
    EXAMPLES,
    PEOPLE,
    SIZE,
    Picture,
    boxes,
    check_album,
    measure,
    one_line,
    pictures,
    write_pictures,
)

Json = dict[str, Any]


class Export(NamedTuple):
    """COCO ``files`` by path and the ``images`` there are; ``album``: what is to be read of them, where the key
    ``identity`` of an annotation says who it is."""

    files: dict[str, Json]
    images: list[str]
    identity: str
    album: list[Picture]


def coco(names: Sequence[str], first: int, categories: Sequence[Json], annotations: Sequence[Json]) -> Json:
    """What all three write, ids from ``first`` on."""
    sides = {"width": SIZE[0], "height": SIZE[1]}
    return {
        "images": [{"id": first + row, "file_name": name, **sides} for row, name in enumerate(names)],
        "categories": list(categories),
        "annotations": [
            {"id": first + row, "segmentation": [], "iscrowd": 0, **part} for row, part in enumerate(annotations)
        ],
    }


SPELLINGS = [
    "images/{}".format,
    "images\\{}".format,
    "/data/upload/3/{}".format,
    "../../label-studio/data/media/upload/3/{}".format,
    lambda name: f"/data/local-files/?d=some/folder/{quote(name)}",
    lambda name: f"http://localhost:8080/data/upload/3/{quote(name)}",
]


@st.composite
def label_studio(draw: st.DrawFn) -> Export:
    """result.json beside images/; labels are the persons' names or one that says person, all of it is test."""
    identity = draw(st.sampled_from(["category.name", ""]))
    people = PEOPLE.filter(bool) | st.just("unknown") if identity else st.just("Person")
    found = draw(pictures(people).map(partial(renamed, "{row:08x}-{name}")))
    labels = sorted({"somebody else", *(person.name for picture in found for person in picture.persons)})
    labels = draw(st.permutations(labels)) if identity else ["Person"]
    annotations = [
        {"image_id": row, "category_id": labels.index(person.name), "bbox": list(person.box), "ignore": 0}
        for row, picture in enumerate(found)
        for person in picture.persons
    ]
    spelling = draw(st.sampled_from(SPELLINGS))
    names = [picture.name for picture in found]
    categories = [{"id": row, "name": label} for row, label in enumerate(labels)]
    content = coco([spelling(name) for name in names], 0, categories, annotations)
    album = in_split(found, True, {"unknown": ""} if identity else {"Person": ""})
    return Export({"result.json": content}, [f"images/{name}" for name in names], identity, album)


@st.composite
def cvat(draw: st.DrawFn) -> Export:
    """annotations/instances_SUBSET.json and images/SUBSET, whose frames may have the names of another subset's; tracks
    or an attribute tell who it is; cars and crowds between the persons."""
    identity = draw(st.sampled_from(["attributes.track_id", "attributes.name"]))
    people = PEOPLE if identity.endswith("name") else st.just("") | st.integers(0, 99)
    subsets = draw(st.sampled_from([["default"], ["Test"], ["Train", "Test"], ["train", "val"]]))
    kind = draw(st.sampled_from(["instances", "person_keypoints"]))
    categories = [{"id": 1, "name": "car", "supercategory": ""}, {"id": 2, "name": "person", "supercategory": ""}]
    other = st.tuples(st.sampled_from([{"category_id": 1}, {"category_id": 2, "iscrowd": 1}]), boxes())
    files, images, album = {}, [], []
    for subset in subsets:
        found = renamed("{name}", draw(pictures(people)))
        annotations: list[Json] = []
        for row, picture in enumerate(found, 1):
            for person in picture.persons:
                for extra, box in draw(st.lists(other, max_size=1)):
                    annotations.append({"image_id": row, "bbox": list(box), **extra})
                key = identity.removeprefix("attributes.")
                who = {} if key == "track_id" and person.name == "" else {key: person.name}
                said = {"occluded": draw(st.booleans()), "rotation": draw(st.sampled_from([0.0, 33.5])), **who}
                annotations.append({"image_id": row, "category_id": 2, "bbox": list(person.box), "attributes": said})
        names = [picture.name for picture in found]
        files[f"annotations/{kind}_{subset}.json"] = coco(names, 1, categories, annotations)
        images += [f"images/{subset}/{name}" for name in names]
        album += in_split(renamed(subset + "/{name}", found), subset not in ("Train", "train"), {})
    if not any(person.name != "" for picture in album for person in picture.persons):
        identity = ""
    return Export(files, images, identity, album)


@st.composite
def roboflow(draw: st.DrawFn) -> Export:
    """train, valid and test with images beside _annotations.coco.json; category 0 is the project, and valid is read
    where there is no test."""
    identity = draw(st.sampled_from(["category.name", ""]))
    people = PEOPLE.filter(bool) if identity else st.just("person")
    files, images, album = {}, [], []
    splits = draw(st.sampled_from([("test",), ("train", "valid"), ("train", "valid", "test")]))
    for split in splits:
        found = draw(pictures(people).map(partial(renamed, "{row}_png.rf.{row:032x}.png")))
        classes = sorted({"person", *(person.name for picture in found for person in picture.persons)})
        categories = [{"id": 0, "name": "street-people", "supercategory": "none"}]
        categories += [{"id": n, "name": name, "supercategory": "street-people"} for n, name in enumerate(classes, 1)]
        annotations = [
            {"image_id": row, "category_id": 1 + classes.index(person.name), "bbox": list(person.box)}
            for row, picture in enumerate(found)
            for person in picture.persons
        ]
        names = [picture.name for picture in found]
        files[f"{split}/_annotations.coco.json"] = coco(names, 0, categories, annotations)
        images += [f"{split}/{name}" for name in names]
        if split != "valid" or "test" not in splits:
            album += in_split(renamed(split + "/{name}", found), split != "train", {} if identity else {"person": ""})
    return Export(files, images, identity, album)


def renamed(form: str, found: Sequence[Picture]) -> list[Picture]:
    """Pictures by another name; none of the programs has a backslash in one."""
    return [
        picture._replace(name=form.format(row=row, name=picture.name.replace("\\", "")))
        for row, picture in enumerate(found)
    ]


def in_split(found: Sequence[Picture], test: bool, nobody: Mapping[str, str]) -> list[Picture]:
    """The pictures in one split, without a camera; ``nobody`` gives the names that are no person's another one."""
    return [
        Picture(p.name, test, None, [each._replace(name=nobody.get(each.name, each.name)) for each in p.persons])
        for p in found
    ]


def damages(name: str, content: Json, identity: str) -> Iterator[tuple[Json, str]]:
    """The file with one broken row each, and how that row is to be named."""
    broken: list[tuple[str, int, Any, str]] = []
    last = len(content["images"]) - 1
    for change in ({"file_name": None}, {"id": [1]}, {"width": -5}, {"height": 1.5}):
        broken.append(("images", last, change, f"{name}: image {last}: "))
    broken.append(("images", last, {"file_name": "gone.png"}, f"gone.png (first: {name} image {last}"))
    for change in ({"name": None}, {"id": None}):
        broken.append(("categories", 0, change, f"{name}: category 0: "))
    parts = content["annotations"]
    categories = {category["id"]: category["name"] for category in content["categories"]}
    persons = [n for n, part in enumerate(parts) if categories[part["category_id"]] != "car" and not part["iscrowd"]]
    for row in {*persons[:1], *persons[-1:]}:
        changes: list[Json] = [{"bbox": [1, 2, 3]}, {"bbox": [1, 2, None, 4]}, {"bbox": [0, 0, 5, float("inf")]}]
        changes += [{"image_id": 999}, {"image_id": None}, {"category_id": [2]}]
        changes += [{"attributes": {identity.rpartition(".")[2]: [7]}}] if identity.startswith("attributes") else []
        changes += [{"category_id": 999}] if identity != "category.name" else []
        for change in changes:
            broken.append(("annotations", row, change, f"{name}: annotation {parts[row]['id']}: "))
        broken.append(("annotations", row, None, f"{name}: annotation {row} is "))
    for key, row, change, said in broken:
        rows = list(content[key])
        rows[row] = change and {**rows[row], **change}
        yield {**content, key: rows}, said


@pytest.mark.parametrize("program", [label_studio, cvat, roboflow])
@EXAMPLES
@given(data=st.data())
def test_what_a_program_exported_is_read_back(
    tmp_path_factory, program: Callable[[], st.SearchStrategy[Export]], data: st.DataObject
) -> None:
    export = data.draw(program())
    root = tmp_path_factory.mktemp("export")
    write_pictures(root, export.images)
    for name, content in export.files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content), encoding="utf-8")
    read = partial(read_coco, root, measure=measure, identity=export.identity)
    check_album(read(), export.album, False)
    for name, content in export.files.items():
        if name == "valid/_annotations.coco.json" and "test/_annotations.coco.json" in export.files:
            continue
        for broken, said in damages(Path(name).name, content, export.identity):
            (root / name).write_text(json.dumps(broken), encoding="utf-8")
            one_line(read, said)
        (root / name).write_text(json.dumps(content), encoding="utf-8")
