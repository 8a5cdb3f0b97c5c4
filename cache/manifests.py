"""Manifests: small files that stand for arrays, so that DVC can track them without hashing the store.

Equal content gives equal bytes, whenever and in whatever order it was written, and in whichever store. They lie in the
store or, where that is elsewhere, in a folder that says beside them which store they are of.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.catalogue import open_array
from cache.errors import DamagedError, IncompleteError, NotCachedError, RecipeError
from cache.files import read_json, write_json
from cache.fingerprint import explain_difference
from cache.identity import check_store, name_store
from cache.layout import ZARR, ArraySpec, GroupKey, shard_file, shard_size
from cache.receipts import ReceiptBook
from cache.rows import RowTable
from cache.system import naming

VERSION = 1


def write_manifest(
    root: Path,
    path: Path,
    specs: Sequence[ArraySpec],
    images: Mapping[str, Sequence[tuple[str, str]]],
    dataset: str = "",
    folder: Path | None = None,
) -> None:
    """Write the manifest of ``specs`` over ``images`` (split -> (scene id, digest)), left alone when unchanged.

    ``folder``: where manifests lie that are kept outside the store; it is told which store they are of. Raises
    IncompleteError, naming the first image, while any of them is not in the store.
    """
    books: dict[GroupKey, ReceiptBook] = {}
    rows = {split: RowTable.of(root, split, dataset) for split in images}
    for split, table in rows.items():
        table.see(images[split])
    entries = []
    for spec in sorted(specs, key=lambda spec: spec.path):
        if spec.group not in books:
            books[spec.group] = ReceiptBook.of(root, spec.group)
        wanted: dict[int, tuple[str, str]] = {}
        for scene, digest in images[spec.group.split]:
            row = rows[spec.group.split].scenes.get(scene)
            if row is None:
                raise IncompleteError(f"{spec.path}: image {scene!r} is not in the store; run the stage again")
            wanted[row] = (scene, digest)
        entries.append(_entry(root, spec, books[spec.group], wanted))
    if folder is not None:
        name_store(root, folder)
    write_entries(path, entries)


def check_manifest(root: Path, path: Path, folder: Path | None) -> list[ArraySpec]:
    """Specs of a manifest's arrays, after comparing receipts and file sizes with it; shards are not read.

    ``folder``: where manifests lie that are kept outside the store. Raises NotCachedError when the manifest or the
    store is missing, or they are of another store; DamagedError naming the array where they differ.
    """
    entries = read_entries(path)
    if folder is not None:
        check_store(root, folder)
    books: dict[GroupKey, ReceiptBook] = {}
    specs = []
    for entry in entries:
        try:
            spec = open_array(root, entry["path"])
        except NotCachedError as error:
            raise NotCachedError(f"{path}: {error}") from error
        if spec.id != entry["id"]:
            raise RecipeError(
                f"{spec.path}: the store holds id {spec.id}, {path} asks for {entry['id']}; extract again"
            )
        if spec.group not in books:
            books[spec.group] = ReceiptBook.of(root, spec.group)
        try:
            found = entry_of(root, spec, books[spec.group], rows_of(entry))
        except IncompleteError as error:
            raise NotCachedError(f"{path}: {error}") from error
        if found != entry:
            fields = "; ".join(explain_difference(entry, found))
            raise DamagedError(f"{spec.path}: the store is not what {path} says ({fields}); run `diffps extract` again")
        specs.append(spec)
    return specs


def read_entries(path: Path) -> list[dict[str, Any]]:
    """What a manifest says of each of its arrays. Raises NotCachedError where it is missing, DamagedError."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise NotCachedError(
            f"{path}: no such manifest; run `diffps extract` first (what that costs: `diffps cache plan`)"
        ) from None
    try:
        entries: list[dict[str, Any]] = content["arrays"]
        for entry in entries:
            if content["version"] != VERSION or not isinstance(entry["path"] + entry["id"], str):
                raise ValueError("of another version")
            rows_of(entry)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path}: is no manifest ({error!r}); delete it and run the stage again") from error
    return entries


def write_entries(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write a manifest, unless it says this already."""
    content = {"version": VERSION, "arrays": list(entries)}
    try:
        if read_json(path) == content:
            return
    except (FileNotFoundError, DamagedError):
        pass
    write_json(path, content)


def rows_of(entry: Mapping[str, Any]) -> list[int]:
    """The rows an array's entry is about."""
    return [row for first, last in entry["rows"] for row in range(first, last + 1)]


def entry_of(root: Path, spec: ArraySpec, book: ReceiptBook, rows: Sequence[int]) -> dict[str, Any]:
    """What a manifest says of ``rows`` of an array, whatever their content. Raises IncompleteError."""
    return _entry(root, spec, book, dict.fromkeys(rows, ("", "")))


def _entry(root: Path, spec: ArraySpec, book: ReceiptBook, wanted: Mapping[int, tuple[str, str]]) -> dict[str, Any]:
    """What a manifest says of one array; an empty digest in ``wanted`` stands for whatever the receipt says."""
    digest = hashlib.sha256()
    skipped = []
    try:
        size = shard_size(root, spec.group)
    except FileNotFoundError:
        raise IncompleteError(f"{spec.path} is not in the store at {root}; run the stage again") from None
    recipe_id, suffixes = spec.id, tuple(spec.parts())  # not once a row: PRW has 11,816
    last_shard = -1
    for row in sorted(wanted):
        scene, content = wanted[row]
        shard = row // size
        receipt = book.find(shard, spec.name)
        where = f"{spec.path}: shard {shard}, image {scene or row!r}"
        if receipt is None or receipt.arrays[spec.name][0] != recipe_id or row not in receipt.rows:
            raise IncompleteError(f"{where} is not in the store; run the stage again")
        place = receipt.rows.index(row)
        if content and receipt.digests[place] != content:
            raise IncompleteError(f"{where} was edited after it was written; run the stage again")
        parts = receipt.arrays[spec.name][1]
        if shard != last_shard:
            last_shard = shard
            for suffix, (shape, _) in spec.parts().items():
                _check_size(shard_file(root / ZARR / (spec.path + suffix), shard, len(shape)), parts[suffix].nbytes)
        if row in receipt.skipped:
            skipped.append(row)
        digest.update(receipt.digests[place].encode())
        for suffix in suffixes:
            digest.update(f"{suffix}:{parts[suffix].crc32c[place]}".encode())
    return {
        "path": spec.path,
        "id": recipe_id,
        "name": spec.name,
        "encoding": spec.encoding.name,
        "shape": list(spec.shape),
        "images": len(wanted),
        "skipped": skipped,
        "nbytes": (len(wanted) - len(skipped)) * spec.image_bytes,
        "rows": _ranges(sorted(wanted)),
        "digest": digest.hexdigest(),
    }


def _check_size(file: Path, expected: int) -> None:
    try:
        with naming(file, "read"):
            found = file.stat().st_size
    except FileNotFoundError:
        raise DamagedError(f"{file}: the shard is missing; run `diffps extract` again to rewrite it") from None
    if found != expected:
        raise DamagedError(f"{file}: has {found} bytes instead of {expected}; run `diffps extract` again to rewrite it")


def _ranges(rows: Sequence[int]) -> list[list[int]]:
    """First and last of each run of consecutive rows."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and runs[-1][1] == row - 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    return runs
