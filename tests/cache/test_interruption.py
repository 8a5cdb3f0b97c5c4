"""Killed at any moment, or out of disk: the same command again ends with the bytes of an uninterrupted run."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from cache import FeatureStore, ShardSink, ShardTask
from cache.errors import LockedError, StoreFullError
from cache.verify import verify
from tests.cache.builders import check, feature, images, spec, tree, write

ROOT = Path(__file__).resolve().parents[2]
SPECS = [spec("int8", shape=(32, 32, 24)), spec("float16", tap="other", shape=(16, 16, 40))]
ROWS = images(19)
RUN = """
import sys
from pathlib import Path
from cache import FeatureStore
from tests.cache.test_interruption import ROWS, SPECS
from tests.cache.builders import write
print("started", flush=True)
write(FeatureStore(Path(sys.argv[1])), SPECS, ROWS)
"""


def start(root: Path, **options: object) -> subprocess.Popen[str]:
    """Another process that fills the store; its imports are over when this returns."""
    process: subprocess.Popen[str] = subprocess.Popen(
        [sys.executable, "-c", RUN, str(root)], cwd=ROOT, stdout=subprocess.PIPE, text=True, **options
    )  # type: ignore[call-overload]
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.stdout.close()
    return process


def kill_repeatedly(root: Path, kills: int, seed: int) -> int:
    """Kill writers of fresh stores at random moments, resume each, compare; returns how many died in the middle."""
    reference = FeatureStore(root / "reference")
    begun = time.monotonic()
    start(reference.root).wait()
    duration = time.monotonic() - begun
    whole = tree(reference.root)
    moments, early = random.Random(seed), 0
    for i in range(kills):
        store = FeatureStore(root / f"killed{i}")
        process = start(store.root)
        time.sleep(moments.uniform(0, duration))
        process.send_signal(signal.SIGKILL)
        early += process.wait() == -signal.SIGKILL
        if store.arrays():  # what has a receipt is whole, at any moment
            assert verify(store.root, store.arrays()) == []
        write(store, SPECS, ROWS)
        assert verify(store.root, store.arrays()) == []
        assert tree(store.root) == whole
        assert not [path for path in (store.root / "tmp").rglob("*") if path.is_file()]
    check(store, SPECS, ROWS)
    return early


def test_killed_and_resumed_it_is_the_same(tmp_path: Path) -> None:
    kill_repeatedly(tmp_path, 3, seed=0)


@pytest.mark.slow
def test_killed_a_hundred_times_and_resumed_it_is_the_same(tmp_path: Path) -> None:
    assert kill_repeatedly(tmp_path, 100, seed=1) >= 30


@pytest.mark.parametrize("step", range(12))
def test_every_step_of_publishing_may_be_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Dies before the ``step``-th rename or removal of rewriting a shard, the moments at which states change."""
    store, rows = FeatureStore(tmp_path / "store"), images(4)
    write(store, SPECS, rows)
    whole = FeatureStore(tmp_path / "whole")
    edited = [(rows[0][0], "f" * 64), *rows[1:]]
    write(whole, SPECS, rows)
    write(whole, SPECS, edited)
    remaining = step

    class PowerCutError(BaseException):
        pass

    def until_the_cut(real):  # type: ignore[no-untyped-def]
        def call(*arguments, **options):  # type: ignore[no-untyped-def]
            nonlocal remaining
            if remaining == 0:
                raise PowerCutError
            remaining -= 1
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", until_the_cut(Path.replace))
        patched.setattr(Path, "unlink", until_the_cut(Path.unlink))
        with contextlib.suppress(PowerCutError):
            write(store, SPECS, edited)
    assert verify(store.root, store.arrays()) == []
    # Their owner is this very process, which by the story is dead.
    for left in [*(store.root / "locks").glob("*.json"), *store.root.rglob(".diffps-*.tmp")]:
        left.unlink()
    write(store, SPECS, edited)
    check(store, SPECS, edited)
    assert verify(store.root, store.arrays()) == []
    assert tree(store.root) == tree(whole.root)


def test_a_file_size_limit_leaves_a_store_that_resumes(tmp_path: Path) -> None:
    """The nearest to a full disk that needs no privileges."""
    resource = pytest.importorskip("resource")
    store = FeatureStore(tmp_path)
    write(store, SPECS, ROWS[:4])
    limit = 60_000  # receipts and metadata pass, shards do not
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(StoreFullError, match="disk full.*same command again"):
            write(store, SPECS, ROWS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    check(store, SPECS, ROWS[:4])
    write(store, SPECS, ROWS)
    check(store, SPECS, ROWS)


def test_a_full_disk_leaves_a_store_that_resumes(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        store = FeatureStore(mount / "store")
        write(store, SPECS, ROWS[:4])
        filler = mount / "filler"
        with store.writer(SPECS, ROWS, shard=4) as writer:
            task = writer.pending()[0]
            filler.write_bytes(bytes(os.statvfs(mount).f_bavail * os.statvfs(mount).f_frsize - 30_000))
            with pytest.raises(StoreFullError, match="disk full"), writer.shard(task) as sink:
                for content in task.digests:
                    sink.append({array.name: feature(content, array) for array in task.specs})
        with pytest.raises(StoreFullError, match="still to be written"):
            write(store, SPECS, ROWS)
        check(store, SPECS, ROWS[:4])
        filler.unlink()
        write(store, SPECS, ROWS)
        check(store, SPECS, ROWS)
        assert verify(store.root, store.arrays()) == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def work(root: Path, task: ShardTask) -> int:
    with FeatureStore(root).shard_sink(task) as sink:
        for content in task.digests:
            sink.append({array.name: feature(content, array) for array in task.specs})
    return task.shard


def test_processes_write_disjoint_shards_for_one_owner(tmp_path: Path) -> None:
    store, alone = FeatureStore(tmp_path / "shared"), FeatureStore(tmp_path / "alone")
    with store.writer(SPECS, ROWS, shard=4) as writer, ProcessPoolExecutor(2, get_context("spawn")) as pool:
        tasks = writer.pending()
        assert sorted(pool.map(work, [store.root] * len(tasks), tasks)) == [0, 1, 2, 3, 4]
        assert writer.pending() == []
    write(alone, SPECS, ROWS)
    assert tree(store.root) == tree(alone.root)


def fill(sink: ShardSink, task: ShardTask) -> None:
    for content in task.digests:
        sink.append({array.name: feature(content, array) for array in task.specs})


def test_a_worker_whose_coordinator_is_gone_does_not_touch_its_successor_s_files(tmp_path: Path) -> None:
    store, rows = FeatureStore(tmp_path), ROWS[:4]
    with store.writer(SPECS, rows, shard=4) as writer:
        (task,) = writer.pending()
        with store.shard_sink(task) as orphan, writer.shard(task) as sink:
            fill(orphan, task)
            fill(sink, task)
    check(store, SPECS, rows)
    with pytest.raises(LockedError, match="another process"), store.shard_sink(task) as orphan:
        fill(orphan, task)
        write(store, SPECS, rows)  # clears away what it takes for left over
    check(store, SPECS, rows)
