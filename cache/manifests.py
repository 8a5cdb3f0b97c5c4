"""Manifests: small files that stand for arrays, so that DVC can track them without hashing the store.

Equal content gives equal bytes, whenever and in whatever order it was written.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.errors import DamagedError, IncompleteError, NotCachedError, RecipeError
from cache.files import read_json, write_json
from cache.fingerprint import explain_difference
from cache.layout import ATTRIBUTE, BASIS, SCALES, ZARR, ArraySpec, GroupKey, shard_file, shard_size, spec_from_metadata
from cache.receipts import ReceiptBook
from cache.rows import RowTable

VERSION = 1


def write_manifest(
    root: Path, path: Path, specs: Sequence[ArraySpec], images: Mapping[str, Sequence[tuple[str, str]]]
) -> None:
    """Write the manifest of ``specs`` over ``images`` (split -> (scene id, digest)), left alone when unchanged.

    Raises IncompleteError, naming the first image, while any of them is not in the store.
    """
    books: dict[GroupKey, ReceiptBook] = {}
    rows = {split: RowTable.of(root, split) for split in images}
    entries = []
    for spec in sorted(specs, key=lambda spec: spec.path):
        if spec.group not in books:
            books[spec.group] = ReceiptBook.of(root, spec.group)
        wanted: dict[int, tuple[str, str]] = {}
        for scene, digest in images[spec.group.split]:
            wanted[rows[spec.group.split].row(scene)] = (scene, digest)
        entries.append(_entry(root, spec, books[spec.group], wanted))
    content = {"version": VERSION, "arrays": entries}
    if not path.exists() or read_json(path) != content:
        write_json(path, content)


def check_manifest(root: Path, path: Path) -> list[ArraySpec]:
    """Specs of a manifest's arrays, after comparing receipts and file sizes with it; shards are not read.

    Raises NotCachedError when the manifest or the store is missing, DamagedError naming the array where they differ.
    """
    if not path.exists():
        raise NotCachedError(f"{path}: no such manifest; run `diffps extract` first")
    books: dict[GroupKey, ReceiptBook] = {}
    specs = []
    for entry in read_json(path)["arrays"]:
        spec = open_array(root, entry["path"])
        if spec.id != entry["id"]:
            raise RecipeError(
                f"{spec.path}: the store holds id {spec.id}, {path} asks for {entry['id']}; extract again"
            )
        if spec.group not in books:
            books[spec.group] = ReceiptBook.of(root, spec.group)
        rows = {row: ("", "") for first, last in entry["rows"] for row in range(first, last + 1)}
        try:
            found = _entry(root, spec, books[spec.group], rows)
        except IncompleteError as error:
            raise NotCachedError(f"{path}: {error}") from error
        if found != entry:
            fields = "; ".join(explain_difference(entry, found))
            raise DamagedError(f"{spec.path}: the store is not what {path} says ({fields}); run `diffps extract` again")
        specs.append(spec)
    return specs


def open_array(root: Path, path: str) -> ArraySpec:
    """Spec of the array at ``path`` below ``features.zarr``. Raises NotCachedError when there is none."""
    folder = root / ZARR / path
    if not 4 <= len(path.split("/")) <= 5 or not (folder / "zarr.json").is_file():
        raise NotCachedError(f"{folder}: no such array; `diffps cache status` lists those there are")
    metadata = read_json(folder / "zarr.json")
    try:
        return spec_from_metadata(group_of(path)[0], metadata, folder)
    except KeyError as error:
        raise DamagedError(
            f"{folder}/zarr.json: has no {error} under {ATTRIBUTE}; this store did not write it"
        ) from error


def list_arrays(root: Path) -> list[ArraySpec]:
    """Specs of every array of the store, by path; empty when there is none."""
    return [open_array(root, folder.relative_to(root / ZARR).as_posix()) for folder in array_folders(root)]


def array_folders(root: Path) -> list[Path]:
    """Folders of every array, scales and bases left out, by path."""
    zarr = root / ZARR
    files = [*zarr.glob("*/*/*/*/zarr.json"), *zarr.glob("*/*/*/t*/*/zarr.json")]
    named = [file for file in files if not file.parent.name.endswith((SCALES, BASIS))]
    return sorted(file.parent for file in named if read_json(file)["node_type"] == "array")


def group_of(path: str) -> tuple[GroupKey, str]:
    """Group and name of the array at ``path`` below ``features.zarr``."""
    split, view, recipe_id, *step, name = path.split("/")
    return GroupKey(split, view, recipe_id, int(step[0][1:]) if step else None), name


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
