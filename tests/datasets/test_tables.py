"""What the index stage writes is what later stages read."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffps.datasets.prw import read_prw
from diffps.datasets.tables import (
    gallery_names,
    read_annotations,
    read_gallery,
    read_queries,
    read_scenes,
    write_index,
)
from diffps.errors import DatasetError
from diffps.records import Annotations, Gallery, Query, Scene, SearchIndex


def test_index_survives_the_disk(prw_tree: Path, tmp_path: Path) -> None:
    index = read_prw(prw_tree)
    write_index(index, tmp_path / "index")
    assert read_scenes(tmp_path / "index") == list(index.scenes)
    assert read_scenes(tmp_path / "index", "test") == [scene for scene in index.scenes if scene.split == "test"]
    annotations = read_annotations(tmp_path / "index")
    assert annotations.keys() == index.annotations.keys()
    for scene_id, persons in annotations.items():
        np.testing.assert_array_equal(persons.boxes, index.annotations[scene_id].boxes)
        np.testing.assert_array_equal(persons.identities, index.annotations[scene_id].identities)
    for found, query in zip(read_queries(tmp_path / "index"), index.queries, strict=True):
        assert (found.query_id, found.scene_id, found.identity) == (query.query_id, query.scene_id, query.identity)
        np.testing.assert_array_equal(found.box, query.box)


def test_listed_galleries_survive_the_disk(prw_tree: Path, tmp_path: Path) -> None:
    plain = read_prw(prw_tree)
    galleries = tuple(
        Gallery(
            name=name,
            query_ids=("0000", "0001"),
            scenes=(np.array([2, 3, 3], np.int32), np.array([], np.int32)),
            positive_scenes=(np.array([3], np.int32), np.array([], np.int32)),
            positive_boxes=(np.array([[1, 2, 3, 4]], np.float32), np.empty((0, 4), np.float32)),
        )
        for name in ("50", "100")
    )
    index = SearchIndex(
        scenes=plain.scenes,
        annotations=plain.annotations,
        queries=plain.queries,
        galleries=galleries,
        report=plain.report,
    )
    write_index(index, tmp_path)
    assert gallery_names(tmp_path) == ["50", "100"]
    found = read_gallery(tmp_path, "100")
    assert found.query_ids == ("0000", "0001")
    assert [part.tolist() for part in found.scenes] == [[2, 3, 3], []]
    assert [part.tolist() for part in found.positive_scenes] == [[3], []]
    assert [part.tolist() for part in found.positive_boxes] == [[[1, 2, 3, 4]], []]
    with pytest.raises(DatasetError, match=r"gallery 4000: not in .*; listed there: 50, 100"):
        read_gallery(tmp_path, "4000")


def test_an_unfinished_index_is_not_read(prw_tree: Path, tmp_path: Path) -> None:
    write_index(read_prw(prw_tree), tmp_path / "index")
    (tmp_path / "index" / "report.json").unlink()
    with pytest.raises(DatasetError, match=r"was not written to the end \(report.json is missing\); run: diffps index"):
        read_scenes(tmp_path / "index")


def test_an_index_that_is_written_over_half_way_is_none(prw_tree: Path, tmp_path: Path) -> None:
    index = read_prw(prw_tree)
    write_index(index, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{name}.parquet" for name in ("images", "annotations", "queries", "galleries")),
        "report.json",
        prw_tree.name,
    }
    with pytest.raises(AttributeError):
        write_index(replace(index, galleries=(None,)), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match=r"was not written to the end \(report.json is missing\)"):
        read_queries(tmp_path)


def test_scenes_of_one_split_keep_their_order(prw_tree: Path, tmp_path: Path) -> None:
    index = read_prw(prw_tree)
    write_index(index, tmp_path)
    for split in ("train", "test"):
        assert read_scenes(tmp_path, split) == [scene for scene in index.scenes if scene.split == split]
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(index.report))
    with pytest.raises(DatasetError, match=r"^gallery 100: not in .*galleries.parquet; listed there: none$"):
        read_gallery(tmp_path, "100")


def test_a_missing_index_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"images.parquet is missing; run: diffps index"):
        read_scenes(tmp_path)


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
LEFT, SIDES = st.floats(-1e6, 1e6, width=32), st.sampled_from([1.0, 0.5, 60.25, 1e5])
IDENTITIES = st.sampled_from([-1, 0, 1, 5555, 2**31, 2**63 - 1])
LARGEST = 2**31 - 1


@st.composite
def boxes(draw: st.DrawFn, most: int = 3) -> np.ndarray:
    rows = draw(st.lists(st.tuples(LEFT, LEFT, SIDES, SIDES), max_size=most))
    return np.array([(x, y, x + w, y + h) for x, y, w, h in rows], np.float32).reshape(-1, 4)


@st.composite
def indexes(draw: st.DrawFn) -> SearchIndex:
    names = draw(st.lists(TEXT, max_size=4, unique=True))
    sizes, camera = st.sampled_from([0, 1, 640, LARGEST]), st.none() | st.sampled_from([0, 1, -1, LARGEST])
    scenes = tuple(
        Scene(
            scene_id=name,
            split=draw(st.sampled_from(["train", "test"])),
            path=draw(TEXT),
            width=draw(sizes),
            height=draw(sizes),
            digest=draw(TEXT),
            camera=draw(camera),
        )
        for name in names
    )
    annotations = {}
    for name in names:
        found = draw(boxes())
        found = found[(found[:, 2:] > found[:, :2]).all(1)]
        annotations[name] = Annotations(found, np.array([draw(IDENTITIES) for _ in found], np.int64))
    queries, galleries = [], []
    for number in range(draw(st.integers(0, 3)) if names else 0):
        box = np.array([number, 0, number + 1, 7.5], np.float32)
        who = draw(IDENTITIES.filter(lambda identity: identity >= 0))
        queries.append(Query(query_id=draw(TEXT), scene_id=draw(st.sampled_from(names)), box=box, identity=who))
    for name in draw(st.lists(TEXT, max_size=2, unique=True)) if queries else []:
        rows = [
            np.array(draw(st.lists(st.integers(0, LARGEST), max_size=4)), np.int32) for _ in range(2 * len(queries))
        ]
        galleries.append(
            Gallery(
                name=name,
                query_ids=tuple(query.query_id for query in queries),
                scenes=tuple(rows[::2]),
                positive_scenes=tuple(rows[1::2]),
                positive_boxes=tuple(draw(boxes()) for _ in queries),
            )
        )
    report = {"dataset": draw(TEXT), "min_box": [0, 0]}
    return SearchIndex(
        scenes=scenes, annotations=annotations, queries=tuple(queries), galleries=tuple(galleries), report=report
    )


@settings(max_examples=40)
@given(indexes())
def test_any_index_survives_the_disk(tmp_path_factory: pytest.TempPathFactory, index: SearchIndex) -> None:
    folder = tmp_path_factory.mktemp("index")
    write_index(index, folder)
    assert read_scenes(folder) == list(index.scenes)
    annotations = read_annotations(folder)
    assert list(annotations) == [scene.scene_id for scene in index.scenes]
    for name, persons in index.annotations.items():
        assert annotations[name].boxes.tobytes() == persons.boxes.tobytes()
        assert annotations[name].identities.tolist() == persons.identities.tolist()
    found = read_queries(folder)
    assert [(q.query_id, q.scene_id, q.identity, q.box.tolist()) for q in found] == [
        (q.query_id, q.scene_id, q.identity, q.box.tolist()) for q in index.queries
    ]
    assert gallery_names(folder) == [gallery.name for gallery in index.galleries]
    for gallery in index.galleries:
        same = read_gallery(folder, gallery.name)
        assert same.query_ids == gallery.query_ids
        for part in ("scenes", "positive_scenes", "positive_boxes"):
            pairs = zip(getattr(same, part), getattr(gallery, part), strict=True)
            assert all(one.tolist() == other.tolist() and one.dtype == other.dtype for one, other in pairs)
