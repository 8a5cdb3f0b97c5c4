"""Compiled loops over int8 features with one scale per channel and block of consecutive positions.

Axes: P positions, K channels. They release the interpreter lock, so reading threads overlap.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

BLOCK = 256  # consecutive positions that share one scale per channel
LIMIT = np.float32(127)
_SMALLEST, _LARGEST = np.float32(2**-24), np.float32(65504)  # of float16, in which scales are stored
_FLOAT_MAX = np.finfo(np.float32).max


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def dequantise(values: NDArray[np.int8], scales: NDArray[np.float32], out: NDArray[np.float32], first: int) -> None:
    """``out`` (P, K) = ``values`` (P, K) x ``scales`` (blocks, K); position 0 is number ``first`` of the image."""
    for p in range(values.shape[0]):
        block = (first + p) // BLOCK
        for k in range(values.shape[1]):
            out[p, k] = np.float32(values[p, k]) * scales[block, k]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def block_maxima(x: NDArray[np.float32], maxima: NDArray[np.float32]) -> bool:
    """Largest magnitude of ``x`` (P, K) per block and channel into ``maxima`` (blocks, K); whether all are finite."""
    bad = 0
    maxima[:] = 0
    for p in range(x.shape[0]):
        block = p // BLOCK
        for k in range(x.shape[1]):
            magnitude = abs(x[p, k])
            bad += not magnitude <= _FLOAT_MAX
            maxima[block, k] = max(maxima[block, k], magnitude)
    return bad == 0


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def quantise(x: NDArray[np.float32], scales: NDArray[np.float32], values: NDArray[np.int8]) -> None:
    """``values`` (P, K) = ``x`` (P, K) / ``scales`` (blocks, K), rounded half to even; 0 where the scale is 0."""
    inverse = np.empty(scales.shape[1], np.float32)
    for p in range(x.shape[0]):
        if p % BLOCK == 0:
            for k in range(inverse.shape[0]):
                scale = scales[p // BLOCK, k]
                inverse[k] = np.float32(0) if scale == 0 else np.float32(1) / scale
        for k in range(x.shape[1]):
            values[p, k] = np.int8(np.rint(min(max(x[p, k] * inverse[k], -LIMIT), LIMIT)))


def scales_of(maxima: NDArray[np.float32]) -> NDArray[np.float16]:
    """Smallest float16 scales with which no value exceeds 127: (blocks, K). Infinite where float16 cannot hold it."""
    exact = maxima / LIMIT
    with np.errstate(over="ignore"):
        scales: NDArray[Any] = exact.astype(np.float16)
        rounded_down = scales.astype(np.float32) < exact
        return np.where(rounded_down, np.nextafter(scales, np.float16(np.inf)), scales).astype(np.float16)
