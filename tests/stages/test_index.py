"""The stage `index` on drawn streets."""

import json
from pathlib import Path

import pytest

from diffps.datasets.tables import read_annotations, read_queries, read_scenes
from diffps.errors import ConfigError, DatasetError, ImageError
from stages import index
from stages.config_data import IndexConfig
from stages.dataset.known import KnownFiles
from stages.dataset.told import counts
from stages.job import QuietJob, StoppedError
from stages.places import INDEX, KNOWN_FILES
from tests.world import Listener, Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


def test_streets_are_drawn_and_indexed(project: Project) -> None:
    assert "will be drawn" in index.dry_run(project.params(), project.runtime, QuietJob())
    project.run(index)
    scenes = read_scenes(INDEX)
    assert [scene.split for scene in scenes] == ["train"] * 8 + ["test"] * 6
    assert read_annotations(INDEX).keys() == {scene.scene_id for scene in scenes}
    assert read_queries(INDEX)
    report = json.loads((INDEX / "report.json").read_text())
    assert report["dataset"] == "streets"
    assert report["train"]["images"] == 8
    assert "published" not in report
    assert "is there" in index.dry_run(project.params(), project.runtime, QuietJob())


def test_the_same_run_again_writes_the_same_bytes(project: Project) -> None:
    project.run(index)
    before = project.files("data/index")
    project.run(index)
    assert before == project.files("data/index")


def test_stopping_writes_nothing(project: Project) -> None:
    with pytest.raises(StoppedError):
        project.run(index, job=QuietJob(stopping=True))
    assert not INDEX.exists()


def test_min_box_is_the_datasets_own_unless_given(project: Project) -> None:
    project.run(index, index={"min_box": [10_000, 0], "tolerate": 1.0})
    report = json.loads((INDEX / "report.json").read_text())
    assert report["min_box"] == [10_000, 0]
    assert report["train"]["boxes"] == 0
    with pytest.raises(ConfigError, match=r"min_box \[-1, 0\]"):
        IndexConfig(min_box=(-1, 0))


def test_more_doubt_than_tolerated_stops_before_anything_is_written(project: Project) -> None:
    project.run(index)
    before = (INDEX / "report.json").read_bytes()
    with pytest.raises(DatasetError, match=r"have no box; .* let it pass with index\.tolerate=1$"):
        project.run(index, index={"min_box": [10_000, 0]})
    assert (INDEX / "report.json").read_bytes() == before


def test_a_check_says_the_same_and_writes_nothing(project: Project) -> None:
    project.run(index)
    before = project.files("data")
    jobs = Listener(), Listener()
    index.run(project.params(), project.runtime, jobs[0], check=True)
    assert project.files("data") == before
    index.run(project.params(), project.runtime, jobs[1])
    assert jobs[0].lines == jobs[1].lines
    assert any("plausibility" in line for line in jobs[0].lines)


def test_a_missing_dataset_names_what_was_looked_for(project: Project) -> None:
    with pytest.raises(DatasetError, match=r"PRW: folder of images missing: expected data/prw/frames"):
        project.run(index, index={"dataset": "prw", "root": "data/prw"})


def test_published_counts_stand_beside_what_was_read() -> None:
    lines = counts(
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
    assert list(lines) == [
        "train: 5700 images (published 5704), 2 dropped",
        "test: 6112 images (published 6112)",
        "boxes below 0 x 0 pixels dropped, 2057 queries (published 2057), gallery 4000 is not there",
        "gallery 100: query image in gallery: rows 494, 2133",
    ]


def test_files_measured_before_are_not_read_again(project: Project) -> None:
    """What a correction of boxes must not cost; a changed file is read."""
    project.run(index)
    first, other = (Path("data/streets/frames") / scene.path.rpartition("/")[2] for scene in read_scenes(INDEX)[:2])
    known = KnownFiles(KNOWN_FILES)
    looked_at: list[int] = []
    measured = known.measure([first, other], looked_at.append, keep_unreadable=False, max_pixels=1)
    assert looked_at == [first.stat().st_size, other.stat().st_size]
    assert [fact.width for fact in measured] == [128, 128]  # though each has more than one pixel
    other.write_bytes(other.read_bytes() + b"\0")
    with pytest.raises(ImageError, match=other.name):
        known.measure([first, other], lambda nbytes: None, keep_unreadable=False, max_pixels=1)
    KNOWN_FILES.write_bytes(b"torn")
    assert KnownFiles(KNOWN_FILES).measure([first], lambda nbytes: None, keep_unreadable=False, max_pixels=10**6)


def test_the_pixel_limit_is_a_key(project: Project) -> None:
    with pytest.raises(ImageError, match=r"16,384 pixels, more than the 16,383 allowed; .* raise index\.max_pixels"):
        project.run(index, index={"max_pixels": 128 * 128 - 1})
    project.run(index, index={"max_pixels": 128 * 128})
    with pytest.raises(ConfigError, match=r"index\.max_pixels 0: must be at least 1"):
        IndexConfig(max_pixels=0)


def test_data_too_small_to_train_on_are_said_to_be(project: Project) -> None:
    job = Listener()
    project.run(index, job=job)
    warnings = [line for line in job.lines if line.startswith("index: WARNING: ")]
    assert any("4 training identities are few (under 50)" in line for line in warnings)
    assert any("training boxes are few (under 500)" in line for line in warnings)
