"""What a store holds of some images: looked up, and nothing changed."""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cache.catalogue import folders
from cache.errors import DamagedError
from cache.layout import BASIS, SCALES, ZARR, GroupKey, shard_file, shard_size
from cache.receipts import Name, ReceiptBook
from cache.rows import RowTable
from cache.shards import ABSENT, open_shard, read_index
from cache.system import naming_below


@dataclass(frozen=True, kw_only=True, slots=True)
class Traces:
    """What a store holds of some images of one split: their ``rows``, ``digests`` and ``names``, and for each array
    the bytes of their chunks. ``fitted``: arrays under a basis that may have been fitted on them, and cannot forget."""

    split: str
    rows: frozenset[int]
    digests: frozenset[str]
    names: frozenset[Name]
    arrays: Mapping[str, int]
    fitted: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return sum(self.arrays.values())

    @property
    def nothing(self) -> bool:
        """True where the store holds nothing of them, not even a name."""
        return not (self.rows or self.names or self.arrays)

    def cover(self, row: int, digest: str) -> bool:
        """True for what is of these images: all that stands in their rows, and their content in any other."""
        return row in self.rows or digest in self.digests


def find_traces(
    root: Path, split: str, *, scene_ids: Collection[str] = (), digests: Collection[str] = (), dataset: str = ""
) -> Traces:
    """Traces of the images of ``dataset`` that are called ``scene_ids``, and of all whose content has ``digests``.

    Other data sets lose them too. Nothing is changed; what the store does not know leaves no traces.
    """
    table = RowTable.of(root, split, dataset)
    rows = {table.scenes[scene] for scene in scene_ids if scene in table.scenes}
    rows |= {row for row, digest in enumerate(table.digests) if digest and digest in digests}
    return _traces(root, split, table, rows, set(digests), set())


def find_removed(root: Path, split: str, kept: Collection[str], dataset: str) -> Traces:
    """Traces of the images of ``dataset`` whose digests are not among ``kept``, and of content nobody has a name for.

    Images that another data set has as well stay; only this one's names for them go. Nothing is changed.
    """
    table = RowTable.of(root, split, dataset)
    called = table.called()
    unwanted = {row for row, digest in enumerate(table.digests) if digest and digest not in kept}
    rows = {row for row in unwanted if all(name.dataset == dataset for name in called.get(row, ()))}
    names = {name for row in unwanted for name in called.get(row, ()) if name.dataset == dataset}
    return _traces(root, split, table, rows, set(), names)


def _traces(root: Path, split: str, table: RowTable, rows: set[int], digests: set[str], names: set[Name]) -> Traces:
    found = Traces(
        split=split,
        rows=frozenset(rows),
        digests=frozenset(digests | {table.digests[row] for row in rows}),
        names=frozenset(names | {name for name, row in table.names if row in rows}),
        arrays={},
        fitted=(),
    )
    arrays: dict[str, int] = {}
    for group in groups_of(root, split):
        book = ReceiptBook.of(root, group)
        for receipt in (receipt for shard in book.shards for receipt in book.of_shard(shard)):
            gone = [row for row, digest in zip(receipt.rows, receipt.digests, strict=True) if found.cover(row, digest)]
            for name, (_, parts) in receipt.arrays.items() if gone else ():
                path, images = f"{group.path}/{name}", images_a_shard(root, group)
                for suffix in parts:
                    file = part_file(root, group, name, suffix, receipt.shard)
                    arrays[path] = arrays.get(path, 0) + _chunk_bytes(file, [row % images for row in gone], images)
    with naming_below(root):
        fitted = tuple(path for path in sorted(arrays) if (root / ZARR / (path + BASIS)).is_dir())
    return replace(found, arrays=dict(sorted(arrays.items())), fitted=fitted)


def groups_of(root: Path, split: str) -> list[GroupKey]:
    """Every group of a split that has arrays or receipts."""
    found = set()
    for tree in (root / ZARR / split, root / "receipts" / split):
        for recipe in (recipe for view in folders(tree) for recipe in folders(view)):
            names = [folder.name[1:] for folder in folders(recipe) if folder.name.startswith("t")]
            steps = [None, *(int(name) for name in names if name.isdecimal())]
            found |= {GroupKey(split, recipe.parent.name, recipe.name, step) for step in steps}
    return sorted(found, key=lambda group: group.path)


def images_a_shard(root: Path, group: GroupKey) -> int:
    """Images a shard of ``group`` holds. Raises DamagedError where that is lost."""
    try:
        return shard_size(root, group)
    except FileNotFoundError:
        raise DamagedError(
            f"{root / ZARR / group.scope}: has no zarr.json, which says what images lie in what shard; remove the "
            "folder and the one of this name below receipts, or restore the file from a backup"
        ) from None


def part_file(root: Path, group: GroupKey, name: str, suffix: str, shard: int) -> Path:
    """File of a shard of an array's values or scales."""
    return shard_file(root / ZARR / group.path / (name + suffix), shard, 2 if suffix == SCALES else 3)


def _chunk_bytes(file: Path, slots: Iterable[int], images: int) -> int:
    """Bytes of some chunks of a shard; 0 where it cannot be read."""
    try:
        descriptor = open_shard(file)
        try:
            index = read_index(descriptor, file, images)
        finally:
            os.close(descriptor)
    except DamagedError:
        return 0
    return sum(int(index[slot][1]) for slot in slots if int(index[slot][0]) != ABSENT)
