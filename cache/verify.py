"""Every checksum of a store, in parallel; and making what is damaged count as missing, so that it is written again."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.checksum import CHECKSUM_BYTES, extend
from cache.errors import DamagedError
from cache.files import read_json
from cache.layout import BASIS, ZARR, ArraySpec, GroupKey, array_metadata, read_basis, shard_file, shard_size
from cache.lock import StoreLock, lock_file
from cache.receipts import PartReceipt, Receipt, ReceiptBook
from cache.rows import RowTable
from cache.shards import ABSENT, read_index

PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """What is wrong with one file, and whose images it concerns; ``shard`` None: the array's basis or metadata."""

    spec: ArraySpec
    shard: int | None
    file: Path
    scene_ids: tuple[str, ...]
    what: str


@dataclass(frozen=True, slots=True)
class _File:
    spec: ArraySpec
    suffix: str
    receipt: Receipt


def verify(
    root: Path,
    specs: Sequence[ArraySpec],
    *,
    threads: int = 2,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> list[Damage]:
    """Read every shard of ``specs`` that has a receipt; ``progress`` hears of each file's bytes. In order of files."""
    damages = []
    books = {spec.group: ReceiptBook.of(root, spec.group) for spec in specs}
    for spec in specs:
        for metadata, what in _check_metadata(root, spec):
            damages.append(Damage(spec=spec, shard=None, file=metadata, scene_ids=(), what=what))
        if spec.encoding.name.startswith("project:"):
            try:
                read_basis(root / ZARR / spec.path, spec)
            except DamagedError as error:
                folder = root / ZARR / (spec.path + BASIS)
                damages.append(Damage(spec=spec, shard=None, file=folder, scene_ids=(), what=str(error)))
    files = [
        _File(spec, suffix, receipt)
        for spec in specs
        for shard in books[spec.group].shards
        if (receipt := books[spec.group].find(shard, spec.name)) is not None
        for suffix in spec.parts()
    ]
    names = {split: _names(root, split) for split in {spec.group.split for spec in specs}}
    with ThreadPoolExecutor(threads) as executor:
        for file, found in zip(files, executor.map(lambda file: list(_check(root, file)), files), strict=True):
            part = file.receipt.arrays[file.spec.name][1][file.suffix]
            progress(part.nbytes)
            path = _path(root, file)
            known = names[file.spec.group.split]
            for what, rows in found:
                scenes = tuple(known.get(row, f"row {row}") for row in rows)
                damages.append(Damage(spec=file.spec, shard=file.receipt.shard, file=path, scene_ids=scenes, what=what))
    return damages


def withdraw(root: Path, damages: Iterable[Damage], *, takeover: bool = False) -> int:
    """Take back the receipts of damaged shards: running the stage again rewrites exactly those. Returns how many.

    A damaged basis, or metadata, needs none of that: its shards are whole, and the stage writes it again in any case.
    Raises LockedError when one of the arrays is being written.
    """
    by_group: dict[GroupKey, dict[int, set[str]]] = {}
    for damage in damages:
        if damage.shard is not None:
            by_group.setdefault(damage.spec.group, {}).setdefault(damage.shard, set()).add(damage.spec.name)
    count = 0
    for group, names in by_group.items():
        with StoreLock(lock_file(root, group), takeover=takeover):
            book = ReceiptBook.of(root, group)
            for shard, gone in names.items():
                book.withdraw(shard, gone)
            count += len(names)
    return count


def _check_metadata(root: Path, spec: ArraySpec) -> Iterator[tuple[Path, str]]:
    """(file, what is wrong) of what every Zarr reader goes by."""
    for suffix in spec.parts():
        path = root / ZARR / (spec.path + suffix) / "zarr.json"
        try:
            found = read_json(path)
            if found != array_metadata(spec, suffix, int(found["shape"][0]), shard_size(root, spec.group)):
                yield path, "is not the metadata this store writes"
        except FileNotFoundError:
            yield path, "missing"
        except (DamagedError, KeyError, TypeError, IndexError, ValueError):
            yield path, "is no array's metadata"


def _check(root: Path, file: _File) -> Iterator[tuple[str, list[int]]]:
    """(what is wrong, rows it concerns) of one shard file."""
    spec, receipt = file.spec, file.receipt
    if receipt.arrays[spec.name][0] != spec.id:
        yield f"receipt of another recipe ({receipt.arrays[spec.name][0]}, not {spec.id})", list(receipt.rows)
        return
    part = receipt.arrays[spec.name][1][file.suffix]
    path = _path(root, file)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield "missing", list(receipt.rows)
        return
    except OSError as error:
        yield f"cannot be opened ({error.strerror or error})", list(receipt.rows)
        return
    try:
        size = os.fstat(descriptor).st_size
        if size != part.nbytes:
            yield f"{size} bytes instead of {part.nbytes}", list(receipt.rows)
            return
        yield from _check_chunks(descriptor, path, part, receipt, shard_size(root, spec.group))
    except OSError as error:
        yield f"cannot be read ({error.strerror or error})", list(receipt.rows)
    finally:
        os.close(descriptor)


def _check_chunks(
    descriptor: int, path: Path, part: PartReceipt, receipt: Receipt, images: int
) -> Iterator[tuple[str, list[int]]]:
    try:
        index = read_index(descriptor, path, images)
    except DamagedError:
        yield "the index does not match its checksum", list(receipt.rows)
        return
    buffer = np.empty(PIECE, np.uint8)
    for row, expected in zip(receipt.rows, part.crc32c, strict=True):
        offset, nbytes = (int(number) for number in index[row % images])
        if expected is None:
            if offset != ABSENT:
                yield "holds a skipped image", [row]
            continue
        if offset == ABSENT or offset + nbytes > part.nbytes:
            yield "absent from the index", [row]
            continue
        found = _checksum(descriptor, offset, nbytes - CHECKSUM_BYTES, buffer)
        stored = int.from_bytes(os.pread(descriptor, CHECKSUM_BYTES, offset + nbytes - CHECKSUM_BYTES), "little")
        if not found == expected == stored:
            yield f"checksum {found:08x}, file says {stored:08x}, receipt {expected:08x}", [row]


def _checksum(descriptor: int, offset: int, nbytes: int, buffer: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> int:
    checksum, done = 0, 0
    while done < nbytes:
        got = os.preadv(descriptor, [buffer.data[: min(PIECE, nbytes - done)]], offset + done)
        if got <= 0:
            return -1
        checksum = extend(checksum, buffer.ctypes.data, got)
        done += got
    return checksum


def _path(root: Path, file: _File) -> Path:
    shape, _ = file.spec.parts()[file.suffix]
    return shard_file(root / ZARR / (file.spec.path + file.suffix), file.receipt.shard, len(shape))


def _names(root: Path, split: str) -> dict[int, str]:
    """A name of each row, with its data set where that has one."""
    called = RowTable.of(root, split).called()
    return {row: f"{names[0].dataset}: {names[0].scene_id}".removeprefix(": ") for row, names in called.items()}
