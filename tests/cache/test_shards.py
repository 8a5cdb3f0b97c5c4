"""A shard's bytes, and what is asked of the system to write and to read them."""

import errno
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numcodecs import blosc

from cache.checksum import crc32c
from cache.encodings import BitRound
from cache.errors import DamagedError, FileError, LockedError
from cache.receipts import PartReceipt
from cache.shards import (
    ABSENT,
    PREFETCH_BYTES,
    ShardFile,
    cached_pieces,
    compress,
    decompress,
    index_bytes,
    open_shard,
    prefetch,
    read_chunk,
    read_fully,
    read_index,
)

FIRST, SECOND = np.arange(6, dtype=np.int8).reshape(2, 3), np.arange(4, dtype=np.float16)
REMEDY = "`diffps cache verify --repair` and `diffps extract` rewrite just that shard"


def sum_of(data: bytes) -> bytes:
    return crc32c(data).to_bytes(4, "little")


def begun(folder: Path) -> ShardFile:
    return ShardFile(folder / "tmp/begun", folder / "shard", 4, None)


def write(folder: Path) -> PartReceipt:
    """Two images of four, the second in its stored form; then one that was skipped."""
    file = begun(folder)
    file.append(2, FIRST)
    file.append_stored(0, SECOND)
    file.skip()
    assert not (folder / "shard").exists()
    receipt = file.finish()
    assert file.is_there
    file.publish()
    assert not file.is_there
    return receipt


def test_chunks_lie_one_behind_the_other_then_the_index_each_with_its_checksum(tmp_path: Path) -> None:
    receipt = write(tmp_path)
    chunks = FIRST.tobytes() + sum_of(FIRST.tobytes()) + SECOND.tobytes() + sum_of(SECOND.tobytes())
    index = np.array([[10, 12], [ABSENT, ABSENT], [0, 10], [ABSENT, ABSENT]], "<u8").tobytes()
    assert (tmp_path / "shard").read_bytes() == chunks + index + sum_of(index)
    assert index_bytes(4) == len(index) + 4 == 68
    assert receipt == PartReceipt(22 + 68, (crc32c(FIRST), crc32c(SECOND), None))
    assert receipt.nbytes == (tmp_path / "shard").stat().st_size
    assert ABSENT == 2**64 - 1


