"""Reading one image's seven taps in random order, every way there is, beside ``preadv`` of the same bytes.

    python benchmarks/store_read.py            # canvas 1280, 48 images: 15 GB below the temporary folder, minutes
    python benchmarks/store_read.py --quick    # canvas 256, 16 images: seconds

Equal thread counts; each thread reads whole images of its own. Warm: everything in the page cache. Cold: dropped from
it before each round. The store's readers verify every checksum; preadv, np.load and safetensors have none.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from store_common import (
    TAPS,
    Work,
    files_below,
    fill_npy,
    fill_safetensors,
    fill_store,
    forget,
    in_threads,
    report,
    scene,
    specs,
    summarise,
    take_turns,
    warm_up,
)

from cache import Encoded, FeatureStore


def preadv(root: Path) -> Work:
    """The floor: one call into a reused buffer, one buffer a thread."""
    import threading

    local = threading.local()

    def work(images: Sequence[int]) -> None:
        for i in images:
            descriptor = os.open(root / f"{i:04}.safetensors", os.O_RDONLY)
            size = os.fstat(descriptor).st_size
            if not hasattr(local, "buffer"):
                local.buffer = np.ones(size, np.uint8)
            done = 0
            while done < size:
                done += os.preadv(descriptor, [local.buffer.data[done:size]], done)
            os.close(descriptor)

    return work


def ours(root: Path, canvas: int, encoding: str) -> Work:
    """The store's reader into reused buffers, one set a thread."""
    import threading

    arrays = specs(canvas, encoding)
    reader = FeatureStore(root).reader(arrays)
    local = threading.local()

    def work(images: Sequence[int]) -> None:
        if not hasattr(local, "buffers"):
            local.buffers = {spec.name: reader.read(scene(images[0]), spec.name) for spec in arrays}
        for i in images:
            for name, buffer in local.buffers.items():
                reader.read(scene(i), name, out=buffer)

    return work


def np_load(root: Path) -> Work:
    def work(images: Sequence[int]) -> None:
        for i in images:
            for tap in TAPS:
                np.load(root / f"{i:04}" / f"{tap}.npy")

    return work


def safetensors(root: Path) -> Work:
    from safetensors.numpy import load_file

    def work(images: Sequence[int]) -> None:
        for i in images:
            load_file(root / f"{i:04}.safetensors")

    return work


def zarr_python(root: Path, canvas: int, encoding: str) -> Work:
    import zarr

    arrays = [zarr.open_array(str(root / "features.zarr" / spec.path), mode="r") for spec in specs(canvas, encoding)]

    def work(images: Sequence[int]) -> None:
        for i in images:
            for array in arrays:
                array[i]

    return work


def tensorstore(root: Path, canvas: int, encoding: str, threads: int) -> Work:
    import tensorstore as ts

    context = ts.Context({"data_copy_concurrency": {"limit": threads}, "file_io_concurrency": {"limit": threads}})
    arrays = [
        ts.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{root / 'features.zarr' / spec.path}/"}},
            open=True,
            context=context,
        ).result()
        for spec in specs(canvas, encoding)
    ]

    def work(images: Sequence[int]) -> None:
        for i in images:
            for array in arrays:
                array[i].read().result()

    return work


def check(root: Path, canvas: int, i: int) -> None:
    """Before anything is timed: all formats hold the same."""
    from safetensors.numpy import load_file

    plain = load_file(root / "safetensors" / f"{i:04}.safetensors")
    arrays = specs(canvas, "float16")
    reader = FeatureStore(root / "store").reader(arrays)
    for spec, tap in zip(arrays, TAPS, strict=True):
        stored: Encoded = reader.read(scene(i), spec.name)
        assert np.array_equal(stored.values[0], plain[tap])
        assert np.array_equal(np.load(root / "npy" / f"{i:04}" / f"{tap}.npy"), plain[tap])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the temporary data goes: the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    canvas, count = (256, 16) if arguments.quick else (1280, 48)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        root = Path(folder)
        fill_store(root / "store", canvas, "float16", count)
        fill_store(root / "store", canvas, "int8", count)
        fill_npy(root / "npy", canvas, count)
        fill_safetensors(root / "safetensors", canvas, count)
        check(root, canvas, count - 1)
        tables: dict[str, list[dict[str, Any]]] = {}
        everything = files_below(root / "store", root / "npy", root / "safetensors")
        for cold in (False, True):
            for threads in (1, 2):
                ways = {
                    "preadv": preadv(root / "safetensors"),
                    "store float16, verified": ours(root / "store", canvas, "float16"),
                    "store int8, verified": ours(root / "store", canvas, "int8"),
                    "np.load per tap": np_load(root / "npy"),
                    "safetensors per image": safetensors(root / "safetensors"),
                    "zarr-python, verified": zarr_python(root / "store", canvas, "float16"),
                    "tensorstore, verified": tensorstore(root / "store", canvas, "float16", threads),
                }
                sizes = {way: _image_bytes(canvas, "int8" if "int8" in way else "float16") for way in ways}
                images = list(range(count))
                warm_up(everything)
                for work in ways.values():
                    work(images[:2])
                dealt = {way: in_threads(work, threads) for way, work in ways.items()}
                before = (lambda way: forget(everything)) if cold else (lambda way: None)
                seconds = take_turns(dealt, images, arguments.rounds, before, count // 4 if cold else None)
                title = f"{'cold' if cold else 'warm'}, {threads} thread{'s' * (threads > 1)}"
                tables[title] = summarise(seconds, "preadv", sizes)
        facts = {"canvas": canvas, "images": count, "taps": len(TAPS), "rounds": arguments.rounds}
        report("" if arguments.quick else "store_read", tables, facts, "preadv")


def _image_bytes(canvas: int, encoding: str) -> float:
    return sum(spec.image_bytes for spec in specs(canvas, encoding))


if __name__ == "__main__":
    main()
