"""Writing images' seven taps durably: the store beside one plain sequential file of the same bytes with fsync.

    python benchmarks/store_write.py            # canvas 1280, 16 images a round: 1.4 GB a way and round, minutes
    python benchmarks/store_write.py --quick    # canvas 256: seconds

Every way ends with its data on the disk (fsync) and is deleted after its turn. The store also checks each value for NaN
and infinity, checksums it, and leaves a receipt; with int8 it quantises first, and half the bytes reach the disk.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from store_common import TAPS, Image, Images, Work, files_below, fill_store, report, scene, specs, summarise, take_turns

from cache import FeatureStore


def plain(root: Path, source: Sequence[Image]) -> Work:
    def work(images: Sequence[int]) -> None:
        with (root / "plain").open("wb", buffering=0) as file:
            for i in images:
                for x in source[i].values():
                    view = memoryview(x).cast("B")
                    while view:
                        view = view[os.write(file.fileno(), view) :]
            os.fsync(file.fileno())

    return work


def store(root: Path, source: Sequence[Image], canvas: int, encoding: str) -> Work:
    def work(images: Sequence[int]) -> None:
        arrays = specs(canvas, encoding)
        with FeatureStore(root / "store").writer(arrays, [(scene(i), f"{i}") for i in images]) as writer:
            for task in writer.pending():
                with writer.shard(task) as sink:
                    for name in task.scene_ids:
                        image = source[int(name.partition(".")[0])]
                        sink.append({spec.name: image[spec.name.partition("@")[0]] for spec in arrays})

    return work


def npy(root: Path, source: Sequence[Image]) -> Work:
    def work(images: Sequence[int]) -> None:
        (root / "npy").mkdir()
        for i in images:
            for tap, x in source[i].items():
                with (root / "npy" / f"{i}-{tap}.npy").open("wb") as file:
                    np.save(file, x)
                    file.flush()
                    os.fsync(file.fileno())

    return work


def zarr_python(root: Path, source: Sequence[Image], canvas: int) -> Work:
    import zarr

    def work(images: Sequence[int]) -> None:
        stacked: dict[str, list[np.ndarray[Any, Any]]] = {tap: [] for tap in TAPS}
        for i in images:
            for tap, x in source[i].items():
                stacked[tap].append(x)
        for spec, tap in zip(specs(canvas, "float16"), TAPS, strict=True):
            array = zarr.create_array(
                str(root / "zarr" / spec.name),
                shape=(len(images), *spec.shape),
                chunks=(1, *spec.shape),
                shards=(len(images), *spec.shape),
                dtype="float16",
                compressors=[zarr.codecs.Crc32cCodec()],
            )
            array[:] = np.stack(stacked[tap])
        for path in files_below(root / "zarr"):
            with path.open("rb") as file:
                os.fsync(file.fileno())

    return work


def count_files(canvas: int, root: Path) -> dict[str, int]:
    """Files of the store for 1000 images and nine arrays: counted for a few shards, planned for all."""
    from cache.budget import Budget, PlannedArray

    arrays = specs(canvas, "int8") + specs(canvas, "float32")[:2]
    planned = Budget(arrays=[PlannedArray(spec, 1000) for spec in arrays], shard=16).files
    fill_store(root / "count", 256, "int8", 48)
    return {
        "planned_for_1000_images_x_9_arrays": planned,
        "counted_for_48_images_x_7_arrays": len(files_below(root / "count" / "features.zarr", root / "count/receipts")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the temporary data goes: the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    canvas, count = (256 if arguments.quick else 1280), 16
    made = Images(canvas)
    source = [made.image(i) for i in range(count)]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        root = Path(folder)

        def clear(_: str) -> None:
            for path in root.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            os.sync()

        ways = {
            "write + fsync": plain(root, source),
            "store float16": store(root, source, canvas, "float16"),
            "store int8": store(root, source, canvas, "int8"),
            "np.save + fsync per tap": npy(root, source),
            "zarr-python + fsync": zarr_python(root, source, canvas),
        }
        for way, work in ways.items():
            clear(way)
            work(range(2))
        seconds = take_turns(ways, range(count), arguments.rounds, clear)
        clear("")
        files = count_files(canvas, root)
        sizes = {name: float(sum(spec.image_bytes for spec in specs(canvas, name))) for name in ("float16", "int8")}
        bytes_of = {way: sizes["int8" if "int8" in way else "float16"] for way in ways}
        tables = {"writing, durable": summarise(seconds, "write + fsync", bytes_of)}
        facts = {"canvas": canvas, "images": count, "rounds": arguments.rounds, "files": files}
        print(files)
        report("" if arguments.quick else "store_write", tables, facts, "write + fsync")


if __name__ == "__main__":
    main()
