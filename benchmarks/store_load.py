"""Loading batches of one image as a training step wants them: the store's ring beside ``np.load`` of .npy files.

    python benchmarks/store_load.py            # canvas 1280, 48 images: 11 GB below the temporary folder, minutes
    python benchmarks/store_load.py --quick    # canvas 256, 16 images: seconds

Both sides prefetch with the same number of threads; the consumer only touches each tensor. ``float32``: torch tensors
on the CPU, dequantised on the way; ``stored``: as they lie on disk, for dequantising on a device.
"""

import argparse
import tempfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from store_common import (
    TAPS,
    Work,
    files_below,
    fill_npy,
    fill_store,
    report,
    scene,
    specs,
    summarise,
    take_turns,
    warm_up,
)

from cache import FeatureStore
from cache.ring import read_ahead

DEPTH = 3


def np_load(root: Path, threads: int, to_float: bool) -> Work:
    """A file per tap and image, read ahead by threads; fresh memory every time, as np.load has it."""

    def load(i: int) -> list[torch.Tensor]:
        tensors = [torch.from_numpy(np.load(root / f"{i:04}" / f"{tap}.npy")) for tap in TAPS]
        return [tensor.float() for tensor in tensors] if to_float else tensors

    def work(images: Sequence[int]) -> None:
        with ThreadPoolExecutor(threads) as pool:
            remaining = iter(images)
            waiting: deque[Future[list[torch.Tensor]]] = deque(pool.submit(load, i) for i in islice(remaining, DEPTH))
            while waiting:
                _touch(waiting.popleft().result())
                waiting.extend(pool.submit(load, i) for i in islice(remaining, 1))

    return work


def ring(root: Path, canvas: int, encoding: str, output: str, threads: int) -> Work:
    arrays = specs(canvas, encoding)
    reader = FeatureStore(root).reader(arrays)
    names = [spec.name for spec in arrays]

    def work(images: Sequence[int]) -> None:
        batches = ([scene(i)] for i in images)
        for slot in read_ahead(reader, batches, names, threads=threads, depth=DEPTH, output=output):
            _touch([torch.from_numpy(values) for values in slot.values.values()])

    return work


def fill(canvas: int, threads: int) -> Work:
    """No loader: float32 buffers of ``DEPTH`` images are overwritten, by as many threads. What memory allows."""
    sizes = [canvas // stride * (canvas // stride) * channels for stride, channels in TAPS.values()]
    ring = [[np.zeros(size, np.float32) for size in sizes] for _ in range(DEPTH)]

    def work(images: Sequence[int]) -> None:
        with ThreadPoolExecutor(threads) as pool:
            for i, _ in enumerate(images):
                list(pool.map(lambda buffer: buffer.fill(1.0), ring[i % DEPTH]))

    return work


def _touch(tensors: Sequence[torch.Tensor]) -> None:
    for tensor in tensors:
        tensor.view(-1)[-1].item()


def check(root: Path, canvas: int) -> None:
    """Before anything is timed: what comes out of the ring is what decoding says, and near what np.load gives."""
    arrays = specs(canvas, "int8")
    reader = FeatureStore(root / "store").reader(arrays)
    (slot,) = read_ahead(reader, [[scene(3)]], [spec.name for spec in arrays])
    for spec, tap in zip(arrays, TAPS, strict=True):
        assert np.array_equal(slot.values[spec.name][0], reader.read_float(scene(3), spec.name))
        exact = np.load(root / "npy" / "0003" / f"{tap}.npy").astype(np.float32)
        assert np.linalg.norm(slot.values[spec.name][0] - exact) < 0.02 * np.linalg.norm(exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the temporary data goes: the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    canvas, count = (256, 16) if arguments.quick else (1280, 48)
    torch.set_num_threads(1)  # the threads that count are the loaders'
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        root = Path(folder)
        fill_store(root / "store", canvas, "float16", count)
        fill_store(root / "store", canvas, "int8", count)
        fill_npy(root / "npy", canvas, count)
        check(root, canvas)
        tables: dict[str, list[dict[str, Any]]] = {}
        sizes = {name: float(sum(spec.image_bytes for spec in specs(canvas, name))) for name in ("float16", "int8")}
        for threads in (1, 2):
            for output in ("float32", "stored"):
                ways = {
                    "np.load": np_load(root / "npy", threads, output == "float32"),
                    "ring, float16": ring(root / "store", canvas, "float16", output, threads),
                    "ring, int8": ring(root / "store", canvas, "int8", output, threads),
                }
                if output == "float32":
                    ways["memory alone: fill the tensors"] = fill(canvas, threads)
                warm_up(files_below(root))
                for work in ways.values():
                    work(range(2))
                seconds = take_turns(ways, range(count), arguments.rounds)
                bytes_of = {way: sizes["int8" if "int8" in way else "float16"] for way in ways}
                bytes_of["memory alone: fill the tensors"] = 2 * sizes["float16"]
                title = f"to {output}, {threads} thread{'s' * (threads > 1)}"
                tables[title] = summarise(seconds, "np.load", bytes_of)
        facts = {"canvas": canvas, "images": count, "taps": len(TAPS), "rounds": arguments.rounds, "depth": DEPTH}
        report("" if arguments.quick else "store_load", tables, facts, "np.load")


if __name__ == "__main__":
    main()
