"""The store lies anywhere: on another file system, behind a link, shared by several clones."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.sealed import write_json
from pipeline.cli import main
from tests.pipeline.project import Project

MEMORY, DISK = Path("/dev/shm"), Path("/var/tmp")  # of which one is another file system on every Linux
PLACES = ("absolute", *(pytest.param(place, marks=pytest.mark.slow) for place in ("link", "another disk")))


@pytest.fixture(params=PLACES)
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder for a store outside of every clone."""
    match request.param:
        case "absolute":
            yield tmp_path / "disk/features"
        case "link":
            (tmp_path / "disk").mkdir()
            (tmp_path / "link").symlink_to(tmp_path / "disk")
            yield tmp_path / "link/features"
        case "another disk":
            others = [place for place in (MEMORY, DISK) if os.access(place, os.W_OK)]
            others = [place for place in others if place.stat().st_dev != tmp_path.stat().st_dev]
            if not others:
                pytest.skip("no other file system at hand")
            folder = others[0] / f"diffps-{os.getpid()}"
            yield folder / "features"
            shutil.rmtree(folder, ignore_errors=True)


def move_store(project: Project, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(project.root / "data/features", place)
    project.params({"runtime": {"store": str(place)}})


def stat_of(place: Path) -> dict[str, tuple[int, int]]:
    return Project(place).files("features.zarr")


def test_a_store_that_moved_recomputes_nothing(project: Project, elsewhere: Path) -> None:
    move_store(project, elsewhere)
    assert project.would_run() == set()
    before = stat_of(elsewhere)
    assert "nothing is missing" in project.run("diffps", "extract").stderr
    assert project.repro() == []
    assert stat_of(elsewhere) == before
    assert not (project.root / "data/features").exists()


@pytest.mark.slow
def test_two_clones_share_it_and_the_second_computes_no_feature(project: Project, elsewhere: Path) -> None:
    move_store(project, elsewhere)
    project.commit()
    before = stat_of(elsewhere)
    clone = project.clone(elsewhere.parent / "clone")
    ran = clone.repro()
    assert ran[:3] == ["index", "encode", "extract"]
    assert stat_of(elsewhere) == before
    assert clone.repro() == []
    head = "results/train/head/model.safetensors"
    assert (clone.root / head).read_bytes() == (project.root / head).read_bytes()
    shutil.rmtree(clone.root)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["workspace", "temp", "queue"])
def test_experiments_use_it(project: Project, tmp_path: Path, way: str) -> None:
    place = tmp_path / "disk/features"
    move_store(project, place)
    project.commit()
    before = stat_of(place)
    change = ("-S", "train.lr=0.0005")
    if way == "queue":
        project.run("dvc", "exp", "run", "--queue", *change)
        project.run("dvc", "exp", "run", "--run-all")
    else:
        ran = project.experiment(*(["--temp"] if way == "temp" else []), *change)
        assert [stage for stage in ran if stage != "index"] == ["train", "evaluate", "report"]
    assert stat_of(place) == before
    assert "0.0005" in project.run("dvc", "exp", "show", "--csv").stdout


@pytest.mark.slow
def test_a_sweep_follows_other_training_where_it_is_asked_for(project: Project) -> None:
    project.params({"train": {"lr": 0.0005}})
    assert project.repro() == ["train", "evaluate", "report"]
    before = project.files("results/sweep/heads")
    assert "Running stage 'sweep'" in project.run("dvc", "repro", "-f", "-s", "sweep").stdout
    assert set(project.files("results/sweep/heads")) - set(before)
    assert project.repro() == ["report"]


@pytest.fixture
def read_only(project: Project, tmp_path: Path) -> Iterator[Project]:
    """A project whose store is a colleague's: it can be read, and nobody here can write it."""
    place = tmp_path / "colleague"
    move_store(project, place)
    for command in (["mount", "--bind", place, place], ["mount", "-o", "remount,ro,bind", place]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield project
    subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_store_that_can_only_be_read_serves_whoever_adds_nothing(read_only: Project) -> None:
    read_only.params({"runtime": {"store": str(read_only.root.parent / "colleague")}, "train": {"lr": 0.0005}})
    assert read_only.repro() == ["train", "evaluate", "report"]
    assert "Running stage 'sweep'" in read_only.run("dvc", "repro", "-f", "-s", "sweep").stdout
    for command in ("encode", "extract"):
        assert f"{command}: nothing is missing" in read_only.run("diffps", command).stderr
    read_only.run("diffps", "search", "data/streets/frames/c1s2_000001.jpg", check=False)
    more = read_only.run("diffps", "extract", "--set", "extract.timesteps=[0,50]", check=False)
    assert more.returncode == 2
    (line,) = (line for line in more.stderr.splitlines() if line.startswith("diffps: "))
    assert "Read-only file system" in line or "read-only" in line.lower()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("file", "part of the path is a file, not a folder"),
        ("inside a file", "part of the path is a file, not a folder"),
        ("another store", "its manifests are of store .* set runtime.store"),
        ("none", "holds none; set runtime.store"),
    ],
)
def test_a_store_that_is_none_is_one_line(
    finished: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    said: str,
) -> None:
    place = tmp_path / "store"
    match kind:
        case "file":
            place.touch()
        case "inside a file":
            place.touch()
            place = place / "features"
        case "another store":
            shutil.copytree(finished.root / "data/features", place)
            (place / "store.json").unlink()
            write_json(place / "store.json", {"store": "0" * 32})
    before = finished.files("data/manifests")
    monkeypatch.chdir(finished.root)
    for command in ("train", "evaluate", "sweep"):
        words = ["diffps", command, "--set", "train.lr=0.0005", "--set", f"runtime.store={place}"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == 2
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("diffps: "))
        assert re.search(said, line), line
    assert finished.files("data/manifests") == before
