"""Statistics over arrays larger than memory, by dask on the Zarr array itself.

Axes: N images, P positions, C channels.
"""

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.encodings import Encoded
from cache.errors import NotCachedError
from cache.layout import SCALES, ZARR, ArraySpec, shard_size
from cache.receipts import ReceiptBook

BINS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """Of one feature over all of its images: ``mean``, ``deviation``, ``low``, ``high`` (C,); ``histogram`` (C, BINS)
    counts between each channel's low and high; ``variances`` (C,) and ``components`` (C, C) of the channel PCA,
    largest first."""

    images: int
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    histogram: NDArray[np.int64]
    variances: NDArray[np.float64]
    components: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Moments:
    """Sums over positions, about a fixed point near the mean so that large means cost no digits."""

    images: int
    count: int
    total: NDArray[np.float64]
    products: NDArray[np.float64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(
            self.images + other.images,
            self.count + other.count,
            self.total + other.total,
            self.products + other.products,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )


def statistics(root: Path, spec: ArraySpec, scheduler: Any = "threads") -> Statistics:
    """Two passes over the array: moments and range, then histograms. Chunks are shards, decoded one image at a time.

    ``scheduler`` is dask's: a name, or a distributed client's ``get``. Raises NotCachedError without images.
    """
    from dask import compute, delayed  # type: ignore[attr-defined]

    readable = _readable_rows(root, spec)
    if not readable:
        raise NotCachedError(f"{spec.path}: has no readable images; run `diffps extract`")
    size = shard_size(root, spec.group)
    blocks = _blocks(root, spec, size)
    rows: dict[int, list[int]] = {}
    for row in readable:
        rows.setdefault(row // size, []).append(row % size)
    shift = _first_mean(spec, *(part[readable[0] : readable[0] + 1].compute() for part in _arrays(root, spec, size)))
    parts = [delayed(_moments)(spec, rows[shard], shift, *blocks[shard]) for shard in sorted(rows)]
    moments = reduce(lambda a, b: a + b, compute(*parts, scheduler=scheduler))
    counts = [
        delayed(_histogram)(spec, rows[shard], moments.low, moments.high, *blocks[shard]) for shard in sorted(rows)
    ]
    histogram = sum(compute(*counts, scheduler=scheduler))
    offset = moments.total / moments.count
    covariance = moments.products / moments.count - np.outer(offset, offset)
    variances, vectors = np.linalg.eigh(covariance)
    return Statistics(
        images=moments.images,
        mean=shift + offset,
        deviation=np.sqrt(np.maximum(np.diag(covariance), 0)),
        low=moments.low,
        high=moments.high,
        histogram=np.asarray(histogram),
        variances=np.maximum(variances[::-1], 0),
        components=vectors.T[::-1],
    )


def _readable_rows(root: Path, spec: ArraySpec) -> list[int]:
    book = ReceiptBook.of(root, spec.group)
    receipts = [receipt for shard in book.shards if (receipt := book.find(shard, spec.name)) is not None]
    return sorted({row for receipt in receipts for row in receipt.rows if row not in receipt.skipped})


def _arrays(root: Path, spec: ArraySpec, size: int) -> list[Any]:
    """dask arrays of the values and, beside int8, the scales; one chunk a shard."""
    import dask.array as da

    folder = root / ZARR / spec.path
    return [
        da.from_zarr(str(folder.with_name(folder.name + suffix)), chunks=(size, *shape))
        for suffix, (shape, _) in sorted(spec.parts().items(), key=lambda part: part[0] == SCALES)
    ]


def _blocks(root: Path, spec: ArraySpec, size: int) -> list[tuple[Any, ...]]:
    columns = [array.to_delayed().reshape(-1) for array in _arrays(root, spec, size)]
    return list(zip(*columns, strict=True))


def _decoded(spec: ArraySpec, row: int, values: NDArray[Any], scales: NDArray[Any] | None) -> NDArray[np.float32]:
    """One image of a block, (P, C) float32."""
    encoded = Encoded(values[row : row + 1], None if scales is None else scales[row : row + 1])
    return spec.encoding.decode(encoded).reshape(-1, spec.shape[2])


def _first_mean(spec: ArraySpec, values: NDArray[Any], scales: NDArray[Any] | None = None) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = _decoded(spec, 0, values, scales).mean(0, dtype=np.float64)
    return mean


def _moments(
    spec: ArraySpec, rows: list[int], shift: NDArray[np.float64], values: NDArray[Any], scales: Any = None
) -> _Moments:
    channels = spec.shape[2]
    low, high = np.full(channels, np.inf, np.float32), np.full(channels, -np.inf, np.float32)
    total, products = np.zeros(channels), np.zeros((channels, channels))
    count = 0
    for row in rows:
        x = _decoded(spec, row, values, scales)
        low, high = np.minimum(low, x.min(0)), np.maximum(high, x.max(0))
        centred = x - shift
        total += centred.sum(0)
        products += centred.T @ centred
        count += len(x)
    return _Moments(len(rows), count, total, products, low, high)


def _histogram(
    spec: ArraySpec,
    rows: list[int],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    values: NDArray[Any],
    scales: Any = None,
) -> NDArray[np.int64]:
    channels = spec.shape[2]
    width = np.maximum(high.astype(np.float64) - low, np.finfo(np.float64).tiny)
    counts = np.zeros(channels * BINS, np.int64)
    for row in rows:
        x = _decoded(spec, row, values, scales)
        bins = np.clip(((x - low) / width * BINS).astype(np.int64), 0, BINS - 1) + np.arange(channels) * BINS
        counts += np.bincount(bins.reshape(-1), minlength=channels * BINS)
    return counts.reshape(channels, BINS)
