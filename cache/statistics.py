"""Statistics over arrays larger than memory, by dask, one image in memory per thread.

Axes: N images, P positions, C channels.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import NotCachedError
from cache.layout import ArraySpec, shard_size
from cache.reader import FeatureReader
from cache.store import FeatureStore
from cache.transcode import cached_images

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


def statistics(store: FeatureStore, spec: ArraySpec, scheduler: Any = "threads") -> Statistics:
    """Two passes over the images that have a receipt: moments and range, then histograms. A task is a shard.

    ``scheduler`` is dask's: a name, or a distributed client's ``get``. Raises NotCachedError without images,
    DamagedError on the first that does not match its receipt.
    """
    from dask import compute, delayed  # type: ignore[attr-defined]

    reader = store.reader([spec])
    shards = _readable_scenes(store, spec, reader)
    if not shards:
        raise NotCachedError(f"{spec.path}: has no readable images; run {spec.group.command}")
    images = delayed(reader)
    shift = _image(reader, spec, shards[0][0]).mean(0, dtype=np.float64)
    parts = [delayed(_moments)(images, spec, scenes, shift) for scenes in shards]
    moments = reduce(lambda a, b: a + b, compute(*parts, scheduler=scheduler))
    counts = [delayed(_histogram)(images, spec, scenes, moments.low, moments.high) for scenes in shards]
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


def _readable_scenes(store: FeatureStore, spec: ArraySpec, reader: FeatureReader) -> list[list[str]]:
    """A name of each image that was not skipped, by shard."""
    rows, size = store.rows(spec.group.split), shard_size(store.root, spec.group)
    names = {rows.row(scene): scene for scene, _ in cached_images(store, spec) if reader.has(scene, spec.name)}
    shards: dict[int, list[str]] = {}
    for row, scene in names.items():
        shards.setdefault(row // size, []).append(scene)
    return list(shards.values())


def _image(reader: FeatureReader, spec: ArraySpec, scene: str) -> NDArray[np.float32]:
    """One image, (P, C) float32."""
    return reader.read_float(scene, spec.name).reshape(-1, spec.shape[2])


def _moments(reader: FeatureReader, spec: ArraySpec, scenes: list[str], shift: NDArray[np.float64]) -> _Moments:
    channels = spec.shape[2]
    low, high = np.full(channels, np.inf, np.float32), np.full(channels, -np.inf, np.float32)
    total, products = np.zeros(channels), np.zeros((channels, channels))
    count = 0
    for scene in scenes:
        x = _image(reader, spec, scene)
        low, high = np.minimum(low, x.min(0)), np.maximum(high, x.max(0))
        centred = x - shift
        total += centred.sum(0)
        products += centred.T @ centred
        count += len(x)
    return _Moments(len(scenes), count, total, products, low, high)


def _histogram(
    reader: FeatureReader, spec: ArraySpec, scenes: list[str], low: NDArray[np.float32], high: NDArray[np.float32]
) -> NDArray[np.int64]:
    channels = spec.shape[2]
    width = np.maximum(high.astype(np.float64) - low, np.finfo(np.float64).tiny)
    counts = np.zeros(channels * BINS, np.int64)
    for scene in scenes:
        x = _image(reader, spec, scene)
        bins = np.clip(((x - low) / width * BINS).astype(np.int64), 0, BINS - 1) + np.arange(channels) * BINS
        counts += np.bincount(bins.reshape(-1), minlength=channels * BINS)
    return counts.reshape(channels, BINS)
