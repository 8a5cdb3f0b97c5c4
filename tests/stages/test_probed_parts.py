"""Parts of a probe on disk, and what a prober does where a batch does not fit or a number is none."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster

from cache.errors import DamagedError
from diffps.errors import DivergedError
from diffps.probe.part import Part
from stages.images import ImageFolder
from stages.job import QuietJob, Runtime, StoppedError
from stages.probing import prober
from stages.probing.gather import _on_cluster
from stages.probing.parts import ProbeState
from stages.probing.prober import Prober, check_finite
from stages.probing.setting import Stretch


def stretch(number: int, phase: Any = "fit") -> Stretch:
    return Stretch(phase, number, range(10 * number, 10 * number + 10))


class Small(Prober):
    """Takes batches of ``most`` scenes; what it finds are ``values``."""

    def __init__(self, folder: Path, batch: int, most: int, values: Any = (1.0, 2.0)) -> None:
        extract = SimpleNamespace(dtype="float16")
        self._plan: Any = SimpleNamespace(folder=folder, timesteps=(0, 50), unet=SimpleNamespace(extract=extract))
        self.batch, self._most, self.tried, self.asked = batch, most, [], []  # type: ignore[var-annotated]
        self._values = np.array(values)

    def _parts(self, stretch: Stretch, timesteps: Any) -> dict[int, Part]:
        self.tried.append(self.batch)
        if self.batch > self._most:
            raise torch.OutOfMemoryError
        self.asked.append(list(timesteps))
        return {step: Part(sums={"a/xx": self._values + step}, rows={"scenes": np.arange(2)}) for step in timesteps}


def test_a_batch_that_does_not_fit_is_halved_down_to_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prober = Small(tmp_path, 8, 3)
    assert prober.probe(stretch(2)) == 10
    assert (prober.tried, prober.batch) == ([8, 4, 2], 2)
    said = "out of memory: scenes 21 to 30 again in batches of"
    assert caplog.messages == [f"{said} 4", f"{said} 2"]
    alone = Small(tmp_path, 2, 0)
    with pytest.raises(torch.OutOfMemoryError):
        alone.probe(stretch(3))
    assert alone.tried == [2, 1]


def test_a_stretch_is_probed_where_it_is_missing(tmp_path: Path) -> None:
    prober = Small(tmp_path, 4, 4)
    prober.probe(stretch(0))
    (tmp_path / "t50/fit-00000.npz").unlink()
    prober.probe(stretch(0))
    prober.probe(stretch(0))
    assert prober.asked == [[0, 50], [50]]
    assert prober.tried == [4, 4]


def test_sums_are_added_in_order_and_none_twice(tmp_path: Path) -> None:
    state = ProbeState(tmp_path)
    assert state.sums() == {}
    for number in (0, 2):
        state.keep(stretch(number), Part(sums={"a": np.array([1.0 + number])}, rows={"r": np.array([number])}))
    state.fold()
    assert state.sums()["a"].tolist() == [1.0]  # the second is missing
    state.keep(stretch(1), Part(sums={"a": np.array([10.0])}, rows={"r": np.array([1])}))
    for _ in range(2):
        state.fold()
        assert state.sums()["a"].tolist() == [14.0]
    assert sorted(path.name for path in tmp_path.glob("sums*")) == ["sums.npz"]
    state.keep(stretch(0, "score"), Part(rows={"r": np.array([7]), "s": np.array([8])}))
    rows = state.rows()
    assert (list(rows), len(rows)) == (["r", "s"], 2)
    assert (rows["r"].tolist(), rows["s"].tolist()) == ([0, 1, 2, 7], [8])
    with pytest.raises(KeyError):
        _ = rows["t"]
    assert state.has(stretch(0, "score"))
    assert not state.has(stretch(3))
    (tmp_path / "fit-00000.npz").write_bytes(b"torn")
    with pytest.raises(DamagedError, match=f"delete {tmp_path}, `diffps probe`"):
        state.rows()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_overflowed_stop_the_probe_and_other_numbers_may_be_none(value: float) -> None:
    array = np.array([1.0, value])
    for part in (Part(sums={"a/tap/all": array}), Part(rows={"a/tap/vectors": array})):
        with pytest.raises(DivergedError, match="^a/tap: NaN or infinity in float16; set extract.dtype to bfloat16 or"):
            check_finite(part, "float16")
    check_finite(Part(sums={"tap/all": np.ones(2), "tap/xy": array}, rows={"tap/scores": array}), "float16")


class Planned:
    """What a worker has to know of a plan."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


