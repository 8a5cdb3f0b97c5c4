"""The most similar rows of a gallery in half precision: every row is looked at once, and the answer is exact.

A half-precision component of a unit vector is a multiple of 2^-24, and so is one of a query (see
``metrics.similarity``): sums of their products are exact in float64 in any order. A single-precision product says which
rows cannot be among the k most similar; only the others are multiplied exactly. So the ranking is that of a scan in
float64 throughout, whatever the block size, thread count and processor.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import float32, uint32
from numba.extending import intrinsic
from numpy.typing import NDArray

from diffps.compiled import compiled
from diffps.errors import DatasetError
from diffps.metrics.similarity import exact_unit_rows, rounding_bound

BLOCK = 1 << 16  # rows that one thread ranks at a time
LONGEST = 1.5  # a product beyond it is no cosine: a component is NaN or infinite, or the row was never normalised
_INFINITE = np.uint32(0x7F800000)  # its bits


@dataclass(frozen=True, slots=True)
class Nearest:
    """The k most similar rows of each query: ``rows`` (Q, k), -1 beyond the gallery's end, and ``similarity`` (Q, k),
    -inf there. Most similar first; equals in order of their rows."""

    rows: NDArray[np.int64]
    similarity: NDArray[np.float64]


def nearest(
    queries: NDArray[np.floating], parts: Sequence[NDArray[np.float16]], k: int, *, threads: int | None = None
) -> Nearest:
    """Rank the rows of a gallery by cosine similarity to each query.

    ``queries`` (Q, D), of any length but zero. ``parts``: (n, D) float16 rows of unit length, in memory or mapped from
    files; rows are numbered through all parts from 0. Several queries read each row together. ``threads`` None: as many
    as there are processors.

    Raises DatasetError for shapes and types that do not fit, and for rows and queries that are NaN, infinite or, as far
    as a product shows it, not of unit length.
    """
    asked = _check(queries, parts, k)
    starts = np.cumsum([0, *(len(part) for part in parts)])
    blocks = [
        (int(start) + at, part[at : at + BLOCK].view(np.uint16))
        for start, part in zip(starts, parts, strict=False)
        for at in range(0, len(part), BLOCK)
    ]

    def rank(block: tuple[int, NDArray[np.uint16]]) -> Nearest:
        first, bits = block
        rows = np.full((len(asked), k), -1, np.int64)
        similarity = np.full((len(asked), k), -np.inf)
        bad = _rank(asked, bits, rows, similarity)
        if bad >= 0:
            raise DatasetError(f"gallery: row {first + bad} is not a finite embedding of unit length")
        return Nearest(np.where(rows < 0, -1, rows + first), similarity)

    if len(blocks) < 2:
        ranked = [rank(block) for block in blocks]
    else:
        # Threads of our own: Numba's wait for each other after every block, and may not be started from two threads.
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            ranked = list(pool.map(rank, blocks))
    rows = np.concatenate([np.full((len(asked), k), -1), *(part.rows for part in ranked)], axis=1)
    similarity = np.concatenate([np.full((len(asked), k), -np.inf), *(part.similarity for part in ranked)], axis=1)
    # Blocks come in order of rows, and a stable sort keeps that among equals.
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return Nearest(np.take_along_axis(rows, order, 1), np.take_along_axis(similarity, order, 1))


def mean_embedding(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """One query (D,) of unit length from several pictures of a person (n, D): the mean of their unit vectors.

    Raises DatasetError for none, for components that are not finite, and where they cancel out.
    """
    rows = exact_unit_rows(embeddings, "query embeddings").astype(np.float64)
    if not len(rows):
        raise DatasetError("query embeddings: at least one is needed")
    mean: NDArray[np.float64] = rows.mean(0)
    length = np.linalg.norm(mean)
    if length < 1e-6:
        raise DatasetError("query embeddings: their mean is zero; they cannot show one person")
    return (mean / length).astype(np.float32)


def _check(queries: NDArray[np.floating], parts: Sequence[NDArray[np.float16]], k: int) -> NDArray[np.float32]:
    """The queries as unit rows. Compiled code trusts every length and type checked here."""
    if k < 0:
        raise DatasetError(f"search: k {k}; expected 0 or more")
    asked = exact_unit_rows(queries, "query embeddings")
    zero = np.flatnonzero(~asked.any(1))
    if len(zero):
        raise DatasetError(f"query embeddings: row {zero[0]} is zero; it resembles nobody")
    for number, part in enumerate(parts):
        if part.dtype != np.float16 or part.ndim != 2 or part.shape[1] != asked.shape[1]:
            raise DatasetError(
                f"gallery: part {number} is {part.dtype} {part.shape}; expected float16 (n, {asked.shape[1]})"
            )
        if not part.flags.c_contiguous:
            raise DatasetError(f"gallery: part {number} does not lie row by row in memory")
    return asked


def _bitcast(typing: Any, bits: Any) -> Any:
    kind = float32(uint32)
    return kind, lambda context, builder, _, values: builder.bitcast(values[0], context.get_value_type(float32))


_as_float: Any = intrinsic(_bitcast)  # the float32 that a uint32's bits are


@compiled()
def _widen(half: np.uint16) -> np.float32:
    """The number that these bits are in half precision; NaN for an infinity too. Not the processor's own instruction,
    which some lack: a compiled call of it would end the process there."""
    bits = np.uint32(half)
    magnitude = np.uint32(bits & np.uint32(0x7FFF))
    wide = (bits & np.uint32(0x8000)) << np.uint32(16) | magnitude << np.uint32(13)
    special = _INFINITE if magnitude >= np.uint32(0x7C00) else np.uint32(0)
    # The two formats' exponents are offset by 15 and 127; infinity times zero is NaN.
    result: np.float32 = _as_float(wide) * np.float32(2.0**112) + _as_float(special) * np.float32(0)
    return result


@compiled(reassociate=True)
def _about(query: NDArray[np.float32], row: NDArray[np.uint16]) -> np.float32:
    """Inner product in single precision, within ``rounding_bound`` of the exact one."""
    total = np.float32(0)
    for k in range(len(query)):
        total += query[k] * _widen(row[k])
    return total


@compiled(reassociate=True)
def _exact(query: NDArray[np.float32], row: NDArray[np.uint16]) -> float:
    total = 0.0
    for k in range(len(query)):
        total += np.float64(query[k]) * np.float64(_widen(row[k]))
    return total


@compiled()
def _rank(
    queries: NDArray[np.float32], bits: NDArray[np.uint16], rows: NDArray[np.int64], similarity: NDArray[np.float64]
) -> int:
    """Fill ``rows`` and ``similarity`` (Q, k) with the block's best; gives a row that is no embedding, or -1."""
    error = rounding_bound(queries.shape[1])
    for row in range(len(bits)):
        for q in range(len(queries)):
            about = _about(queries[q], bits[row])
            if not abs(about) < LONGEST:
                return row
            if rows.shape[1] and about >= similarity[q, -1] - error:
                _insert(rows[q], similarity[q], row, _exact(queries[q], bits[row]))
    return -1


@compiled()
def _insert(rows: NDArray[np.int64], values: NDArray[np.float64], row: int, value: float) -> None:
    """Put a row where it belongs, behind its equals; the last one falls out."""
    slot = len(values)
    while slot > 0 and value > values[slot - 1]:
        slot -= 1
    for moved in range(len(values) - 1, slot, -1):
        rows[moved], values[moved] = rows[moved - 1], values[moved - 1]
    if slot < len(values):
        rows[slot], values[slot] = row, value
