"""Receipts: the proof that a shard of certain arrays is whole, durable, and made from certain image contents.

An image counts as cached only when a receipt says so. Receipts are written last and removed first. They also say under
which names their images were asked for, so that a lost table of rows can be made again from them.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from cache import sealed
from cache.errors import DamagedError
from cache.files import parse_json, read_bytes, remove, write_bytes
from cache.layout import GroupKey
from cache.system import naming

VERSION = 1
REMEDY = "delete it and run the stage again, which"


class Name(NamedTuple):
    """What an image is called in a data set; ``dataset`` is empty where nobody said which."""

    dataset: str
    scene_id: str


@dataclass(frozen=True, slots=True)
class PartReceipt:
    """One file: its size in bytes and the CRC-32C of each image's chunk, None where the image was skipped."""

    nbytes: int
    crc32c: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """``arrays``: name -> (id of the recipe, part suffix -> file). ``rows`` and ``digests`` say whose images these are,
    ``names`` what they were called then, as far as is known.

    ``skipped``: row -> reason. ``info``: device, batch, versions and the like; never compared.
    """

    shard: int
    rows: tuple[int, ...]
    digests: tuple[str, ...]
    names: tuple[Name | None, ...]
    skipped: Mapping[int, str]
    arrays: Mapping[str, tuple[str, Mapping[str, PartReceipt]]]
    info: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None


class ReceiptBook:
    """Receipts of one group, as they lie on disk now; the newest of a shard and array counts."""

    def __init__(self, folder: Path, shard: int | None = None) -> None:
        self.folder = folder
        self._by_shard: dict[int, list[Receipt]] = {}
        for path in receipt_files(folder):
            if shard is not None and _number(path)[0] != shard:
                continue
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

    def of_shard(self, shard: int) -> list[Receipt]:
        """Every receipt of a shard, the newest last."""
        return list(self._by_shard.get(shard, []))

    def add(self, receipt: Receipt) -> None:
        """Write a receipt, durably."""
        numbers = [number for shard, number in map(_number, receipt_files(self.folder)) if shard == receipt.shard]
        path = self.folder / f"{receipt.shard}.{max(numbers, default=-1) + 1}.json"
        written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        rewrite(replace(receipt, info={"written": written, **receipt.info}, path=path))

    def withdraw(self, shard: int, names: Iterable[str]) -> None:
        """Make ``names`` of ``shard`` count as not cached, durably, before their files are touched."""
        gone = set(names)
        for receipt in self._by_shard.get(shard, []):
            kept = {name: entry for name, entry in receipt.arrays.items() if name not in gone}
            if len(kept) < len(receipt.arrays):
                rewrite(replace(receipt, arrays=kept))


def rewrite(receipt: Receipt) -> None:
    """Put ``receipt`` in the place of what lies at its path; one that covers no array is removed."""
    assert receipt.path is not None
    if receipt.arrays and receipt.rows:
        write_bytes(receipt.path, sealed.json_bytes(_plain(receipt)))
    else:
        remove(receipt.path)


def receipt_files(folder: Path) -> list[Path]:
    """Files of the receipts in ``folder``, by shard and age. Raises FileError where it cannot be listed."""
    try:
        with naming(folder, "read"):
            return sorted((path for path in folder.iterdir() if path.suffix == ".json"), key=_number)
    except FileNotFoundError:
        return []


def _number(path: Path) -> tuple[int, int]:
    """(shard, n) of ``<shard>.<n>.json``."""
    try:
        shard, n, _ = path.name.split(".")
        return int(shard), int(n)
    except ValueError as error:
        raise DamagedError(f"{path}: is no receipt's name; remove the file") from error


def _plain(receipt: Receipt) -> dict[str, Any]:
    return {
        "version": VERSION,
        "shard": receipt.shard,
        "rows": receipt.rows,
        "digests": receipt.digests,
        "names": receipt.names,
        "skipped": {str(row): reason for row, reason in receipt.skipped.items()},
        "arrays": {
            name: {"id": recipe_id, "parts": {suffix: asdict(part) for suffix, part in parts.items()}}
            for name, (recipe_id, parts) in receipt.arrays.items()
        },
        "info": dict(receipt.info),
    }


def _parse(path: Path) -> Receipt:
    if sealed.is_sealed(data := read_bytes(path)):  # older ones are not
        sealed.check(data, path, REMEDY)
    raw = parse_json(data, path)
    try:
        receipt = Receipt(
            shard=raw["shard"],
            rows=tuple(raw["rows"]),
            digests=tuple(raw["digests"]),
            names=tuple(name and Name(*name) for name in raw.get("names", [None] * len(raw["rows"]))),
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
        _check(receipt)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedError(f"{path}: is no receipt ({error!r}); delete it and run the stage again") from error
    return receipt


def _check(receipt: Receipt) -> None:
    """Raise ValueError where a receipt contradicts itself."""
    rows = receipt.rows
    if not len(rows) == len(set(rows)) == len(receipt.digests) == len(receipt.names):
        raise ValueError(f"{len(rows)} rows, {len(receipt.digests)} digests, {len(receipt.names)} names")
    for name, (_, parts) in receipt.arrays.items():
        for part in parts.values():
            if [checksum is None for checksum in part.crc32c] != [row in receipt.skipped for row in rows]:
                raise ValueError(f"{name}: checksums and skipped rows differ")
