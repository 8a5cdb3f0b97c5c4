"""Average precision of many rankings at once, and what chance gives."""

import numpy as np
from numpy.typing import NDArray

from diffps.compiled import compiled


def average_precisions(scores: NDArray[np.floating], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(...,) average precision of each row of ``scores`` (..., n) for ``right`` (..., n); NaN where nothing is right.

    Equal scores share the precision down to the last of them, as in :func:`diffps.metrics.detection.average_precision`.
    Scores are rounded to float32 first: what only the rounding of sums in float64 tells apart is equal.
    """
    rows = np.ascontiguousarray(scores, np.float32).reshape(-1, scores.shape[-1])
    hits = np.ascontiguousarray(np.broadcast_to(right, scores.shape)).reshape(rows.shape)
    # Only values are sorted, which NumPy does faster than indices: a precision needs no more than two counts.
    return _from_sorted(np.sort(rows), rows, hits).reshape(scores.shape[:-1])


@compiled()
def _from_sorted(
    ascending: NDArray[np.float32], scores: NDArray[np.float32], right: NDArray[np.bool_]
) -> NDArray[np.float64]:
    found = np.full(len(scores), np.nan)
    for row in range(len(scores)):
        hits = np.sort(scores[row][right[row]])
        total, count = ascending.shape[1], len(hits)
        place = first = 0
        precision = 0.0
        for hit in range(count):
            if hits[hit] != hits[first]:
                first = hit
            while place < total and ascending[row, place] < hits[hit]:
                place += 1
            precision += (count - first) / (total - place)
        if count:
            found[row] = precision / count
    return found


def chance_precision(right: NDArray[np.integer], total: NDArray[np.integer]) -> NDArray[np.float64]:
    """Expected average precision of a random order of ``total`` items of which ``right`` are right, element by element.

    The item at rank k is right with probability m / n; then of the k - 1 before it a share (m - 1) / (n - 1) is:
    E = 1/n sum_k [1 + (k - 1) (m - 1) / (n - 1)] / k. NaN where m is 0.
    """
    m, n = np.asarray(right, np.float64), np.asarray(total, np.int64)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n.max(initial=0) + 1))])[n]
    share = np.where(n > 1, (m - 1) / np.maximum(n - 1, 1), 0.0)
    expected: NDArray[np.float64] = (harmonic + share * (n - harmonic)) / np.maximum(n, 1)
    return np.where(m > 0, expected, np.nan)
