"""Extraction and sweeps by several workers: one model each, whole shards, and the bytes of one process."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import pytest
import torch
from safetensors.torch import load_file

from diffps.errors import ConfigError, WorkerError
from stages import extract, sweep
from stages.cluster import cluster, outcome
from stages.job import QuietJob, RuntimeConfig, StoppedError
from stages.params import Params, override
from stages.sweeps.variants import FOLDER, Variant, plan_passes, read_variants
from tests.stages.drawn import Project

STORE = Path("data/features")
# Imported once for all workers, which are forked from a process that has them.
HEAVY = [
    "stages.extract",
    "stages.passes",
    "stages.sweeps.passes",
    "stages.worker",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip",
]
SMALL: dict[str, dict[str, Any]] = {
    "encode": {"canvas": [64, 64], "views": ["identity"]},
    "train": {"flip": "none"},
    "runtime": {"shard": 1},
}


def params(project: Project, **runtime: object) -> Params:
    return project.params(**{**SMALL, "runtime": {**SMALL["runtime"], **runtime}})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset drawn, indexed and encoded, and extracted by one process into `alone`."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as monkeypatch:
        project = Project(folder, monkeypatch)
        project.index()
        project.encode(**SMALL)
        shutil.copytree(folder / STORE, folder / "encoded")
        project.extract(**SMALL)
        STORE.rename("alone")
        Path("encoded").rename(STORE)
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    shutil.copytree(template, tmp_path / "project")
    return Project(tmp_path / "project", monkeypatch)


def same_bytes(project: Project) -> bool:
    return project.files() == project.files("alone/features.zarr")


class Watching(QuietJob):
    """Calls ``action`` when the first shard is safe."""

    def __init__(self, runtime: RuntimeConfig, action: Any) -> None:
        super().__init__(runtime)
        self.action, self.shards = action, 0

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Any]:
        job = self

        class Tracker:
            def advance(self, done: int = 1, nbytes: int = 0) -> None:
                job.shards += nbytes > 0
                if job.shards == 1 and nbytes:
                    job.action()

        yield Tracker()


@pytest.fixture
def quick_start() -> Iterator[None]:
    """Worker processes are forked from one that has imported everything."""
    from distributed.utils import get_mp_context

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(HEAVY)
        yield


@pytest.mark.usefixtures("quick_start")
def test_two_worker_processes_one_killed_give_the_bytes_of_one(project: Project) -> None:
    from distributed import LocalCluster

    killed: list[int] = []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as workers:

        def kill() -> None:
            # The one that has not finished a shard yet, or is at its next one.
            killed.append(workers.workers[0].process.pid)
            os.kill(killed[0], signal.SIGKILL)

        wanted = params(project, scheduler=workers.scheduler_address)
        job = Watching(wanted.runtime, kill)
        extract.run(wanted, job)
    assert killed
    assert job.shards == 14
    assert same_bytes(project)


@pytest.mark.usefixtures("quick_start")
def test_a_sweep_over_two_processes_trains_the_heads_of_one(project: Project) -> None:
    STORE.rename("nothing extracted")
    Path("alone").rename(STORE)
    wanted = override(params(project), {"evaluate.baseline": False, "sweep.file": "two.yaml"}, "tests")
    # Another batch size is another pass: two passes for two workers.
    Path("two.yaml").write_text("variants: {two: {batch: 2}, four: {batch: 4}}")
    variants = read_variants(wanted)
    assert len(plan_passes(variants)) == 2
    sweep.run(wanted, QuietJob(replace(wanted.runtime, scheduler="local:2")))
    heads = [weights(variant) for variant in variants]
    assert (FOLDER / "table.csv").read_text().count("done") == 2
    FOLDER.rename("spread")
    sweep.run(wanted, QuietJob(wanted.runtime))
    for variant, there in zip(variants, heads, strict=True):
        here = weights(variant)
        assert all(torch.equal(here[name], tensor) for name, tensor in there.items())


def weights(variant: Variant) -> dict[str, torch.Tensor]:
    return load_file(variant.folder / "head" / "model.safetensors")


@pytest.fixture
def threads() -> Iterator[str]:
    """Address of a cluster whose one worker is this process, with several threads as dask's own workers have."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=3, processes=False, dashboard_address=None) as workers:
        yield workers.scheduler_address


