"""The basis that ``project:k`` stores coefficients of."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import EncodingError, NonFiniteError
from cache.finite import not_finite


@dataclass(frozen=True)
class Basis:
    """Channel PCA: feature = ``mean`` (C,) + coefficients (..., K) @ ``vectors`` (K, C); float32."""

    mean: NDArray[np.float32]
    vectors: NDArray[np.float32]

    @cached_property
    def digest(self) -> str:
        """First ten hex digits of the SHA-256 of both arrays; part of the recipe."""
        data = np.ascontiguousarray(self.mean, "<f4").tobytes() + np.ascontiguousarray(self.vectors, "<f4").tobytes()
        return hashlib.sha256(data).hexdigest()[:10]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Basis) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def fit_basis(samples: NDArray[Any], k: int) -> Basis:
    """Principal channels of ``samples`` (positions, C), largest variance first, signs fixed.

    Raises EncodingError when k exceeds C, NonFiniteError on NaN or infinity.
    """
    x = np.asarray(samples, np.float64)
    if not np.isfinite(x).all():
        raise NonFiniteError(not_finite(samples))
    if not 1 <= k <= x.shape[1]:
        raise EncodingError(f"encoding project:{k}: the feature has only {x.shape[1]} channels")
    mean = x.mean(0)
    _, vectors = np.linalg.eigh((x - mean).T @ (x - mean))
    leading = vectors.T[::-1][:k]
    signs = np.sign(leading[np.arange(k), np.abs(leading).argmax(1)])[:, None]
    return Basis(mean.astype(np.float32), (leading * signs).astype(np.float32))
