"""What of some arrays is still missing: found from rows, receipts, metadata and file sizes, without a lock."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.encodings import Project
from cache.errors import DamagedError, EncodingError, RecipeError
from cache.files import read_json
from cache.fingerprint import explain_difference
from cache.foreign import METADATA
from cache.layout import (
    ATTRIBUTE,
    ZARR,
    ArraySpec,
    GroupKey,
    absent_groups,
    array_metadata,
    read_basis,
    shard_file,
    shard_size,
)
from cache.receipts import ReceiptBook
from cache.rows import RowTable
from cache.system import naming

Readable = Callable[[str], bool]  # scene id -> its file can be decoded now


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask:
    """One shard to compute: its images in row order and the arrays of it that are missing. Can be pickled."""

    shard: int
    shard_size: int
    rows: tuple[int, ...]
    scene_ids: tuple[str, ...]
    digests: tuple[str, ...]
    specs: tuple[ArraySpec, ...]
    dataset: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """What a writer would have to do. ``tasks`` as its ``pending()`` would give them; ``metadata``: that of arrays and
    groups is not what it should be; ``names``: the store does not know all images by the names they have now."""

    tasks: tuple[ShardTask, ...]
    metadata: bool
    names: bool

    @property
    def nothing(self) -> bool:
        """True where every image of every array can be read: then nobody needs the lock, or a right to write."""
        return not self.tasks and not self.metadata

    @property
    def images(self) -> int:
        """Images whose shards would be computed."""
        return sum(len(task.rows) for task in self.tasks)

    @property
    def arrays(self) -> list[tuple[ArraySpec, int]]:
        """(array, images) that would be written, as :func:`cache.budget.require_space` takes them."""
        return [(spec, len(task.rows)) for task in self.tasks for spec in task.specs]


def find_missing(
    root: Path,
    specs: Sequence[ArraySpec],
    images: Sequence[tuple[str, str]],
    shard: int,
    readable: Readable,
    dataset: str,
) -> Missing:
    """What a writer of ``specs``, which share a group, would have to do for ``images``. Nothing is written.

    Raises RecipeError where another recipe lies there, DamagedError, FileError.
    """
    (group,) = {spec.group for spec in specs}
    table = RowTable.of(root, group.split, dataset)
    rows, names = table.preview(images)
    by_row: dict[int, tuple[str, str]] = {}
    for row, image in zip(rows, images, strict=True):
        by_row.setdefault(row, image)
    with contextlib.suppress(FileNotFoundError):
        shard = shard_size(root, group)
    stale = [stale_metadata(root, spec, max(rows, default=-1) + 1, shard) for spec in specs]
    return Missing(
        tasks=tuple(pending_tasks(root, group, specs, by_row, shard, readable, dataset)),
        metadata=any(stale) or bool(absent_groups(root, group)),
        names=names,
    )


def pending_tasks(
    root: Path,
    group: GroupKey,
    specs: Sequence[ArraySpec],
    rows: Mapping[int, tuple[str, str]],
    shard_size: int,
    readable: Readable,
    dataset: str,
) -> list[ShardTask]:
    """Shards that lack at least one array for ``rows`` (row -> scene id, digest), in order."""
    book = ReceiptBook.of(root, group)
    shards: dict[int, list[int]] = {}
    for row in sorted(rows):
        shards.setdefault(row // shard_size, []).append(row)
    tasks = []
    for shard, asked in shards.items():
        images = {row: rows[row] for row in asked}
        missing = tuple(spec for spec in specs if not _is_done(root, book, spec, shard, images, readable))
        if missing:
            tasks.append(
                ShardTask(
                    shard=shard,
                    shard_size=shard_size,
                    rows=tuple(asked),
                    scene_ids=tuple(rows[row][0] for row in asked),
                    digests=tuple(rows[row][1] for row in asked),
                    specs=missing,
                    dataset=dataset,
                )
            )
    return tasks


def stale_metadata(root: Path, spec: ArraySpec, rows: int, shard: int) -> dict[Path, dict[str, Any] | None]:
    """File -> content of what an array's metadata lacks or says otherwise, the values' last: it names the recipe. A
    ``project:k`` basis that lacks stands first, as its array's folder -> None.

    Raises RecipeError when it is another recipe's, EncodingError for ``project:k`` without a basis.
    """
    folder = root / ZARR / spec.path
    found = _read_json(folder / "zarr.json")
    if found is not None:
        try:
            entry, length = found["attributes"][ATTRIBUTE], int(found["shape"][0])
            theirs, full_recipe = entry["id"], entry["full_recipe"]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DamagedError(f"{folder}/zarr.json: is no array's metadata ({error!r}); {METADATA}") from error
        if theirs != spec.id:
            fields = "; ".join(explain_difference(spec.full_recipe, full_recipe))
            raise RecipeError(f"{folder}: holds another recipe ({fields}); remove it with `diffps cache gc`")
        rows = max(rows, length)
    stale: dict[Path, dict[str, Any] | None] = {}
    if isinstance(spec.encoding, Project):
        if spec.encoding.basis is None:
            raise EncodingError(f"{spec.path}: {spec.encoding.name} has no basis yet; fit one with cache.fit_basis")
        try:
            read_basis(folder, spec)
        except DamagedError:  # or not there yet; one that was lost is the same, as the array's id says
            stale[folder] = None
    for suffix in reversed(list(spec.parts())):
        path = folder.with_name(folder.name + suffix) / "zarr.json"
        metadata = array_metadata(spec, suffix, rows, shard)
        if _read_json(path) != metadata:
            stale[path] = metadata
    return stale


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None


def _is_done(
    root: Path,
    book: ReceiptBook,
    spec: ArraySpec,
    shard: int,
    images: Mapping[int, tuple[str, str]],
    readable: Readable,
) -> bool:
    receipt = book.find(shard, spec.name)
    if receipt is None or receipt.arrays[spec.name][0] != spec.id:
        return False
    written = dict(zip(receipt.rows, receipt.digests, strict=True))
    if any(written.get(row) != digest for row, (_, digest) in images.items()):
        return False
    if any(row in receipt.skipped and readable(images[row][0]) for row in images):
        return False
    for suffix, (shape, _) in spec.parts().items():
        file = shard_file(root / ZARR / (spec.path + suffix), shard, len(shape))
        try:
            with naming(file, "read"):
                size = file.stat().st_size
        except FileNotFoundError:
            return False
        if size != receipt.arrays[spec.name][1][suffix].nbytes:
            return False
    return True
