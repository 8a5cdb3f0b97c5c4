"""Extraction and sweeps by several workers: one model each, whole shards, and the bytes of one process."""

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest
import torch
from distributed import Client, LocalCluster
from distributed.comm import connect
from distributed.security import Security

from cache.errors import NonFiniteError
from diffps.errors import ConfigError, WorkerError
from stages import encode, extract, sweep
from stages.cluster import cluster, outcome
from stages.features.shards import Place
from stages.features.workers import ModelPlugin, write_shard
from stages.job import QuietJob, Runtime, StoppedError
from stages.places import SWEEP
from stages.sweeps.remote import train_on_cluster
from stages.sweeps.rounds import plan_rounds
from stages.sweeps.variants import read_variants
from tests.stages.computers import Changed, Filled, extract_by, refuse
from tests.world import LIGHT, STORE, Project, weights

# Imported once for all workers, which are forked from a process that has them.
HEAVY = [
    "stages.features.backbone",
    "stages.features.workers",
    "stages.sweeps.execute",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip",
]
# No dashboard, and any free port in its place: other clusters may run on this machine.
QUIET: dict[str, Any] = {"dashboard_address": None, "scheduler_kwargs": {"dashboard_address": ":0"}}
SMALL: dict[str, dict[str, Any]] = {
    "encode": {**LIGHT["encode"], "views": ["identity"]},
    "extract": LIGHT["extract"],
    "train": {**LIGHT["train"], "flip": "none"},
    "evaluate": {"baseline": False},
    "sweep": {"file": "own.yaml"},
    "runtime": {"shard": 1},
}


@pytest.fixture(scope="module")
def template(indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset encoded, one view each, and extracted by one process into `alone`."""
    folder = tmp_path_factory.mktemp("template") / "project"
    shutil.copytree(indexed, folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        project = Project(folder, monkeypatch, SMALL)
        project.run(encode)
        shutil.copytree(STORE, "encoded")
        project.run(extract)
        STORE.rename("alone")
        Path("encoded").rename(STORE)
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    shutil.copytree(template, tmp_path / "project")
    return Project(tmp_path / "project", monkeypatch, SMALL)


@pytest.fixture
def whole(project: Project) -> Project:
    """The same with what one process extracted."""
    STORE.rename("nothing extracted")
    Path("alone").rename(STORE)
    return project


def same_bytes(project: Project) -> bool:
    return project.files() == project.files("alone/features.zarr")


class Watching(QuietJob):
    """Calls ``action`` when the first shard is safe."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self.action, self.shards = action, 0

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Any]:
        job = self

        class Tracker:
            def advance(self, done: int = 1, nbytes: int = 0, note: str = "") -> None:
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
    killed: list[int] = []
    with LocalCluster(n_workers=2, threads_per_worker=1, **QUIET) as workers:

        def kill() -> None:
            # The one that has not finished a shard yet, or is at its next one.
            killed.append(workers.workers[0].process.pid)
            os.kill(killed[0], signal.SIGKILL)

        job = Watching(kill)
        project.run(extract, job=job, runtime={"scheduler": workers.scheduler_address})
    assert killed
    assert job.shards == 14
    assert same_bytes(project)


@pytest.mark.usefixtures("quick_start")
def test_a_sweep_over_two_processes_trains_the_heads_of_one(whole: Project) -> None:
    # Another batch size is another round: two rounds for two workers.
    Path("own.yaml").write_text("variants: {two: {batch: 2}, four: {batch: 4}}")
    variants = read_variants(whole.params())
    assert len(plan_rounds(variants)) == 2
    whole.run(sweep, runtime={"scheduler": "local:2"})
    heads = [weights(variant.folder) for variant in variants]
    assert (SWEEP / "table.csv").read_text().count("done") == 2
    SWEEP.rename("spread")
    whole.run(sweep)
    for variant, there in zip(variants, heads, strict=True):
        here = weights(variant.folder)
        assert all(torch.equal(here[name], tensor) for name, tensor in there.items())


@pytest.fixture
def threads() -> Iterator[str]:
    """Address of a cluster whose one worker is this process, with several threads as dask's own workers have."""
    with LocalCluster(n_workers=1, threads_per_worker=3, processes=False, **QUIET) as workers:
        yield workers.scheduler_address


class Counted(Changed):
    """Counts those that are made, also by a worker in this process, which gets the class by its name."""

    made = 0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        Counted.made += 1


def test_a_sweep_that_is_stopped_leaves_nothing_that_stops_the_next(whole: Project, threads: str) -> None:
    Path("own.yaml").write_text("variants: {two: {batch: 2}, four: {batch: 4}}")
    rounds = plan_rounds(read_variants(whole.params()))
    SWEEP.mkdir(parents=True)
    finished: list[int] = []
    with Client(threads) as client, pytest.raises(StoppedError, match="^sweep stopped; the same command goes on$"):
        train_on_cluster(client, rounds, whole.runtime, QuietJob(stopping=True), lambda: finished.append(1))
    assert not finished
    assert not list(SWEEP.glob(".stop-*"))
    assert not list(SWEEP.glob("heads/*/result.json"))


