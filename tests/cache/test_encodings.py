import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from numpy.typing import NDArray

from cache import Encoded, Encoding, fit_basis, kernels, parse_encoding, state_error
from cache.encodings import BLOCK, Project
from cache.errors import EncodingError, NonFiniteError

SHAPES = st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 20), st.integers(1, 5))
FEATURES = SHAPES.flatmap(
    lambda shape: nps.arrays(
        np.float32,
        shape,
        elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1e-9, -(2.0**-24), 6e4]),
    )
)


def plain_int8(x: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """The definition, without a compiled loop: per channel and block the smallest float16 scale that clips nothing."""
    n, height, width, channels = x.shape
    rows = x.reshape(n, -1, channels)
    values, scales = np.zeros(rows.shape, np.int8), []
    for start in range(0, height * width, BLOCK):
        block = rows[:, start : start + BLOCK]
        exact = (np.abs(block).max(1) / np.float32(127)).astype(np.float32)
        scale = exact.astype(np.float16)
        scale = np.where(scale.astype(np.float32) < exact, np.nextafter(scale, np.float16(np.inf)), scale)
        wide = scale.astype(np.float32)[:, None]
        inverse = np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=wide > 0)
        values[:, start : start + BLOCK] = np.rint(np.clip(block * inverse, -127, 127)).astype(np.int8)
        scales.append(scale)
    return values.reshape(x.shape), np.stack(scales, 1)


@settings(max_examples=60)
@given(FEATURES)
def test_compiled_int8_is_the_plain_one(x: NDArray[np.float32]) -> None:
    encoding = parse_encoding("int8")
    encoded = encoding.encode(x)
    values, scales = plain_int8(x)
    np.testing.assert_array_equal(encoded.values, values)
    np.testing.assert_array_equal(encoded.scales, scales)
    repeated = np.repeat(scales.astype(np.float32), BLOCK, 1)[:, : x.shape[1] * x.shape[2]].reshape(x.shape)
    np.testing.assert_array_equal(encoding.decode(encoded), values.astype(np.float32) * repeated)


@settings(max_examples=60)
@given(FEATURES)
def test_int8_is_within_half_a_step(x: NDArray[np.float32]) -> None:
    encoding = parse_encoding("int8")
    encoded = encoding.encode(x)
    assert encoded.scales is not None
    steps = np.repeat(encoded.scales.astype(np.float32), BLOCK, 1)[:, : x.shape[1] * x.shape[2]].reshape(x.shape)
    lost = np.float32(127 * 2.0**-149)  # of what is smaller the scale has no float32
    assert (np.abs(encoding.decode(encoded) - x) <= steps * 0.5001 + lost).all()


def test_float16_and_float32_are_exact_for_what_fits() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float16)
    for name in ("float16", "float32"):
        encoding = parse_encoding(name)
        np.testing.assert_array_equal(encoding.decode(encoding.encode(x)), x.astype(np.float32))


@given(st.integers(1, 10), st.floats(-6e4, 6e4, width=16).filter(lambda value: abs(value) >= 2**-14))
def test_bitround_keeps_that_many_bits(bits: int, value: float) -> None:
    encoding = parse_encoding(f"bitround:{bits}")
    x = np.full((1, 1, 1, 1), value, np.float32)
    try:
        kept = encoding.encode(x).values
    except NonFiniteError:  # rounded up beyond float16
        assert abs(value) > 65504 * (1 - 2.0 ** -(bits + 1))
        return
    assert (kept.view(np.uint16) & ((1 << (10 - bits)) - 1) == 0).all()
    assert abs(float(kept.item()) - value) <= abs(value) * 2.0 ** -(bits + 1)


def test_project_is_exact_up_to_int8_where_the_feature_lies_in_the_plane() -> None:
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(1, 16, 16, 3)) @ rng.normal(size=(3, 24)) + 5).astype(np.float32)
    basis = fit_basis(x.reshape(-1, 24), 3)
    encoding = Project(3, basis)
    encoded = encoding.encode(x)
    assert encoded.values.shape == (1, 16, 16, 3)
    assert state_error(x, encoding).relative_l2 < 0.005
    np.testing.assert_allclose(basis.vectors @ basis.vectors.T, np.eye(3), atol=1e-5)
    assert fit_basis(x.reshape(-1, 24), 3) == basis


def test_a_few_huge_positions_do_not_drown_the_others() -> None:
    """Diffusion models have such tokens; one scale per channel and image would cost tens of percent elsewhere."""
    x = np.random.default_rng(2).normal(size=(1, 64, 64, 32)).astype(np.float32)
    x[0, 10, [3, 4], :] *= 100
    assert state_error(x, parse_encoding("int8")).location_median < 0.01


def test_compiled_widening_is_numpy_s() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    encoding = parse_encoding("float16")
    x = finite[None, None, :, None]
    np.testing.assert_array_equal(encoding.decode(encoding.encode(x)), x.astype(np.float32))
    assert np.signbit(encoding.decode(Encoded(np.array([-0.0], np.float16)))).all()
    assert not [half for half in halves[~np.isfinite(halves)] if kernels.all_finite(half.reshape(1))]


