"""Where an image of a stored array lies: its shard, its slot, and the bytes of it in every file of the array."""

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.encodings import Project
from cache.errors import DamagedError, NotCachedError, RecipeError, SkippedImage
from cache.files import read_json
from cache.fingerprint import explain_difference
from cache.foreign import METADATA, ForeignArray, why_foreign
from cache.layout import ATTRIBUTE, ZARR, ArraySpec, read_basis, shard_file, shard_size
from cache.receipts import Receipt, ReceiptBook
from cache.rows import RowTable
from cache.shards import ABSENT, REPAIR, open_shard, read_index

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where an image lies: shard, slot in it, and its position in the receipt."""

    shard: int
    slot: int
    position: int
    receipt: Receipt


@dataclass
class Part:
    """One Zarr array read directly; ``plain`` reads it where the layout is not ours."""

    folder: Path
    shape: tuple[int, ...]  # of one image
    dtype: np.dtype[Any]
    shard_size: int
    codec: dict[str, Any] | None
    checked: bool  # whether chunks end in their checksum
    index_at_end: bool
    plain: ForeignArray | None = None

    def __post_init__(self) -> None:
        self._indexes: dict[int, tuple[tuple[int, ...], NDArray[np.uint64]]] = {}
        self.nbytes = int(np.prod(self.shape)) * self.dtype.itemsize

    def file(self, shard: int) -> Path:
        return shard_file(self.folder, shard, len(self.shape))

    def open(self, shard: int, slot: int) -> tuple[int, int, int]:
        """(descriptor to close, offset, size) of one chunk. Raises DamagedError."""
        path = self.file(shard)
        descriptor = open_shard(path)
        try:
            status = os.fstat(descriptor)
            identity = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._indexes.get(shard)
            if known is None or known[0] != identity:
                known = identity, read_index(descriptor, path, self.shard_size, at_end=self.index_at_end)
                self._indexes[shard] = known
            offset, size = (int(number) for number in known[1][slot])
            if offset == ABSENT or offset + size > status.st_size:
                raise DamagedError(f"{path}: image {slot} of the shard is absent from its index; {REPAIR}")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, offset, size


class StoredArray:
    """One feature: spec, parts and receipts of the array that holds it."""

    def __init__(self, root: Path, spec: ArraySpec, book: ReceiptBook, rows: RowTable) -> None:
        self.spec, self._id, self._book, self._rows = spec, spec.id, book, rows
        folder = root / ZARR / spec.path
        try:
            metadata = read_json(folder / "zarr.json")
        except FileNotFoundError:
            raise NotCachedError(f"{folder}: no such array; run {spec.group.command}") from None
        try:
            found, recipe = metadata["attributes"][ATTRIBUTE]["id"], metadata["attributes"][ATTRIBUTE]["full_recipe"]
        except (KeyError, TypeError) as error:
            raise DamagedError(f"{folder}/zarr.json: is no array's metadata ({error!r}); {METADATA}") from error
        if found != spec.id:
            fields = "; ".join(explain_difference(spec.full_recipe, recipe)) or "its metadata contradicts itself"
            raise RecipeError(f"{folder}: holds another recipe ({fields}); run {spec.group.command} for this one")
        if isinstance(spec.encoding, Project) and spec.encoding.basis is None:
            self.spec = replace(spec, encoding=Project(spec.encoding.k, read_basis(folder, spec)))
        self._shard_size = shard_size(root, spec.group)
        self.parts = {suffix: parse(folder.with_name(folder.name + suffix)) for suffix in spec.parts()}

    def locate(self, scene_id: str) -> Place:
        row = self._rows.row(scene_id)
        size, command = self._shard_size, self.spec.group.command
        receipt = self._book.find(row // size, self.spec.name)
        if receipt is None or row not in receipt.rows or receipt.arrays[self.spec.name][0] != self._id:
            raise NotCachedError(f"{self.spec.path}: no receipt for scene {scene_id!r}; run {command}")
        position = receipt.rows.index(row)
        if receipt.digests[position] != self._rows.digest(row):
            raise NotCachedError(f"{self.spec.path}: scene {scene_id!r} was edited since; run {command}")
        if row in receipt.skipped:
            raise SkippedImage(f"scene {scene_id!r}: was skipped when extracted: {receipt.skipped[row]}")
        return Place(row // size, row % size, position, receipt)


def parse(folder: Path) -> Part:
    """How to read the array at ``folder``: directly, or with a logged reason through zarr-python."""
    try:
        metadata = read_json(folder / "zarr.json")
    except FileNotFoundError:
        raise DamagedError(f"{folder}: is missing; delete the array it belongs to and run `diffps extract`") from None
    reason = why_foreign(metadata, folder)
    try:
        shape = tuple(map(int, metadata["shape"][1:]))
        dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        shard_size = int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DamagedError(f"{folder}/zarr.json: is no array's metadata ({error!r}); {METADATA}") from error
    if reason:
        log.warning("%s: read through zarr-python, which is slower: %s", folder, reason)
        return Part(folder, shape, dtype, shard_size, None, False, True, ForeignArray(folder, dtype))
    inner = metadata["codecs"][0]["configuration"]
    codec = next((codec for codec in inner["codecs"] if codec["name"] == "blosc"), None)
    checked = inner["codecs"][-1]["name"] == "crc32c"
    return Part(folder, shape, dtype, shard_size, codec, checked, inner.get("index_location", "end") == "end")
