"""What lies in a store: from metadata and receipts alone, without reading a shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.catalogue import list_arrays
from cache.fingerprint import Recipe
from cache.layout import ArraySpec, GroupKey
from cache.receipts import Receipt, ReceiptBook
from cache.rows import RowTable, splits


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayStatus:
    """``done`` images can be read, ``skipped`` could not be decoded, ``missing`` have a row but no valid receipt."""

    spec: ArraySpec
    done: int
    skipped: int
    missing: int
    nbytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupStatus:
    """Arrays written together. ``images`` with a receipt of any of them; the ``seconds`` their shards took to compute,
    and the ``passes`` over an image in them: arrays added later take another."""

    group: GroupKey
    recipe: Recipe
    arrays: Sequence[ArrayStatus]
    images: int
    passes: int
    seconds: float

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetStatus:
    """One data set in one split: ``images`` it has names for, and those ``alone`` that no other data set has as well.
    The unnamed data set is called by no name."""

    dataset: str
    split: str
    images: int
    alone: int


def summarise_datasets(root: Path) -> list[DatasetStatus]:
    """Every data set of every split of the store at ``root``."""
    found = []
    for split in splits(root):
        owners: dict[int, set[str]] = {}
        for name, row in RowTable.of(root, split).names:
            owners.setdefault(row, set()).add(name.dataset)
        for dataset in sorted({name for names in owners.values() for name in names}):
            mine = [names for names in owners.values() if dataset in names]
            alone = sum(len(names) == 1 for names in mine)
            found.append(DatasetStatus(dataset=dataset, split=split, images=len(mine), alone=alone))
    return found


def summarise(root: Path) -> list[GroupStatus]:
    """Every group of the store at ``root``, by path; empty when there is no store."""
    by_group: dict[GroupKey, list[ArraySpec]] = {}
    for spec in list_arrays(root):
        by_group.setdefault(spec.group, []).append(spec)
    return [_group(root, group, specs) for group, specs in sorted(by_group.items(), key=lambda item: item[0].path)]


def _group(root: Path, group: GroupKey, specs: Sequence[ArraySpec]) -> GroupStatus:
    book = ReceiptBook.of(root, group)
    table = RowTable.of(root, group.split)
    images = sum(digest != "" for digest in table.digests)
    arrays, receipts = [], dict[Path, Receipt]()
    for spec in specs:
        done = skipped = nbytes = 0
        for shard in book.shards:
            receipt = book.find(shard, spec.name)
            if receipt is None or receipt.path is None or receipt.arrays[spec.name][0] != spec.id:
                continue
            receipts[receipt.path] = receipt
            current = [
                row for row, digest in zip(receipt.rows, receipt.digests, strict=True) if table.digest(row) == digest
            ]
            skipped += sum(row in receipt.skipped for row in current)
            done += sum(row not in receipt.skipped for row in current)
            nbytes += sum(part.nbytes for part in receipt.arrays[spec.name][1].values())
        missing = images - done - skipped
        arrays.append(ArrayStatus(spec=spec, done=done, skipped=skipped, missing=missing, nbytes=nbytes))
    timed = [receipt for receipt in receipts.values() if receipt.info.get("seconds")]
    return GroupStatus(
        group=group,
        recipe=_shared(specs),
        arrays=arrays,
        images=len({row for receipt in receipts.values() for row in receipt.rows}),
        passes=sum(len(receipt.rows) - len(receipt.skipped) for receipt in timed),
        seconds=sum(float(receipt.info["seconds"]) for receipt in timed),
    )


def _shared(specs: Sequence[ArraySpec]) -> Recipe:
    """The fields all of the group's recipes agree in."""
    first = specs[0].recipe
    return {key: value for key, value in first.items() if all(spec.recipe.get(key) == value for spec in specs)}
