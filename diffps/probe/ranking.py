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


def chance_variance(right: NDArray[np.integer], total: NDArray[np.integer]) -> NDArray[np.float64]:
    """Variance of the average precision of such an order, element by element; NaN where m is 0.

    Average precision is 1/m sum_k I_k (1 + S_k) / k, with I_k = 1 where the item at rank k is right and S_k of those
    before it are. Its square needs the chance p_j = m (m - 1) ... / n (n - 1) ... that j given items are all right:
    E[X_k X_k] = (p1 + 3 (k - 1) p2 + (k - 1) (k - 2) p3) / k^2 and, for k < l,
    E[X_k X_l] = (2 p2 + (3k + l - 5) p3 + (k - 1) (l - 3) p4) / (k l), summed over k first.
    """
    m, n = np.asarray(right, np.float64)[..., None], np.asarray(total, np.int64)
    ranks = np.arange(1.0, n.max(initial=0) + 1)
    before, one = np.cumsum(1 / ranks) - 1 / ranks, np.ones_like(m)
    p1, p2, p3, p4 = np.cumprod([(m - j).clip(0) / (n[..., None] - j).clip(1) * one for j in range(4)], axis=0)
    same = (p1 + 3 * (ranks - 1) * p2 + (ranks - 1) * (ranks - 2) * p3) / ranks**2
    pairs = 2 * before * p2 + (3 * (ranks - 1) + (ranks - 5) * before) * p3 + (ranks - 3) * (ranks - 1 - before) * p4
    within = ranks <= n[..., None]
    square = ((same + 2 * pairs / ranks) * within).sum(-1) / np.maximum(m[..., 0], 1) ** 2
    found: NDArray[np.float64] = (square - chance_precision(right, total) ** 2).clip(0)
    return found