def test_int8_of_half_precision_is_that_of_its_float32() -> None:
    x = np.random.default_rng(3).normal(size=(2, 20, 20, 7)).astype(np.float16)
    half, single = parse_encoding("int8").encode(x), parse_encoding("int8").encode(x.astype(np.float32))
    np.testing.assert_array_equal(half.values, single.values)
    np.testing.assert_array_equal(half.scales, single.scales)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("name", ["float16", "float32", "int8", "bitround:7", "project:2"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(name: str, bad: float, dtype: type) -> None:
    x = np.ones((1, 4, 4, 3), dtype)
    x[0, 1, 2, 0] = bad
    with pytest.raises(NonFiniteError, match=r"(NaN|infinity) at \(1, 2, 0\)"):
        complete(name).encode(x)


@pytest.mark.parametrize(("name", "value"), [("float16", 65520.0), ("bitround:3", 65504.0), ("int8", 9e6)])
def test_what_overflows_is_refused(name: str, value: float) -> None:
    with pytest.raises(NonFiniteError, match="overflow"):
        parse_encoding(name).encode(np.full((1, 2, 2, 1), value, np.float32))


@pytest.mark.parametrize(
    "text", ["int4", "bitround", "bitround:0", "bitround:11", "project:0", "project:x", "int8:2", ""]
)
def test_unknown_encodings_are_refused(text: str) -> None:
    with pytest.raises(EncodingError, match=r"encoding"):
        parse_encoding(text)


def test_more_components_than_channels_are_refused() -> None:
    with pytest.raises(EncodingError, match="only 3 channels"):
        fit_basis(np.ones((5, 3)), 4)
    with pytest.raises(EncodingError, match="no basis"):
        parse_encoding("project:2").encode(np.ones((1, 2, 2, 3), np.float32))


def test_int8_without_scales_is_refused() -> None:
    with pytest.raises(EncodingError, match="scales"):
        parse_encoding("int8").decode(Encoded(np.zeros((1, 2, 2, 1), np.int8)))


def complete(name: str) -> Encoding:
    encoding = parse_encoding(name)
    if isinstance(encoding, Project):
        return Project(encoding.k, fit_basis(np.random.default_rng(0).normal(size=(20, 3)), encoding.k))
    return encoding


def test_what_an_encoding_loses_is_told_by_location() -> None:
    """Two images of 1 x 6 locations and three channels; the first location is zero throughout and does not count."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 1, 6, 3)).astype(np.float32)
    x[0, 0, 0] = 0
    encoding = parse_encoding("int8")
    found = encoding.decode(encoding.encode(x)).astype(np.float64)
    rows = [(a.astype(np.float64), b) for a, b in zip(x.reshape(-1, 3), found.reshape(-1, 3), strict=True) if a.any()]
    assert len(rows) == 11
    lost = [np.sqrt(((b - a) ** 2).sum() / (a**2).sum()) for a, b in rows]
    alike = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in rows]
    error = state_error(x, encoding)
    whole = sum(((b - a) ** 2).sum() for a, b in rows) / sum((a**2).sum() for a, _ in rows)
    assert error.relative_l2 == pytest.approx(np.sqrt(whole))
    assert error.location_median == pytest.approx(sorted(lost)[5])
    assert error.location_p99 == pytest.approx(np.quantile(lost, 0.99))
    assert error.cosine_p1 == pytest.approx(np.quantile(alike, 0.01))


def test_a_basis_holds_the_widest_directions_their_largest_part_positive() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(400, 4)) * [1, 9, 3, 0.1] + [5, 0, 0, -2]
    basis = fit_basis(samples, 2)
    np.testing.assert_allclose(basis.mean, samples.mean(0), rtol=1e-6)
    assert np.abs(basis.vectors).argmax(1).tolist() == [1, 2]
    assert (basis.vectors[[0, 1], [1, 2]] > 0.9).all()
    with pytest.raises(EncodingError, match="encoding project:5: the feature has only 4 channels"):
        fit_basis(samples, 5)
    with pytest.raises(EncodingError, match="encoding project:0"):
        fit_basis(samples, 0)
    assert fit_basis(samples, 4).vectors.shape == (4, 4)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("float16", np.nan, "NaN at (0, 1, 2), 1 of 24 values"),
        ("float16", -np.inf, "infinity at (0, 1, 2), 1 of 24 values"),
        ("float16", -7e4, "overflow at (0, 1, 2), 1 of 24 values (largest magnitude 7e+04, limit 6.55e+04)"),
        # int8 is told image by image; its scale is a float16, so 127 times as much fits.
        ("int8", np.nan, "NaN at (0, 1, 2), 1 of 12 values"),
        ("int8", 9e6, "overflow at (0, 1, 2), 1 of 12 values (largest magnitude 9e+06, limit 8.319e+06)"),
    ],
)
def test_where_a_value_cannot_be_kept_is_said(name: str, value: float, said: str) -> None:
    x = np.ones((2, 2, 2, 3), np.float32)
    x[1, 0, 1, 2] = value
    with pytest.raises(NonFiniteError) as caught:
        parse_encoding(name).encode(x)
    assert said in str(caught.value)
