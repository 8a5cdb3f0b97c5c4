"""What every dataset reader needs of a disk: images measured once, files that must be there, boxes made clean."""

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from diffps.errors import DatasetError, ImageError
from diffps.images import UNREADABLE, read_image_file, why_unreadable

TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)  # EXIF orientations that swap width and height when displayed


class ImageFacts(NamedTuple):
    """What the index keeps of an image file: size as displayed, SHA-256 of the bytes in hex.

    A file whose header cannot be read has the size 0 x 0.
    """

    width: int
    height: int
    digest: str


Measure = Callable[[Sequence[Path]], list[ImageFacts]]


def measure_image(path: Path) -> ImageFacts:
    """Size (EXIF orientation applied) and digest of one file; its pixels are not decoded. Raises ImageError."""
    data = read_image_file(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if image.getexif().get(ExifTags.Base.Orientation) in TRANSPOSING_ORIENTATIONS:
                width, height = height, width
    except UNREADABLE as error:
        raise ImageError(f"{path}: not a readable image ({why_unreadable(data, error)})") from error
    return ImageFacts(width, height, hashlib.sha256(data).hexdigest())


def measure_images(
    paths: Sequence[Path],
    threads: int = 1,
    progress: Callable[[int], None] = lambda nbytes: None,
    *,
    keep_unreadable: bool = False,
) -> list[ImageFacts]:
    """:func:`measure_image` of every path, in order, on ``threads`` threads; ``progress(bytes)`` after each.

    ``keep_unreadable``: a file without a readable header gets the size 0 x 0 instead of raising.
    """

    def measure(path: Path) -> ImageFacts:
        try:
            return measure_image(path)
        except ImageError:
            if not keep_unreadable:
                raise
            return ImageFacts(0, 0, hashlib.sha256(read_image_file(path)).hexdigest())

    facts = []
    with ThreadPoolExecutor(threads) as pool:
        try:
            for path, fact in zip(paths, pool.map(measure, paths), strict=True):
                facts.append(fact)
                progress(path.stat().st_size)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return facts


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


def load_mat(path: Path, dataset: str, what: str, keys: Sequence[str]) -> tuple[str, Any]:
    """(key, array) of the one of ``keys`` that the MATLAB file holds. Raises DatasetError naming file and keys."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    require(path, dataset, what)
    try:
        content = loadmat(path)
    except (ValueError, TypeError, IndexError, NotImplementedError, MatReadError, OSError) as error:
        raise DatasetError(f"{dataset}: {path} is not a MATLAB 5 file scipy can read ({error})") from error
    found = [key for key in keys if key in content]
    if len(found) != 1:
        present = ", ".join(key for key in content if not key.startswith("__")) or "none"
        raise DatasetError(f"{dataset}: {path} must hold exactly one of the keys {', '.join(keys)}; found {present}")
    return found[0], content[found[0]]


def corner_boxes(boxes: NDArray[Any]) -> NDArray[np.float32]:
    """Boxes (n, 4) x, y, w, h of any type as float32 x1, y1, x2, y2; cast before adding, since uint8 overflows."""
    x, y, w, h = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return np.stack([x, y, x + w, y + h], axis=1).astype(np.float32)


def clip_boxes(boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes (n, 4) x1, y1, x2, y2 cut at the frame of ``size`` = (height, width); (0, 0) is an unknown size."""
    height, width = size if any(size) else (np.inf, np.inf)
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)


class CleanBoxes(NamedTuple):
    """Corner boxes in the frame, which of the given rows they are, and what happened to the others."""

    boxes: NDArray[np.float32]
    kept: NDArray[np.bool_]
    clipped: int


def clean_boxes(boxes_xywh: NDArray[Any], size: tuple[int, int], min_box: tuple[int, int]) -> CleanBoxes:
    """Rows x, y, w, h at least ``min_box`` = (width, height) large, w and h added first, then clipped to the frame.

    Boxes without area, in the file or after clipping, are never kept.
    """
    widths_heights = np.asarray(boxes_xywh, np.float64).reshape(-1, 4)[:, 2:]
    corners = corner_boxes(boxes_xywh)
    clipped = clip_boxes(corners, size)
    large = np.all((widths_heights >= min_box) & (widths_heights > 0), axis=1)
    kept = large & np.all(clipped[:, 2:] > clipped[:, :2], axis=1)
    return CleanBoxes(clipped[kept], kept, int((clipped != corners).any(1)[kept].sum()))


def summarise(names: Iterable[str], limit: int = 5) -> str:
    """The first few of some names, for a message."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
