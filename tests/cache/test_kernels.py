"""Loops over more values than they take at a time, and over every edge of a block."""

import numpy as np
import pytest

from cache import kernels
from cache.encodings import BLOCK, HALF_BITS, HALF_MAX, BitRound, Float16, Float32, Int8, Project
from cache.errors import EncodingError, NonFiniteError
from cache.finite import not_finite


def test_widening_is_exact_however_many_values() -> None:
    for count in (1, 65535, 65536, 65537, 2 * 65536 + 3):
        half = np.arange(count, dtype=np.uint16).view(np.float16)
        half = np.where(np.isfinite(half), half, np.float16(0))
        out = np.full(count, np.nan, np.float32)
        kernels.widen(half, out)
        assert out.tobytes() == half.astype(np.float32).tobytes()


@pytest.mark.parametrize("first", [0, 1, 255, 256, 300])
def test_a_scale_is_of_its_block_wherever_a_piece_begins(first: int) -> None:
    values = np.arange(-300, 300, dtype=np.int16).clip(-127, 127).astype(np.int8).reshape(300, 2)
    scales = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    out = np.empty((300, 2), np.float32)
    kernels.dequantise(values, scales, out, first)
    blocks = (np.arange(300) + first) // 256
    np.testing.assert_array_equal(out, values * scales[blocks])


def test_what_is_largest_and_whether_all_is_finite_is_found_block_by_block() -> None:
    x = np.zeros((257, 2), np.float32)
    x[0, 0], x[255, 0], x[255, 1], x[256, 1] = -3, 2, 5, -7
    maxima = np.full((2, 2), 99, np.float32)
    assert kernels.block_maxima(x, maxima)
    assert maxima.tolist() == [[3, 5], [0, 7]]
    largest = np.finfo(np.float32).max
    for value, finite in ((largest, True), (-largest, True), (np.inf, False), (-np.inf, False), (np.nan, False)):
        x[256, 0] = value
        assert kernels.block_maxima(x, maxima) == finite
    assert kernels.all_finite(np.array([largest], np.float32))
    assert not kernels.all_finite(np.array([0, np.nan], np.float32))
    assert kernels.all_finite(np.array([65504, -65504], np.float16))
    assert BLOCK == kernels.BLOCK == 256


def test_quantising_rounds_half_to_even_and_stays_within_127() -> None:
    x = np.array([[0.5, 1.5, -2.5, 127.5, -130, 3]], np.float32)
    scales = np.array([[1, 1, 1, 1, 1, 0]], np.float32)
    values = np.empty((1, 6), np.int8)
    kernels.quantise(x, scales, values)
    assert values.tolist() == [[0, 2, -2, 127, -127, 0]]


def test_a_scale_is_the_smallest_half_that_clips_nothing() -> None:
    maxima = np.array([[127, 127.01, 0, 127 * 65504, 127 * 65520]], np.float32)
    scales = kernels.scales_of(maxima)
    assert scales.dtype == np.float16
    assert scales[0, :4].tolist() == [1, np.nextafter(np.float16(1), np.float16(2)), 0, 65504]
    assert np.isinf(scales[0, 4])


def test_bits_are_rounded_half_to_even() -> None:
    """One and two bits kept of numbers between 1 and 2."""
    x = np.array([1, 1.25, 1.5, 1.75, 1.125, 1.375, -1.625, 1.26], np.float32).reshape(1, 1, -1, 1)
    for bits, kept in ((1, [1, 1, 1.5, 2, 1, 1.5, -1.5, 1.5]), (2, [1, 1.25, 1.5, 1.75, 1, 1.5, -1.5, 1.25])):
        assert BitRound(bits).encode(x).values.reshape(-1).tolist() == kept
    assert (10, float(np.finfo(np.float16).max)) == (HALF_BITS, HALF_MAX)
    assert BitRound(10).encode(x).values.tobytes() == x.astype(np.float16).tobytes()


def test_how_many_blocks_and_channels_are_stored() -> None:
    for positions, blocks in ((1, 1), (256, 1), (257, 2), (512, 2)):
        assert Int8().blocks(positions) == Project(2).blocks(positions) == blocks
        assert Float16().blocks(positions) == Float32().blocks(positions) == BitRound(3).blocks(positions) == 0
    assert [each.stored_channels(7) for each in (Int8(), Float16(), Float32(), BitRound(3), Project(7))] == [7] * 5
    assert Project(3).stored_channels(7) == 3
    with pytest.raises(EncodingError) as caught:
        Project(8).stored_channels(7)
    assert str(caught.value) == "encoding project:8: the feature has only 7 channels"
    for wrong in (0, 11):
        with pytest.raises(EncodingError) as caught:
            BitRound(wrong)
        assert str(caught.value) == f"encoding bitround:{wrong}: keeps 1 to 10 mantissa bits"


def test_what_is_not_finite_is_counted_and_placed() -> None:
    x = np.zeros((1, 2, 3, 2), np.float32)
    x[0, 1, 2, 0] = x[0, 1, 2, 1] = 8
    assert not_finite(x, 8.0) == "overflow at (1, 2, 0), 2 of 12 values (largest magnitude 8, limit 8)"
    assert not_finite(x, 9.0) == "overflow at (1, 2, 0), 2 of 12 values (largest magnitude 8, limit 9)"
    x[0, 0, 1, 1] = -np.inf
    assert not_finite(x, 8.0) == "infinity at (0, 1, 1), 1 of 12 values"
    x[0, 0, 0, 1] = np.nan
    assert not_finite(x) == "NaN at (0, 0, 1), 1 of 12 values"
    with pytest.raises(NonFiniteError):
        Float32().encode(x)
