"""A cluster put up by hand: a scheduler with its file, workers that anyone may kill while they write."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from stages import encode, extract
from stages.job import QuietJob
from tests.world import ROOT, STORE, Project

FILE = "scheduler.json"
SECONDS = 60.0  # within which a process is there


@contextmanager
def dask(*arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of Dask's command line, from this folder."""
    code = f"from distributed.cli.dask_{arguments[0]} import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments[1:], "--scheduler-file", FILE, "--no-dashboard"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def writing(process: "subprocess.Popen[bytes]") -> bool:
    """True while the process has an unfinished shard open."""
    for entry in Path(f"/proc/{process.pid}/fd").glob("*"):
        try:
            target = entry.readlink()
        except OSError:  # closed meanwhile
            continue
        if f"{STORE}/tmp/" in str(target):
            return True
    return False


def kill_one_that_writes(workers: "list[subprocess.Popen[bytes]]", killed: list[int], ended: threading.Event) -> None:
    while not ended.is_set() and not killed:
        for worker in workers:
            if writing(worker):
                os.kill(worker.pid, signal.SIGKILL)
                killed.append(worker.pid)
                break


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_worker_killed_inside_a_shard_costs_nothing(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.copy_of(indexed, tmp_path / "project", monkeypatch)
    project.run(encode, extract, runtime={"shard": 1})
    STORE.rename("alone")
    alone = project.files("alone/features.zarr")
    project.run(encode, runtime={"shard": 1})
    killed: list[int] = []
    ended = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(dask("scheduler", "--port", "0", "--host", "127.0.0.1"))
        started = time.monotonic()
        while not Path(FILE).is_file():
            assert time.monotonic() < started + SECONDS, "no scheduler came up"
            time.sleep(0.1)
        worker = ("worker", "--no-nanny", "--nthreads", "1", "--host", "127.0.0.1")
        workers = [stack.enter_context(dask(*worker)) for _ in range(2)]
        watcher = threading.Thread(target=kill_one_that_writes, args=(workers, killed, ended))
        watcher.start()
        try:
            project.run(extract, job=QuietJob(), runtime={"shard": 1, "scheduler": FILE})
        finally:
            ended.set()
            watcher.join()
    assert len(killed) == 1
    assert project.files() == alone
    assert not [path for path in (STORE / "tmp").rglob("*") if path.is_file()]
