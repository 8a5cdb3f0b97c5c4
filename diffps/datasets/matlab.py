"""MATLAB 5 files, read without trusting them: what PRW, CUHK-SYSU and MovieNet-PS keep their annotations in.

scipy's reader is killed by a signal on about 3 in 100 damaged files, and would take more than 10 GB for the 11.6
million rows of TestG4000 (benchmarks/datasets_mat.py). Here a variable is its bytes (matrices.py), and a struct array
may be streamed.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import SEEK_CUR, BufferedReader
from pathlib import Path

import numpy as np

from diffps.datasets.files import require
from diffps.datasets.matrices import CLASSES, MATRIX, STRUCT, Matrices, split_names
from diffps.errors import DatasetError

COMPRESSED = 15  # type of an element
LARGEST = 1 << 27  # bytes of a variable, or of an element of one that is streamed; real ones stay well below 100 MB
CHUNK = 1 << 20
PREFIX = 128  # bytes of a variable in which its name is found
OTHER_FILES = (
    (b"MATLAB 7.3", "a MATLAB 7.3 file (HDF5), which is not read; save it in MATLAB with save(..., '-v7')"),
    (b"\x89HDF", "an HDF5 file, which is not read; save it in MATLAB with save(..., '-v7')"),
    (b"<", "a web page, not the file that was to be downloaded; download it again"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with git lfs pull"),
    (b"PK", "a zip archive; unpack it"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
)


def read_mat(path: Path, dataset: str, what: str, keys: Sequence[str]) -> tuple[str, Matrices]:
    """(key, the one matrix) of the one of ``keys`` that the file holds. Raises DatasetError naming file and keys."""
    with _opened(path, dataset, what) as file:
        names = []
        found: list[tuple[str, Matrices]] = []
        for name, stream in _variables(file):
            names.append(name)
            if name in keys:
                found.append((name, stream.matrix(stream.size)))
    if len(found) != 1:
        held = ", ".join(names) or "none"
        raise DatasetError(f"{dataset}: {path} must hold exactly one of the keys {', '.join(keys)}; found {held}")
    return found[0]


def stream_records(
    path: Path, dataset: str, what: str, key: str, fields: Sequence[str]
) -> Iterator[dict[str, Matrices]]:
    """Each element of the struct array ``key``, a matrix per field, in memory one after the other: TestG4000 holds
    11.6 million rows. Raises DatasetError for anything else."""
    with _opened(path, dataset, what) as file:
        names = []
        for name, stream in _variables(file):
            names.append(name)
            if name == key:
                yield from _elements(stream, fields)
                return
    raise DatasetError(f"{dataset}: {path} must hold the key {key}; found {', '.join(names) or 'none'}")


@contextmanager
def reading(path: Path, dataset: str) -> Iterator[None]:
    """What goes wrong inside is wrong with the file at ``path``: raised as DatasetError that names it."""
    try:
        yield
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(f"{dataset}: {path} cannot be read: {error.strerror}") from None
    except (IndexError, struct.error):
        raise DatasetError(f"{dataset}: {path} is damaged: it refers to a place outside of itself") from None
    except (ValueError, TypeError, OverflowError, zlib.error) as error:
        raise DatasetError(f"{dataset}: {path} is damaged or of another layout: {error}") from None


class _Stream:
    """The bytes of one variable, inflated as they are asked for; ``size`` of them in all."""

    def __init__(self, file: BufferedReader, stored: int, compressed: bool) -> None:
        self._file, self._left = file, stored
        self._inflate = zlib.decompressobj() if compressed else None
        self._buffer = bytearray()
        self.size = stored
        if compressed:
            kind, self.size = struct.unpack("<II", self.take(8))
            if kind != MATRIX:
                raise ValueError("a compressed variable holds no matrix")

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes. Raises ValueError at the end of the file."""
        taken = self.peek(count)
        del self._buffer[:count]
        return taken

    def peek(self, count: int) -> bytes:
        """The next ``count`` bytes, which stay. Raises ValueError at the end of the file."""
        while len(self._buffer) < count:
            self._read_on()
        return bytes(self._buffer[:count])

    def matrix(self, size: int) -> Matrices:
        """The next ``size`` bytes as a matrix whose tag has been read."""
        if size > LARGEST:
            raise ValueError(f"it claims an element of {size} bytes; {LARGEST} is the limit")
        words = np.zeros(2 + (size + 3) // 4, np.uint32)
        words[:2] = MATRIX, size
        view, done = words.data.cast("B")[8 : 8 + size], 0
        while done < size:
            if not self._buffer:
                self._read_on()
            part = self._buffer[: size - done]
            view[done : done + len(part)] = part
            del self._buffer[: len(part)]
            done += len(part)
        return Matrices(words, np.zeros(1, np.int64))

    def small(self) -> bytes:
        """The data of the next element, its tag and padding dropped. Raises ValueError for a large one."""
        tag = self.take(8)
        kind, size = struct.unpack("<II", tag)
        if kind >> 16:
            return tag[4 : 4 + (kind >> 16)]
        if size > CHUNK:
            raise ValueError(f"a header is {size} bytes long")
        return self.take(size + -size % 8)[:size]

    def skip(self) -> None:
        """Leave the file at what follows the variable."""
        self._file.seek(self._left, SEEK_CUR)

    def _read_on(self) -> None:
        raw = self._inflate.unconsumed_tail if self._inflate else b""
        if not raw:
            raw = self._file.read(min(CHUNK, self._left))
            self._left -= len(raw)
            if not raw:
                raise ValueError("the file ends too early")
        self._buffer += self._inflate.decompress(raw, CHUNK) if self._inflate else raw


@contextmanager
def _opened(path: Path, dataset: str, what: str) -> Iterator[BufferedReader]:
    """The file after its header. Raises DatasetError for other files, by what they look like."""
    require(path, dataset, what)
    with reading(path, dataset), path.open("rb") as file:
        header = file.read(128)
        known = next((known for magic, known in OTHER_FILES if header.lstrip().startswith(magic)), None)
        if known or header[126:] != b"IM":
            other = f"no MATLAB 5 file; it begins with {header[:16]!r}" if header else "empty"
            raise DatasetError(f"{dataset}: {path} is {known or other}")
        yield file


def _variables(file: BufferedReader) -> Iterator[tuple[str, _Stream]]:
    """(name, bytes) of the file's matrices; what is left of one is skipped when the next is asked for."""
    while tag := file.read(8):
        kind, stored = struct.unpack("<II", tag)
        if kind not in (MATRIX, COMPRESSED):
            raise ValueError(f"a variable of type {kind} is no matrix")
        stream = _Stream(file, stored, kind == COMPRESSED)
        prefix = stream.peek(min(stream.size, PREFIX))
        dimensions = struct.unpack_from("<I", prefix, 20)[0]  # bytes of them
        at = 24 + dimensions + -dimensions % 8
        tag, length = struct.unpack_from("<II", prefix, at)
        name = prefix[at + 4 : at + 4 + (tag >> 16)] if tag >> 16 else prefix[at + 8 : at + 8 + length]
        yield name.decode("ascii"), stream
        stream.skip()


def _elements(stream: _Stream, fields: Sequence[str]) -> Iterator[dict[str, Matrices]]:
    """The elements of a struct array, which is never in memory as a whole."""
    head = stream.take(32)  # flags and two dimensions
    if head[8] != STRUCT or struct.unpack_from("<I", head, 20)[0] != 8:
        raise ValueError(f"it is {CLASSES.get(head[8], 'of another class')}, expected a struct array")
    rows, columns = struct.unpack_from("<II", head, 24)
    stream.small()  # its name
    width = struct.unpack("<I", stream.small())[0]
    names = split_names(stream.small(), width)
    if missing := [name for name in fields if name not in names]:
        raise ValueError(f"its elements lack {', '.join(missing)}; found {', '.join(names) or 'no fields'}")
    for _ in range(rows * columns):
        values = {}
        for name in names:
            kind, size = struct.unpack("<II", stream.take(8))
            if kind != MATRIX:
                raise ValueError("an element is no matrix")
            values[name] = stream.matrix(size)
        yield {name: values[name] for name in fields}
