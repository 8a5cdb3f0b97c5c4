"""An image that cannot be read: live features leave it out as stored ones do, and say so."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import SkippedImage
from diffps.datasets.tables import read_scenes
from diffps.errors import ImageError
from diffps.features import Ref
from stages import encode, extract, index, train
from stages.features.source import skipped_scenes
from stages.places import INDEX, TRAIN
from tests.world import Listener, Project

CHANGES = {"extract": {"encoding": "project:4"}, "runtime": {"skip_unreadable": True}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A small project, extracted under a fitted encoding, one of whose training images breaks off in the middle."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = Project(tmp_path_factory.mktemp("project"), monkeypatch, CHANGES)
        made.run(index)
        path = Path(made.params().index.root) / read_scenes(INDEX, "train")[2].path
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        made.run(index, encode, extract)
        yield made


def broken() -> str:
    return read_scenes(INDEX, "train")[2].scene_id


def test_both_sources_leave_the_same_scenes_out_and_say_so(project: Project) -> None:
    said = []
    for kind in ("cached", "live"):
        job = Listener()
        with project.source(train={"source": kind}) as source:
            assert skipped_scenes(source, job) == {broken()}
            with pytest.raises(SkippedImage, match=broken()):
                list(source.stream([[Ref(broken())]], list(source.shapes)))
        said.append(job.lines)
    assert said[0] == said[1]
    assert "1 unreadable scenes are left out" in said[0][0]


def test_training_from_either_gives_the_same_losses(project: Project) -> None:
    curves = []
    for kind in ("cached", "live"):
        project.run(train, train={"source": kind})
        with (TRAIN / "losses.csv").open() as file:
            curves.append(list(csv.reader(file)))
        (TRAIN / "checkpoint/state.safetensors").unlink()  # else the second would take the first's head as its own
    assert len(curves[0]) > 2
    assert curves[0] == curves[1]


def test_a_basis_is_fitted_on_what_can_be_read(project: Project) -> None:
    with (
        project.source(runtime={**CHANGES["runtime"], "store": "data/elsewhere"}, train={"source": "live"}) as live,
        project.source() as cached,
    ):
        assert dict(live.shapes) == dict(cached.shapes)
    fitted = [project.files(f"{root}/bases") for root in ("data/elsewhere", "data/features")]
    assert fitted[0]
    assert fitted[0] == fitted[1]


def test_without_leave_to_skip_live_training_stops_at_it(project: Project) -> None:
    with project.source(runtime={"skip_unreadable": False}, train={"source": "live"}) as live:
        assert live.skipped() == frozenset()
        with pytest.raises(ImageError, match="skip_unreadable"):
            list(live.stream([[Ref(broken())]], list(live.shapes)))
