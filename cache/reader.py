"""Reading single images straight from the shards into caller-owned buffers, every checksum verified.

The files are ordinary Zarr v3. Metadata and shard indexes are parsed once, then an image is one ``preadv`` per piece of
it, with the checksum taken while the piece is in the processor's cache. What cannot be parsed here goes through
zarr-python.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cache.checksum import CHECKSUM_BYTES, extend
from cache.encodings import BLOCK, Encoded, Project
from cache.errors import CacheError, DamagedError, NotCachedError, RecipeError, SkippedImage
from cache.files import read_json
from cache.fingerprint import explain_difference
from cache.foreign import METADATA, ForeignArray, why_foreign
from cache.layout import ATTRIBUTE, SCALES, ZARR, ArraySpec, GroupKey, read_basis, shard_file, shard_size
from cache.receipts import Receipt, ReceiptBook
from cache.rows import RowTable
from cache.shards import (
    ABSENT,
    REPAIR,
    decompress,
    open_shard,
    prefetch,
    read_cached,
    read_fully,
    read_index,
)
from cache.system import refusal

log = logging.getLogger(__name__)

PIECE = 1 << 20  # bytes read at a time: small enough for the caches beside what is made of it, large enough to be few
Image: TypeAlias = "str | tuple[str, str]"  # scene id, or (scene id, view)
Output: TypeAlias = Literal["stored", "float32"]


class _Place(NamedTuple):
    """Where an image lies: shard, slot in it, and its position in the receipt."""

    shard: int
    slot: int
    position: int
    receipt: Receipt


@dataclass
class _Part:
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


class _Array:
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
        self.parts = {suffix: _parse(folder.with_name(folder.name + suffix)) for suffix in spec.parts()}

    def locate(self, scene_id: str) -> _Place:
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
        return _Place(row // size, row % size, position, receipt)


class FeatureReader:
    """Random access to images of some arrays. Threads may share it; open it anew after the store has changed."""

    def __init__(
        self,
        root: Path,
        views: Mapping[str, Sequence[ArraySpec]],
        verify: bool,
        dataset: str = "",
        images: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        self._root, self._views, self._verify, self._dataset, self._images = root, views, verify, dataset, images
        self._local = threading.local()
        books: dict[GroupKey, ReceiptBook] = {}
        tables: dict[str, RowTable] = {}
        self._arrays: dict[tuple[str, str], _Array] = {}
        for view, specs in views.items():
            for spec in specs:
                group = spec.group
                if group not in books:
                    books[group] = ReceiptBook.of(root, group)
                if group.split not in tables:
                    tables[group.split] = RowTable.of(root, group.split, dataset)
                    if images is not None:
                        tables[group.split].see(images)
                if (view, spec.name) in self._arrays:
                    raise CacheError(f"reader: two arrays are called {spec.name!r} in view {view!r}")
                self._arrays[view, spec.name] = _Array(root, spec, books[group], tables[group.split])
        self._default = next(iter(views), "")

    def __reduce__(self) -> tuple[Any, ...]:
        # Opened anew where it arrives.
        return FeatureReader, (self._root, self._views, self._verify, self._dataset, self._images)

    def spec(self, name: str, view: str | None = None) -> ArraySpec:
        """Spec of one of this reader's arrays. Raises NotCachedError naming those there are."""
        return self._array(name, view or self._default).spec

    def has(self, image: Image, name: str) -> bool:
        """Whether an image can be read: False for a skipped one. Raises like :meth:`read` where it is missing."""
        scene, view = self._split(image)
        try:
            self._array(name, view).locate(scene)
        except SkippedImage:
            return False
        return True

    def read(self, image: Image, name: str, out: Encoded | None = None) -> Encoded:
        """Stored form of one image: values (1, H, W, K), scales (1, blocks, K) or None; into ``out`` when given.

        Raises NotCachedError without a receipt, SkippedImage, DamagedError.
        """
        array = self._array(name, self._split(image)[1])
        spec = array.spec
        if out is None:
            scales = np.empty((1, *spec.scales_shape), np.float16) if spec.scales_shape is not None else None
            out = Encoded(np.empty((1, *spec.stored_shape), spec.encoding.dtype), scales)
        self.read_stored(image, name, out.values[0], None if out.scales is None else out.scales[0])
        return out

    def read_float(self, image: Image, name: str) -> NDArray[np.float32]:
        """The feature itself, (H, W, C) float32."""
        feature: NDArray[np.float32] = self.spec(name, self._split(image)[1]).encoding.decode(self.read(image, name))[0]
        return feature

    def read_stored(
        self, image: Image, name: str, values: NDArray[Any], scales: NDArray[np.float16] | None = None
    ) -> None:
        """Stored form into ``values`` (H, W, K) and, with int8, ``scales`` (blocks, K)."""
        scene, view = self._split(image)
        array = self._array(name, view)
        place = array.locate(scene)
        if array.spec.encoding.scaled:
            assert scales is not None
            self._read_part(array, SCALES, scene, place, scales)
        self._read_part(array, "", scene, place, values)

    def read_coefficients(self, image: Image, name: str, out: NDArray[np.float32]) -> None:
        """Dequantised stored channels into ``out`` (H, W, K) float32: the feature, but for ``project:k``."""
        scene, view = self._split(image)
        array = self._array(name, view)
        from cache import kernels

        place = array.locate(scene)
        part = array.parts[""]
        flat = out.reshape(-1, out.shape[-1])
        if part.dtype == np.float32:
            self._read_part(array, "", scene, place, out)
            return
        if part.codec is not None:
            values = self._scratch("values", part.nbytes, part.dtype, part.shape)
            self._read_part(array, "", scene, place, values)
            kernels.widen(values, out)
            return
        if not array.spec.encoding.scaled:

            def widen(start: int, piece: NDArray[np.uint8]) -> None:
                half = piece.view(np.float16)
                kernels.widen(half, out.reshape(-1)[start // 2 : start // 2 + half.size])

            self._stream_part(array, "", scene, place, PIECE, widen)
            return
        part = array.parts[SCALES]
        stored = self._scratch("scales", part.nbytes, part.dtype, part.shape)
        self._read_part(array, SCALES, scene, place, stored)
        scales = stored.astype(np.float32)
        channels = out.shape[-1]

        def expand(start: int, piece: NDArray[np.uint8]) -> None:
            first = start // channels
            values = piece.view(np.int8).reshape(-1, channels)
            kernels.dequantise(values, scales, flat[first : first + len(values)], first)

        self._stream_part(array, "", scene, place, max(1, PIECE // (BLOCK * channels)) * BLOCK * channels, expand)

    def _array(self, name: str, view: str) -> _Array:
        try:
            return self._arrays[view, name]
        except KeyError:
            there = ", ".join(sorted(f"{name} ({view})" for view, name in self._arrays))
            raise NotCachedError(f"reader: {name!r} in view {view!r} was not opened; there are {there}") from None

    def _split(self, image: Image) -> tuple[str, str]:
        return (image, self._default) if isinstance(image, str) else (image[0], image[1])

    def _scratch(self, key: str, nbytes: int, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """This thread's reusable buffer."""
        buffer = getattr(self._local, key, None)
        if buffer is None or buffer.nbytes < nbytes:
            buffer = np.empty(nbytes, np.uint8)
            setattr(self._local, key, buffer)
        view: NDArray[Any] = buffer[:nbytes].view(dtype).reshape(shape)
        return view

    def _read_part(self, array: _Array, suffix: str, scene: str, place: _Place, out: NDArray[Any]) -> None:
        part = array.parts[suffix]
        if out.nbytes != part.nbytes or not out.flags.c_contiguous:
            raise CacheError(f"{part.folder}: needs a contiguous buffer of {part.nbytes} bytes, got {out.nbytes}")
        if part.plain is not None:
            out[...] = self._read_plainly(array, part.plain, suffix, scene, place)
            return
        if part.codec is not None:
            self._read_compressed(array, part, suffix, scene, place, out)
            return
        self._stream_part(array, suffix, scene, place, PIECE, None, out.reshape(-1).view(np.uint8))

    def _stream_part(
        self,
        array: _Array,
        suffix: str,
        scene: str,
        place: _Place,
        piece: int,
        use: Callable[[int, NDArray[np.uint8]], None] | None,
        target: NDArray[np.uint8] | None = None,
    ) -> None:
        """Read one uncompressed chunk piece by piece into ``target``, or through ``use`` in reused memory."""
        part = array.parts[suffix]
        if part.plain is not None:
            assert use is not None
            values = self._read_plainly(array, part.plain, suffix, scene, place)
            use(0, values.reshape(-1).view(np.uint8))
            return
        descriptor, offset, size = part.open(place.shard, place.slot)
        try:
            if size != part.nbytes + CHECKSUM_BYTES * part.checked:
                raise self._damaged(part, scene, place, f"chunk of {size} bytes, expected {part.nbytes}")
            buffer = self._scratch("piece", piece, np.uint8, (piece,)) if target is None else target
            view, address, checksum, cached = buffer.data, buffer.ctypes.data, 0, True
            for start in range(0, part.nbytes, piece):
                length = min(piece, part.nbytes - start)
                at = 0 if target is None else start
                got = read_cached(descriptor, view[at : at + length], offset + start) if cached else 0
                if got < length:
                    if cached:
                        cached = False
                        prefetch(descriptor, offset + start + got, part.nbytes - start - got)
                    rest = view[at + got : at + length]
                    read_fully(descriptor, rest, offset + start + got, part.file(place.shard))
                if self._verify:
                    checksum = extend(checksum, address + at, length)
                if use is not None:
                    use(start, buffer[at : at + length])
            if self._verify:
                self._compare(array, suffix, scene, place, checksum, descriptor, offset + part.nbytes)
        finally:
            os.close(descriptor)

    def _read_compressed(
        self, array: _Array, part: _Part, suffix: str, scene: str, place: _Place, out: NDArray[Any]
    ) -> None:
        descriptor, offset, size = part.open(place.shard, place.slot)
        try:
            size -= CHECKSUM_BYTES * part.checked
            stored = self._scratch("stored", size, np.uint8, (size,))
            read_fully(descriptor, stored.data, offset, part.file(place.shard))
            if self._verify:
                checksum = extend(0, stored.ctypes.data, size)
                self._compare(array, suffix, scene, place, checksum, descriptor, offset + size)
        finally:
            os.close(descriptor)
        decompress(stored, out)

    def _read_plainly(self, array: _Array, plain: ForeignArray, suffix: str, scene: str, place: _Place) -> NDArray[Any]:
        # Of compressed values the receipt holds the checksum of our compressed form, which nobody else's bytes have.
        known = self._verify and (array.spec.encoding.codec is None or suffix != "")
        expected = place.receipt.arrays[array.spec.name][1][suffix].crc32c[place.position] if known else None
        try:
            return plain.read(place.receipt.rows[place.position], expected)
        except DamagedError as error:
            raise DamagedError(f"{error}; scene {scene!r} is damaged; {REPAIR}") from error

    def _compare(
        self, array: _Array, suffix: str, scene: str, place: _Place, found: int, descriptor: int, offset: int
    ) -> None:
        """Check a chunk against its receipt and, where the file has one, the checksum behind it."""
        part = array.parts[suffix]
        expected = place.receipt.arrays[array.spec.name][1][suffix].crc32c[place.position]
        try:
            behind = os.pread(descriptor, CHECKSUM_BYTES, offset) if part.checked else b""
        except OSError as error:
            raise refusal(error, part.file(place.shard), "read") from error
        stored = int.from_bytes(behind, "little") if part.checked else expected
        if not found == expected == stored:
            raise self._damaged(
                part, scene, place, f"checksum {found:08x}, file says {stored:08x}, receipt {expected:08x}"
            )

    def _damaged(self, part: _Part, scene: str, place: _Place, what: str) -> DamagedError:
        return DamagedError(f"{part.file(place.shard)}: scene {scene!r} is damaged ({what}); {REPAIR}")


def _parse(folder: Path) -> _Part:
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
        return _Part(folder, shape, dtype, shard_size, None, False, True, ForeignArray(folder, dtype))
    inner = metadata["codecs"][0]["configuration"]
    codec = next((codec for codec in inner["codecs"] if codec["name"] == "blosc"), None)
    checked = inner["codecs"][-1]["name"] == "crc32c"
    return _Part(folder, shape, dtype, shard_size, codec, checked, inner.get("index_location", "end") == "end")
