"""The feature store: one folder, and the ways in and out of it."""

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path

from cache.catalogue import list_arrays, open_array
from cache.errors import FileError
from cache.layout import ArraySpec
from cache.manifests import check_manifest, write_manifest
from cache.pending import Missing, Readable, ShardTask, find_missing
from cache.reader import FeatureReader
from cache.rows import RowTable
from cache.status import DatasetStatus, GroupStatus, summarise, summarise_datasets
from cache.writer import ShardSink, StoreWriter, shared_group


class FeatureStore:
    """A store at ``root``, which need not exist before something is written, as one of its data sets sees it.

    ``dataset`` is any name; scene ids are those of that data set. Arrays, and images of equal content, are everybody's.
    """

    def __init__(self, root: Path, dataset: str = "") -> None:
        self.root, self.dataset = root, dataset

    def rows(self, split: str) -> RowTable:
        """Which row each image of ``split`` has."""
        return RowTable.of(self.root, split, self.dataset)

    def missing(
        self,
        specs: Sequence[ArraySpec],
        images: Sequence[tuple[str, str]],
        *,
        shard: int = 16,
        readable: Readable = lambda scene_id: False,
    ) -> Missing:
        """What :meth:`writer` would find to do, without its lock and without writing anything: a store that can only be
        read serves who has nothing to add."""
        shared_group(specs, shard)
        return find_missing(self.root, specs, images, shard, readable, self.dataset)

    def writer(
        self, specs: Sequence[ArraySpec], images: Sequence[tuple[str, str]], *, shard: int = 16, takeover: bool = False
    ) -> StoreWriter:
        """Writer of ``specs``, which share a group, for ``images`` (scene id, digest) in any order; a context manager.

        ``shard`` images a file; what the scope was first written with stays. Entering takes the lock (LockedError),
        assigns rows and writes metadata (RecipeError when another recipe lies there).
        """
        return StoreWriter(self.root, specs, images, shard, takeover, self.dataset)

    def shard_sink(self, task: ShardTask) -> ShardSink:
        """Sink for a worker process; the process that made the task holds the lock meanwhile."""
        return ShardSink(self.root, task)

    def record_names(self, split: str, images: Sequence[tuple[str, str]]) -> bool:
        """Let the store know ``images``, whose content it has, by their names in this data set, which keeps them from
        being taken for nobody's. False where it can only be read. Raises FileError."""
        try:
            self.rows(split).assign(images)
        except FileError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            return False
        return True

    def reader(
        self,
        arrays: Sequence[ArraySpec | str] | Mapping[str, Sequence[ArraySpec | str]],
        *,
        verify: bool = True,
        images: Sequence[tuple[str, str]] | None = None,
        room: int | None = None,
    ) -> FeatureReader:
        """Reader over specs or array paths of one view, or over several as view -> arrays.

        ``images`` (scene id, digest), as an index has them, are found by their content, whatever the store calls them:
        so a store that can only be read serves data sets whose names it does not know. ``room``: bytes that memory can
        hold; what is larger is read past the page cache. None: what is available now. Raises NotCachedError when an
        array is missing, RecipeError when it is another's.
        """
        views = arrays if isinstance(arrays, Mapping) else {"": arrays}
        specs = {view: [self.array(a) if isinstance(a, str) else a for a in entries] for view, entries in views.items()}
        return FeatureReader(self.root, specs, verify, self.dataset, images, room)

    def array(self, path: str) -> ArraySpec:
        """Spec of the array at ``path`` (``split/view/recipe/[t<timestep>/]name``). Raises NotCachedError."""
        return open_array(self.root, path)

    def arrays(self) -> list[ArraySpec]:
        """Every array of the store, by path."""
        return list_arrays(self.root)

    def status(self) -> list[GroupStatus]:
        """What is done, missing and skipped, with sizes and times, per group of arrays written together."""
        return summarise(self.root)

    def datasets(self) -> list[DatasetStatus]:
        """The data sets that lie side by side, with their images per split."""
        return summarise_datasets(self.root)

    def write_manifest(
        self,
        path: Path,
        specs: Sequence[ArraySpec],
        images: Mapping[str, Sequence[tuple[str, str]]],
        folder: Path | None = None,
    ) -> None:
        """Manifest of arrays of any groups over ``images`` (split -> (scene id, digest)). Raises IncompleteError.

        ``folder``: where manifests lie that are kept outside the store.
        """
        write_manifest(self.root, path, specs, images, self.dataset, folder)

    def check(self, manifest: Path, folder: Path | None = None) -> list[ArraySpec]:
        """Specs of a manifest's arrays once the store is found to match it. Raises NotCachedError, DamagedError."""
        return check_manifest(self.root, manifest, folder)
