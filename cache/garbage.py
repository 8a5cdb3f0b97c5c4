"""Removing what nobody asks for, receipts first, so that nothing half removed is taken for whole."""

import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from cache.catalogue import array_folders, group_of
from cache.files import read_json
from cache.files import remove as remove_file
from cache.guard import exclusive
from cache.layout import ATTRIBUTE, BASIS, SCALES, ZARR
from cache.lock import StoreLock, lock_file
from cache.receipts import ReceiptBook


@dataclass(frozen=True, slots=True)
class Garbage:
    """An array no params file asks for. ``path`` is below ``features.zarr``."""

    path: str
    nbytes: int


def find_garbage(root: Path, wanted: Collection[tuple[str, str]]) -> list[Garbage]:
    """Arrays whose (path, id) is not among ``wanted``, by path."""
    found = []
    for folder in array_folders(root):
        path = folder.relative_to(root / ZARR).as_posix()
        if (path, read_json(folder / "zarr.json")["attributes"][ATTRIBUTE]["id"]) not in wanted:
            parts = [folder, *(folder.with_name(folder.name + suffix) for suffix in (SCALES, BASIS))]
            size = sum(file.stat().st_size for part in parts for file in part.rglob("*") if file.is_file())
            found.append(Garbage(path, size))
    return found


def remove(root: Path, garbage: Iterable[Garbage]) -> None:
    """Delete arrays under their scope's lock. Raises LockedError when one is being written."""
    for item in garbage:
        group, name = group_of(item.path)
        with StoreLock(lock_file(root, group)):
            book = ReceiptBook.of(root, group)
            for shard in book.shards:
                book.withdraw(shard, [name])
            folder = root / ZARR / item.path
            # Without its metadata an array is no longer there, however far the rest got.
            remove_file(folder / "zarr.json")
            for suffix in ("", SCALES, BASIS):
                shutil.rmtree(folder.with_name(folder.name + suffix), ignore_errors=True)
            with exclusive(root / "locks" / ".groups"):  # nobody makes a group below one that is being removed
                _remove_empty_groups(root, folder.parent)


def _remove_empty_groups(root: Path, folder: Path) -> None:
    while folder != root / ZARR and not any(entry.is_dir() for entry in folder.iterdir()):
        shutil.rmtree(folder)
        receipts = root / "receipts" / folder.relative_to(root / ZARR)
        if receipts.is_dir() and not any(receipts.iterdir()):
            receipts.rmdir()
        folder = folder.parent