class Told:
    """In the place of a prober: keeps what it is made with, and the stretches it is asked for."""

    made: ClassVar[list["Told"]] = []

    def __init__(self, plan: Planned, images: ImageFolder, runtime: Runtime) -> None:
        self.folder, self.images, self.runtime = plan.folder, images, runtime
        self.asked, self.closed = list[int](), False
        Told.made.append(self)

    def probe(self, stretch: Stretch) -> int:
        self.asked.append(stretch.number)
        return 10 + stretch.number

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Of a cluster whose one worker is a thread of this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prober, "Prober", Told)
    monkeypatch.setattr(prober, "_probers", {})
    monkeypatch.setattr(Told, "made", [])
    options: dict[str, Any] = {"dashboard_address": None, "scheduler_kwargs": {"dashboard_address": ":0"}}
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **options) as workers,
        Client(workers) as client,
    ):
        yield client


def test_a_worker_keeps_the_models_of_the_plan_asked_last(client: Client, tmp_path: Path) -> None:
    images, runtime, job = ImageFolder(tmp_path, 7), Runtime(device="cpu", threads=1, scheduler="local:1"), QuietJob()
    one: Any = Planned(tmp_path / "one")
    other: Any = Planned(tmp_path / "other")
    for plan, numbers in ((one, range(5)), (one, [5]), (other, [0])):
        found = list(_on_cluster(client, plan, images, runtime, [stretch(number) for number in numbers], job))
        assert sorted(found) == [10 + number for number in numbers]
    first, second = Told.made
    assert (sorted(first.asked), first.closed, first.folder) == ([0, 1, 2, 3, 4, 5], True, tmp_path / "one")
    assert (second.asked, second.closed, second.folder) == ([0], False, tmp_path / "other")
    assert first.images == images
    assert (first.runtime.scheduler, first.runtime.device, first.runtime.threads) == ("", "cpu", 1)


def test_stopped_on_a_cluster_nothing_more_is_given_out(client: Client, tmp_path: Path) -> None:
    plan: Any = Planned(tmp_path / "one")
    arguments = client, plan, ImageFolder(tmp_path, 7), Runtime(device="cpu", threads=1)
    done = []
    with pytest.raises(StoppedError):
        for count in _on_cluster(*arguments, [stretch(number) for number in range(3)], QuietJob(stopping=True)):
            done.append(count)
    assert sorted(done) == [10, 11]  # one to do and one waiting
    whole = _on_cluster(*arguments, [stretch(number) for number in range(2)], QuietJob(stopping=True))
    assert sorted(whole) == [10, 11]
    job, done = QuietJob(), []
    with pytest.raises(StoppedError):
        for count in _on_cluster(*arguments, [stretch(number) for number in range(6)], job):
            done.append(count)
            job.stopping = len(done) > 1
    assert sorted(done) == [10, 11, 12]  # the first one done was followed by one other


def test_a_worker_goes_to_the_project_s_folder(client: Client, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    told = Planned(tmp_path / "one"), ImageFolder(tmp_path, 7), Runtime(device="cpu"), tmp_path / "project"
    assert client.submit(prober.probe_on_worker, *told, stretch(1)).result() == 11
    assert Path.cwd() == tmp_path / "project"
