"""Which row of the arrays an image has. Rows are never renumbered; names come and go, content decides.

A store holds several data sets side by side: a name is one of a data set, and the unnamed data set is what stores
from before there were any call theirs. Equal content has one row, whoever has it. Content gives up its row only to an
edited file of its own data set, and only when nobody else's name stands for it; so no data set costs another anything.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cache import sealed
from cache.errors import DamagedError, NotCachedError
from cache.files import read_bytes, write_bytes
from cache.guard import exclusive
from cache.receipts import Name

REMEDY = "`diffps cache verify --repair` makes it anew from the receipts; restoring a backup keeps the names too. It"


class Image(NamedTuple):
    """Name of a scene and the SHA-256 of its file's bytes."""

    scene_id: str
    digest: str


class RowTable:
    """Rows of one split: name -> row, row -> digest of the content it stands for. One Parquet file.

    Several names may share a row: copies, names a file had before, and those that other data sets have for it. A row
    without a digest was given to an image that is forgotten, or that a lost table knew: it belongs to nobody for good.
    """

    def __init__(self, root: Path, split: str, dataset: str = "") -> None:
        self.path, self._lock = root / "rows" / f"{split}.parquet", root / "locks" / f".rows-{split}"
        self._receipts = root / "receipts" / split
        self.dataset = dataset
        self.digests: list[str] = []
        self._names: dict[str, dict[str, int]] = {}
        self._load()

    @classmethod
    def of(cls, root: Path, split: str, dataset: str = "") -> "RowTable":
        """The rows of ``split`` in the store at ``root``, as ``dataset`` names them."""
        return cls(root, split, dataset)

    @property
    def scenes(self) -> Mapping[str, int]:
        """Row of each scene of this data set; of the unnamed one while this one was never written."""
        return self._names.get(self.dataset) or self._names.get("", {})

    @property
    def names(self) -> Iterator[tuple[Name, int]]:
        """Every name of every data set, with its row."""
        for dataset, scenes in self._names.items():
            yield from ((Name(dataset, scene), row) for scene, row in scenes.items())

    def called(self) -> dict[int, list[Name]]:
        """The names of each row that has any."""
        called: dict[int, list[Name]] = {}
        for name, row in sorted(self.names):
            called.setdefault(row, []).append(name)
        return called

    def digest(self, row: int) -> str:
        """Content of ``row``; empty where it belongs to nobody."""
        return self.digests[row] if row < len(self.digests) else ""

    def row(self, scene_id: str) -> int:
        """Row of a scene. Raises NotCachedError when no image of that name was ever assigned one."""
        try:
            return self.scenes[scene_id]
        except KeyError:
            raise NotCachedError(
                f"scene {scene_id!r}: not in {self.path}; run `diffps extract` with this image in the index"
            ) from None

    def assign(self, images: Sequence[tuple[str, str]]) -> list[int]:
        """Rows of ``images`` (scene id, digest) of this data set, written durably when any is new.

        Known content keeps its row whatever it is called now. A file edited in place keeps its row, with the new
        digest, unless another name stands for the old content. Everything else is appended.
        """
        with exclusive(self._lock):
            self._load()
            before = self._state()
            rows = self._assign(images)
            if before != self._state():
                self._save()
        return rows

    def preview(self, images: Sequence[tuple[str, str]]) -> tuple[list[int], bool]:
        """The rows :meth:`assign` would give, and whether it would write; nothing is locked or written."""
        before = self._state()
        rows = self._assign(images)
        changed = before != self._state()
        self._names, self.digests = before
        return rows, changed

    def replace(self, digests: Sequence[str], names: Mapping[Name, int]) -> None:
        """Put another table in this one's place: for repairs. Whoever calls this holds the locks of the split."""
        with exclusive(self._lock):
            self.digests, self._names = list(digests), {}
            for (dataset, scene), row in names.items():
                self._names.setdefault(dataset, {})[scene] = row
            self._save()

    def forget(self, rows: Sequence[int]) -> None:
        """Leave ``rows`` to nobody: no digest and no name stands for them any more."""
        with exclusive(self._lock):
            self._load()
            gone = set(rows)
            self.digests = ["" if row in gone else digest for row, digest in enumerate(self.digests)]
            for dataset, scenes in self._names.items():
                self._names[dataset] = {scene: row for scene, row in scenes.items() if row not in gone}
            self._save()

    def _state(self) -> tuple[dict[str, dict[str, int]], list[str]]:
        return {dataset: dict(scenes) for dataset, scenes in self._names.items()}, list(self.digests)

    def _assign(self, images: Sequence[tuple[str, str]]) -> list[int]:
        scenes = self._names.setdefault(self.dataset, {}) if images else {}
        known = {digest: row for row, digest in enumerate(self.digests) if digest}
        # Content first: two files that swapped names must not be taken for two edited ones.
        edited = [image for image in images if image[1] not in known]
        previous = {scene: scenes.pop(scene) for scene, _ in edited if scene in scenes}
        unnamed = self._names.get("", {}) if self.dataset else {}
        for scene, digest in images:
            if digest in known:
                scenes[scene] = known[digest]
                if unnamed.get(scene) == known[digest]:
                    del unnamed[scene]  # it was this data set's all along
        taken = {row for _, row in self.names}
        for scene, digest in edited:
            if digest not in known:
                row = previous.get(scene, len(self.digests))
                if row in taken or row == len(self.digests):
                    row = len(self.digests)
                    self.digests.append(digest)
                else:
                    self.digests[row] = digest
                known[digest] = row
            scenes[scene] = known[digest]
            taken.add(known[digest])
        return [scenes[scene] for scene, _ in images]

    def _load(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            data = read_bytes(self.path)
        except FileNotFoundError:
            if any(self._receipts.rglob("*.json")):
                raise DamagedError(f"{self.path}: is missing, though there are receipts; {REMEDY}") from None
            return
        if sealed.is_sealed(data):  # older ones are not
            sealed.check(data, self.path, REMEDY)
        try:
            self._read(pq.read_table(pa.BufferReader(data)).to_pydict())
        except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
            raise DamagedError(f"{self.path}: cannot be read ({error}); {REMEDY}") from error

    def _read(self, columns: dict[str, list[Any]]) -> None:
        rows, scenes, digests = columns["row"], columns["scene_id"], columns["digest"]
        by_row = dict(zip(rows, digests, strict=True))
        self.digests = [by_row[row] for row in range(len(by_row))]
        self._names = {}
        for dataset, scene, row in zip(columns.get("dataset", [""] * len(rows)), scenes, rows, strict=True):
            if scene:
                self._names.setdefault(dataset, {})[scene] = row

    def _save(self) -> None:
        import pyarrow as pa

        entries = sorted((row, *name) for name, row in self.names)
        # A row all of whose names moved on still exists: without an entry later rows would slide.
        named = {row for row, _, _ in entries}
        entries += [(row, "", "") for row in range(len(self.digests)) if row not in named]
        columns = {
            "row": pa.array([row for row, _, _ in entries], pa.int64()),
            "scene_id": pa.array([scene for _, _, scene in entries], pa.string()),
            "digest": pa.array([self.digests[row] for row, _, _ in entries], pa.string()),
        }
        if any(dataset for _, dataset, _ in entries):
            columns["dataset"] = pa.array([dataset for _, dataset, _ in entries], pa.string())
        write_bytes(self.path, sealed.table_bytes(pa.table(columns)))
