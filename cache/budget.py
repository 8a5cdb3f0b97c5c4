"""What a cache costs before its first byte: size, files, hours, and whether it pays at all."""

import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import CacheError, StoreFullError
from cache.layout import ArraySpec
from cache.shards import index_bytes
from cache.system import free_bytes

RESERVE = 0.01  # of what is free: rows, receipts and folders need a place too


@dataclass(frozen=True, slots=True)
class PlannedArray:
    """One array for ``images`` images."""

    spec: ArraySpec
    images: int

    def nbytes(self, shard: int) -> int:
        """Bytes on disk, in shards of ``shard`` images; for ``bitround:n``, which is compressed, an estimate."""
        return self.images * self.spec.image_bytes + self._shards(shard) * len(self.spec.parts()) * index_bytes(shard)

    def files(self, shard: int) -> int:
        """Shards and metadata."""
        return (self._shards(shard) + 1) * len(self.spec.parts())

    def _shards(self, shard: int) -> int:
        return -(-self.images // shard)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """A set of arrays, in shards of ``shard`` images."""

    arrays: Sequence[PlannedArray]
    shard: int

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes(self.shard) for array in self.arrays)

    @property
    def files(self) -> int:
        """Shards, metadata, and one receipt per shard of each group."""
        groups = {array.spec.group: -(-array.images // self.shard) for array in self.arrays}
        return sum(array.files(self.shard) for array in self.arrays) + sum(groups.values())


def break_even(fill: float, live: float, cached: float) -> float | None:
    """After how many epochs caching has paid; None when it never does.

    ``fill``: seconds to compute and write everything once; ``live`` and ``cached``: those of one epoch's features,
    computed anew and read. Cached, e epochs cost fill + e x cached; recomputed, e x live.
    """
    return None if cached >= live else fill / (live - cached)


def require_space(root: Path, specs: Iterable[tuple[ArraySpec, int]]) -> None:
    """Raise StoreFullError unless the (spec, images) that are still to be written fit on the store's disk."""
    needed = sum(images * spec.image_bytes for spec, images in specs)
    free = free_bytes(root)
    if needed > free * (1 - RESERVE):
        raise StoreFullError(
            f"{root}: {needed / 1e9:.2f} GB are still to be written and {free / 1e9:.2f} GB are free; "
            f"`diffps cache plan --disk {free / 1e6:.0f}MB` says what would fit"
        )


@dataclass(frozen=True, slots=True)
class DiskRates:
    """Bytes per second, sequential, past the page cache where the system allows it."""

    write: float
    read: float


def measure_disk(root: Path, nbytes: int = 256 << 20) -> DiskRates:
    """Write and read a temporary file of ``nbytes`` under ``root``. Raises CacheError where nothing can be written."""
    while not root.exists():
        root = root.parent
    block = os.urandom(4 << 20)
    try:
        with tempfile.NamedTemporaryFile(dir=root, prefix=".rate-") as file:
            start = time.perf_counter()
            for _ in range(0, nbytes, len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            written = time.perf_counter()
            if hasattr(os, "posix_fadvise"):  # not on macOS
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            opened = time.perf_counter()
            while os.read(file.fileno(), len(block)):
                pass
            return DiskRates(nbytes / (written - start), nbytes / (time.perf_counter() - opened))
    except OSError as error:
        raise CacheError(f"{root}: cannot be written ({error.strerror}); set runtime.store") from error
