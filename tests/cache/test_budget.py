"""What the store costs, in exact numbers, and what is said where it does not fit."""

import os
import time
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import pytest

from cache import CacheError
from cache.budget import RESERVE, Budget, PlannedArray, break_even, measure_disk, require_space
from cache.errors import StoreFullError
from tests.cache.builders import group, spec

ARRAY = spec("int8", shape=(16, 16, 10))  # 2560 values and 10 scales of two bytes, each with a checksum
OTHER = spec("float16", shape=(2, 3, 5), key=group(view="hflip"))


def test_bytes_and_files_are_counted_to_the_last() -> None:
    assert ARRAY.image_bytes == 2560 + 4 + 20 + 4
    assert OTHER.image_bytes == 2 * 3 * 5 * 2 + 4
    for images, shards in ((1, 1), (4, 1), (5, 2)):
        planned = PlannedArray(ARRAY, images)
        assert planned.nbytes(4) == images * 2588 + shards * 2 * (16 * 4 + 4)
        assert planned.files(4) == 2 * shards + 2  # values and scales, and their metadata
        budget = Budget(arrays=[planned, PlannedArray(OTHER, 9)], shard=4)
        assert budget.nbytes == planned.nbytes(4) + 9 * 64 + 3 * (16 * 4 + 4)
        assert budget.files == 2 * shards + 2 + 3 + 1 + shards + 3  # a receipt for each shard of each group


def test_what_rounded_bits_take_is_an_estimate_of_bits() -> None:
    sizes = {bits: spec(f"bitround:{bits}", shape=(16, 16, 10)).image_bytes for bits in (1, 6, 10)}
    assert sizes == {bits: 5120 * (4 + bits) // 16 + 4 for bits in (1, 6, 10)}


@pytest.mark.parametrize(("live", "cached", "epochs"), [(2.0, 1.5, 6.0), (2.0, 0.0, 1.5), (2.0, 2.0, None)])
def test_caching_pays_where_it_is_faster(live: float, cached: float, epochs: float | None) -> None:
    assert break_even(fill=3.0, live=live, cached=cached) == epochs


def test_a_hundredth_of_what_is_free_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 200 * OTHER.image_bytes  # 12,800 bytes
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free // 512, f_frsize=512, f_bsize=7))
    assert free % 512 == 0
    assert RESERVE == 0.01
    require_space(tmp_path / "not/there", [(OTHER, 100), (OTHER, 98)])
    with pytest.raises(StoreFullError):
        require_space(tmp_path, [(OTHER, 100), (OTHER, 99)])
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=3_210_000, f_frsize=1000))
    large = spec("float16", shape=(1000, 1000, 1234))
    with pytest.raises(StoreFullError) as caught:
        require_space(tmp_path, [(large, 2)])
    assert str(caught.value) == (
        f"{tmp_path}: 4.94 GB are still to be written and 3.21 GB are free; "
        "`diffps cache plan --disk 3210MB` says what would fit"
    )


def test_a_disk_is_measured_by_a_file_that_is_synced_and_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, synced, dropped = iter([0.0, 2.0, 10.0, 14.0]), list[int](), list[tuple[int, ...]]()
    taken, real, really = list[int](), os.fsync, os.read

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        real(descriptor)

    def read(descriptor: int, nbytes: int) -> bytes:
        data = really(descriptor, nbytes)
        taken.append(len(data))
        return data

    with monkeypatch.context() as patched:
        patched.setattr(os, "read", read)
        patched.setattr(time, "perf_counter", lambda: next(seconds))
        patched.setattr(os, "fsync", fsync)
        patched.setattr(os, "posix_fadvise", lambda descriptor, *rest: dropped.append(rest))
        rates = measure_disk(tmp_path / "not/there", 8 << 20)
    assert (rates.write, rates.read) == ((8 << 20) / 2, (8 << 20) / 4)
    assert synced == [8 << 20]
    assert sum(taken) == 8 << 20
    assert signature(measure_disk).parameters["nbytes"].default == 256 << 20
    assert dropped == [(0, 0, os.POSIX_FADV_DONTNEED)]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(CacheError) as caught:
        measure_disk(tmp_path / "file", 1)
    assert str(caught.value) == f"{tmp_path}/file: cannot be written (Not a directory); set runtime.store"
