"""Cosine similarity that comes out the same to the last bit, whatever multiplies the matrices.

Rounding every component of a unit vector to a multiple of 2^-24 (float32's own resolution at 1) makes each product a
multiple of 2^-48 and each partial sum at most about 1, so every sum is exact in float64 in any order. Ranks then cannot
depend on block size, thread count or the BLAS in use.
"""

import numpy as np
from numpy.typing import NDArray

from diffps.compiled import compiled, prange
from diffps.errors import DatasetError

GRID = 2.0**24


def exact_unit_rows(
    embeddings: NDArray[np.floating], what: str, order: NDArray[np.integer] | None = None
) -> NDArray[np.float32]:
    """Rows (n, d) scaled to unit length and rounded to multiples of 2^-24, which float32 holds exactly.

    Row i of the result is ``embeddings[order[i]]``, or ``embeddings[i]`` without ``order``. A zero row stays zero:
    similar to nothing. Raises DatasetError when a component is NaN or infinite.
    """
    embeddings = np.ascontiguousarray(embeddings)
    if embeddings.ndim != 2:
        raise DatasetError(f"{what}: shape {embeddings.shape}, expected (n, d)")
    if embeddings.dtype == np.float16:  # which Numba does not know
        embeddings = embeddings.astype(np.float32)
    order = np.arange(len(embeddings)) if order is None else order
    rows = np.empty((len(order), embeddings.shape[1]), np.float32)
    bad = _round_rows(embeddings, order, rows)
    if bad >= 0:
        raise DatasetError(f"{what}: row {bad} has a NaN or infinite component")
    return rows


@compiled(parallel=True)
def _round_rows(embeddings: NDArray[np.floating], order: NDArray[np.integer], rows: NDArray[np.float32]) -> int:
    """The squares are summed in order, so that a row's length does not depend on its neighbours."""
    finite = np.ones(len(order), np.bool_)
    for i in prange(len(order)):
        row = embeddings[order[i]]
        total = 0.0
        for value in row:
            total += np.float64(value) * np.float64(value)
        finite[i] = np.isfinite(total)
        scale = GRID / np.sqrt(total) if total > 0 else 0.0
        for k in range(len(row)):
            rows[i, k] = np.rint(np.float64(row[k]) * scale) / GRID
    for i in range(len(finite)):
        if not finite[i]:
            return int(order[i])
    return -1


@compiled(reassociate=True)
def dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Inner product of two rows of :func:`exact_unit_rows`: exact, hence equal to any matrix product's entry."""
    total = 0.0
    for k in range(len(a)):
        total += np.float64(a[k]) * np.float64(b[k])
    return total


@compiled()
def rounding_bound(dimensions: int) -> float:
    """How far a single-precision product of two such rows may lie from the exact one, whatever the order of its sums.

    gamma_n = n u / (1 - n u) with u = 2^-24, for n = ``dimensions`` (Higham, Accuracy and Stability of Numerical
    Algorithms, 3.1), times the rows' lengths, which rounding leaves within a thousandth of 1.
    """
    u = dimensions * 2.0**-24
    return 1.001 * u / (1 - u)
