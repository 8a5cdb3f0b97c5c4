"""Broken image files on the whole way: index, encode, extract, train, evaluate."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from diffps.datasets.tables import read_annotations, read_queries, read_scenes
from diffps.errors import DatasetError, ImageError
from diffps.records import Scene
from stages import encode, evaluate, extract, index, report, train
from stages.features.opening import open_store
from stages.job import QuietJob, Tracker
from stages.params import Params
from stages.places import EVALUATE, INDEX
from tests.world import STORE, Project

SKIPPING: dict[str, dict[str, Any]] = {
    "encode": {"views": ["identity"]},
    "train": {"flip": "none"},
    "evaluate": {"score_threshold": 0.0},
    "runtime": {"shard": 3, "skip_unreadable": True},
}


@pytest.fixture
def project(indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project.copy_of(indexed, tmp_path / "project", monkeypatch)


def scenes(split: str) -> list[Scene]:
    return [scene for scene in read_scenes(INDEX) if scene.split == split]


def empty(params: Params, scene: Scene) -> str:
    (Path(params.index.root) / scene.path).write_bytes(b"")
    return scene.scene_id


def truncate(params: Params, scene: Scene) -> str:
    path = Path(params.index.root) / scene.path
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return scene.scene_id


def test_broken_images_are_left_out_from_index_to_evaluate(project: Project) -> None:
    params = project.params(**SKIPPING)
    asked = {query.scene_id for query in read_queries(INDEX)}
    gallery = [scene for scene in scenes("test") if scene.scene_id not in asked]
    broken = {
        "train": {empty(params, scenes("train")[0]), truncate(params, scenes("train")[1])},
        "test": {empty(params, gallery[0]), truncate(params, gallery[1])},
    }
    before = read_annotations(INDEX)
    project.run(index, encode, extract, train, evaluate, report, **SKIPPING)
    # A truncated file has its size in the header; an empty one gets a size that holds its boxes.
    found_by_index = json.loads((INDEX / "report.json").read_text())
    assert found_by_index["unreadable"] == sorted({scenes("train")[0].scene_id, gallery[0].scene_id})
    after = read_annotations(INDEX)
    assert all((after[name].boxes == before[name].boxes).all() for name in before)
    for split, names in broken.items():
        for group in open_store(str(STORE)).status():
            if group.group.split == split:
                assert {array.skipped for array in group.arrays} == {len(names)}
    found = set(pq.read_table(EVALUATE / "detections.parquet")["scene_id"].to_pylist())
    assert found
    assert not found & broken["test"]
    assert json.loads((EVALUATE / "metrics.json").read_text())["baseline"] is None


def test_without_permission_to_skip_the_first_broken_image_stops_the_run(project: Project) -> None:
    params = project.params()
    name = empty(params, scenes("train")[0])
    with pytest.raises(ImageError, match=rf"{name}: .*the file is empty.*skip_unreadable") as caught:
        project.run(index)
    assert "\n" not in str(caught.value)
    shutil.copy(Path(params.index.root) / scenes("train")[2].path, Path(params.index.root) / scenes("train")[0].path)
    name = truncate(params, scenes("test")[0])
    project.run(index, index={"tolerate": 1.0})  # one photograph lies there twice now
    with pytest.raises(ImageError, match=rf"{name}: .*truncated.*skip_unreadable"):
        project.run(encode)


def test_a_query_in_a_broken_image_is_named(project: Project) -> None:
    params = project.params(**SKIPPING)
    query = read_queries(INDEX)[0]
    empty(params, next(scene for scene in scenes("test") if scene.scene_id == query.scene_id))
    project.run(index, encode, extract, train, **SKIPPING)
    with pytest.raises(DatasetError, match=f"query {query.query_id}.*could not be read"):
        project.run(evaluate, **SKIPPING)


class Counting(QuietJob):
    """Keeps what was announced as to be done."""

    totals: dict[str, int]

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Tracker]:
        self.totals = {**getattr(self, "totals", {}), label: total}
        with super().track(label, total, unit) as tracker:
            yield tracker


def test_an_image_that_was_out_of_reach_is_taken_up_once_it_is_back(project: Project) -> None:
    params = project.params(**SKIPPING)
    path = Path(params.index.root) / scenes("train")[1].path
    whole = path.read_bytes()
    path.unlink()
    store = open_store(str(STORE))
    project.run(encode, extract, **SKIPPING)
    assert all(array.skipped for group in store.status() if group.group.split == "train" for array in group.arrays)
    path.write_bytes(whole)
    job = Counting()
    project.run(encode, extract, job=job, **SKIPPING)
    assert not any(array.skipped for group in store.status() for array in group.arrays)
    # Only the images of its shard are told of as work, so that rate and time left are theirs.
    assert job.totals == {"encode": 3, "extract": 3}
