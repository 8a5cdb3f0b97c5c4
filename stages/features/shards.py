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
from pathlib import Path
from queue import Queue
from typing import Any, Protocol

import diffusers
import torch
from numpy.typing import NDArray

from cache import ArraySpec, ShardSink, ShardTask
from diffps.records import Split, View
from stages.job import StoppedError, Tracker

log = logging.getLogger(__name__)

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


Computed = Mapping[str, NDArray[Any]] | Skipped  # one image: array name -> (H, W, C)


@dataclass(frozen=True, slots=True)
class Work:
    """Arrays to be completed together: their specs, the split's (scene id, digest), and the manifests to write then,
    which lie in ``folder``.

    ``readable`` says of a scene that was skipped once that it can be read now; then it is missing.
    """

    place: Place
    specs: Sequence[ArraySpec]
    images: Sequence[tuple[str, str]]
    folder: Path
    manifests: Mapping[Path, Sequence[ArraySpec]]
    readable: Callable[[str], bool]


class Computer(Protocol):
    """A frozen model on its device. ``batch`` is the number of images it takes at once."""

    batch: int

    def rows(self, place: Place, task: ShardTask) -> Iterator[Computed]:
        """What belongs into every row of the shard, in order."""


def write_shards(
    open_shard: Callable[[ShardTask], AbstractContextManager[ShardSink]],
    place: Place,
    tasks: Iterable[ShardTask],
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
    open_shard: Callable[[ShardTask], AbstractContextManager[ShardSink]],
    place: Place,
    task: ShardTask,
    computer: Computer,
) -> Future[int]:

    while True:
        queue: Queue[Computed | _End] = Queue(ROWS_AHEAD)
        future = pool.submit(_write, open_shard, task, queue, computer.batch)
        seconds = 0.0
        try:
            rows = computer.rows(place, task)
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
    open_shard: Callable[[ShardTask], AbstractContextManager[ShardSink]],
    task: ShardTask,
    queue: Queue[Computed | _End],
    batch: int,
) -> int:
    """Bytes of one shard's features, as computed."""
    nbytes = 0
    row: Computed | _End | None = None
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

    there = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if there else f"cpu, {torch.get_num_threads()} threads"
    return {"torch": torch.__version__, "diffusers": diffusers.__version__, "device": device}
