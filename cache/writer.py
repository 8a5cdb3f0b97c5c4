"""Writing whole shards: append to temporary files, sync, rename, and only then a receipt."""

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from cache.budget import require_space
from cache.carry import carried_images
from cache.encodings import Encoded, Project
from cache.errors import CacheError, EncodingError, FileError, IncompleteError, LockedError, NonFiniteError
from cache.files import write_json
from cache.identity import ensure_store_id
from cache.layout import SCALES, ZARR, ArraySpec, GroupKey, ensure_groups, shard_file, write_basis
from cache.lock import StoreLock, lock_file
from cache.manifests import write_manifest
from cache.pending import Readable, ShardTask, pending_tasks, stale_metadata
from cache.receipts import Name, PartReceipt, Receipt, ReceiptBook
from cache.rows import RowTable
from cache.shards import ShardFile


class ShardSink:
    """Takes the features of one shard, image by image in the task's order; durable when its ``with`` ends well.

    An exception inside leaves nothing behind. ``info`` goes into the receipt: device, batch, versions.
    """

    def __init__(self, root: Path, task: ShardTask, before_publishing: Callable[[], None] = lambda: None) -> None:
        self.info: dict[str, Any] = {}
        self._root, self._task, self._before_publishing = root, task, before_publishing
        self._files: dict[tuple[str, str], ShardFile] = {}
        self._skipped: dict[int, str] = {}
        self._done = 0

    def __enter__(self) -> "ShardSink":
        self._started = time.monotonic()
        # A worker whose coordinator died may still be at this shard: neither must touch the other's files.
        unique = uuid.uuid4().hex[:8]
        with contextlib.ExitStack() as undo:
            undo.callback(self._discard)
            for spec in self._task.specs:
                for suffix, (shape, _) in spec.parts().items():
                    self._files[spec.name, suffix] = ShardFile(
                        temporary_folder(self._root, spec.group) / f"{self._task.shard}-{spec.name}{suffix}.{unique}",
                        shard_file(self._root / ZARR / (spec.path + suffix), self._task.shard, len(shape)),
                        self._task.shard_size,
                        spec.encoding.codec if suffix == "" else None,
                    )
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            self._discard()

    def append(self, features: Mapping[str, NDArray[Any]]) -> None:
        """Features of the next image: array name -> (H, W, C) float. Raises NonFiniteError, CacheError on a shape."""
        scene, slot = self._next()
        for spec in self._task.specs:
            x = features[spec.name]
            if x.shape != spec.shape:
                raise CacheError(f"scene {scene!r}: {spec.path} came with shape {x.shape}, expected {spec.shape}")
            try:
                encoded = spec.encoding.encode(x[None])
            except NonFiniteError as error:
                raise NonFiniteError(
                    f"scene {scene!r}: {spec.path} has {error}; nothing of its shard is kept"
                ) from error
            self._store(spec, slot, encoded)
        self._done += 1

    def skip(self, reason: str) -> None:
        """The next image cannot be read; readers are told ``reason``."""
        self._next()
        self._skipped[self._task.rows[self._done]] = reason
        for file in self._files.values():
            file.skip()
        self._done += 1

    def _next(self) -> tuple[str, int]:
        if self._done == len(self._task.rows):
            raise IncompleteError(f"shard {self._task.shard}: has {self._done} images and was given one more")
        return self._task.scene_ids[self._done], self._task.rows[self._done] % self._task.shard_size

    def _store(self, spec: ArraySpec, slot: int, encoded: Encoded) -> None:
        self._files[spec.name, ""].append(slot, encoded.values[0])
        if spec.encoding.scaled:
            if encoded.scales is None:
                raise EncodingError(f"{spec.path}: {spec.encoding.name} values came without scales")
            self._files[spec.name, SCALES].append(slot, encoded.scales[0])

    def _publish(self) -> None:
        task = self._task
        if self._done < len(task.rows):
            raise IncompleteError(f"shard {task.shard}: {self._done} of {len(task.rows)} images were given")
        carried = {spec.name: self._carry(spec) for spec in task.specs}
        parts: dict[str, dict[str, PartReceipt]] = {}
        for (name, suffix), file in self._files.items():
            parts.setdefault(name, {})[suffix] = file.finish()
        self._before_publishing()
        if not all(file.is_there for file in self._files.values()):
            raise LockedError(f"shard {task.shard} of {task.specs[0].path}: another process writes it now")
        book = ReceiptBook.of(self._root, task.specs[0].group, task.shard)
        book.withdraw(task.shard, parts)
        for file in self._files.values():
            file.publish()
        info = {"seconds": round(time.monotonic() - self._started, 3), **self.info}
        # A receipt speaks of the same images for all of its arrays, and only one has the time on it.
        asked = tuple(Name(task.dataset, scene) for scene in task.scene_ids)
        for others in dict.fromkeys(carried.values()):
            book.add(
                Receipt(
                    shard=task.shard,
                    rows=task.rows + tuple(row for row, _, _, _ in others),
                    digests=task.digests + tuple(digest for _, digest, _, _ in others),
                    names=asked + tuple(name for _, _, name, _ in others),
                    skipped=self._skipped | {row: reason for row, _, _, reason in others if reason is not None},
                    arrays={
                        spec.name: (spec.id, parts[spec.name]) for spec in task.specs if carried[spec.name] == others
                    },
                    info=info,
                )
            )
            info = {**info, "seconds": 0.0}

    def _carry(self, spec: ArraySpec) -> tuple[tuple[int, str, Name | None, str | None], ...]:
        """Take over from the shard's present file what it holds beside this task: (row, digest, name, reason)."""
        task, others = self._task, []
        for image in carried_images(self._root, spec, task.shard, task.shard_size, task.rows):
            for suffix in spec.parts():
                if image.reason is None:
                    self._files[spec.name, suffix].append_stored(image.row % task.shard_size, image.chunks[suffix])
                else:
                    self._files[spec.name, suffix].skip()
            others.append((image.row, image.digest, image.name, image.reason))
        return tuple(others)

    def _discard(self) -> None:
        for file in self._files.values():
            file.discard()