def test_a_shard_is_for_all_to_read_and_for_its_owner_to_write(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shard").stat().st_mode) == 0o644


def test_what_the_system_writes_in_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = write(tmp_path / "a")
    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
        assert write(tmp_path / "b") == receipt
    assert (tmp_path / "a/shard").read_bytes() == (tmp_path / "b/shard").read_bytes()


def test_its_content_is_synced_once_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, real = list[int](), os.fsync

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            synced.append(status.st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert write(tmp_path).nbytes == 90
    assert synced == [90]


def test_nobody_s_file_is_taken_and_a_lost_one_is_told(tmp_path: Path) -> None:
    file = begun(tmp_path)
    with pytest.raises(FileError, match=rf"^{tmp_path}/shard: cannot be written: "):
        begun(tmp_path)
    file.discard()
    file.discard()
    assert list((tmp_path / "tmp").iterdir()) == []
    with pytest.raises(LockedError) as caught:
        file.append(0, FIRST)
    assert str(caught.value) == f"{tmp_path}/shard: another process writes it now, and cleared this one's away"


def test_a_chunk_is_read_as_it_is_stored_or_said_to_be_another(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "shard"
    found = read_chunk(path, 0, 4, crc32c(SECOND))
    assert found.tobytes() == SECOND.tobytes()
    assert read_chunk(path, 2, 4, crc32c(FIRST)).tobytes() == FIRST.tobytes()
    for slot, expected in ((0, crc32c(FIRST)), (1, crc32c(FIRST)), (0, None), (1, None)):
        with pytest.raises(DamagedError) as caught:
            read_chunk(path, slot, 4, expected)
        assert str(caught.value) == f"{path}: image {slot} of the shard does not match its receipt; {REMEDY}"
    path.unlink()
    with pytest.raises(DamagedError) as caught:
        open_shard(path)
    assert str(caught.value) == f"{path}: the shard is missing; {REMEDY}"


def test_an_index_may_stand_at_either_end(tmp_path: Path) -> None:
    index = np.array([[20, 2], [22, 3]], "<u8")
    block, path = index.tobytes() + sum_of(index.tobytes()), tmp_path / "shard"
    for content, at_end in ((b"chunks" + block, True), (block + b"chunks", False)):
        path.write_bytes(content)
        descriptor = open_shard(path)
        try:
            np.testing.assert_array_equal(read_index(descriptor, path, 2, at_end=at_end), index)
            with pytest.raises(DamagedError) as caught:
                read_index(descriptor, path, 2, at_end=not at_end)
        finally:
            os.close(descriptor)
        what = f"the shard's index does not match its checksum ({len(content)} bytes)"
        assert str(caught.value) == f"{path}: {what}; {REMEDY}"


def test_a_range_is_read_however_little_comes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "file", os.preadv
    path.write_bytes(bytes(range(20)))
    monkeypatch.setattr(os, "preadv", lambda descriptor, buffers, offset: real(descriptor, [buffers[0][:3]], offset))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        buffer = bytearray(10)
        read_fully(descriptor, memoryview(buffer), 5, path)
        assert buffer == bytes(range(5, 15))
        read_fully(descriptor, memoryview(buffer), 10, path)
        assert buffer == bytes(range(10, 20))
        with pytest.raises(DamagedError) as caught:
            read_fully(descriptor, memoryview(buffer), 11, path)
    finally:
        os.close(descriptor)
    assert str(caught.value) == f"{path}: ends before byte 21; {REMEDY}"


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    ("lies", "read"), [(0, [3, 13, 23]), (7, [10, 13, 23]), (10, [13, 23]), (23, [26]), (24, []), (30, [])]
)
def test_a_range_is_asked_for_once_from_where_it_no_longer_lies_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool, lies: int, read: list[int]
) -> None:
    """``lies`` of the 24 bytes from byte 3 on are in the page cache; pieces are of ten."""
    path, real, asked, waited = tmp_path / "file", os.preadv, list[tuple[int, int, int]](), list[int]()
    path.write_bytes(bytes(range(40)))

    def preadv(descriptor: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            assert flags == os.RWF_NOWAIT
            there = max(0, 3 + lies - offset)
            if not there:
                raise BlockingIOError
            return real(descriptor, [buffers[0][:there]], offset)
        waited.append(offset)
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, *range_and_advice: asked.append(range_and_advice))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        buffer, found = np.zeros(24 if in_place else 10, np.uint8), list[tuple[int, bytes]]()
        for start, data in cached_pieces(descriptor, 3, 24, 10, buffer, path, in_place=in_place):
            assert data.ctypes.data == buffer.ctypes.data + (start if in_place else 0)
            found.append((start, data.tobytes()))
    finally:
        os.close(descriptor)
    assert found == [(0, bytes(range(3, 13))), (10, bytes(range(13, 23))), (20, bytes(range(23, 27)))]
    rest = [(3 + lies, 24 - lies, os.POSIX_FADV_WILLNEED)] if lies < 24 else []
    assert asked == rest
    assert waited == read


def test_no_more_is_asked_for_at_once_than_the_system_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[tuple[int, ...]]()
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: asked.append(arguments))
    prefetch(5, 100, 2 * PREFETCH_BYTES + 7)
    wanted = [(100, PREFETCH_BYTES), (100 + PREFETCH_BYTES, PREFETCH_BYTES), (100 + 2 * PREFETCH_BYTES, 7)]
    assert asked == [(5, *part, os.POSIX_FADV_WILLNEED) for part in wanted]
    monkeypatch.delattr(os, "posix_fadvise")
    prefetch(5, 100, 7)


def test_chunks_are_compressed_as_the_codec_says() -> None:
    data = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float16)
    data.view(np.uint16)[...] &= 0xFFC0
    codec = BitRound(4).codec
    assert codec is not None
    wanted = blosc.compress(data, b"zstd", 3, blosc.BITSHUFFLE, 0, typesize=2)
    assert compress(data, codec) == wanted
    out = np.empty_like(data)
    decompress(np.frombuffer(wanted, np.uint8), out)
    np.testing.assert_array_equal(out, data)
    other = {"cname": "lz4", "clevel": 1, "shuffle": "shuffle", "typesize": 4, "blocksize": 512}
    single = data.astype(np.float32)
    assert compress(single, {"configuration": other}) == blosc.compress(
        single, b"lz4", 1, blosc.SHUFFLE, 512, typesize=4
    )


def test_a_read_that_would_wait_or_cannot_be_told_from_one_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> int:
        raise OSError(errno.EOPNOTSUPP, "not here") if len(arguments) == 4 else OSError(errno.EIO, "broken")

    path = tmp_path / "file"
    path.touch()
    monkeypatch.setattr(os, "preadv", refuse)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(FileError, match=rf"^{re.escape(str(path))}: cannot be read: the disk reports"):
            list(cached_pieces(descriptor, 0, 4, 4, np.zeros(4, np.uint8), path, in_place=True))
    finally:
        os.close(descriptor)
