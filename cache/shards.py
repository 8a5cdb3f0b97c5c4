"""One shard file of Zarr's ``sharding_indexed``: chunks one behind the other, then the index with its checksum."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.checksum import CHECKSUM_BYTES, crc32c
from cache.errors import DamagedError, LockedError
from cache.files import make_folder, publish
from cache.receipts import PartReceipt
from cache.system import naming

ABSENT = 2**64 - 1
PREFETCH_BYTES = 1 << 20  # Linux ignores what a request asks for beyond the device's largest transfer or read-ahead
REPAIR = "`diffps cache verify --repair` and `diffps extract` rewrite just that shard"


def index_bytes(images: int) -> int:
    """Size of the index of a shard of ``images`` chunks."""
    return 16 * images + CHECKSUM_BYTES


class ShardFile:
    """A shard being written under a temporary name, chunk by chunk, in constant memory and without an open file:
    a pass may write more arrays at once than a process may open files."""

    def __init__(self, temporary: Path, target: Path, images: int, codec: dict[str, Any] | None) -> None:
        self._temporary, self._target, self._codec = temporary, target, codec
        self._index = np.full((images, 2), ABSENT, "<u8")
        self._checksums: list[int | None] = []
        self._size = 0
        with naming(target, "written"):
            make_folder(temporary.parent)
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))

    def append(self, slot: int, values: NDArray[Any]) -> None:
        """Write one image's chunk; ``slot`` is its place in the shard."""
        data = np.ascontiguousarray(values)
        if self._codec is not None:
            data = np.frombuffer(compress(data, self._codec), np.uint8)
        self.append_stored(slot, data)

    def append_stored(self, slot: int, data: NDArray[Any]) -> None:
        """The same with a chunk that is in its stored form already."""
        checksum = crc32c(data)
        self._index[slot] = self._size, data.nbytes + CHECKSUM_BYTES
        self._write(data.reshape(-1).view(np.uint8).data, memoryview(checksum.to_bytes(CHECKSUM_BYTES, "little")))
        self._checksums.append(checksum)

    def skip(self) -> None:
        """The image has no chunk."""
        self._checksums.append(None)

    def finish(self) -> PartReceipt:
        """Write the index and make the content durable; the file still has its temporary name."""
        index = self._index.tobytes()
        self._write(memoryview(index), memoryview(crc32c(index).to_bytes(CHECKSUM_BYTES, "little")), sync=True)
        return PartReceipt(self._size, tuple(self._checksums))

    @property
    def is_there(self) -> bool:
        """False once somebody cleared it away under its temporary name."""
        with naming(self._target, "written"):
            return self._temporary.exists()

    def publish(self) -> None:
        """Give it its name."""
        publish(self._temporary, self._target)

    def discard(self) -> None:
        """Remove what is left under the temporary name; what cannot be removed now is, by the next owner."""
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def _write(self, *pieces: memoryview, sync: bool = False) -> None:
        with naming(self._target, "written"):
            try:
                descriptor = os.open(self._temporary, os.O_WRONLY | os.O_APPEND)
            except FileNotFoundError:
                raise LockedError(
                    f"{self._target}: another process writes it now, and cleared this one's away"
                ) from None
            try:
                for data in pieces:
                    while data:
                        written = os.write(descriptor, data)
                        data, self._size = data[written:], self._size + written
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)


def open_shard(path: Path) -> int:
    """Descriptor of a shard's file, to read and to close. Raises DamagedError where it is missing, FileError."""
    try:
        with naming(path, "read"):
            return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise DamagedError(f"{path}: the shard is missing; {REPAIR}") from None


def read_index(descriptor: int, path: Path, images: int, *, at_end: bool = True) -> NDArray[np.uint64]:
    """(images, 2) offset and size of each chunk, ABSENT where there is none. Raises DamagedError."""
    length = index_bytes(images)
    with naming(path, "read"):
        size = os.fstat(descriptor).st_size
        raw = os.pread(descriptor, length, max(0, size - length) if at_end else 0)
    if len(raw) < length or crc32c(raw[:-CHECKSUM_BYTES]) != int.from_bytes(raw[-CHECKSUM_BYTES:], "little"):
        raise DamagedError(f"{path}: the shard's index does not match its checksum ({size} bytes); {REPAIR}")
    return np.frombuffer(raw, "<u8", 2 * images).reshape(images, 2)


def read_chunk(path: Path, slot: int, images: int, expected: int | None) -> NDArray[np.uint8]:
    """Stored form of one chunk, without its checksum. Raises DamagedError unless that is ``expected``."""
    descriptor = open_shard(path)
    try:
        offset, size = (int(number) for number in read_index(descriptor, path, images)[slot])
        data = np.empty(0 if offset == ABSENT else size - CHECKSUM_BYTES, np.uint8)
        read_fully(descriptor, data.data, offset, path)
    finally:
        os.close(descriptor)
    if expected is None or crc32c(data) != expected:
        raise DamagedError(f"{path}: image {slot} of the shard does not match its receipt; {REPAIR}")
    return data


def read_fully(descriptor: int, view: memoryview, offset: int, path: Path) -> None:
    """Fill ``view``, however many calls it takes. Raises DamagedError at the file's end."""
    while view:
        with naming(path, "read"):
            got = os.preadv(descriptor, [view], offset)
        if got <= 0:
            raise DamagedError(f"{path}: ends before byte {offset + len(view)}; {REPAIR}")
        view, offset = view[got:], offset + got


def cached_pieces(
    descriptor: int, offset: int, nbytes: int, piece: int, buffer: NDArray[np.uint8], path: Path, *, in_place: bool
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(start, bytes) of a range piece by piece: each in its place in ``buffer``, or all at its beginning.

    Read through the page cache, and asked for as a whole once a piece does not lie there. Raises DamagedError.
    """
    view, cached = buffer.data, True
    for start in range(0, nbytes, piece):
        length = min(piece, nbytes - start)
        at = start if in_place else 0
        got = read_cached(descriptor, view[at : at + length], offset + start) if cached else 0
        if got < length:
            if cached:
                cached = False
                prefetch(descriptor, offset + start + got, nbytes - start - got)
            read_fully(descriptor, view[at + got : at + length], offset + start + got, path)
        yield start, buffer[at : at + length]


def read_cached(descriptor: int, view: memoryview, offset: int) -> int:
    """Bytes of ``view`` that were filled without waiting for the disk; 0 as well where the system cannot tell."""
    try:
        return os.preadv(descriptor, [view], offset, os.RWF_NOWAIT)
    except (OSError, AttributeError):
        return 0


def prefetch(descriptor: int, offset: int, size: int) -> None:
    """Have a range brought into the page cache while it is read: small reads alone leave the disk idle between them."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        for start in range(offset, offset + size, PREFETCH_BYTES):
            length = min(PREFETCH_BYTES, offset + size - start)
            os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_WILLNEED)


def compress(data: NDArray[Any], codec: dict[str, Any]) -> bytes:
    """One chunk through Zarr's ``blosc`` codec."""
    from numcodecs import blosc

    options = codec["configuration"]
    shuffle = {"noshuffle": blosc.NOSHUFFLE, "shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}
    compressed: bytes = blosc.compress(
        data, options["cname"].encode(), options["clevel"], shuffle[options["shuffle"]], options["blocksize"],
        typesize=options["typesize"],
    )  # fmt: skip
    return compressed


def decompress(data: NDArray[np.uint8], out: NDArray[Any]) -> None:
    """Inverse of :func:`compress`, into ``out``."""
    from numcodecs import blosc

    blosc.decompress(data, out)
