"""Whatever values a feature has, the store gives back what its encoding makes of them, or refuses to take them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from numpy.typing import NDArray

from cache import ArraySpec, Encoded, FeatureStore, fit_basis, parse_encoding, tap_name
from cache.encodings import BLOCK, HALF_MAX, Basis, BitRound, Float16, Float32, Int8, Project
from cache.errors import NonFiniteError, NotCachedError
from tests.cache.builders import PASS, group, images

NAMES = ("float32", "float16", "bitround:1", "bitround:10", "int8")
HALF_TINY = 2.0**-24  # float16's smallest step
SINGLE_TINY = 2.0**-149
# 270 positions are a whole block of scales and a part of one.
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 30), st.integers(1, 5))
EDGES = [0.0, -0.0, 1.0, HALF_MAX, -HALF_MAX, HALF_TINY, -HALF_TINY, 2.0**-14, 2.0**-15, SINGLE_TINY, 2.0**-126]
# bitround:1 rounds the largest float16 beyond float16, which it then refuses.
ROUNDED_TO_ONE_BIT = 49152.0

Feature = NDArray[np.float32]


@st.composite
def features(draw: st.DrawFn, largest: float = HALF_MAX) -> Feature:
    """(H, W, C) finite values no larger than ``largest``; some of the channels constant."""
    shape = draw(SHAPES)
    values = st.floats(-largest, largest, width=32) | st.sampled_from([edge for edge in EDGES if abs(edge) <= largest])
    x = draw(nps.arrays(np.float32, shape, elements=values))
    for channel in range(shape[2]):
        if draw(st.booleans()):
            x[..., channel] = draw(values)
    return x


def arrays(shape: tuple[int, int, int], *encodings: Project | Float16 | Float32 | BitRound | Int8) -> list[ArraySpec]:
    """One array for each encoding, all of one group."""
    own = {"pass": PASS, "tap": "tap"}
    return [ArraySpec(group(), tap_name("tap", encoding), shape, encoding, own) for encoding in encodings]


def write(store: FeatureStore, specs: list[ArraySpec], found: list[Feature]) -> None:
    rows = images(len(found))
    with store.writer(specs, rows, shard=2) as writer:
        for task in writer.pending():
            with writer.shard(task) as sink:
                for row in task.rows:
                    sink.append({array.name: found[row] for array in specs})


def read_back(store: FeatureStore, specs: list[ArraySpec], scene: str) -> list[tuple[Encoded, Feature]]:
    """Stored form and feature of an image in each array: four ways of reading agree to the bit on both."""
    direct, cached = store.reader(specs, room=0), store.reader(specs, room=1 << 40)
    assert direct.bypass.on
    assert not cached.bypass.on
    found = []
    for array in specs:
        kept = cached.read(scene, array.name)
        same = direct.read(scene, array.name)
        assert kept.values.tobytes() == same.values.tobytes()
        assert (kept.scales is None) == (same.scales is None)
        assert kept.scales is None or same.scales is None or kept.scales.tobytes() == same.scales.tobytes()
        feature = cached.read_float(scene, array.name)
        assert direct.read_float(scene, array.name).tobytes() == feature.tobytes()
        plain = Int8() if isinstance(array.encoding, Project) else array.encoding
        for reader in (direct, cached):
            coefficients = np.empty(array.stored_shape, np.float32)
            reader.read_coefficients(scene, array.name, coefficients)
            assert coefficients.tobytes() == plain.decode(kept)[0].tobytes()
        found.append((kept, feature))
    return found


def steps(encoded: Encoded) -> Feature:
    """int8's step at each position and channel, as its scales say."""
    assert encoded.scales is not None
    _, height, width, channels = encoded.values.shape
    return np.repeat(encoded.scales[0].astype(np.float32), BLOCK, 0)[: height * width].reshape(height, width, channels)


def allowed(name: str, x: Feature, encoded: Encoded) -> NDArray[np.float64]:
    """How far each value may be off, as the encodings promise."""
    size = np.abs(x.astype(np.float64))
    match name.partition(":"):
        case "float32", _, _:
            return np.zeros_like(size)
        case "float16", _, _:
            return np.maximum(size * 2.0**-11, HALF_TINY / 2)
        case "bitround", _, bits:
            return size * 2.0 ** -(int(bits) + 1) + HALF_TINY / 2
        case _:
            # The scale is the smallest float16 that clips nothing, so a step is hardly more than it has to be.
            step = steps(encoded).astype(np.float64)
            for channel in range(x.shape[2]):
                largest, most = size[..., channel].max(), step[..., channel].max()
                assert most <= largest / 127 * (1 + 2.0**-10) + HALF_TINY
            return step * 0.5001 + 127 * SINGLE_TINY


