"""A gallery on disk: who was found in which image, kept so that a new query reads no image and no feature again.

    gallery.json               the head it was made with, and the segments that count: name, checksum, boxes
    segment-000003.safetensors some images and their boxes (see ``segments``)

gallery.json is replaced last: what it does not name is left over from a process that died, and is deleted by the next
one that writes. A segment is never changed; one that loses or renames an image is written anew without it, and the old
one deleted. So nothing of a removed image stays. Small segments are joined as their number grows.
"""

import fcntl
import json
import re
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from cache.checksum import crc32c
from cache.errors import DamagedError, LockedError
from cache.files import sync, write_bytes
from diffps.errors import ConfigError
from diffps.metrics.similarity import exact_unit_rows
from diffps.records import Detections
from diffps.search.answer import SearchedGallery
from stages.finding.segments import ImageEntry, NamedFile, Segment, joined, open_segment, packed

MANIFEST, LOCK = "gallery.json", ".lock"
_SEGMENT = re.compile(r"segment-(\d{6,})\.safetensors")
_HALF_WRITTEN = ".diffps-*.tmp"  # what cache.files calls what it writes; under the lock nobody else's is alive
FORMAT = 1
LARGE = 1 << 16  # boxes from which a segment is left alone
MOST_SMALL = 32  # smaller segments at a time


@dataclass(frozen=True, slots=True)
class LoadedGallery:
    """A gallery to be searched, made by ``head``; ``sizes`` (m, 2) height and width of the images in
    ``searched.names``, and ``digests`` (m, 32) of their content."""

    head: str
    searched: SearchedGallery
    sizes: NDArray[np.int32]
    digests: NDArray[np.uint8]

    def named(self, digest: str) -> str | None:
        """The name of the image with this content (SHA-256 in hex), if it is here."""
        wanted = np.frombuffer(bytes.fromhex(digest), np.uint8)
        found = np.flatnonzero((self.digests == wanted).all(1))
        return self.searched.names[found[0]] if len(found) else None


@dataclass(frozen=True, slots=True)
class _Known:
    """A segment that counts: its name and checksum, and what it holds."""

    file: str
    checksum: str
    segment: Segment


def load_gallery(folder: Path, head: str | None = None) -> LoadedGallery:
    """The gallery in ``folder``, its embeddings mapped; every byte is checked.

    Raises ConfigError where there is none and where it was made with another head than ``head`` (a digest; None takes
    any), DamagedError where a byte changed.
    """
    manifest, known = _read(folder, head)
    segments = [part.segment for part in known]
    counts = [segment.counts[:, 0] for segment in segments]
    images = np.arange(sum(map(len, segments)), dtype=np.int32)
    searched = SearchedGallery(
        embeddings=[segment.embeddings for segment in segments],
        boxes=np.concatenate([np.empty((0, 4), np.float32), *(segment.boxes for segment in segments)]),
        scores=np.concatenate([np.empty(0, np.float32), *(segment.scores for segment in segments)]),
        images=np.repeat(images, np.concatenate([np.empty(0, np.int32), *counts])),
        names=[name for segment in segments for name in segment.first_names],
    )
    return LoadedGallery(
        manifest["head"],
        searched,
        np.concatenate([np.empty((0, 2), np.int32), *(segment.sizes for segment in segments)]),
        np.concatenate([np.empty((0, 32), np.uint8), *(segment.digests for segment in segments)]),
    )


def forget_images(folder: Path, names: Collection[str]) -> list[str]:
    """Delete the images of these names, their copies included, and everything found in them; gives all their names.

    What an interrupted process left behind goes too. A picture that stays on disk is taken up again when its folder is.
    """
    with GalleryWriter(folder, None) as writer:
        files = writer.files()
        gone = {file.digest for file in files if file.name in names}
        writer.keep([file for file in files if file.digest not in gone])
    return sorted(file.name for file in files if file.digest in gone)


