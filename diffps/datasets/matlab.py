"""MATLAB 5 struct arrays, element by element: TestG4000's 11.6 million rows would take scipy about 10 GB as objects.

Only what the protocol files consist of is understood: a struct array whose fields are struct arrays of text and
numbers. Layout: MathWorks, "MAT-File Format", level 5. An element is a tag (type, bytes) and its data, padded to eight
bytes; data of up to four bytes may sit in the tag itself.
"""

import struct
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.compiled import compiled
from diffps.errors import DatasetError

MATRIX, COMPRESSED = 14, 15
STRUCT_CLASS = 2
NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
TEXT_BYTES = {1: 1, 2: 1, 4: 2, 16: 1, 17: 2}  # bytes per character of ASCII
CHUNK = 1 << 20


class Structs(NamedTuple):
    """A 1 x n struct array: ``leaves[field]`` (n, 3) int64 type, start and length of each value in ``data``."""

    data: bytes
    leaves: dict[str, NDArray[np.int64]]

    def texts(self, field: str) -> list[str]:
        """The field's values as text."""
        steps = {kind: slice(None, None, width) for kind, width in TEXT_BYTES.items()}
        return [self.data[at : at + n][steps[kind]].decode("ascii") for kind, at, n in self.leaves[field].tolist()]

    def numbers(self, field: str) -> list[NDArray[np.float64]]:
        """The field's values as flat float64 arrays, empty ones included."""
        none = np.empty(0)
        return [
            np.frombuffer(self.data, NUMBERS[kind], n // int(NUMBERS[kind][-1]), at).astype(np.float64) if n else none
            for kind, at, n in self.leaves[field].tolist()
        ]


def read_structs(path: Path, key: str) -> Iterator[dict[str, Structs]]:
    """Each element of the struct array ``key`` as ``{field: Structs}``. Raises DatasetError for anything else."""
    try:
        with path.open("rb") as file:
            header = file.read(128)
            if header[126:128] != b"IM":
                raise ValueError("not a little-endian MATLAB 5 file")
            yield from _elements(_open_variable(file, key))
    except (ValueError, KeyError, IndexError, struct.error, zlib.error, OverflowError) as error:
        raise DatasetError(f"{path}: no struct array of structs named {key}: {error}") from None


class _Stream:
    """The bytes of one variable, inflated as they are asked for."""

    def __init__(self, file: BufferedReader, size: int, compressed: bool) -> None:
        self._file, self._left = file, size
        self._inflate = zlib.decompressobj() if compressed else None
        self._buffer = bytearray()

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes. Raises ValueError at the end of the file."""
        while len(self._buffer) < count:
            raw = self._file.read(min(CHUNK, self._left))
            if not raw:
                raise ValueError("the file ends too early")
            self._left -= len(raw)
            self._buffer += self._inflate.decompress(raw) if self._inflate else raw
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def small(self) -> bytes:
        """The data of the next element, its tag and padding dropped."""
        kind, size = struct.unpack("<II", self.take(8))
        if kind >> 16:
            return struct.pack("<I", size)[: kind >> 16]
        return self.take(size + -size % 8)[:size]


def _open_variable(file: BufferedReader, key: str) -> tuple[_Stream, list[str], int]:
    """The stream behind the header of variable ``key``, its fields, and how many elements it has."""
    kind, size = struct.unpack("<II", file.read(8))
    stream = _Stream(file, size, kind == COMPRESSED)
    if kind == COMPRESSED:
        kind, _ = struct.unpack("<II", stream.take(8))
    flags, dims, name = stream.small(), stream.small(), stream.small().decode("ascii")
    if kind != MATRIX or flags[0] != STRUCT_CLASS:
        raise ValueError(f"its first variable, {name}, is no struct array")
    if name != key:
        raise ValueError(f"its first variable is {name}")
    width = struct.unpack("<i", stream.small())[0]
    fields = _names(stream.small(), width)
    return stream, fields, int(np.prod(np.frombuffer(dims, "<i4")))


def _elements(variable: tuple[_Stream, list[str], int]) -> Iterator[dict[str, Structs]]:
    stream, fields, count = variable
    for _ in range(count):
        yield {field: _parse(stream.small()) for field in fields}


def _parse(data: bytes) -> Structs:
    """A matrix of class struct, without its tag."""
    buffer = np.frombuffer(data, np.uint8)
    at, parts = 0, []
    for _ in range(5):  # flags, dimensions, name, length of field names, field names
        _, start, size, at = _tag(buffer, at)
        parts.append(data[start : start + size])
    if parts[0][0] != STRUCT_CLASS:
        raise ValueError("a field is no struct array")
    fields = _names(parts[4], struct.unpack("<i", parts[3])[0])
    count = int(np.prod(np.frombuffer(parts[1], "<i4")))
    leaves = _leaves(buffer, at, count * len(fields)).reshape(count, len(fields), 3)
    return Structs(data, {field: leaves[:, column] for column, field in enumerate(fields)})


def _names(text: bytes, width: int) -> list[str]:
    return [text[at : at + width].split(b"\0")[0].decode("ascii") for at in range(0, len(text), width)]


@compiled()
def _word(buffer: NDArray[np.uint8], at: int) -> int:
    low, high = int(buffer[at]) | int(buffer[at + 1]) << 8, int(buffer[at + 2]) | int(buffer[at + 3]) << 8
    return low | high << 16


@compiled()
def _tag(buffer: NDArray[np.uint8], at: int) -> tuple[int, int, int, int]:
    """Type, start and length of the element at ``at``, and where the next one begins."""
    kind = _word(buffer, at)
    if kind >> 16:
        return kind & 0xFFFF, at + 4, kind >> 16, at + 8
    size = _word(buffer, at + 4)
    return kind, at + 8, size, at + 8 + size + (-size) % 8


@compiled()
def _leaves(buffer: NDArray[np.uint8], at: int, count: int) -> NDArray[np.int64]:
    """Type, start and length of the data of ``count`` matrices that follow one another from ``at``."""
    found = np.zeros((count, 3), np.int64)
    for row in range(count):
        _, inner, size, at = _tag(buffer, at)
        if size:
            for _ in range(3):  # flags, dimensions, name
                inner = _tag(buffer, inner)[3]
            found[row, 0], found[row, 1], found[row, 2], _ = _tag(buffer, inner)
    return found
