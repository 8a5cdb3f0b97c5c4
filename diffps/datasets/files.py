"""What every dataset reader needs of a disk: images measured once, files that must be there, boxes in their frames."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.findings import Findings, Kind
from diffps.errors import DatasetError, ImageError
from diffps.images import MAX_PIXELS, decode, image_file, inspect, sha256_of
from diffps.images.display import Note

UNREADABLE = "cannot be read and are skipped"
# What a report makes of how an image is displayed.
NOTES: Mapping[Note | Literal["unreadable"], tuple[Kind, str]] = {
    "turned": ("fine", "are turned upright by their EXIF"),
    "frames": ("repaired", "hold several frames, of which the first is read"),
    "profile": ("repaired", "have a colour profile and are converted to sRGB"),
    "levels": ("repaired", "have more than 8 bits and are scaled to 8"),
    "reduced": ("repaired", "are so large that they are decoded smaller, as the canvas allows"),
    "levels_dark": (
        "doubtful",
        "use no more than a quarter of their levels and are dark; scale them if they hold fewer bits",
    ),
    "profile_broken": ("doubtful", "have a colour profile that does not fit or cannot be read, and are taken for sRGB"),
    "exif_broken": ("doubtful", "have EXIF that cannot be read, and are shown as stored"),
    "unreadable": ("refused", UNREADABLE),
}


class ImageFacts(NamedTuple):
    """What the index keeps of an image file: size as displayed, name of its pixels, notes for the report.

    ``digest`` is the SHA-256 of the bytes in hex; where the pixels are not their plain decoding, that of it and of the
    rules that apply (:class:`diffps.images.Display`). A file whose header cannot be read has the size 0 x 0.
    """

    width: int
    height: int
    digest: str
    notes: tuple[Note | Literal["unreadable"], ...] = ()


Measure = Callable[[Sequence[Path]], list[ImageFacts]]


def measure_image(path: Path, max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """Size, digest and notes of one file. Raises ImageError.

    Pixels are decoded only for those of more than 8 bits in one channel, to see whether they use them.
    """
    with image_file(path) as file:
        sha256 = sha256_of(file)
        image, display = inspect(file, max_pixels)
        dark = display.colours.deep and decode(image, display).dark
    notes = (*display.notes, "levels_dark") if dark else display.notes
    return ImageFacts(display.width, display.height, display.digest(sha256), notes)


def measure_images(
    paths: Sequence[Path],
    threads: int = 1,
    progress: Callable[[int], None] = lambda nbytes: None,
    *,
    keep_unreadable: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> list[ImageFacts]:
    """:func:`measure_image` of every path, in order, on ``threads`` threads; ``progress(bytes)`` after each.

    ``keep_unreadable``: a file that is there but no readable image gets the size 0 x 0 instead of raising.
    """

    def measure(path: Path) -> ImageFacts:
        try:
            return measure_image(path, max_pixels)
        except ImageError:
            if not keep_unreadable:
                raise
            with image_file(path) as file:
                return ImageFacts(0, 0, sha256_of(file), ("unreadable",))

    facts = []
    with ThreadPoolExecutor(threads) as pool:  # whose map gives up what it has not begun where this ends early
        for path, fact in zip(paths, pool.map(measure, paths), strict=True):
            facts.append(fact)
            progress(path.stat().st_size)
    return facts


def note_images(findings: Findings, names: Iterable[str], facts: Sequence[ImageFacts]) -> None:
    """Add to a report what was noted about images; ``names`` are theirs, for the first example of each."""
    findings.seen("images", len(facts))
    for name, fact in zip(names, facts, strict=True):
        for note in fact.notes:
            kind, reason = NOTES[note]
            findings.add(kind, reason, "images", name)


def same_pixels(names: Iterable[str], facts: Sequence[ImageFacts]) -> list[list[str]]:
    """Groups of images that are the same file under several names, in the order given."""
    groups: dict[str, list[str]] = {}
    for name, fact in zip(names, facts, strict=True):
        groups.setdefault(fact.digest, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def require(path: Path, dataset: str, what: str) -> Path:
    """``path``, or a DatasetError that says what was looked for, where, and what lies there instead."""
    if path.exists():
        return path
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    names = sorted(entry.name + "/" * entry.is_dir() for entry in parent.iterdir()) if parent.is_dir() else []
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    raise DatasetError(f"{dataset}: {what} missing: expected {path}; {parent} holds {shown or 'nothing'}")


def corner_boxes(boxes: NDArray[Any]) -> NDArray[np.float32]:
    """Boxes (n, 4) x, y, w, h of any type as float32 x1, y1, x2, y2; cast before adding, since uint8 overflows.

    What float32 cannot hold becomes an infinity or NaN, which callers refuse.
    """
    x, y, w, h = np.asarray(boxes, np.float64).reshape(-1, 4).T
    with np.errstate(over="ignore", invalid="ignore"):
        return np.stack([x, y, x + w, y + h], axis=1).astype(np.float32)


def clip_boxes(boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes (n, 4) x1, y1, x2, y2 cut at the frame of ``size`` = (height, width); (0, 0) is an unknown size."""
    height, width = size if any(size) else (np.inf, np.inf)
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)


def summarise(names: Iterable[str], limit: int = 5) -> str:
    """The first few of some names, for a message."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
