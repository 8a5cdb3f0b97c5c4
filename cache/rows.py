"""Which row of the arrays an image has. Rows are never renumbered; names come and go, content decides.

A store holds several data sets side by side: a name is one of a data set, and the unnamed data set is what stores
from before there were any call theirs. Equal content has one row, whoever has it. Content gives up its row only to an
edited file of its own data set, and only when nobody else's name stands for it; so no data set costs another anything.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cache import sealed
from cache.catalogue import folders
from cache.errors import DamagedError, NotCachedError
from cache.files import read_bytes, write_bytes
from cache.guard import exclusive
from cache.receipts import Name
from cache.system import files_below

REMEDY = "`diffps cache verify --repair`"


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
        self.path, self._lock = rows_file(root, split), rows_lock(root, split)
        self._receipts = root / "receipts" / split
        self.dataset = dataset
        self.digests: list[str] = []
        self._names: dict[str, dict[str, int]] = {}
        self._seen: dict[str, int] | None = None
        self._load()

    @classmethod
    def of(cls, root: Path, split: str, dataset: str = "") -> "RowTable":
        """The rows of ``split`` in the store at ``root``, as ``dataset`` names them."""
        return cls(root, split, dataset)

    @property
    def scenes(self) -> Mapping[str, int]:
        """Row of each scene of this data set; of the unnamed one while this one was never written."""
        if self._seen is not None:
            return self._seen
        return self._names.get(self.dataset) or self._names.get("", {})

    @property
    def names(self) -> Iterator[tuple[Name, int]]:
        """Every name of every data set, with its row."""
        for dataset, scenes in self._names.items():
            yield from ((Name(dataset, scene), row) for scene, row in scenes.items())

    def see(self, images: Iterable[tuple[str, str]]) -> None:
        """From now on know the scenes of ``images`` (scene id, digest), by their content, and no others: whatever they
        are called in the store, which is not written."""
        known = self._known()
        self._seen = {scene: known[digest] for scene, digest in images if digest in known}

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
        """The rows :meth:`assign` would give, and True where it would write any; nothing is locked or written."""
        before = self._state()
        rows = self._assign(images)
        changed = before != self._state()
        self._names, self.digests = before
        return rows, changed

    def forget(self, rows: Collection[int], names: Collection[Name] = ()) -> None:
        """Leave ``rows`` to nobody: no digest and no name stands for them any more. ``names`` go too."""
        with exclusive(self._lock):
            self._load()
            self.digests = ["" if row in rows else digest for row, digest in enumerate(self.digests)]
            kept = [(name, row) for name, row in self.names if row not in rows and name not in names]
            self._names = {}
            for name, row in kept:
                self._names.setdefault(name.dataset, {})[name.scene_id] = row
            self._save()

    def _known(self) -> dict[str, int]:
        return {digest: row for row, digest in enumerate(self.digests) if digest}

    def _state(self) -> tuple[dict[str, dict[str, int]], list[str]]:
        return {dataset: dict(scenes) for dataset, scenes in self._names.items()}, list(self.digests)

    def _assign(self, images: Sequence[tuple[str, str]]) -> list[int]:
        scenes = self._names.setdefault(self.dataset, {}) if images else {}
        known = self._known()
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

        try:
            data = read_bytes(self.path)
        except FileNotFoundError:
            if any(path.suffix == ".json" for path in files_below(self._receipts)):
                raise DamagedError(f"{self.path}: is lost, but receipts are there; {REMEDY} makes it anew") from None
            return
        if sealed.is_sealed(data):  # older ones are not
            sealed.check(data, self.path, REMEDY)
        try:
            self._read(sealed.table_in(data).to_pydict())
        except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
            raise DamagedError(f"{self.path}: cannot be read ({error}); {REMEDY} makes it anew") from error

    def _read(self, columns: dict[str, list[Any]]) -> None:
        rows, scenes, digests = columns["row"], columns["scene_id"], columns["digest"]
        by_row = dict(zip(rows, digests, strict=True))
        self.digests = [by_row[row] for row in range(len(by_row))]
        self._names = {}
        for dataset, scene, row in zip(columns.get("dataset", [""] * len(rows)), scenes, rows, strict=True):
            if scene:
                self._names.setdefault(dataset, {})[scene] = row

    def _save(self) -> None:
        write_rows(self.path, self.digests, dict(self.names))


def splits(root: Path) -> list[str]:
    """Every split the store has rows or receipts of."""
    tables = {path.stem for path in files_below(root / "rows") if path.suffix == ".parquet"}
    return sorted(tables | {folder.name for folder in folders(root / "receipts")})


def rows_file(root: Path, split: str) -> Path:
    """Where the rows of ``split`` lie."""
    return root / "rows" / f"{split}.parquet"


def rows_lock(root: Path, split: str) -> Path:
    """What is held while they are changed."""
    return root / "locks" / f".rows-{split}"


def write_rows(path: Path, digests: Sequence[str], names: Mapping[Name, int]) -> None:
    """Write a table whole: the digest of each row, empty where it belongs to nobody, and the row of each name."""
    import pyarrow as pa

    entries = sorted((row, *name) for name, row in names.items())
    # A row all of whose names moved on still exists: without an entry later rows would slide.
    named = {row for row, _, _ in entries}
    entries += [(row, "", "") for row in range(len(digests)) if row not in named]
    columns = {
        "row": pa.array([row for row, _, _ in entries], pa.int64()),
        "scene_id": pa.array([scene for _, _, scene in entries], pa.string()),
        "digest": pa.array([digests[row] for row, _, _ in entries], pa.string()),
    }
    if any(dataset for _, dataset, _ in entries):
        columns["dataset"] = pa.array([dataset for _, dataset, _ in entries], pa.string())
    write_bytes(path, sealed.table_bytes(pa.table(columns)))
