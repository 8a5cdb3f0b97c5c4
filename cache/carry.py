"""Images of a shard that nobody asks for now, but that are whole: rewriting their shard must not lose them."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.errors import DamagedError
from cache.layout import ZARR, ArraySpec, shard_file
from cache.receipts import Name, ReceiptBook
from cache.rows import RowTable
from cache.shards import read_chunk

log = logging.getLogger(__name__)


class CarriedImage(NamedTuple):
    """A row, the digest and name it was written for, why it was skipped if so, and its chunk of each part as it lies on
    disk."""

    row: int
    digest: str
    name: Name | None
    reason: str | None
    chunks: dict[str, NDArray[np.uint8]]


def carried_images(
    root: Path, spec: ArraySpec, shard: int, shard_size: int, asked: tuple[int, ...]
) -> Iterator[CarriedImage]:
    """What the present shard of ``spec`` holds beside the rows ``asked`` for and is still of today's images, verified.

    What turns out damaged is left out with a warning: it counts as missing from then on.
    """
    receipt = ReceiptBook.of(root, spec.group, shard).find(shard, spec.name)
    if receipt is None or receipt.arrays[spec.name][0] != spec.id or set(receipt.rows) <= set(asked):
        return
    current = RowTable.of(root, spec.group.split)
    images = zip(receipt.rows, receipt.digests, receipt.names, strict=True)
    for position, (row, digest, name) in enumerate(images):
        if row in asked or current.digest(row) != digest:
            continue
        if row in receipt.skipped:
            yield CarriedImage(row, digest, name, receipt.skipped[row], {})
            continue
        chunks = {}
        try:
            for suffix, (shape, _) in spec.parts().items():
                file = shard_file(root / ZARR / (spec.path + suffix), shard, len(shape))
                expected = receipt.arrays[spec.name][1][suffix].crc32c[position]
                chunks[suffix] = read_chunk(file, row % shard_size, shard_size, expected)
        except DamagedError as error:
            log.warning("row %d of %s is lost: %s", row, spec.path, error)
            continue
        yield CarriedImage(row, digest, name, None, chunks)
