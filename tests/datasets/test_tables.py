"""What the index stage writes is what later stages read."""

from pathlib import Path

import numpy as np
import pytest

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
from diffps.records import Gallery, SearchIndex


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


def test_a_missing_index_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"images.parquet is missing; run: diffps index"):
        read_scenes(tmp_path)