def test_a_worker_s_threads_share_one_model(project: Project, threads: str) -> None:
    Counted.made = 0
    extract_by(project, Counted.make, runtime=replace(project.runtime, scheduler=threads))
    assert Counted.made == 1
    assert same_bytes(project)


def test_stopped_on_a_cluster_what_was_begun_is_finished_and_the_rest_is_done_later(
    project: Project, threads: str
) -> None:
    def stop() -> None:
        job.stopping = True

    job = Watching(stop)
    with pytest.raises(StoppedError):
        project.run(extract, job=job, runtime={"scheduler": threads})
    assert 1 <= job.shards < 14
    assert not list((STORE / "tmp").rglob("*-*"))
    project.run(extract)
    assert same_bytes(project)


def test_an_error_in_a_worker_is_the_user_s(project: Project, threads: str) -> None:
    with pytest.raises(NonFiniteError, match=r"scene '.*'"):
        extract_by(project, Filled.make, runtime=replace(project.runtime, scheduler=threads))


@pytest.fixture
def port_taken() -> Iterator[None]:
    """Dask's own port is in use, as it is where another cluster runs on this machine."""
    with socket.socket() as taken:
        with suppress(OSError):
            taken.bind(("", 8787))
            taken.listen()
        yield


@pytest.mark.usefixtures("quick_start", "port_taken")
def test_work_that_kills_its_workers_is_one_clear_error() -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        cluster(Runtime(scheduler="local:1")) as client,
    ):
        assert client is not None
        with pytest.raises(WorkerError, match="1 workers died.*same command again"):
            outcome(client.submit(os._exit, 1))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ("local:no", "local:N"),
        ("local:0", "local:N"),
        ("tcp://127.0.0.1:1", "no scheduler answers"),
        ("there-is-none.json", "no scheduler file.*`dask scheduler --scheduler-file there-is-none.json`"),
    ],
)
def test_a_scheduler_that_is_none_is_named(scheduler: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message), cluster(Runtime(scheduler=scheduler), connect_seconds=1):
        pass


def test_a_file_that_is_no_scheduler_s_is_named(here: Path) -> None:
    for content in ("[]", "{}", "no JSON", "[" * 100_000, '{"address": "tcp://127.0.0.1:1"}'):
        Path("file.json").write_text(content)
        with (
            pytest.raises(ConfigError, match="file.json.*no scheduler"),
            cluster(Runtime(scheduler="file.json"), connect_seconds=1),
        ):
            pass


@pytest.mark.usefixtures("quick_start", "port_taken")
def test_nobody_else_can_run_code_in_local_workers() -> None:
    """Connections without this run's keys are refused, by the scheduler and by each worker."""
    with cluster(Runtime(scheduler="local:1")) as client:
        assert client is not None
        (worker,) = client.scheduler_info()["workers"]
        scheduler = client.scheduler.address
        assert all(address.startswith("tls://127.0.0.1:") for address in (scheduler, worker))
        assert client.submit(os.getpid).result() != os.getpid()
        for address in (scheduler, worker, scheduler.replace("tls", "tcp"), worker.replace("tls", "tcp")):
            for keys in ({}, Security.temporary().get_connection_args("client")):
                with pytest.raises((OSError, TypeError, RuntimeError, AssertionError)):
                    asyncio.run(greet(address, keys))


async def greet(address: str, keys: dict[str, Any]) -> None:
    """What every client begins with; one that fails whole may block the next while it is collected."""
    await (await connect(address, timeout=1, **keys)).close()


def test_a_scheduler_without_workers_is_named() -> None:
    with LocalCluster(n_workers=0, processes=False, **QUIET) as workers:
        runtime = Runtime(scheduler=workers.scheduler_address)
        message = f"no workers; `dask worker {runtime.scheduler}`"
        with pytest.raises(ConfigError, match=message), cluster(runtime, connect_seconds=1):
            pass


def test_a_model_that_another_process_put_in_place_is_not_used(project: Project, threads: str) -> None:
    with Client(threads) as client:
        client.register_plugin(ModelPlugin("extract", "theirs", refuse, project.runtime))
        place = Place("train", "identity", 0)
        with pytest.raises(ConfigError, match="another `diffps extract`"):
            client.submit(write_shard, "extract", "ours", place, None, pure=False).result()


def test_a_worker_started_elsewhere_goes_to_the_project_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    plugin = ModelPlugin("extract", "ours", refuse, Runtime(store="data/features", device="cpu"))
    monkeypatch.chdir(tmp_path)
    plugin.setup(SimpleNamespace(name="tcp://127.0.0.1:1"))
    assert Path.cwd() == folder
    assert plugin.store.root == folder / "data/features"


def test_a_sweep_on_a_cluster_stops_in_the_middle_and_goes_on(whole: Project, threads: str) -> None:
    sections: dict[str, Any] = {"train": {"epochs": 2}, "runtime": {"scheduler": threads}}
    Path("own.yaml").write_text("variants: {one: {}}")
    (variant,) = read_variants(whole.params(**sections))
    with pytest.raises(StoppedError):
        whole.run(sweep, job=QuietJob(stopping=True), **sections)
    assert not list(SWEEP.glob(".stop*"))
    assert not (variant.folder / "head").exists()
    whole.run(sweep, **sections)
    assert (SWEEP / "table.csv").read_text().count("done") == 1
