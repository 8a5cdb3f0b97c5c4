"""Reading single images straight from the shards into caller-owned buffers, every checksum verified.

The files are ordinary Zarr v3. Metadata and shard indexes are parsed once, then an image is one ``preadv`` per piece of
it, with the checksum taken while the piece is in the processor's cache. What cannot be parsed here goes through
zarr-python.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cache.arrays import Part, Place, StoredArray
from cache.checksum import CHECKSUM_BYTES, extend
from cache.encodings import BLOCK, Encoded
from cache.errors import CacheError, DamagedError, NotCachedError, SkippedImage
from cache.foreign import ForeignArray
from cache.layout import SCALES, ArraySpec, GroupKey
from cache.receipts import ReceiptBook
from cache.rows import RowTable
from cache.shards import (
    REPAIR,
    decompress,
    prefetch,
    read_cached,
    read_fully,
)
from cache.system import refusal

log = logging.getLogger(__name__)

PIECE = 1 << 20  # bytes read at a time: small enough for the caches beside what is made of it, large enough to be few
Image: TypeAlias = "str | tuple[str, str]"  # scene id, or (scene id, view)
Output: TypeAlias = Literal["stored", "float32"]


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
        self._arrays: dict[tuple[str, str], StoredArray] = {}
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
                self._arrays[view, spec.name] = StoredArray(root, spec, books[group], tables[group.split])
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

    def _array(self, name: str, view: str) -> StoredArray:
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

    def _read_part(self, array: StoredArray, suffix: str, scene: str, place: Place, out: NDArray[Any]) -> None:
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
        array: StoredArray,
        suffix: str,
        scene: str,
        place: Place,
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
        self, array: StoredArray, part: Part, suffix: str, scene: str, place: Place, out: NDArray[Any]
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

    def _read_plainly(
        self, array: StoredArray, plain: ForeignArray, suffix: str, scene: str, place: Place
    ) -> NDArray[Any]:
        # Of compressed values the receipt holds the checksum of our compressed form, which nobody else's bytes have.
        known = self._verify and (array.spec.encoding.codec is None or suffix != "")
        expected = place.receipt.arrays[array.spec.name][1][suffix].crc32c[place.position] if known else None
        try:
            return plain.read(place.receipt.rows[place.position], expected)
        except DamagedError as error:
            raise DamagedError(f"{error}; scene {scene!r} is damaged; {REPAIR}") from error

    def _compare(
        self, array: StoredArray, suffix: str, scene: str, place: Place, found: int, descriptor: int, offset: int
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

    def _damaged(self, part: Part, scene: str, place: Place, what: str) -> DamagedError:
        return DamagedError(f"{part.file(place.shard)}: scene {scene!r} is damaged ({what}); {REPAIR}")