def test_a_worker_s_threads_share_one_model(project: Project, threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = extract.PassComputer.__init__

    def counted(self: extract.PassComputer, *args: Any) -> None:
        made.append(1)
        original(self, *args)

    monkeypatch.setattr(extract.PassComputer, "__init__", counted)
    wanted = params(project, scheduler=threads)
    extract.run(wanted, QuietJob(wanted.runtime))
    assert len(made) == 1
    assert same_bytes(project)


def test_stopped_on_a_cluster_what_was_begun_is_finished_and_the_rest_is_done_later(
    project: Project, threads: str
) -> None:
    wanted = params(project, scheduler=threads)

    def stop() -> None:
        job.stopping = True

    job = Watching(wanted.runtime, stop)
    with pytest.raises(StoppedError):
        extract.run(wanted, job)
    assert 1 <= job.shards < 14
    assert not list((STORE / "tmp").rglob("*-*"))
    project.extract(**SMALL)
    assert same_bytes(project)


def test_an_error_in_a_worker_is_the_user_s(project: Project, threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from cache.errors import NonFiniteError
    from stages.features.backbone import PassRunner

    features = PassRunner.features

    def broken(self: PassRunner, *args: Any) -> Any:
        for found in features(self, *args):
            yield {name: value * float("nan") for name, value in found.items()}

    monkeypatch.setattr(PassRunner, "features", broken)
    wanted = params(project, scheduler=threads)
    with pytest.raises(NonFiniteError, match=r"scene '.*'"):
        extract.run(wanted, QuietJob(wanted.runtime))


@pytest.mark.usefixtures("quick_start")
def test_work_that_kills_its_workers_is_one_clear_error() -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        cluster(RuntimeConfig(scheduler="local:1")) as client,
    ):
        assert client is not None
        with pytest.raises(WorkerError, match="1 workers died.*same command again"):
            outcome(client.submit(os._exit, 1))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [("local:no", "local:N"), ("local:0", "local:N"), ("tcp://127.0.0.1:1", "no scheduler answers")],
)
def test_a_scheduler_that_is_none_is_named(scheduler: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.cluster.CONNECT_SECONDS", 1)
    with pytest.raises(ConfigError, match=message), cluster(RuntimeConfig(scheduler=scheduler)):
        pass


def test_a_scheduler_without_workers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr("stages.cluster.CONNECT_SECONDS", 1)
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as workers:
        address = workers.scheduler_address
        message = f"no workers; `dask worker {address}`"
        with pytest.raises(ConfigError, match=message), cluster(RuntimeConfig(scheduler=address)):
            pass


def test_a_model_that_another_process_put_in_place_is_not_used(project: Project, threads: str) -> None:
    from distributed import Client

    from stages.features.shards import Place
    from stages.features.workers import ModelPlugin, write_shard

    wanted = params(project)
    with Client(threads) as client:
        client.register_plugin(ModelPlugin("extract", "theirs", wanted, wanted.runtime))
        place = Place("train", "identity", 0)
        with pytest.raises(ConfigError, match="another `diffps extract`"):
            client.submit(write_shard, "extract", "ours", place, None, pure=False).result()


def test_a_sweep_on_a_cluster_stops_in_the_middle_and_goes_on(project: Project, threads: str) -> None:
    STORE.rename("nothing extracted")
    Path("alone").rename(STORE)
    changes = {"evaluate.baseline": False, "sweep.file": "two.yaml", "train.epochs": 2}
    wanted = override(params(project, scheduler=threads), changes, "tests")
    Path("two.yaml").write_text("variants: {one: {}}")
    (variant,) = read_variants(wanted)
    with pytest.raises(StoppedError):
        sweep.run(wanted, QuietJob(wanted.runtime, stopping=True))
    assert not list(FOLDER.glob(".stop*"))
    assert not (variant.folder / "head").exists()
    sweep.run(wanted, QuietJob(wanted.runtime))
    assert (FOLDER / "table.csv").read_text().count("done") == 1