class GalleryWriter:
    """The right to change the gallery in ``folder``, from ``with`` to its end; made by ``head`` (the digest of a head;
    None takes that which made it) with embeddings of ``size`` components.

    Raises LockedError where another process has it, and what :func:`load_gallery` raises. ``write``: what makes a file
    whole or not at all.
    """

    def __init__(
        self,
        folder: Path,
        head: str | None,
        size: int | None = None,
        *,
        write: Callable[[Path, bytes], None] = write_bytes,
    ) -> None:
        self._folder, self._head, self._size, self._write = folder, head, size, write
        self._known: list[_Known] = []
        self._here: set[str] = set()  # contents
        self._lock: TextIO | None = None

    def __enter__(self) -> "GalleryWriter":
        if self._head is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        elif not (self._folder / MANIFEST).exists():
            raise ConfigError(f"{self._folder}: no gallery is there ({MANIFEST} is missing)")
        self._lock = (self._folder / LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (self._folder / MANIFEST).exists():
                manifest, self._known = _read(self._folder, self._head)
                self._head, self._size = manifest["head"], manifest["size"]
                self._here = {file.digest for file in self.files()}
                self._sweep()
            else:
                self._commit([])
        except BaseException as error:
            self._lock.close()
            if isinstance(error, BlockingIOError):
                raise LockedError(f"{self._folder}: another process is changing this gallery; wait for it") from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def files(self) -> list[NamedFile]:
        """Every file whose image is here."""
        return [file for known in self._known for image in known.segment.images for file in image.files]

    def lacking(self, files: Sequence[NamedFile]) -> list[NamedFile]:
        """Those whose content is not here yet, one for each content."""
        return list({file.digest: file for file in reversed(files) if file.digest not in self._here}.values())[::-1]

    def append(self, found: Sequence[tuple[NamedFile, tuple[int, int], Detections]]) -> None:
        """Add images of the size (height, width) with what was found in them, durably and all at once; content that is
        here stays as it is.

        Raises DatasetError for an embedding that is not finite.
        """
        found = list({entry[0].digest: entry for entry in found if entry[0].digest not in self._here}.values())
        if not found:
            return
        embeddings = np.concatenate([part.embeddings.reshape(-1, self._size or 0) for _, _, part in found])
        segment = Segment.of(
            [ImageEntry(file.digest, *size, len(part), (file,)) for file, size, part in found],
            np.concatenate([part.boxes for _, _, part in found]).astype(np.float32),
            np.concatenate([part.scores for _, _, part in found]).astype(np.float32),
            exact_unit_rows(embeddings, f"{found[0][0].name} and what follows: embeddings").astype(np.float16),
        )
        self._commit(self._compacted([*self._known, self._store(segment)]))
        self._here |= {file.digest for file, _, _ in found}

    def keep(self, files: Sequence[NamedFile]) -> None:
        """From now on these files are all there is: what is not among them is deleted, other names are taken over."""
        by_content = {
            digest: tuple(sorted(same))
            for digest, same in groupby(sorted(files, key=lambda file: file.digest), lambda file: file.digest)
        }
        kept = []
        for known in self._known:
            wanted = [
                image._replace(files=by_content[image.digest])
                for image in known.segment.images
                if image.digest in by_content
            ]
            if tuple(wanted) == known.segment.images:
                kept.append(known)
            elif wanted:
                kept.append(self._store(known.segment.only(wanted)))
        self._commit(self._compacted(kept))
        self._here = {file.digest for file in self.files()}

    def _store(self, segment: Segment) -> _Known:
        """A segment as a file, which does not count yet."""
        taken = [int(match[1]) for _, match in self._segment_files()]
        path = self._folder / f"segment-{max(taken, default=0) + 1:06}.safetensors"
        content = packed(segment)
        self._write(path, content)
        checksum = f"{crc32c(content):08x}"
        return _Known(path.name, checksum, open_segment(path, checksum))

    def _compacted(self, known: list[_Known]) -> list[_Known]:
        """Small segments joined, where there are many: as many as make a large one."""
        small = [part for part in known if len(part.segment.boxes) < LARGE]
        if len(small) <= MOST_SMALL:
            return known
        groups: list[list[_Known]] = [[]]
        for part in small:
            if sum(len(other.segment.boxes) for other in groups[-1]) >= LARGE:
                groups.append([])
            groups[-1].append(part)
        names = {part.file for part in small}
        rest = [part for part in known if part.file not in names]
        return rest + [self._store(joined([part.segment for part in group])) for group in groups]

    def _commit(self, known: list[_Known]) -> None:
        """Let exactly these segments count."""
        entries = [
            {
                "file": part.file,
                "checksum": part.checksum,
                "images": len(part.segment),
                "boxes": len(part.segment.boxes),
            }
            for part in known
        ]
        manifest = {"format": FORMAT, "head": self._head, "size": self._size, "segments": entries}
        content = json.dumps({**manifest, "checksum": _checksum(manifest)}, indent=1, sort_keys=True)
        self._write(self._folder / MANIFEST, content.encode())
        self._known = known
        self._sweep()

    def _segment_files(self) -> list[tuple[Path, re.Match[str]]]:
        """Those that are there."""
        found = [(path, _SEGMENT.fullmatch(path.name)) for path in self._folder.iterdir()]
        return [(path, match) for path, match in found if match]

    def _sweep(self) -> None:
        """Delete every segment that does not count, whole or not."""
        names = {part.file for part in self._known}
        left = [path for path, _ in self._segment_files() if path.name not in names]
        left += self._folder.glob(_HALF_WRITTEN)
        for path in left:
            path.unlink()
        if left:
            sync(self._folder)


def _read(folder: Path, head: str | None) -> tuple[dict[str, Any], list[_Known]]:
    """gallery.json and the segments it names."""
    path = folder / MANIFEST
    for last in (False, False, True):
        manifest = _manifest(path)
        if head is not None and manifest["head"] != head:
            raise ConfigError(
                f"{folder}: this gallery was made with another head ({str(manifest['head'])[:12]}, not {head[:12]}); "
                "name another folder for this head, or delete this one"
            )
        try:
            with ThreadPoolExecutor() as pool:
                opened = pool.map(
                    lambda entry: open_segment(folder / entry["file"], entry["checksum"]), manifest["segments"]
                )
                segments = list(opened)
        except FileNotFoundError as error:
            if last or _manifest(path) == manifest:  # otherwise a writer joined segments meanwhile
                raise DamagedError(f"{error.filename}: is missing; delete the gallery and search again") from error
            continue
        known = [_Known(e["file"], e["checksum"], s) for e, s in zip(manifest["segments"], segments, strict=True)]
        return manifest, known
    raise AssertionError


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        checksum = manifest.pop("checksum")
    except FileNotFoundError as error:
        raise ConfigError(f"{path.parent}: no gallery is there ({path.name} is missing)") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path}: is no gallery's description; delete the gallery and search again") from error
    if checksum != _checksum(manifest):
        raise DamagedError(f"{path}: its bytes are not those that were written; delete the gallery and search again")
    if manifest["format"] != FORMAT:
        raise ConfigError(f"{path}: format {manifest['format']}, this version reads {FORMAT}; search into a new folder")
    return manifest


def _checksum(manifest: dict[str, Any]) -> str:
    return f"{crc32c(json.dumps(manifest, sort_keys=True).encode()):08x}"
