"""A folder of photographs as a gallery: what is new in it is computed once, what left it is forgotten."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from cache.files import make_folder
from diffps.datasets.discovery import find_images
from diffps.errors import DatasetError, ImageError
from diffps.names import from_text
from diffps.records import Detections
from stages.features.batches import ahead
from stages.finding.gallery_files import MANIFEST, GalleryWriter, LoadedGallery, load_gallery
from stages.finding.photos import content_of
from stages.finding.segments import NamedFile
from stages.job import Job, StoppedError

FOUND = 0.5  # detections below this score are kept in no gallery, as evaluate keeps none

Found = tuple[NamedFile, tuple[int, int], Detections]  # a picture, its (height, width) as displayed, who is in it


class Finder(Protocol):
    """Who is in the pictures of a folder."""

    def prepare(self, files: Sequence[NamedFile], job: Job) -> None:
        """These are all that are there; nothing may be kept of others. Raises StoppedError."""

    def find(self, files: Sequence[NamedFile]) -> Iterator[list[Found | ImageError]]:
        """What is in some of them, batch by batch, in order; ImageError for one that cannot be read."""


def folder_name(folder: Path) -> str:
    """What ``folder`` is called among searched folders: its own name, and what tells it from others of that name."""
    place = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{folder.resolve().name or 'root'}-{place}"


def gallery_place(galleries: Path, folder: Path, head: str) -> Path:
    """Where what the head (a digest) found in ``folder`` is kept."""
    return galleries / f"{folder_name(folder)}-{head[:8]}"


def update_gallery(
    folder: Path,
    place: Path,
    head: str,
    size: int,
    finder: Finder,
    job: Job,
    max_pixels: int,
) -> LoadedGallery:
    """Let the gallery at ``place`` hold exactly what ``folder`` shows, and load it; ``head`` is the digest of the head,
    ``size`` its embeddings' number of components.

    Only content that was never seen is looked at, batch by batch, each durable. Pictures that cannot be read are said
    and left out. Raises DatasetError for a folder without pictures, StoppedError.
    """
    there = find_images(folder)
    if not there.images:
        raise DatasetError(f"{folder}: holds no picture of a kind that is read (JPEG, PNG, WebP, TIFF, HEIC, ...)")
    make_folder(place.parent)
    with GalleryWriter(place, head, size) as writer:
        files = list(_named(folder, there.images, writer.files(), job, max_pixels))
        finder.prepare(files, job)
        lacking = writer.lacking(files)
        if lacking:
            _append(lacking, writer, finder, job)
        writer.keep(files)
    return load_gallery(place, head)


def forget_content(galleries: Path, digests: Collection[str]) -> dict[Path, list[str]]:
    """Delete the images with these contents from every gallery below ``galleries``, and all that was found in them;
    gives the names that each gallery knew them by.

    A picture that stays in its folder is taken up again when the folder is searched. Raises LockedError.
    """
    gone: dict[Path, list[str]] = {}
    for manifest in sorted(galleries.glob(f"*/{MANIFEST}")):
        with GalleryWriter(manifest.parent, None) as writer:
            files = writer.files()
            kept = [file for file in files if file.digest not in digests]
            if len(kept) < len(files):
                writer.keep(kept)
                gone[manifest.parent] = sorted(file.name for file in files if file.digest in digests)
    return gone


def _named(
    folder: Path, names: tuple[str, ...], known: list[NamedFile], job: Job, max_pixels: int
) -> Iterator[NamedFile]:
    """Every picture with its content; one whose name, bytes and time are those of before is not read again."""
    stamped = {(file.name, file.nbytes, file.modified): file for file in known}

    def look(name: str) -> NamedFile | ImageError:
        path = folder / from_text(name)
        try:
            status = path.stat()
            before = stamped.get((name, status.st_size, status.st_mtime_ns))
            if before is not None:
                return before
            return NamedFile(name, content_of(path, max_pixels)[0], status.st_size, status.st_mtime_ns)
        except (ImageError, OSError) as error:
            return error if isinstance(error, ImageError) else ImageError(f"{path}: no readable file")

    for found in ahead(look, names, threads=4, depth=64):
        if isinstance(found, ImageError):
            job.say(f"left out: {found}")
        else:
            yield found


def _append(lacking: list[NamedFile], writer: GalleryWriter, finder: Finder, job: Job) -> None:
    with job.track("search", len(lacking), "new pictures") as tracker:
        for batch in finder.find(lacking):
            for found in batch:
                if isinstance(found, ImageError):
                    job.say(f"left out: {found}")
            writer.append([found for found in batch if not isinstance(found, ImageError)])
            tracker.advance(len(batch))
            if job.stopping:
                raise StoppedError("search: stopped; what was found is kept, the same command goes on")
