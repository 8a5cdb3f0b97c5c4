"""Compiled loops over int8 features with one scale per channel and block of consecutive positions.

Axes: P positions, K channels. They release the interpreter lock, so reading threads overlap.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

BLOCK = 256  # consecutive positions that share one scale per channel
LIMIT = np.float32(127)
_FLOAT_MAX = np.finfo(np.float32).max
_WIDENED = 1 << 16  # values at a time: both passes over them stay in the processor's cache


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


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _widen(bits: NDArray[np.uint16], wide_bits: NDArray[np.uint32], wide: NDArray[np.float32]) -> None:
    for i in range(bits.shape[0]):
        half = np.uint32(bits[i])
        wide_bits[i] = (half & np.uint32(0x8000)) << np.uint32(16) | (half & np.uint32(0x7FFF)) << np.uint32(13)
    for i in range(bits.shape[0]):
        wide[i] *= np.float32(2.0**112)  # the two formats' exponents are offset by 15 and 127


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _all_finite(bits: NDArray[np.uint16]) -> bool:
    bad = 0
    for i in range(bits.shape[0]):
        bad += (bits[i] & np.uint16(0x7C00)) == np.uint16(0x7C00)
    return bad == 0


def widen(half: NDArray[np.float16], out: NDArray[np.float32]) -> None:
    """``out`` = ``half``, both contiguous and of one size; infinities would come out wrong."""
    flat = out.reshape(-1)
    for start in range(0, flat.size, _WIDENED):
        piece = flat[start : start + _WIDENED]
        _widen(half.reshape(-1)[start : start + _WIDENED].view(np.uint16), piece.view(np.uint32), piece)


def all_finite(x: NDArray[Any]) -> bool:
    """Whether a contiguous float16 or float32 array holds neither NaN nor infinity."""
    return bool(_all_finite(x.reshape(-1).view(np.uint16)) if x.dtype == np.float16 else np.isfinite(x).all())


def as_float32(x: NDArray[Any]) -> NDArray[np.float32]:
    """Finite float16 or float32 as contiguous float32."""
    if x.dtype != np.float16:
        return np.ascontiguousarray(x, np.float32)
    out = np.empty(x.shape, np.float32)
    widen(np.ascontiguousarray(x), out)
    return out


def scales_of(maxima: NDArray[np.float32]) -> NDArray[np.float16]:
    """Smallest float16 scales with which no value exceeds 127: (blocks, K). Infinite where float16 cannot hold it."""
    exact = maxima / LIMIT
    with np.errstate(over="ignore"):
        scales: NDArray[Any] = exact.astype(np.float16)
        rounded_down = scales.astype(np.float32) < exact
        return np.where(rounded_down, np.nextafter(scales, np.float16(np.inf)), scales).astype(np.float16)
