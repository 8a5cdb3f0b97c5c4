"""Forgetting images: their latents, features and maps, their digests and names, and the space all of it took.

Shards are written again without them, whole, the chunks of the other images as they are. The table of rows comes last:
who was killed half-way finds the images by the same names again. Rows are not renumbered; theirs belong to nobody.
"""

import contextlib
import logging
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from cache.catalogue import folders, group_of, open_array
from cache.errors import CacheError, DamagedError
from cache.files import read_json, sync
from cache.foreign import why_foreign
from cache.layout import BASIS, ZARR, GroupKey
from cache.lock import StoreLock, lock_file
from cache.manifests import entry_of, read_entries, rows_of, write_entries
from cache.receipts import PartReceipt, Receipt, ReceiptBook, rewrite
from cache.rows import RowTable
from cache.shards import ShardFile, read_chunk
from cache.system import files_below, naming, naming_below
from cache.traces import Traces, groups_of, images_a_shard, part_file
from cache.writer import temporary_folder

log = logging.getLogger(__name__)


def forget(
    root: Path,
    traces: Traces,
    *,
    manifests: Sequence[Path] = (),
    takeover: bool = False,
    progress: Callable[[int], None] = lambda shards: None,
) -> None:
    """Remove ``traces`` from everything below ``root``, and from the manifests in it and in the folders ``manifests``.

    Takes the lock of every scope of the split (LockedError). Raises CacheError, before anything is touched, for an
    array another program laid out its own way.
    """
    if traces.nothing:
        return
    groups = groups_of(root, traces.split)
    with naming_below(root), contextlib.ExitStack() as stack:
        locks = {path: StoreLock(path, takeover=takeover) for path in sorted({lock_file(root, g) for g in groups})}
        for lock in locks.values():
            stack.enter_context(lock)
        for group in groups:
            _refuse_foreign(root, group)
        for group in groups:
            shutil.rmtree(temporary_folder(root, group).parent, ignore_errors=True)
            for shard in _shards(root, group, traces):
                locks[lock_file(root, group)].check()
                _rewrite_shard(root, group, shard, traces)
                progress(1)
        for folder in (root / "manifests", root / "inputs", *manifests):
            for path in files_below(folder):
                if path.suffix == ".json":
                    _rewrite_manifest(root, path, traces)
        RowTable.of(root, traces.split).forget(traces.rows, traces.names)


def _refuse_foreign(root: Path, group: GroupKey) -> None:
    for folder in _parts(root, group):
        reason = why_foreign(read_json(folder / "zarr.json"), folder) if (folder / "zarr.json").is_file() else ""
        if reason:
            raise CacheError(
                f"{folder}: was laid out by another program ({reason}), and no image can be taken out of it; remove "
                "it with `diffps cache gc`, or let `diffps extract` write it again elsewhere"
            )


def _parts(root: Path, group: GroupKey) -> list[Path]:
    """Folders of the group's arrays and scales that have shards, whole or not."""
    return [
        folder
        for folder in folders(root / ZARR / group.path)
        if (folder / "c").is_dir() and not folder.name.endswith(BASIS)
    ]


def _shards(root: Path, group: GroupKey, traces: Traces) -> list[int]:
    """Shards of the group in which the images may have left something."""
    book = ReceiptBook.of(root, group)
    if not book.shards and not _parts(root, group):
        return []
    size = images_a_shard(root, group)
    spoken_of = {
        shard
        for shard in book.shards
        for receipt in book.of_shard(shard)
        if any(traces.cover(*image) for image in zip(receipt.rows, receipt.digests, strict=True))
    }
    return sorted(spoken_of | {row // size for row in traces.rows})


def _rewrite_shard(root: Path, group: GroupKey, shard: int, traces: Traces) -> None:
    """Let a shard's files and receipts hold the other images alone, each receipt after its files."""
    book = ReceiptBook.of(root, group, shard)
    covered: set[str] = set()
    for receipt in book.of_shard(shard):
        newest = {name: entry for name, entry in receipt.arrays.items() if book.find(shard, name) is receipt}
        covered |= {name + suffix for name, (_, parts) in newest.items() for suffix in parts}
        images = list(zip(receipt.rows, receipt.digests, strict=True))
        kept = [place for place, image in enumerate(images) if not traces.cover(*image)]
        if len(kept) < len(images):
            _rewrite_receipt(root, group, replace(receipt, arrays=newest), kept)
    # Files that no receipt speaks of are read by nobody, but what they hold can still be decoded.
    for folder in _parts(root, group):
        if folder.name not in covered and (folder / "c" / str(shard)).is_dir():
            _remove_folder(folder / "c" / str(shard))


def _rewrite_receipt(root: Path, group: GroupKey, receipt: Receipt, kept: Sequence[int]) -> None:
    """Write the files of ``receipt`` with the images at places ``kept`` alone, then the receipt."""
    arrays: dict[str, tuple[str, dict[str, PartReceipt]]] = {}
    for name, (recipe_id, parts) in receipt.arrays.items() if kept else ():
        try:
            arrays[name] = (
                recipe_id,
                {
                    suffix: _rewrite_file(root, group, name, suffix, receipt, part, kept)
                    for suffix, part in parts.items()
                },
            )
        except DamagedError as error:
            log.warning("shard %d of %s counts as missing: %s", receipt.shard, name, error)
    rows = tuple(receipt.rows[place] for place in kept)
    rewrite(
        replace(
            receipt,
            rows=rows,
            digests=tuple(receipt.digests[place] for place in kept),
            names=tuple(receipt.names[place] for place in kept),
            skipped={row: reason for row, reason in receipt.skipped.items() if row in rows},
            arrays=arrays,
        )
    )
    for name, (_, parts) in receipt.arrays.items():
        for suffix in parts if name not in arrays else ():
            folder = root / ZARR / group.path / (name + suffix) / "c" / str(receipt.shard)
            if folder.is_dir():
                _remove_folder(folder)


def _rewrite_file(
    root: Path, group: GroupKey, name: str, suffix: str, receipt: Receipt, part: PartReceipt, kept: Iterable[int]
) -> PartReceipt:
    images, target = images_a_shard(root, group), part_file(root, group, name, suffix, receipt.shard)
    temporary = temporary_folder(root, group) / f"{receipt.shard}-{name}{suffix}.{uuid.uuid4().hex[:8]}"
    file = ShardFile(temporary, target, images, None)
    try:
        for place in kept:
            if part.crc32c[place] is None:
                file.skip()
            else:
                slot = receipt.rows[place] % images
                file.append_stored(slot, read_chunk(target, slot, images, part.crc32c[place]))
        found = file.finish()
        file.publish()
    finally:
        file.discard()
    return found


def _rewrite_manifest(root: Path, path: Path, traces: Traces) -> None:
    """Take the images out of a manifest, if it is one, and is of arrays that are there without them."""
    content = read_json(path)
    if not isinstance(content, dict) or "arrays" not in content:
        return
    entries = []
    for entry in read_entries(path):
        rows = [row for row in rows_of(entry) if row not in traces.rows]
        group, _ = group_of(entry["path"])
        if group.split == traces.split and len(rows) < len(rows_of(entry)):
            try:
                entry = entry_of(root, open_array(root, entry["path"]), ReceiptBook.of(root, group), rows)
            except CacheError as error:
                log.warning("%s: left as it is, which its stage must mend anyway: %s", path, error)
        entries.append(entry)
    write_entries(path, entries)


def _remove_folder(folder: Path) -> None:
    with naming(folder, "removed"):
        shutil.rmtree(folder)
        sync(folder.parent)
