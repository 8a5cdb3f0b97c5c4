"""Files that carry the SHA-256 of all their bytes, and stay what they are to every other reader.

The digest stands in the file behind a mark, and is taken with zeros in its place. JSON has it under ``seal``, Parquet
and safetensors in their metadata, ``.npz`` in its comment, ``.npy`` behind the values, where its readers do not look.
A folder has a list of its files' digests. Readers take ``remake``, the command that makes the file anew, and name it
when they refuse.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheError, DamagedError, NotCachedError
from cache.files import read_bytes, write_bytes
from cache.system import files_below

if TYPE_CHECKING:
    import pyarrow as pa

KEY = "seal"
MARK = b"diffps:sha256:"
DIGITS = 64
OPEN = (MARK + b"0" * DIGITS).decode()  # what a format writes where the digest is to stand
LIST = "digests.json"  # of a folder


def seal(data: bytes) -> bytes:
    """``data`` with its digest in the place of the one ``OPEN`` in it. Raises CacheError when there is not one mark."""
    if data.count(MARK) != 1:
        raise CacheError(
            f"seal: {MARK.decode()!r} stands {data.count(MARK)} times in what is to be sealed; expected once"
        )
    start = data.index(MARK) + len(MARK)
    return data[:start] + hashlib.sha256(data).hexdigest().encode() + data[start + DIGITS :]


def is_sealed(data: bytes) -> bool:
    """True where the mark is: older files have none."""
    return MARK in data


def check(data: bytes, path: Path, remake: str) -> None:
    """Raise DamagedError unless ``data``, read from ``path``, carries its own digest."""
    if data.count(MARK) != 1:
        raise DamagedError(f"{path}: has no digest, so it is damaged or of an older version; {remake} makes it anew")
    start = data.index(MARK) + len(MARK)
    found = hashlib.sha256(data[:start])
    found.update(b"0" * DIGITS)
    found.update(memoryview(data)[start + DIGITS :])
    if data[start : start + DIGITS] != found.hexdigest().encode():
        raise DamagedError(f"{path}: does not match its digest; {remake} makes it anew")


def read_sealed(path: Path, remake: str) -> bytes:
    """Content of a sealed file of any format. Raises NotCachedError where it is missing, DamagedError, FileError."""
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise NotCachedError(f"{path}: is not there; {remake} makes it") from None
    check(data, path, remake)
    return data


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Sealed JSON, indented and sorted, so that equal content is equal bytes."""
    text = json.dumps({**value, KEY: OPEN}, indent=1, sort_keys=True, allow_nan=False)
    return seal(f"{text}\n".encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value``, whose keys do not include ``seal``."""
    write_bytes(path, json_bytes(value))


def read_json(path: Path, remake: str) -> dict[str, Any]:
    """What :func:`write_json` was given."""
    value: dict[str, Any] = json.loads(read_sealed(path, remake))
    del value[KEY]
    return value


def table_bytes(table: "pa.Table") -> bytes:
    """A sealed Parquet file, pages with checksums of their own."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY: OPEN})
    return seal(buffer.getvalue())


def write_table(path: Path, table: "pa.Table") -> None:
    """Write ``table`` as Parquet."""
    write_bytes(path, table_bytes(table))


def read_table(path: Path, remake: str, columns: list[str] | None = None) -> "pa.Table":
    """The table :func:`write_table` was given, or some of its columns."""
    return table_in(read_sealed(path, remake), columns)


def table_in(data: bytes, columns: list[str] | None = None) -> "pa.Table":
    """The table in the bytes of a Parquet file, or some of its columns, read by this thread alone: those of Arrow's own
    that are still at work when a program ends abort it (apache/arrow#34314)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    return file.read(columns=columns, use_threads=False)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write ``array`` as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, seal(buffer.getvalue() + OPEN.encode()))


def read_array(path: Path, remake: str) -> NDArray[Any]:
    """The array :func:`write_array` was given."""
    array: NDArray[Any] = np.load(io.BytesIO(read_sealed(path, remake)), allow_pickle=False)
    return array


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write ``arrays`` as .npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = OPEN.encode()
    write_bytes(path, seal(buffer.getvalue()))


def read_arrays(path: Path, remake: str) -> Mapping[str, NDArray[Any]]:
    """The arrays :func:`write_arrays` was given, each read from the file when it is asked for."""
    read_sealed(path, remake)
    found: Mapping[str, NDArray[Any]] = np.load(path, allow_pickle=False)
    return found


def tensors_bytes(data: bytes) -> bytes:
    """A safetensors file, given as what its library's ``save`` returns, sealed in its metadata."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = {**header.get("__metadata__", {}), KEY: OPEN}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # readers want the tensors aligned
    return seal(len(text).to_bytes(8, "little") + text + data[8 + length :])


def tensors_metadata(data: bytes) -> dict[str, str]:
    """The texts in a safetensors file's header, but for the seal."""
    found: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    return {name: text for name, text in found.items() if name != KEY}


def write_tensors(path: Path, data: bytes) -> None:
    """Write what safetensors' ``save`` returned; :func:`read_sealed` gives bytes for its ``load``."""
    write_bytes(path, tensors_bytes(data))


def seal_folder(
    folder: Path,
    names: Sequence[str] | None = None,
    made_from: Mapping[str, str] | None = None,
    before: Mapping[str, str] | None = None,
) -> None:
    """List the digests of ``names`` in ``folder`` in its ``digests.json``, else of all files below it: they are one
    result from now on, and ``made_from`` (name -> digest) says of what. ``before``: digests that other
    files were listed with."""
    write_json(folder / LIST, {"files": {**(before or {}), **_digests(folder, names)}, "from": dict(made_from or {})})


@dataclass(frozen=True, kw_only=True, slots=True)
class Together:
    """One result: files of ``folder``, name -> SHA-256, and what they were ``made_from``, name -> digest."""

    folder: Path
    files: Mapping[str, str]
    made_from: Mapping[str, str]
    remake: str

    @classmethod
    def of(cls, folder: Path, remake: str) -> "Together":
        """What :func:`seal_folder` listed. Raises NotCachedError where the folder is not sealed, DamagedError."""
        listed = read_json(folder / LIST, remake)
        try:
            return cls(folder=folder, files=listed["files"], made_from=listed["from"], remake=remake)
        except KeyError as error:
            raise DamagedError(f"{folder / LIST}: has no {error}; {remake} makes it anew") from error

    @property
    def digest(self) -> str:
        """Of the files, whatever they were made from."""
        return hashlib.sha256(json.dumps(dict(self.files), sort_keys=True).encode()).hexdigest()

    def read(self, name: str) -> bytes:
        """Content of one file. Raises DamagedError where it is another than was listed, or missing."""
        path = self.folder / name
        if name not in self.files:
            raise DamagedError(f"{path}: is not in {LIST}; remove it, or {self.remake} makes all of it anew")
        try:
            data = read_bytes(path)
        except FileNotFoundError:
            raise DamagedError(f"{path}: is missing, though {LIST} lists it; {self.remake} makes it anew") from None
        found = hashlib.sha256(data).hexdigest()
        if found != self.files[name]:
            raise DamagedError(
                f"{path}: does not match its digest in {LIST} (it is {found[:10]}, listed is {self.files[name][:10]}), "
                f"so it is of another run, or damaged; {self.remake} makes it anew"
            )
        return data

    def check(self) -> None:
        """Raise DamagedError naming the first file that is another one or missing."""
        for name in sorted(self.files):
            self.read(name)


def check_folder(folder: Path, remake: str) -> str:
    """The digest of a sealed folder's content. Raises DamagedError naming the first file that is another one, missing
    or too many; NotCachedError where the folder is not sealed."""
    together = Together.of(folder, remake)
    for name in sorted({*together.files, *_names(folder)}):
        together.read(name)
    return together.digest


def _digests(folder: Path, names: Sequence[str] | None) -> dict[str, str]:
    """Name -> SHA-256."""
    every = _names(folder) if names is None else names
    return {name: hashlib.sha256(read_bytes(folder / name)).hexdigest() for name in every}


def _names(folder: Path) -> list[str]:
    """All files below ``folder``, but for the list and what begins with a dot."""
    names = [path.relative_to(folder) for path in files_below(folder)]
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    return [name.as_posix() for name in shown if name.as_posix() != LIST]
