"""The ways of reading that store_stream.py compares: the ring, plain files, and the ring's own ranges read plainly."""

import math
import mmap
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from store_common import files_below, forget, scene, specs

from cache import FeatureReader, FeatureStore
from cache.checksum import CHECKSUM_BYTES
from cache.direct import ALIGNED, TRIED, go_direct
from cache.layout import ZARR, shard_file, shard_size
from cache.ring import read_ahead
from cache.shards import prefetch

BATCH, DEPTH = 5, 3
TURN = DEPTH + TRIED  # batches after which a ring tries the other way
Work = Callable[[], None]
Way = Callable[[Sequence[int]], Work]  # makes ready to read these images, untimed; what comes out reads them


def batches_of(images: Sequence[int]) -> list[list[str]]:
    return [[scene(i) for i in images[start : start + BATCH]] for start in range(0, len(images), BATCH)]


def ring(
    root: Path,
    canvas: int,
    encoding: str,
    *,
    room: int = 0,
    pause: float = 0.0,
    settled: bool = False,
    **options: Any,
) -> Way:
    """``settled``: it has found out which way is faster, as a training does within its first batches; else it is in
    the first of its ways at every turn."""
    arrays = specs(canvas, encoding)
    names = [spec.name for spec in arrays]

    def opened() -> FeatureReader:
        return FeatureStore(root / "store").reader(arrays, room=room)

    chosen = opened() if settled else None
    if chosen is not None:
        forget(files_below(root / "store"))
        images = [i % images_of(canvas) for i in range(2 * TURN * BATCH)]
        for _ in read_ahead(chosen, batches_of(images), names, depth=DEPTH, output="stored"):
            time.sleep(pause)
        print(f"the ring reads {encoding} {'past' if chosen.bypass.on else 'through'} the page cache", flush=True)

    def ready(images: Sequence[int]) -> Work:
        reader = opened() if chosen is None else chosen
        # The ring's memory is there once as many batches as it holds have been read; a training does that once.
        warm = batches_of(range(BATCH)) * DEPTH
        slots = read_ahead(reader, warm + batches_of(images), names, depth=DEPTH, **({"output": "stored"} | options))
        next(slots)
        time.sleep(0.5)  # the others of these are read as well

        def work() -> None:
            for _ in slots:
                time.sleep(pause)

        return work

    return ready


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
            local.buffer = memoryview(mmap.mmap(-1, most))
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
