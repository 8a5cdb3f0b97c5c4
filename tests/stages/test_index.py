"""The stage `index` on drawn streets."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffps.datasets.streets import StreetsConfig
from diffps.datasets.tables import read_annotations, read_queries, read_scenes
from diffps.errors import ConfigError, DatasetError
from stages.index import Config, describe, dry_run, run
from stages.job import QuietJob, StoppedError
from stages.places import INDEX_FOLDER

STREETS = StreetsConfig(
    train_scenes=8,
    test_scenes=6,
    train_identities=4,
    test_identities=4,
    cameras=2,
    size=128,
    persons=(2, 3),
    queries_per_identity=1,
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(index=Config(**{"streets": STREETS, **changes}))  # type: ignore[arg-type]


def test_streets_are_drawn_and_indexed(here: Path) -> None:
    assert "will be drawn" in dry_run(params(), QuietJob())
    run(params(), QuietJob())
    scenes = read_scenes(INDEX_FOLDER)
    assert [scene.split for scene in scenes] == ["train"] * 8 + ["test"] * 6
    assert read_annotations(INDEX_FOLDER).keys() == {scene.scene_id for scene in scenes}
    assert read_queries(INDEX_FOLDER)
    report = json.loads((INDEX_FOLDER / "report.json").read_text())
    assert report["dataset"] == "streets"
    assert report["train"]["images"] == 8
    assert "published" not in report
    assert "is there" in dry_run(params(), QuietJob())


def test_the_same_run_again_writes_the_same_bytes(here: Path) -> None:
    run(params(), QuietJob())
    before = {path.name: path.read_bytes() for path in INDEX_FOLDER.iterdir()}
    run(params(), QuietJob())
    assert before == {path.name: path.read_bytes() for path in INDEX_FOLDER.iterdir()}


def test_stopping_writes_nothing(here: Path) -> None:
    with pytest.raises(StoppedError):
        run(params(), QuietJob(stopping=True))
    assert not INDEX_FOLDER.exists()


def test_min_box_is_the_datasets_own_unless_given(here: Path) -> None:
    run(params(min_box=(10_000, 0)), QuietJob())
    report = json.loads((INDEX_FOLDER / "report.json").read_text())
    assert report["min_box"] == [10_000, 0]
    assert report["train"]["boxes"] == 0
    with pytest.raises(ConfigError, match=r"min_box \[-1, 0\]"):
        Config(min_box=(-1, 0))


def test_a_missing_dataset_names_what_was_looked_for(here: Path) -> None:
    with pytest.raises(DatasetError, match=r"PRW: folder of images missing: expected data/prw/frames"):
        run(params(dataset="prw", root="data/prw"), QuietJob())


def test_published_counts_stand_beside_what_was_read() -> None:
    lines = describe(
        {
            "dataset": "prw",
            "min_box": [0, 0],
            "train": {"images": 5700, "dropped": 2},
            "test": {"images": 6112},
            "queries": 2057,
            "published": {"train": {"images": 5704}, "test": {"images": 6112}, "queries": 2057},
            "galleries_missing": ["4000"],
            "oddities": {"100": {"query_image_in_gallery": [494, 2133], "scene_listed_twice": []}},
        }
    )
    assert lines == [
        "index: train: 5700 images (published 5704), 2 dropped",
        "index: test: 6112 images (published 6112)",
        "index: boxes below 0 x 0 pixels dropped, 2057 queries (published 2057), gallery 4000 is not there",
        "index: gallery 100: query image in gallery: rows 494, 2133",
    ]
