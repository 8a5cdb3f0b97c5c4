"""Other ways to stream the seven taps of images, as store_stream.py compares them."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from store_common import TAPS, Images, specs

from cache import parse_encoding

STREAMING, LITDATA = "MosaicML Streaming, 2 workers", "litdata, 2 workers"
Way = Callable[[Sequence[int]], None]


def np_load(root: Path, threads: int) -> Way:
    """A file per tap and image; fresh memory each time, as np.load has it."""
    pool = ThreadPoolExecutor(threads)

    def load(i: int) -> None:
        for tap in TAPS:
            np.load(root / f"{i:04}" / f"{tap}.npy")

    return lambda images: list(pool.map(load, images)) and None


def tensorstore(root: Path, canvas: int, encoding: str) -> Way:
    """Two images at a time are asked for."""
    import tensorstore as ts

    arrays = [
        ts.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{root / 'features.zarr' / spec.path}/"}},
            open=True,
        ).result()
        for spec in specs(canvas, encoding)
    ]

    def work(images: Sequence[int]) -> None:
        for start in range(0, len(images), 2):
            for future in [array[i].read() for i in images[start : start + 2] for array in arrays]:
                future.result()

    return work


def samples(canvas: int, encoding: str, count: int) -> Iterator[dict[str, Any]]:
    """Image by image, each tap as it is stored; the few scales of int8 are left out."""
    source, parsed = Images(canvas), parse_encoding(encoding)
    for i in range(count):
        image = source.image(i)
        yield {tap: np.ascontiguousarray(parsed.encode(x[None]).values[0]) for tap, x in image.items()}


def fill_streaming(root: Path, canvas: int, encoding: str, count: int) -> None:
    if importlib.util.find_spec("streaming"):
        from streaming import MDSWriter

        with MDSWriter(out=str(root), columns=dict.fromkeys(TAPS, "ndarray"), size_limit=1 << 28) as out:
            for sample in samples(canvas, encoding, count):
                out.write(sample)


def streaming(root: Path, batch: int) -> Way | None:
    """Its own shuffling order: which images are read is not the caller's to say, how many is."""
    if not root.exists():
        return None
    from streaming import StreamingDataset

    def work(images: Sequence[int]) -> None:
        data = StreamingDataset(local=str(root), shuffle=True, batch_size=batch, epoch_size=len(images))
        _take(data, batch, len(images))

    return work


def fill_litdata(root: Path, canvas: int, encoding: str, count: int) -> None:
    if importlib.util.find_spec("litdata"):
        from litdata.streaming import Cache

        cache = Cache(str(root), chunk_bytes=1 << 28)
        for i, sample in enumerate(samples(canvas, encoding, count)):
            cache[i] = sample
        cache.done()
        cache.merge()


def litdata(root: Path, batch: int) -> Way | None:
    """Its own shuffling order too."""
    if not root.exists():
        return None
    from litdata import StreamingDataset

    def work(images: Sequence[int]) -> None:
        _take(StreamingDataset(str(root), shuffle=True), batch, len(images))

    return work


def _take(data: Any, batch: int, count: int) -> None:
    from torch.utils.data import DataLoader

    for seen, _ in enumerate(DataLoader(data, batch_size=batch, num_workers=2, collate_fn=list), 1):
        if seen * batch >= count:
            return
