"""Headers of safetensors files, believed only as far as they agree with themselves and with the file they stand in.

A header says how much is read from where, so a wrong one is an error before anything is allocated or computed.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from diffps.errors import CheckpointError

CONVERT = "python -m diffps.backbone.convert"  # what makes safetensors of a pickle

_MAX_HEADER = 1 << 24  # bytes: a hundred thousand tensors
_MAX_RANK = 8
# Bytes per element. Formats below a byte hold quantised weights, which nothing here computes with.
_SIZES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the file itself"),
    (b"PK\x03\x04", f"a pickle under another name; `{CONVERT} FILE` makes safetensors of it"),
    (b"\x80\x02", f"a pickle under another name; `{CONVERT} FILE` makes safetensors of it"),
    (b"GGUF", "a GGUF file, whose weights are quantised"),
    (b"<", "a web page, so its download failed; fetch it again"),
    (b"{", "a JSON file"),
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Bytes ``start`` to ``stop`` of ``file`` hold the elements; ``dtype`` is safetensors' name of it, e.g. F32."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors ``file`` by name, without reading them.

    Raises CheckpointError, one line, for anything else: it says what lies there instead, or what the header says that
    cannot be true.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(64)
            length = int.from_bytes(head[:8], "little")
            if len(head) < 8 or length > min(_MAX_HEADER, size - 8):
                raise ValueError(_what_lies_there(head, length, size))
            stream.seek(8)
            text = stream.read(length)
        entries = _entries(text)
        entries.pop("__metadata__", None)
        tensors = {name: _tensor(file, name, entry, 8 + length) for name, entry in entries.items()}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not a safetensors file ({one_line(error)})") from error
    _check_places(file, tensors, 8 + length, size)
    return tensors


def one_line(error: BaseException) -> str:
    """What an error says, on one line, not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _what_lies_there(head: bytes, length: int, size: int) -> str:
    if not head:
        return "it is empty"
    for start, what in _OTHERS:
        if head.startswith(start):
            return what
    return f"its header would have {length:,} bytes, the file has {size:,}"


def _entries(text: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(text.decode(), object_pairs_hook=_no_twins)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("its header is no JSON") from error
    if not isinstance(entries, dict):
        raise ValueError("its header is no JSON object")
    return entries


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"its header names {name!r} twice")
        found[name] = value
    return found


def _tensor(file: Path, name: str, entry: Any, data: int) -> StoredTensor:
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"tensor {name!r} has no dtype, shape and two data_offsets") from error
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise ValueError(f"tensor {name!r} is of dtype {str(dtype)[:40]!r}; known are {', '.join(_SIZES)}")
    numbers = [start, stop, *shape] if isinstance(shape, list) and len(shape) <= _MAX_RANK else [None]
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise ValueError(
            f"tensor {name!r}: its shape and data_offsets are not the few whole numbers from 0 on that they should be"
        )
    if stop - start != prod(shape) * _SIZES[dtype]:
        raise ValueError(f"tensor {name!r}: {stop - start:,} bytes for {dtype} of shape {shape}")
    return StoredTensor(file, dtype, tuple(shape), data + start, data + stop)


def _check_places(file: Path, tensors: dict[str, StoredTensor], data: int, size: int) -> None:
    """The tensors fill the file behind its header, one after the other."""
    placed = sorted((tensor.start, tensor.stop, name) for name, tensor in tensors.items())
    for (_, stop, name), (start, _, following) in pairwise([(data, data, "its header"), *placed]):
        if start != stop:
            what = "overlap" if start < stop else "leave a hole between them"
            raise CheckpointError(f"{file}: not a safetensors file ({name!r} and {following!r} {what})")
    end = placed[-1][1] if placed else data
    if end > size:
        raise CheckpointError(
            f"{file}: cut short in tensor {placed[-1][2]} at {size:,} of {end:,} bytes; fetch it again"
        )
    if end < size:
        raise CheckpointError(f"{file}: not a safetensors file ({size - end:,} bytes behind its last tensor)")