class StoreWriter:
    """The one writer of a group's scope. Enter it to take the lock; see :meth:`cache.FeatureStore.writer`."""

    def __init__(
        self,
        root: Path,
        specs: Sequence[ArraySpec],
        images: Sequence[tuple[str, str]],
        shard: int,
        takeover: bool,
        dataset: str = "",
    ) -> None:
        self.root, self.specs, self.shard_size, self._dataset = root, tuple(specs), shard, dataset
        self.group = shared_group(specs, shard)
        self._images = list(images)
        self._lock = StoreLock(lock_file(root, self.group), takeover=takeover)

    def __enter__(self) -> "StoreWriter":
        with contextlib.ExitStack() as undo:
            undo.enter_context(self._lock)
            # Whatever an interrupted owner left under temporary names is nobody's.
            shutil.rmtree(temporary_folder(self.root, self.group).parent, ignore_errors=True)
            ensure_store_id(self.root)
            self.shard_size = ensure_groups(self.root, self.group, self.shard_size)
            table = RowTable.of(self.root, self.group.split, self._dataset)
            self._rows: dict[int, tuple[str, str]] = {}
            for row, image in zip(table.assign(self._images), self._images, strict=True):
                self._rows.setdefault(row, image)
            for spec in self.specs:
                self._write_metadata(spec)
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(*(() if kind is None else (FileError,))):  # the first error is the one to tell
            if self._lock.held:  # else what lies there is the new owner's
                shutil.rmtree(temporary_folder(self.root, self.group).parent, ignore_errors=True)
        self._lock.__exit__(kind, error, trace)

    def pending(self, readable: Readable = lambda scene_id: False) -> list[ShardTask]:
        """Shards that lack at least one array for the images asked for, in order; what is there is not in them.

        An image that was skipped counts as missing once ``readable`` says that its scene can be read now. Raises
        StoreFullError when they do not fit on the disk, before anything is computed.
        """
        tasks = pending_tasks(self.root, self.group, self.specs, self._rows, self.shard_size, readable, self._dataset)
        require_space(self.root, [(spec, len(task.rows)) for task in tasks for spec in task.specs])
        return tasks

    def shard(self, task: ShardTask) -> ShardSink:
        """Sink for one of :meth:`pending`'s tasks; refuses to publish when the lock was lost."""
        return ShardSink(self.root, task, self._lock.check)

    def write_manifest(self, path: Path, specs: Sequence[ArraySpec] | None = None, folder: Path | None = None) -> None:
        """Manifest over this writer's images. Raises IncompleteError while any of them is missing."""
        images = {self.group.split: self._images}
        write_manifest(self.root, path, self.specs if specs is None else specs, images, self._dataset, folder)

    def _write_metadata(self, spec: ArraySpec) -> None:
        """Write the array's metadata, or let it grow; refuse when it is another recipe's."""
        for path, metadata in stale_metadata(self.root, spec, max(self._rows, default=-1) + 1, self.shard_size).items():
            if metadata is not None:
                write_json(path, metadata)
            elif isinstance(spec.encoding, Project):
                write_basis(path, spec.encoding)


def shared_group(specs: Sequence[ArraySpec], shard: int) -> GroupKey:
    """The group of arrays that are written together. Raises CacheError where that cannot be."""
    groups = {spec.group for spec in specs}
    names = [spec.name for spec in specs]
    if len(groups) != 1 or len(set(names)) != len(names):
        raise CacheError(f"store: arrays written together need one group and different names, got {sorted(names)}")
    if shard < 1:
        raise CacheError(f"store: shard {shard} must be at least 1 image")
    return groups.pop()


def temporary_folder(root: Path, group: GroupKey) -> Path:
    """Where unfinished shards of ``group`` lie: outside the Zarr group, on the same disk."""
    step = "latents" if group.timestep is None else f"t{group.timestep}"
    return root / "tmp" / group.scope.replace("/", "~") / step
