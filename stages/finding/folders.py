"""A folder of photographs as a gallery: what is new in it is computed once, what left it is forgotten."""

import hashlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from cache.files import make_folder
from diffps.datasets.discovery import find_images
from diffps.errors import DatasetError, ImageError
from diffps.geometry import Canvas
from diffps.images import MAX_PIXELS, canvas_tensor
from diffps.names import from_text
from stages.features.batches import ahead, chunks
from stages.finding.embedder import BATCH, Embedder, OnCanvas
from stages.finding.gallery_files import MANIFEST, GalleryWriter, LoadedGallery, load_gallery
from stages.finding.photos import content_of
from stages.finding.segments import NamedFile
from stages.job import Job, StoppedError

FOUND = 0.5  # detections below this score are kept in no gallery, as evaluate keeps none


def gallery_place(galleries: Path, folder: Path, head: str) -> Path:
    """Where what the head (a digest) found in ``folder`` is kept."""
    place = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
    return galleries / f"{folder.resolve().name or 'root'}-{place}-{head[:8]}"


def update_gallery(
    folder: Path,
    place: Path,
    head: str,
    size: int,
    canvas: Canvas,
    embedder: Callable[[], Embedder],
    job: Job,
    max_pixels: int = MAX_PIXELS,
) -> LoadedGallery:
    """Let the gallery at ``place`` hold exactly what ``folder`` shows, and load it; ``head`` is the digest of the head,
    ``size`` its embeddings' number of components.

    Only content that was never seen is computed, ``BATCH`` pictures at a time, each batch durable. Pictures that cannot
    be read are said and left out. Raises DatasetError for a folder without pictures, StoppedError.
    """
    there = find_images(folder)
    if not there.images:
        raise DatasetError(f"{folder}: holds no picture of a kind that is read (JPEG, PNG, WebP, TIFF, HEIC, ...)")
    make_folder(place.parent)
    with GalleryWriter(place, head, size) as writer:
        files = list(_named(folder, there.images, writer.files(), job, max_pixels))
        lacking = writer.lacking(files)
        if lacking:
            _compute(folder, lacking, writer, canvas, embedder, job, max_pixels)
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


def _compute(
    folder: Path,
    lacking: list[NamedFile],
    writer: GalleryWriter,
    canvas: Canvas,
    embedder: Callable[[], Embedder],
    job: Job,
    max_pixels: int,
) -> None:
    model = embedder()

    def load(file: NamedFile) -> OnCanvas | ImageError:
        path = folder / from_text(file.name)
        try:
            _, size = content_of(path, max_pixels)
            pixels = canvas_tensor(path, canvas, digest=file.digest, max_pixels=max_pixels)
            return OnCanvas(file.digest, size, pixels)
        except ImageError as error:
            return error

    with job.track("search", len(lacking), "new pictures") as tracker:
        for batch in chunks(zip(lacking, ahead(load, lacking, threads=2, depth=2 * BATCH), strict=True), BATCH):
            readable = [(file, picture) for file, picture in batch if isinstance(picture, OnCanvas)]
            for _, picture in batch:
                if isinstance(picture, ImageError):
                    job.say(f"left out: {picture}")
            found = model.detect([picture for _, picture in readable], FOUND)
            writer.append(
                [(file, picture.size, people) for (file, picture), people in zip(readable, found, strict=True)]
            )
            tracker.advance(len(batch))
            if job.stopping:
                raise StoppedError("search: stopped; what was found is kept, the same command goes on")
