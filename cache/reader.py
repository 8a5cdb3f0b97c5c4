"""Reading single images straight from the shards into caller-owned buffers, every checksum verified.

The files are ordinary Zarr v3. Metadata and shard indexes are parsed once, then an image is one ``preadv`` per piece of
it, with the checksum taken while the piece is in the processor's cache. What cannot be parsed here goes through
zarr-python.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cache.arrays import Part, Place, StoredArray
from cache.checksum import CHECKSUM_BYTES, extend
from cache.direct import (
    ALIGNED,
    LARGER,
    Bypass,
    NotDirectError,
    direct_pieces,
    go_direct,
    go_through_cache,
    page_cache_room,
)
from cache.encodings import BLOCK, Encoded
from cache.errors import CacheError, DamagedError, NotCachedError, SkippedImage
from cache.foreign import ForeignArray
from cache.layout import SCALES, ArraySpec, GroupKey
from cache.receipts import ReceiptBook
from cache.rows import RowTable
from cache.scratch import Scratch
from cache.shards import REPAIR, cached_pieces, decompress, read_fully

log = logging.getLogger(__name__)

PIECE = 1 << 20  # bytes read at a time: small enough for the caches beside what is made of it, large enough to be few
Image: TypeAlias = "str | tuple[str, str]"  # scene id, or (scene id, view)
Output: TypeAlias = Literal["stored", "float32"]


class FeatureReader:
    """Random access to images of some arrays. Threads may share it; open it anew after the store has changed.

    ``room``: bytes that memory can hold; what is larger is read past the page cache unless that is slower (``bypass``).
    None: what is available now.
    """

    def __init__(
        self,
        root: Path,
        views: Mapping[str, Sequence[ArraySpec]],
        verify: bool,
        dataset: str = "",
        images: Sequence[tuple[str, str]] | None = None,
        room: int | None = None,
    ) -> None:
        self._arguments = (root, views, verify, dataset, images, room)
        self._verify = verify
        self._scratch = Scratch()
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
        stored = sum(
            spec.image_bytes * (len(tables[spec.group.split].scenes) if images is None else len(images))
            for specs in views.values()
            for spec in specs
        )
        self.bypass = Bypass(stored > (page_cache_room() if room is None else room))

    def __reduce__(self) -> tuple[Any, ...]:
        # Opened anew where it arrives, by the memory that is there.
        return FeatureReader, self._arguments

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

    def read_stored(self, image: Image, name: str, values: NDArray[Any], scales: NDArray[np.float16] | None) -> None:
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
            values = self._scratch.array("values", part.nbytes, part.dtype, part.shape)
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
        stored = self._scratch.array("scales", part.nbytes, part.dtype, part.shape)
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
            checksum, behind = 0, b""
            for start, data in self._pieces(descriptor, part, offset, piece, target, part.file(place.shard)):
                if start >= part.nbytes:
                    behind += data.tobytes()
                    continue
                if self._verify:
                    checksum = extend(checksum, data.ctypes.data, len(data))
                if use is not None:
                    use(start, data)
            if self._verify:
                self._compare(array, suffix, scene, place, checksum, behind)
        finally:
            os.close(descriptor)

    def _pieces(
        self, descriptor: int, part: Part, offset: int, piece: int, target: NDArray[np.uint8] | None, path: Path
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(start, bytes) of a chunk, in ``target`` or in reused memory, then its checksum where it has one."""
        nbytes, behind = part.nbytes, CHECKSUM_BYTES * part.checked
        if self.bypass.on and go_direct(descriptor):
            piece *= LARGER
            buffer = self._scratch.aligned(piece + 2 * ALIGNED)
            try:
                for start, data in direct_pieces(descriptor, offset, nbytes + behind, piece, buffer, path):
                    body, rest = data[: max(0, nbytes - start)], data[max(0, nbytes - start) :]
                    if target is not None:
                        target[start : start + len(body)] = body
                    if len(body):
                        yield start, body
                    if len(rest):
                        yield max(start, nbytes), rest
                return
            except NotDirectError:
                self.bypass.give_up()
                go_through_cache(descriptor)
        buffer = self._scratch.array("piece", piece, np.uint8, (piece,)) if target is None else target
        yield from cached_pieces(descriptor, offset, nbytes, piece, buffer, path, in_place=target is not None)
        if behind:
            tail = np.empty(behind, np.uint8)
            read_fully(descriptor, tail.data, offset + nbytes, path)
            yield nbytes, tail

    def _read_compressed(
        self, array: StoredArray, part: Part, suffix: str, scene: str, place: Place, out: NDArray[Any]
    ) -> None:
        descriptor, offset, size = part.open(place.shard, place.slot)
        try:
            size -= CHECKSUM_BYTES * part.checked
            stored = self._scratch.array("stored", size, np.uint8, (size,))
            read_fully(descriptor, stored.data, offset, part.file(place.shard))
            if self._verify:
                checksum = extend(0, stored.ctypes.data, size)
                behind = np.empty(CHECKSUM_BYTES * part.checked, np.uint8)
                read_fully(descriptor, behind.data, offset + size, part.file(place.shard))
                self._compare(array, suffix, scene, place, checksum, behind.tobytes())
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

    def _compare(self, array: StoredArray, suffix: str, scene: str, place: Place, found: int, behind: bytes) -> None:
        """Check a chunk against its receipt and, where the file has one, the checksum behind it."""
        part = array.parts[suffix]
        expected = place.receipt.arrays[array.spec.name][1][suffix].crc32c[place.position]
        stored = int.from_bytes(behind, "little") if part.checked else expected
        if not found == expected == stored:
            raise self._damaged(
                part, scene, place, f"checksum {found:08x}, file says {stored:08x}, receipt {expected:08x}"
            )

    def _damaged(self, part: Part, scene: str, place: Place, what: str) -> DamagedError:
        return DamagedError(f"{part.file(place.shard)}: scene {scene!r} is damaged ({what}); {REPAIR}")