@settings(max_examples=20)
@given(data=st.data())
def test_every_encoding_gives_back_what_it_makes_of_a_feature(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    first = data.draw(features(ROUNDED_TO_ONE_BIT))
    found = [first, np.ascontiguousarray(first[::-1]), np.zeros_like(first)]
    specs = arrays(first.shape, *(parse_encoding(name) for name in NAMES))
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    write(store, specs, found)
    for (scene, _), x in zip(images(3), found, strict=True):
        for array, (kept, feature) in zip(specs, read_back(store, specs, scene), strict=True):
            made = array.encoding.encode(x[None])
            assert kept.values.tobytes() == made.values.tobytes()
            assert kept.scales is None or (made.scales is not None and kept.scales.tobytes() == made.scales.tobytes())
            assert feature.tobytes() == array.encoding.decode(made)[0].tobytes()
            assert (np.abs(feature.astype(np.float64) - x) <= allowed(array.encoding.name, x, kept)).all()
            assert (feature[x == 0] == 0).all()


@settings(max_examples=15)
@given(data=st.data())
def test_a_projection_gives_back_the_plane_s_point_up_to_int8(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    x = data.draw(features(1e4))
    channels = x.shape[2]
    k = data.draw(st.integers(1, channels))
    samples = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(20, channels))
    encoding = Project(k, fit_basis(samples, k))
    specs = arrays(x.shape, encoding)
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    write(store, specs, [x])
    ((kept, feature),) = read_back(store, specs, images(1)[0][0])
    assert feature.tobytes() == encoding.decode(encoding.encode(x[None]))[0].tobytes()
    (found,) = store.arrays()
    assert found == specs[0]  # the basis too, which lies beside the array
    assert isinstance(encoding.basis, Basis)
    mean, vectors = encoding.basis.mean.astype(np.float64), encoding.basis.vectors.astype(np.float64)
    nearest = (x - mean) @ vectors.T @ vectors + mean
    # Each of k coefficients is half a step off at most, along a vector of length 1; the rest is float32.
    lost = np.linalg.norm(steps(kept).astype(np.float64) * 0.5001, axis=-1) + 1e-5 * (1 + np.abs(x).max())
    assert (np.linalg.norm(feature - nearest, axis=-1) <= lost).all()


@settings(max_examples=20)
@given(
    x=features(ROUNDED_TO_ONE_BIT),
    name=st.sampled_from([*NAMES, "project:1"]),
    bad=st.sampled_from([np.nan, np.inf, -np.inf, 1.01]),
    at=st.integers(0, 10**6),
)
def test_what_no_encoding_keeps_is_named_and_leaves_nothing(
    tmp_path_factory: pytest.TempPathFactory, x: Feature, name: str, bad: float, at: int
) -> None:
    encoding = parse_encoding(name)
    if isinstance(encoding, Project):
        encoding = Project(1, fit_basis(np.random.default_rng(0).normal(size=(20, x.shape[2])), 1))
    beyond = {"float16": HALF_MAX, "bitround:1": HALF_MAX, "bitround:10": HALF_MAX, "int8": HALF_MAX * 127}
    if bad == 1.01:  # finite, and too large
        bad *= beyond.get(name, np.inf)
    where = np.unravel_index(at % x.size, x.shape)
    broken = x.copy()
    broken[where] = bad
    (array,) = specs = arrays(x.shape, encoding)
    store, (scene, _) = FeatureStore(tmp_path_factory.mktemp("store")), images(2)[1]
    with pytest.raises(NonFiniteError) as caught:
        write(store, specs, [x, broken])
    kind = "NaN" if np.isnan(bad) else "infinity" if np.isinf(bad) else "overflow"
    place = tuple(int(i) for i in where)
    assert f"scene {scene!r}: {array.path} has {kind} at {place}, 1 of {x.size} values" in str(caught.value)
    for image, _ in images(2):
        with pytest.raises(NotCachedError):
            store.reader(specs).read(image, array.name)
    left = [path.as_posix() for path in Path(store.root).rglob("*") if path.is_file()]
    assert not [path for path in left if "/c/" in path and ".basis/" not in path]
