"""The ways of reading that store_stream.py compares: the ring, plain files, and the ring's own ranges read plainly."""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from store_common import files_below, forget, scene, specs

from cache import FeatureReader, FeatureStore
from cache.checksum import CHECKSUM_BYTES
from cache.direct import ALIGNED, TRIED, go_direct
from cache.layout import ZARR, shard_file, shard_size
from cache.ring import Slot, read_ahead
from cache.scratch import in_large_pages
from cache.shards import prefetch

BATCH, DEPTH = 5, 3
TURN = DEPTH + TRIED  # batches after which a ring tries the other way
Work = Callable[[], None]
Way = Callable[[Sequence[int]], Work]  # makes ready to read these images, untimed; what comes out reads them


def batches_of(images: Sequence[int]) -> list[list[str]]:
    return [[scene(i) for i in images[start : start + BATCH]] for start in range(0, len(images), BATCH)]


def streams(
    root: Path, canvas: int, encoding: str, *, room: int = 0, settled: bool = False, **options: Any
) -> Callable[[Sequence[int]], Iterator[Slot]]:
    """Makes a ring's stream of these images, behind ``DEPTH`` other batches: the ring's memory is there once as many
    as it holds have been read, which a training does once.

    ``settled``: it has found out which way is faster, as a training does within its first batches; else it is in
    the first of its ways at every turn.
    """
    arrays = specs(canvas, encoding)
    names = [spec.name for spec in arrays]

    def opened() -> FeatureReader:
        return FeatureStore(root / "store").reader(arrays, room=room)

    def stream(reader: FeatureReader, batches: list[list[str]]) -> Iterator[Slot]:
        return read_ahead(reader, batches, names, depth=DEPTH, **({"output": "stored"} | options))

    chosen = opened() if settled else None
    if chosen is not None:
        forget(files_below(root / "store"))
        deque(stream(chosen, batches_of([i % images_of(canvas) for i in range(2 * TURN * BATCH)])), 0)
        print(f"the ring reads {encoding} {'past' if chosen.bypass.on else 'through'} the page cache", flush=True)
    warm = batches_of(range(BATCH)) * DEPTH
    return lambda images: stream(opened() if chosen is None else chosen, warm + batches_of(images))


def ring(root: Path, canvas: int, encoding: str, **options: Any) -> Way:
    """``options`` of :func:`streams`."""
    made = streams(root, canvas, encoding, **options)

    def ready(images: Sequence[int]) -> Work:
        slots = made(images)
        next(slots)
        time.sleep(0.5)  # the others before these images are read as well
        return lambda: deque(slots, 0) and None

    return ready


def waited(slots: Iterator[Slot], pause: float) -> float:
    """Share of the time in which a consumer waits that sleeps ``pause`` seconds on every batch.

    From the first image's batch on, when nothing is read ahead of it, to the last.
    """
    for _ in range(DEPTH + 1):
        next(slots)
    begun = end = time.perf_counter()
    slept = 0.0
    while True:
        time.sleep(pause)
        if next(slots, None) is None:
            return 1 - slept / (end - begun)
        slept, end = slept + pause, time.perf_counter()


def plain(root: Path, nbytes: int, threads: int, asking: bool) -> Way:
    """``preadv`` of ``nbytes`` of a file an image, each thread into memory of its own."""
    local = threading.local()

    def read(i: int) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = memoryview(np.ones(nbytes, np.uint8))
        descriptor = os.open(root / "plain" / f"{i:04}", os.O_RDONLY)
        try:
            if asking:
                prefetch(descriptor, 0, nbytes)
            done = 0
            while done < nbytes:
                done += os.preadv(descriptor, [local.buffer[done : done + (1 << 23)]], done)
        finally:
            os.close(descriptor)

    pool = ThreadPoolExecutor(threads)
    return at_once(lambda images: list(pool.map(read, images)) and None)


def pieces(root: Path, canvas: int, encoding: str, direct: bool) -> Way:
    """``preadv`` of the chunks that the ring reads, 8 MB at a time, each of 8 threads into memory of its own."""
    store = root / "store"
    parts = [
        (store / ZARR / (spec.path + suffix), math.prod(shape) * np.dtype(dtype).itemsize + CHECKSUM_BYTES, len(shape))
        for spec in specs(canvas, encoding)
        for suffix, (shape, dtype) in spec.parts().items()
    ]
    local, most = threading.local(), 1 << 23

    def read(path: Path, offset: int, nbytes: int) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = in_large_pages(most).data
        first, end = offset // ALIGNED * ALIGNED, -(-(offset + nbytes) // ALIGNED) * ALIGNED
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if direct:
                go_direct(descriptor)
            while first < offset + nbytes:
                first += os.preadv(descriptor, [local.buffer[: min(most, end - first)]], first)
        finally:
            os.close(descriptor)

    def work(images: Sequence[int]) -> None:
        ranges = [
            (shard_file(array, i // shard, axes), i % shard * nbytes, nbytes)
            for i in images
            for array, nbytes, axes in parts
        ]
        list(pool.map(lambda each: read(*each), ranges))

    shard = shard_size(store, specs(canvas, encoding)[0].group)
    pool = ThreadPoolExecutor(8)
    return at_once(work)


def at_once(work: Callable[[Sequence[int]], None]) -> Way:
    """A way that needs nothing made ready."""
    return lambda images: lambda: work(images)


def plain_ways(root: Path, nbytes: int) -> dict[str, Way]:
    return {
        f"plain, {threads} thread{'s' * (threads > 1)}{', asked' * asking}": plain(root, nbytes, threads, asking)
        for threads in (1, 2, 4, 8)
        for asking in (False, True)
    }


def images_of(canvas: int) -> int:
    return 20 if canvas == 256 else 48
