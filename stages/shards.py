"""Whole shards, one after the other: reading ahead, computing, and writing behind, at the same time.

A shard is computed in a fixed partition into batches of one size, empty places filled up, so that the bytes of an
image do not depend on its batch mates, on what is already there, or on where an earlier run was interrupted.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from diffps.records import Split, View
from stages.job import Job, RuntimeConfig, StoppedError, Tracker

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from cache import ArraySpec, FeatureStore, ShardSink, ShardTask
    from cache.writer import StoreWriter
    from stages.params import Params

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
ROWS_AHEAD = 4  # computed images that may wait for the writer


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that could not be read, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Place:
    """Whose shard it is, in plain words a worker process can be told."""

    split: Split
    view: View
    timestep: int | None = None


Row = Mapping[str, "NDArray[Any]"] | Skipped


@dataclass(frozen=True, slots=True)
class Group:
    """Arrays to be completed together: their specs, the split's (scene id, digest), and the manifests to write then.

    ``readable``: whether a scene that was skipped once can be read now; then it is missing.
    """

    place: Place
    specs: "Sequence[ArraySpec]"
    images: Sequence[tuple[str, str]]
    manifests: "Mapping[Path, Sequence[ArraySpec]]"
    readable: Callable[[str], bool]


class Computer(Protocol):
    """A frozen model on its device. ``batch`` is the number of images it takes at once."""

    batch: int

    def rows(self, place: Place, task: "ShardTask") -> Iterator[Row]:
        """What belongs into every row of the shard, in order."""


def write_groups(
    stage: str,
    store: "FeatureStore",
    groups: Sequence[Group],
    make_computer: Callable[[], Computer],
    params: "Params",
    job: Job,
) -> None:
    """Complete ``groups``, in this process or on ``runtime.scheduler``, and write their manifests.

    The model is loaded only when something is missing. Raises StoreFullError before anything is computed when what is
    missing does not fit on the disk; StoppedError once the shard at hand is safe.
    """

    # Imported here: the cluster's tasks are made of this module's parts.
    from cache.budget import require_space
    from stages.cluster import cluster, write_on_cluster

    runtime = job.runtime
    missing: list[tuple[ArraySpec, int]] = []
    unfinished: list[Group] = []
    total = 0
    for group in groups:
        with _writer(store, group, runtime) as writer:
            tasks = writer.pending(group.readable)
            total += sum(len(task.rows) for task in tasks)
            missing += [(spec, len(task.rows)) for task in tasks for spec in task.specs]
            if tasks:
                unfinished.append(group)
            else:
                _write_manifests(writer, group)
    if not unfinished:
        job.say(f"{stage}: nothing is missing")
        return
    require_space(store.root, missing)
    computer: Computer | None = None
    with cluster(runtime) as client, job.track(stage, total, "images") as tracker:
        for group in unfinished:
            with _writer(store, group, runtime) as writer:
                tasks = writer.pending(group.readable)
                if client is not None:
                    write_on_cluster(client, stage, params, job, group.place, tasks, tracker)
                else:
                    computer = computer or make_computer()
                    write_shards(writer.shard, group.place, tasks, computer, tracker, lambda: job.stopping)
                _write_manifests(writer, group)


def _writer(store: "FeatureStore", group: Group, runtime: RuntimeConfig) -> "StoreWriter":
    return store.writer(group.specs, group.images, shard=runtime.shard, takeover=runtime.takeover)


def _write_manifests(writer: "StoreWriter", group: Group) -> None:
    for path, specs in group.manifests.items():
        writer.write_manifest(path, specs)


def write_shards(
    open_shard: "Callable[[ShardTask], AbstractContextManager[ShardSink]]",
    place: Place,
    tasks: "Iterable[ShardTask]",
    computer: Computer,
    tracker: Tracker,
    stopping: Callable[[], bool],
) -> None:
    """Compute and write ``tasks``; a shard is written while the next is being computed.

    After out-of-memory the shard starts again in batches half as large. Raises StoppedError.
    """
    with ThreadPoolExecutor(1) as pool:
        behind: deque[tuple[ShardTask, Future[int]]] = deque()

        def finish(waiting: int) -> None:
            while len(behind) > waiting:
                task, future = behind.popleft()
                tracker.advance(len(task.rows), future.result())

        for task in tasks:
            if stopping():
                finish(0)
                raise StoppedError
            behind.append((task, _compute(pool, open_shard, place, task, computer)))
            finish(1)
        finish(0)


@dataclass(frozen=True, slots=True)
class _End:
    """After a shard's last row: ``seconds`` it took to compute, None when it broke off."""

    seconds: float | None


