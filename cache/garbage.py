"""Removing what nobody asks for, receipts first, so that nothing half removed is taken for whole."""

import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from cache.catalogue import folders, group_folders, group_of
from cache.files import read_json, sync
from cache.files import remove as remove_file
from cache.guard import exclusive
from cache.layout import ATTRIBUTE, BASIS, SCALES, ZARR
from cache.lock import StoreLock, lock_file
from cache.receipts import ReceiptBook
from cache.system import files_below, naming, naming_below


@dataclass(frozen=True, slots=True)
class Garbage:
    """An array no params file asks for. ``path`` is below ``features.zarr``."""

    path: str
    nbytes: int


def find_garbage(root: Path, wanted: Collection[tuple[str, str]]) -> list[Garbage]:
    """Arrays whose (path, id) is not among ``wanted``, by path, and what a killed removal left of one."""
    found, paths = [], {path for path, _ in wanted}
    with naming_below(root):
        for folder in (folder for group in group_folders(root) for folder in folders(group)):
            path = folder.relative_to(root / ZARR).as_posix()
            if _is_garbage(folder, path, wanted, path in paths):
                found.append(Garbage(path, sum(map(_size, _parts(folder)))))
    return sorted(found, key=lambda item: item.path)


def remove(root: Path, garbage: Iterable[Garbage]) -> None:
    """Delete arrays under their scope's lock. Raises LockedError when one is being written, FileError."""
    for item in garbage:
        group, name = group_of(item.path)
        with StoreLock(lock_file(root, group)):
            book = ReceiptBook.of(root, group)
            for shard in book.shards:
                book.withdraw(shard, [name])
            folder = root / ZARR / item.path
            with naming(folder, "removed"):
                for part in reversed(_parts(folder)):  # the array's own folder last: by it the rest is found again
                    if (part / "c").is_dir():
                        shutil.rmtree(part / "c")
                    remove_file(part / "zarr.json")
                    shutil.rmtree(part)
            with exclusive(root / "locks" / ".groups"):  # nobody makes a group below one that is being removed
                _remove_empty_groups(root, folder.parent)


def _is_garbage(folder: Path, path: str, wanted: Collection[tuple[str, str]], place_wanted: bool) -> bool:
    if folder.name.endswith((SCALES, BASIS)) and folder.with_name(folder.name.rpartition(".")[0]).is_dir():
        return False  # goes with its array
    found = _id(folder)
    if found is None:  # metadata that a wanted array lost is written again
        return not place_wanted and (folder / "c").is_dir()
    return (path, found) not in wanted


def _id(folder: Path) -> str | None:
    """Id of the array in ``folder``; None where its metadata is gone, or is a group's."""
    try:
        metadata = read_json(folder / "zarr.json")
    except FileNotFoundError:
        return None
    if not isinstance(metadata, dict) or metadata.get("node_type") != "array":
        return None
    return str(metadata.get("attributes", {}).get(ATTRIBUTE, {}).get("id"))


def _parts(folder: Path) -> list[Path]:
    """The folders of an array that are there: its own, that of its scales, and that of its basis."""
    every = [folder, *(folder.with_name(folder.name + suffix) for suffix in (SCALES, BASIS))]
    return [part for part in every if part.is_dir()]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in files_below(folder))


def _remove_empty_groups(root: Path, folder: Path) -> None:
    with naming(folder, "removed"):
        while folder != root / ZARR and not any(entry.is_dir() for entry in folder.iterdir()):
            shutil.rmtree(folder)
            receipts = root / "receipts" / folder.relative_to(root / ZARR)
            if receipts.is_dir() and not any(receipts.iterdir()):
                receipts.rmdir()
            folder = folder.parent
        sync(folder)
