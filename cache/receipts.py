"""Receipts: the proof that a shard of certain arrays is whole, durable, and made from certain image contents.

An image counts as cached only when a receipt says so. Receipts are written last and removed first.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cache.errors import DamagedError
from cache.files import read_json, sync_folder, write_json
from cache.layout import GroupKey

VERSION = 1


@dataclass(frozen=True, slots=True)
class PartReceipt:
    """One file: its size in bytes and the CRC-32C of each image's chunk, None where the image was skipped."""

    nbytes: int
    crc32c: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """``arrays``: name -> (id of the recipe, part suffix -> file). ``rows`` and ``digests`` say whose images these are.

    ``skipped``: row -> reason. ``info``: device, batch, versions and the like; never compared.
    """

    shard: int
    rows: tuple[int, ...]
    digests: tuple[str, ...]
    skipped: Mapping[int, str]
    arrays: Mapping[str, tuple[str, Mapping[str, PartReceipt]]]
    info: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None


class ReceiptBook:
    """Receipts of one group, as they lie on disk now; the newest of a shard and array counts."""

    def __init__(self, folder: Path, shard: int | None = None) -> None:
        self.folder = folder
        self._by_shard: dict[int, list[Receipt]] = {}
        for path in sorted(folder.glob("*.json" if shard is None else f"{shard}.*.json"), key=_number):
            try:
                receipt = _parse(path)
            except FileNotFoundError:
                continue  # withdrawn since it was listed
            self._by_shard.setdefault(receipt.shard, []).append(receipt)

    @classmethod
    def of(cls, root: Path, group: GroupKey, shard: int | None = None) -> "ReceiptBook":
        """The receipts of ``group`` in the store at ``root``; with ``shard`` those of one shard alone."""
        return cls(root / "receipts" / group.path, shard)

    @property
    def shards(self) -> list[int]:
        """Shards that have any receipt, in order."""
        return sorted(self._by_shard)

    def find(self, shard: int, name: str) -> Receipt | None:
        """Newest receipt that covers ``name`` in ``shard``."""
        return next((r for r in reversed(self._by_shard.get(shard, [])) if name in r.arrays), None)

    def names(self) -> set[str]:
        """Every array with at least one receipt."""
        return {name for receipts in self._by_shard.values() for receipt in receipts for name in receipt.arrays}

    def add(self, receipt: Receipt) -> None:
        """Write a receipt, durably."""
        numbers = [_number(path)[1] for path in self.folder.glob(f"{receipt.shard}.*.json")]
        write_json(self.folder / f"{receipt.shard}.{max(numbers, default=-1) + 1}.json", _plain(receipt))

    def withdraw(self, shard: int, names: Iterable[str]) -> None:
        """Make ``names`` of ``shard`` count as not cached, durably, before their files are touched."""
        gone = set(names)
        for receipt in self._by_shard.get(shard, []):
            assert receipt.path is not None
            kept = {name: entry for name, entry in receipt.arrays.items() if name not in gone}
            if len(kept) == len(receipt.arrays):
                continue
            if kept:
                write_json(receipt.path, _plain(receipt) | {"arrays": _plain_arrays(kept)})
            else:
                receipt.path.unlink(missing_ok=True)
                sync_folder(receipt.path.parent)


def _number(path: Path) -> tuple[int, int]:
    """(shard, n) of ``<shard>.<n>.json``."""
    try:
        shard, n, _ = path.name.split(".")
        return int(shard), int(n)
    except ValueError as error:
        raise DamagedError(f"{path}: is no receipt's name; remove the file") from error


def _plain_arrays(arrays: Mapping[str, tuple[str, Mapping[str, PartReceipt]]]) -> dict[str, Any]:
    return {
        name: {"id": recipe_id, "parts": {suffix: asdict(part) for suffix, part in parts.items()}}
        for name, (recipe_id, parts) in arrays.items()
    }


def _plain(receipt: Receipt) -> dict[str, Any]:
    return {
        "version": VERSION,
        "shard": receipt.shard,
        "rows": receipt.rows,
        "digests": receipt.digests,
        "skipped": {str(row): reason for row, reason in receipt.skipped.items()},
        "arrays": _plain_arrays(receipt.arrays),
        "info": {"written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **receipt.info},
    }


def _parse(path: Path) -> Receipt:
    raw = read_json(path)
    try:
        return Receipt(
            shard=raw["shard"],
            rows=tuple(raw["rows"]),
            digests=tuple(raw["digests"]),
            skipped={int(row): reason for row, reason in raw["skipped"].items()},
            arrays={
                name: (
                    entry["id"],
                    {
                        suffix: PartReceipt(part["nbytes"], tuple(part["crc32c"]))
                        for suffix, part in entry["parts"].items()
                    },
                )
                for name, entry in raw["arrays"].items()
            },
            info=raw["info"],
            path=path,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path}: is no receipt ({error!r}); delete it and run the stage again") from error