def _compute(
    pool: ThreadPoolExecutor,
    open_shard: "Callable[[ShardTask], AbstractContextManager[ShardSink]]",
    place: Place,
    task: "ShardTask",
    computer: Computer,
) -> "Future[int]":
    import torch

    while True:
        queue: Queue[Row | _End] = Queue(ROWS_AHEAD)
        future = pool.submit(_write, open_shard, task, queue, computer.batch)
        seconds, rows = 0.0, computer.rows(place, task)
        try:
            while True:
                started = time.perf_counter()
                row = next(rows, None)
                seconds += time.perf_counter() - started
                if row is None:
                    break
                queue.put(row)
        except torch.OutOfMemoryError:
            queue.put(_End(None))
            future.exception()
            if computer.batch == 1:
                raise
            computer.batch //= 2
            log.warning("out of memory: shard %d starts again in batches of %d", task.shard, computer.batch)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        except BaseException:
            queue.put(_End(None))
            raise
        queue.put(_End(seconds))
        return future


class _AbandonedError(Exception):
    """A shard whose computation broke off; nothing of it is kept."""


def _write(
    open_shard: "Callable[[ShardTask], AbstractContextManager[ShardSink]]",
    task: "ShardTask",
    queue: "Queue[Row | _End]",
    batch: int,
) -> int:
    """Bytes of one shard's features, as computed."""
    nbytes = 0
    row: Row | _End | None = None
    try:
        with open_shard(task) as sink:
            while not isinstance(row := queue.get(), _End):
                if isinstance(row, Skipped):
                    sink.skip(row.reason)
                else:
                    sink.append(row)
                    nbytes += sum(array.nbytes for array in row.values())
            if row.seconds is None:
                raise _AbandonedError
            sink.info = {**software(), "batch": batch, "seconds": round(row.seconds, 3)}
    except BaseException:
        # The other side must never wait at a full queue for a writer that is gone.
        while not isinstance(row, _End):
            row = queue.get()
        raise
    return nbytes


def software() -> dict[str, str]:
    """Versions and device that may show in the last bits of a feature."""
    import diffusers
    import torch

    there = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if there else f"cpu, {torch.get_num_threads()} threads"
    return {"torch": torch.__version__, "diffusers": diffusers.__version__, "device": device}


def ahead(function: Callable[[T], R], items: Iterable[T], *, threads: int, depth: int) -> Iterator[R]:
    """``map`` that works up to ``depth`` items ahead in ``threads`` threads, in order."""
    with ThreadPoolExecutor(threads) as pool:
        remaining = iter(items)
        waiting = deque(pool.submit(function, item) for item in islice(remaining, depth))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last one shorter."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


def padded(tensors: "Sequence[Tensor]", size: int) -> "Tensor | None":
    """``tensors`` stacked to a batch of exactly ``size``, zeros behind them; None when there are none.

    One batch size means one choice of kernels: an image's bits then do not depend on how full its batch is.
    """
    import torch

    if not tensors:
        return None
    batch = tensors[0].new_zeros((size, *tensors[0].shape))
    torch.stack(list(tensors), out=batch[: len(tensors)])
    return batch
