"""Batches read ahead by threads into a ring of reused buffers.

Threads, not processes: at tens of megabytes a sample, copying between processes costs more than reading.
"""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cache.errors import CacheError
from cache.reader import FeatureReader, Image, Output

MOST_THREADS = 8  # more gain nothing


@dataclass(slots=True)
class Slot:
    """One batch: ``values`` name -> (B, H, W, K); ``scales`` name -> (B, blocks, K) float16 where stored int8 came out.

    Both are views of buffers that the ring fills again once the next batch is asked for. ``position`` counts batches
    from 0: the cursor to keep in a checkpoint.
    """

    position: int
    images: Sequence[Image]
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    scales: dict[str, NDArray[np.float16]] = field(default_factory=dict)


def _threads_for(reader: FeatureReader) -> int:
    """As many as keep a disk busy, which wait and cost little; from memory, one for each processor that is ours."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return MOST_THREADS if reader.bypass.larger else max(2, min(MOST_THREADS, processors))


class Ring:
    """Iterate once. ``output`` "stored" leaves int8 and float16 as they are; "float32" dequantises on the way.

    ``depth`` batches are held in memory at once, in page-locked memory with ``pin`` (needs torch and a GPU).
    ``threads`` read; None: 8 of a store that memory does not hold, else one for each processor, 2 to 8. The order is
    the caller's; results do not depend on ``threads``. Errors of a batch are raised when it is its turn.
    """

    def __init__(
        self,
        reader: FeatureReader,
        batches: Iterable[Sequence[Image]],
        names: Sequence[str],
        *,
        threads: int | None,
        depth: int,
        output: Output,
        pin: bool,
    ) -> None:
        threads = _threads_for(reader) if threads is None else threads
        if threads < 1 or depth < 1:
            raise CacheError(f"ring: threads {threads} and depth {depth} must be at least 1")
        if output not in ("stored", "float32"):
            raise CacheError(f"ring: output {output!r}: expected 'stored' or 'float32'")
        self._reader, self._names, self._output, self._pin = reader, list(names), output, pin
        self._threads, self._depth = threads, depth
        self._batches = enumerate(batches)
        self._specs = {name: reader.spec(name) for name in self._names}

    def __iter__(self) -> Iterator[Slot]:
        executor = ThreadPoolExecutor(self._threads, thread_name_prefix="feature-reader")
        free: deque[_Buffers] = deque(_Buffers(self._pin) for _ in range(self._depth))
        under_way: deque[tuple[Slot, _Buffers, list[Future[None]]]] = deque()
        before = time.perf_counter()
        try:
            while True:
                while free and (batch := next(self._batches, None)) is not None:
                    buffers = free.popleft()
                    under_way.append(self._start(executor, buffers, *batch))
                if not under_way:
                    return
                slot, buffers, parts = under_way.popleft()
                for part in parts:
                    part.result()
                now = time.perf_counter()
                self._reader.bypass.batch_came(now - before, self._depth)
                before = now
                yield slot
                free.append(buffers)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _start(
        self, executor: ThreadPoolExecutor, buffers: "_Buffers", position: int, images: Sequence[Image]
    ) -> "tuple[Slot, _Buffers, list[Future[None]]]":
        slot = Slot(position, images)
        parts = []
        for name, spec in self._specs.items():
            stored = self._output == "stored"
            dtype = spec.encoding.dtype if stored else "float32"
            slot.values[name] = buffers.take(name, len(images), spec.stored_shape, dtype)
            if stored and spec.scales_shape is not None:
                slot.scales[name] = buffers.take(f"{name}.scales", len(images), spec.scales_shape, "float16")
        # Image by image, so that reads of one image stay together.
        for i, image in enumerate(images):
            for name in self._names:
                parts.append(executor.submit(self._read, slot, i, image, name))
        return slot, buffers, parts

    def _read(self, slot: Slot, i: int, image: Image, name: str) -> None:
        if self._output == "stored":
            scales = slot.scales.get(name)
            self._reader.read_stored(image, name, slot.values[name][i], None if scales is None else scales[i])
        else:
            self._reader.read_coefficients(image, name, slot.values[name][i])


class _Buffers:
    """Memory of one slot, grown to the largest batch seen."""

    def __init__(self, pin: bool) -> None:
        self._pin = pin
        self._arrays: dict[str, NDArray[Any]] = {}

    def take(self, name: str, batch: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        array = self._arrays.get(name)
        if array is None or len(array) < batch:
            array = self._arrays[name] = self._allocate((batch, *shape), np.dtype(dtype))
        return array[:batch]

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        if not self._pin:
            return np.empty(shape, dtype)
        import torch

        nbytes = int(np.prod(shape)) * dtype.itemsize
        pinned: NDArray[Any] = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
        return pinned.view(dtype).reshape(shape)


def read_ahead(
    reader: FeatureReader,
    batches: Iterable[Sequence[Image]],
    names: Sequence[str],
    *,
    threads: int | None = None,
    depth: int = 3,
    output: Output = "float32",
    pin: bool = False,
) -> Iterator[Slot]:
    """Batches in order, read ahead by threads into ``depth`` reused buffers; see :class:`Ring`."""
    return iter(Ring(reader, batches, names, threads=threads, depth=depth, output=output, pin=pin))
