"""An image that cannot be read: live features leave it out as stored ones do, and say so."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import SkippedImage
from diffps.datasets.tables import read_scenes
from diffps.errors import ImageError
from diffps.features import Ref
from pipeline.config import load_params
from stages import encode, extract, index, train
from stages.features.cached import CachedSource
from stages.features.live import LiveSource
from stages.features.source import skipped_scenes
from stages.job import QuietJob, RuntimeConfig
from stages.params import Params
from stages.places import INDEX_FOLDER
from tests.tiny import reading, write_params


class Listener(QuietJob):
    """Keeps what is said."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        super().__init__(runtime)
        self.lines: list[str] = []

    def say(self, message: str, **fields: object) -> None:
        self.lines.append(message)


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A small project, extracted under a fitted encoding, one of whose training images breaks off in the middle."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        write_params(folder, {"extract": {"encoding": "project:4"}, "runtime": {"skip_unreadable": True}})
        params = load_params(folder / "params.yaml")
        job = QuietJob(params.runtime)
        index.run(params, job)
        path = Path(params.index.root) / read_scenes(INDEX_FOLDER, "train")[2].path
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        for stage in (index, encode, extract):
            stage.run(params, job)
        yield params


def broken() -> str:
    return read_scenes(INDEX_FOLDER, "train")[2].scene_id


def test_both_sources_leave_the_same_scenes_out_and_say_so(params: Params) -> None:
    names = params.train.taps.names
    said = []
    for make in (CachedSource, LiveSource):
        job = Listener(params.runtime)
        with make(params, job, "train", names) as source:
            assert skipped_scenes(source, job) == {broken()}
            with pytest.raises(SkippedImage, match=broken()):
                list(source.stream([[Ref(broken())]], names))
        said.append(job.lines[-1])
    assert said[0] == said[1]
    assert "1 unreadable scenes are left out" in said[0]


def test_training_from_either_gives_the_same_losses(params: Params) -> None:
    curves = []
    for source in ("cached", "live"):
        changed = load_params(Path("params.yaml"), [f"train.source={source}"])
        train.run(changed, QuietJob(changed.runtime))
        with (train.FOLDER / "losses.csv").open() as file:
            curves.append(list(csv.reader(file)))
    assert len(curves[0]) > 2
    assert curves[0] == curves[1]


def test_a_basis_is_fitted_on_what_can_be_read(params: Params) -> None:
    elsewhere = load_params(Path("params.yaml"), ["runtime.store=data/elsewhere", "train.source=live"])
    names = elsewhere.train.taps.names
    with (
        LiveSource(elsewhere, QuietJob(elsewhere.runtime), "train", names) as live,
        CachedSource(reading(params, names), params, QuietJob(params.runtime), "train") as cached,
    ):
        assert dict(live.shapes) == dict(cached.shapes)
    bases = [
        sorted(path.read_bytes() for path in Path(root).rglob("*.npz")) for root in ("data/elsewhere", "data/features")
    ]
    assert bases[0]
    assert bases[0] == bases[1]


def test_without_leave_to_skip_live_training_stops_at_it(params: Params) -> None:
    strict = load_params(Path("params.yaml"), ["runtime.skip_unreadable=false", "train.source=live"])
    with LiveSource(strict, QuietJob(strict.runtime), "train", strict.train.taps.names) as live:
        assert live.skipped() == frozenset()
        with pytest.raises(ImageError, match="skip_unreadable"):
            list(live.stream([[Ref(broken())]], strict.train.taps.names))
