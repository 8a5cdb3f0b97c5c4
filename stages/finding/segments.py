"""One file of a gallery: some images, who was found in them, and their embeddings, in the safetensors format.

Arrays are mapped, not read; whoever opens the file names the checksum that its bytes must have.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from cache.checksum import crc32c
from cache.errors import DamagedError


class NamedFile(NamedTuple):
    """An image file as it lay on disk: its name, SHA-256 in hex, bytes, and time of its last change in ns."""

    name: str
    digest: str
    nbytes: int
    modified: int


class ImageEntry(NamedTuple):
    """An image of a segment: content, size as displayed, the boxes found, and the files that hold this content."""

    digest: str
    height: int
    width: int
    boxes: int
    files: tuple[NamedFile, ...]


@dataclass(frozen=True)
class Segment:
    """Images and, row by row in their order, ``boxes`` (n, 4) float32 x1, y1, x2, y2 in the displayed image, ``scores``
    (n,) float32 and ``embeddings`` (n, D) float16 unit rows.

    Of each image ``digests`` (m, 32) uint8, ``sizes`` (m, 2) int32 height and width, ``counts`` (m, 2) int32 boxes and
    files; of each file ``names`` and ``stamps`` (f, 2) int64 bytes and time.
    """

    digests: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    counts: NDArray[np.int32]
    names: list[str]
    stamps: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    embeddings: NDArray[np.float16]

    @classmethod
    def of(
        cls,
        images: Sequence[ImageEntry],
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        embeddings: NDArray[np.float16],
    ) -> "Segment":
        """A segment from its images."""
        files = [file for image in images for file in image.files]
        return cls(
            digests=np.frombuffer(bytes.fromhex("".join(image.digest for image in images)), np.uint8).reshape(-1, 32),
            sizes=np.array([(image.height, image.width) for image in images], np.int32).reshape(-1, 2),
            counts=np.array([(image.boxes, len(image.files)) for image in images], np.int32).reshape(-1, 2),
            names=[file.name for file in files],
            stamps=np.array([(file.nbytes, file.modified) for file in files], np.int64).reshape(-1, 2),
            boxes=boxes,
            scores=scores,
            embeddings=embeddings,
        )

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def first_names(self) -> list[str]:
        """One name of each image."""
        starts = np.cumsum(self.counts[:, 1]) - self.counts[:, 1]
        return [self.names[start] for start in starts.tolist()]

    @cached_property
    def images(self) -> tuple[ImageEntry, ...]:
        """The images, as records."""
        found, start = [], 0
        stamps = self.stamps.tolist()
        rows = zip(self.digests, self.sizes.tolist(), self.counts.tolist(), strict=True)
        for digest_bytes, (height, width), (boxes, files) in rows:
            digest = digest_bytes.tobytes().hex()
            of_image = range(start, start + files)
            found.append(
                ImageEntry(
                    digest, height, width, boxes, tuple(NamedFile(self.names[i], digest, *stamps[i]) for i in of_image)
                )
            )
            start += files
        return tuple(found)

    def only(self, images: Sequence[ImageEntry]) -> "Segment":
        """The part that belongs to some of the images, by content; their files may be others now."""
        starts = dict(zip((image.digest for image in self.images), np.cumsum(self.counts[:, 0]).tolist(), strict=True))
        rows = [np.arange(starts[image.digest] - image.boxes, starts[image.digest]) for image in images]
        at = np.concatenate([np.empty(0, np.int64), *rows])
        return Segment.of(images, self.boxes[at], self.scores[at], self.embeddings[at])


def joined(segments: Sequence[Segment]) -> Segment:
    """Several as one."""
    return Segment.of(
        [image for segment in segments for image in segment.images],
        np.concatenate([segment.boxes for segment in segments]),
        np.concatenate([segment.scores for segment in segments]),
        np.concatenate([segment.embeddings for segment in segments]),
    )


def packed(segment: Segment) -> bytes:
    """The file's content."""
    tensors = {name: np.ascontiguousarray(getattr(segment, name)) for name in _TYPES if name != "names"}
    return save({"names": np.frombuffer(json.dumps(segment.names).encode(), np.uint8), **tensors})


def open_segment(path: Path, checksum: str) -> Segment:
    """The segment at ``path``. Raises DamagedError where its bytes are not those of ``checksum``, and
    FileNotFoundError."""
    content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    if f"{crc32c(content):08x}" != checksum:
        raise DamagedError(f"{path}: its bytes are not those that were written; delete the gallery and search again")
    # 8 bytes of length, so much JSON, then the data, each tensor where the JSON says.
    length = int(content[:8].view("<u8")[0])
    header = json.loads(content[8 : 8 + length].tobytes())
    data = content[8 + length :]
    tensors: dict[str, Any] = {}
    for name, kind in _TYPES.items():
        entry = header[name]
        tensors[name] = data[slice(*entry["data_offsets"])].view(kind).reshape(entry["shape"])
    tensors["names"] = json.loads(tensors["names"].tobytes())
    return Segment(**tensors)


_TYPES = {
    "digests": np.uint8,
    "sizes": np.int32,
    "counts": np.int32,
    "names": np.uint8,
    "stamps": np.int64,
    "boxes": np.float32,
    "scores": np.float32,
    "embeddings": np.float16,
}
