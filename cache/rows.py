"""Which row of the arrays an image has. Rows are never renumbered; names come and go, content decides."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cache.errors import DamagedError, NotCachedError
from cache.files import exclusive, write_atomic


class Image(NamedTuple):
    """Name of a scene and the SHA-256 of its file's bytes."""

    scene_id: str
    digest: str


class RowTable:
    """Rows of one split: scene id -> row, row -> digest of the content it stands for. One Parquet file.

    Several scene ids may share a row: copies, and names a file had before.
    """

    def __init__(self, path: Path, lock: Path) -> None:
        self._path, self._lock = path, lock
        self.scenes: dict[str, int] = {}
        self.digests: list[str] = []
        self._load()

    @classmethod
    def of(cls, root: Path, split: str) -> "RowTable":
        """The rows of ``split`` in the store at ``root``."""
        return cls(root / "rows" / f"{split}.parquet", root / "locks" / f".rows-{split}")

    def row(self, scene_id: str) -> int:
        """Row of a scene. Raises NotCachedError when no image of that name was ever assigned one."""
        try:
            return self.scenes[scene_id]
        except KeyError:
            raise NotCachedError(
                f"scene {scene_id!r}: not in {self._path}; run `diffps extract` with this image in the index"
            ) from None

    def assign(self, images: Sequence[tuple[str, str]]) -> list[int]:
        """Rows of ``images`` (scene id, digest), written durably when any is new.

        Known content keeps its row whatever it is called now. A file edited in place keeps its row, with the new
        digest, unless another name stands for the old content. Everything else is appended.
        """
        with exclusive(self._lock):
            self._load()
            before = (dict(self.scenes), list(self.digests))
            rows = self._assign(images)
            if before != (self.scenes, self.digests):
                self._save()
        return rows

    def _assign(self, images: Sequence[tuple[str, str]]) -> list[int]:
        known = {digest: row for row, digest in enumerate(self.digests)}
        # Content first: two files that swapped names must not be taken for two edited ones.
        edited = [image for image in images if image[1] not in known]
        previous = {scene: self.scenes.pop(scene) for scene, _ in edited if scene in self.scenes}
        for scene, digest in images:
            if digest in known:
                self.scenes[scene] = known[digest]
        taken = set(self.scenes.values())
        for scene, digest in edited:
            if digest not in known:
                row = previous.get(scene, len(self.digests))
                if row in taken or row == len(self.digests):
                    row = len(self.digests)
                    self.digests.append(digest)
                else:
                    self.digests[row] = digest
                known[digest] = row
            self.scenes[scene] = known[digest]
            taken.add(known[digest])
        return [self.scenes[scene] for scene, _ in images]

    def _load(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._path.exists():
            return
        try:
            table = pq.read_table(self._path).to_pydict()
            self.scenes = {scene: row for scene, row in zip(table["scene_id"], table["row"], strict=True) if scene}
            digests = dict(zip(table["row"], table["digest"], strict=True))
            self.digests = [digests[row] for row in range(len(digests))]
        except (pa.ArrowInvalid, KeyError, OSError) as error:
            raise DamagedError(f"{self._path}: cannot be read ({error}); restore it from a backup") from error

    def _save(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        entries = sorted((row, scene) for scene, row in self.scenes.items())
        # A row all of whose names moved on still exists: without an entry later rows would slide.
        entries += [(row, "") for row in sorted(set(range(len(self.digests))) - set(self.scenes.values()))]
        table = pa.table(
            {
                "row": pa.array([row for row, _ in entries], pa.int64()),
                "scene_id": [scene for _, scene in entries],
                "digest": [self.digests[row] for row, _ in entries],
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_atomic(self._path, buffer.getvalue())
