"""How much two taps say the same of persons: linear CKA between their pooled vectors, without the bias of few boxes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MOST_BOXES = 512  # the estimate has no bias that shrinks with more
_ROWS = 64  # of every kernel at once: memory stays flat


def similarity(vectors: Mapping[str, NDArray[np.floating]], names: Sequence[str], seed: int) -> NDArray[np.float64]:
    """(T, T) debiased linear CKA of ``vectors[name]`` (n, ...) of the same n boxes, of which a seeded 512 are taken.

    1 for taps that are turns and scalings of each other, about 0 for unrelated ones; below 0 by chance. HSIC is the
    unbiased estimator (Song et al., 2012, Eq. 5), which centres by itself. NaN with fewer than four boxes and for taps
    that never change.
    """
    boxes = len(vectors[names[0]]) if names else 0
    if boxes < 4:
        return np.full((len(names), len(names)), np.nan)
    chosen = np.sort(np.random.default_rng(seed).permutation(boxes)[:MOST_BOXES])
    rows = []
    for name in names:
        values = vectors[name][chosen].reshape(len(chosen), -1).astype(np.float64)
        values -= values.mean(0)
        rows.append(values / (np.linalg.norm(values) or np.inf))
    covariance = _unbiased_hsic(rows, len(chosen))
    scale = np.sqrt(covariance.diagonal().clip(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: NDArray[np.float64] = covariance / scale / scale[:, None]
    return found


def _unbiased_hsic(rows: Sequence[NDArray[np.float64]], n: int) -> NDArray[np.float64]:
    """HSIC of every pair of kernels x x' without their diagonals, n (n - 3) times."""
    sums = np.stack([value @ value.sum(0) - (value**2).sum(1) for value in rows])
    products = np.zeros((len(rows), len(rows)))
    for first in range(0, n, _ROWS):
        block = np.stack([value[first : first + _ROWS] @ value.T for value in rows])
        width = block.shape[1]
        block[:, np.arange(width), np.arange(first, first + width)] = 0
        flat = block.reshape(len(rows), -1)
        products += flat @ flat.T
    total = sums.sum(1)
    products += np.outer(total, total) / ((n - 1) * (n - 2)) - 2 / (n - 2) * sums @ sums.T
    return products
