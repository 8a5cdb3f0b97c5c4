"""A lost table of rows, made anew from receipts: they say what content, and which name, every written image had."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.catalogue import array_folders, folders
from cache.errors import DamagedError
from cache.files import read_json
from cache.guard import exclusive
from cache.layout import ZARR
from cache.receipts import Name, Receipt, ReceiptBook
from cache.rows import RowTable, rows_file, rows_lock, splits, write_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Rebuilt:
    """``images`` have their rows again, ``unnamed`` of them no name until their data set runs its stages, which then
    compute nothing for them. ``lost`` rows belong to nobody: no receipt speaks of what they were."""

    split: str
    images: int
    unnamed: int
    lost: int


def damaged_tables(root: Path) -> dict[str, str]:
    """What is wrong with the rows of each split where something is; nothing is changed."""
    damages = {}
    for split in splits(root):
        try:
            RowTable.of(root, split)
        except DamagedError as error:
            damages[split] = str(error)
    return damages


def rebuild_rows(root: Path, split: str, images: Sequence[tuple[str, str]] = (), dataset: str = "") -> Rebuilt:
    """Write the rows of ``split`` anew; ``images`` (scene id, digest) of ``dataset``, as the index has them, get their
    names back whatever receipts call them.

    Rows that were assigned and never written are lost, which costs nothing: their images are appended again. Names
    that other data sets have for images somebody else wrote are not in receipts.
    """
    receipts = sorted(_receipts(root, split), key=lambda receipt: str(receipt.info.get("written", "")))
    wanted = {digest for _, digest in images}
    entries = [
        (digest in wanted, age, row, digest, name)
        for age, receipt in enumerate(receipts)
        for row, digest, name in zip(receipt.rows, receipt.digests, receipt.names, strict=True)
    ]
    # Arrays that were not written since an image was edited still speak of its old content: the newest word counts,
    # and content that is asked for counts before any other.
    digests: dict[int, str] = {}
    rows: dict[str, int] = {}
    names: dict[Name, int] = {}
    for _, _, row, digest, name in sorted(entries, key=lambda entry: entry[:2], reverse=True):
        if row not in digests and digest not in rows:
            digests[row], rows[digest] = digest, row
        if name is not None and rows.get(digest) == row:
            names.setdefault(name, row)
    names |= {Name(dataset, scene): rows[digest] for scene, digest in images if digest in rows}
    count = max([_length(root, split), *(row + 1 for row in digests)])
    table = [digests.get(row, "") for row in range(count)]
    with exclusive(rows_lock(root, split)):
        write_rows(rows_file(root, split), table, names)
    return Rebuilt(
        split=split,
        images=len(digests),
        unnamed=len(digests.keys() - set(names.values())),
        lost=count - len(digests),
    )


def _receipts(root: Path, split: str) -> list[Receipt]:
    """Every receipt of a split."""
    found = []
    for view in folders(root / "receipts" / split):
        for recipe in folders(view):
            for folder in (recipe, *folders(recipe)):
                book = ReceiptBook(folder)
                found += [receipt for shard in book.shards for receipt in book.of_shard(shard)]
    return found


def _length(root: Path, split: str) -> int:
    """How many rows the longest array of a split was made for."""
    folders = [folder for folder in array_folders(root) if folder.relative_to(root / ZARR).parts[0] == split]
    return max((int(read_json(folder / "zarr.json")["shape"][0]) for folder in folders), default=0)
