"""The store is ordinary Zarr v3: others read it, and what others wrote is read through zarr-python."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from cache import ArraySpec, FeatureStore
from cache.errors import DamagedError
from cache.layout import BASIS, SCALES
from cache.ring import read_ahead
from tests.cache.builders import ENCODINGS, expected, feature, images, spec, write

ROWS = images(6)
SPECS = [spec(encoding) for encoding in ENCODINGS]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    store = FeatureStore(tmp_path_factory.mktemp("features"))
    write(store, SPECS, ROWS)
    return store


def with_zarr(folder: Path) -> NDArray[Any]:
    return np.asarray(zarr.open_array(str(folder), mode="r")[:])


def with_tensorstore(folder: Path) -> NDArray[Any]:
    tensorstore = pytest.importorskip("tensorstore")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    return np.asarray(tensorstore.open(spec, open=True, read=True).result().read().result())


@pytest.mark.parametrize("read", [with_zarr, with_tensorstore])
@pytest.mark.parametrize("array", SPECS, ids=ENCODINGS)
def test_other_readers_see_the_same(store: FeatureStore, array: ArraySpec, read: Any) -> None:
    folder = store.root / "features.zarr" / array.path
    values = read(folder)
    scales = read(folder.with_name(folder.name + SCALES)) if array.encoding.scaled else None
    assert values.shape == (6, *array.stored_shape)
    encoded = [array.encoding.encode(feature(content, array)[None]) for _, content in ROWS]
    np.testing.assert_array_equal(values, np.concatenate([image.values for image in encoded]))
    if scales is not None:
        np.testing.assert_array_equal(scales, np.concatenate([np.asarray(image.scales) for image in encoded]))


@pytest.mark.parametrize("read", [with_zarr, with_tensorstore])
def test_other_readers_see_the_basis(store: FeatureStore, read: Any) -> None:
    array = spec("project:4")
    folder = store.root / "features.zarr" / array.path
    table = read(folder.with_name(folder.name + BASIS))
    basis = store.array(array.path).encoding.basis  # type: ignore[union-attr]
    assert basis is not None
    np.testing.assert_array_equal(table, np.concatenate([basis.mean[None], basis.vectors]))


def test_groups_and_attributes_are_there_for_zarr(store: FeatureStore) -> None:
    group = zarr.open_group(str(store.root / "features.zarr"), mode="r")
    array = group[spec("int8").path]
    assert array.metadata.dimension_names == ("image", "height", "width", "channel")
    assert array.attrs["diffps"]["id"] == spec("int8").id
    assert array.attrs["diffps"]["full_recipe"]["recipe"] == spec("int8").recipe


def test_an_image_of_zeros_has_its_chunk_like_any_other(tmp_path: Path) -> None:
    store, array = FeatureStore(tmp_path), spec("float16")
    with store.writer([array], ROWS[:2]) as writer:
        (task,) = writer.pending()
        with writer.shard(task) as sink:
            for _ in task.rows:
                sink.append({array.name: np.zeros(array.shape, np.float16)})
    assert store.reader([array]).read_float(ROWS[0][0], array.name).max() == 0
    assert with_zarr(store.root / "features.zarr" / array.path).max() == 0


def test_an_absent_image_shows_as_nan_to_who_knows_no_receipts(tmp_path: Path) -> None:
    store, arrays = FeatureStore(tmp_path), [spec("float16"), spec("int8")]
    write(store, arrays, ROWS, unreadable=[ROWS[1][0]])
    folder = store.root / "features.zarr" / arrays[0].path
    assert np.isnan(with_zarr(folder)[1]).all()
    assert np.isnan(with_zarr(folder.with_name(arrays[1].name + SCALES))[1]).all()


def rewrite(folder: Path, **changes: Any) -> None:
    """The array again, as another program might lay it out."""
    old = zarr.open_array(str(folder), mode="r")
    options = {
        "shape": old.shape,
        "dtype": old.dtype,
        "chunks": (1, *old.shape[1:]),
        "shards": (4, *old.shape[1:]),
        "fill_value": 0,
        "attributes": dict(old.attrs),
        "overwrite": True,
        "config": {"write_empty_chunks": True},
    }
    data = old[:]
    zarr.create_array(str(folder), **(options | changes))[:] = data


@pytest.mark.parametrize(
    "changes", [{"compressors": [zarr.codecs.GzipCodec()]}, {"chunks": (2, 10, 18, 12)}, {"shards": None}]
)
def test_what_cannot_be_parsed_goes_through_zarr_with_a_reason(
    tmp_path: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    store, array = FeatureStore(tmp_path), spec("int8")
    write(store, [array], ROWS)
    rewrite(store.root / "features.zarr" / array.path, **changes)
    with caplog.at_level(logging.WARNING):
        reader = store.reader([array])
    assert "zarr-python" in caplog.text
    for scene, content in ROWS:
        np.testing.assert_array_equal(reader.read_float(scene, array.name), expected(content, array))
    for slot in read_ahead(reader, [[ROWS[0][0]]], [array.name]):
        np.testing.assert_array_equal(slot.values[array.name][0], expected(ROWS[0][1], array))


def test_without_inner_checksums_the_receipt_s_still_guard(tmp_path: Path) -> None:
    store, array = FeatureStore(tmp_path), spec("int8")
    write(store, [array], ROWS)
    folder = store.root / "features.zarr" / array.path
    rewrite(folder, compressors=None)
    assert store.reader([array]).read(ROWS[0][0], array.name).values.shape == (1, *array.shape)
    (file,) = (path for path in (folder / "c" / "0").rglob("*") if path.is_file())
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedError, match="checksum"):
        store.reader([array]).read(ROWS[0][0], array.name)


LAYOUTS = [{"chunks": (2, 10, 18, 12)}, {"shards": None}, {"chunk_key_encoding": {"name": "v2", "separator": "."}}]


def first_file(folder: Path) -> Path:
    """The file that row 0 begins in."""
    (file,) = (
        path for name in ("c/0", "0.0.0.0") for path in [folder / name, *(folder / name).rglob("0")] if path.is_file()
    )
    return file


@pytest.mark.parametrize("changes", LAYOUTS)
@pytest.mark.parametrize("encoding", ["float16", "int8", "bitround:6"])
def test_a_missing_file_of_another_layout_is_no_image_of_zeros(
    tmp_path: Path, encoding: str, changes: dict[str, Any]
) -> None:
    store, array = FeatureStore(tmp_path), spec(encoding)
    write(store, [array], ROWS)
    folder = store.root / "features.zarr" / array.path
    rewrite(folder, **changes)
    np.testing.assert_array_equal(store.reader([array]).read_float(ROWS[0][0], array.name), expected(ROWS[0][1], array))
    file = first_file(folder)
    file.unlink()
    reader = store.reader([array])
    with pytest.raises(DamagedError, match=rf"{file}: is missing; scene '{ROWS[0][0]}'.*verify --repair"):
        reader.read(ROWS[0][0], array.name)
    with pytest.raises(DamagedError, match="is missing"):
        next(iter(read_ahead(reader, [[ROWS[0][0]]], [array.name])))
    with pytest.raises(DamagedError, match="is missing"):
        store.reader([array], verify=False).read(ROWS[0][0], array.name)


@pytest.mark.parametrize("encoding", ["float16", "int8"])
def test_another_layout_is_held_to_its_receipts(tmp_path: Path, encoding: str) -> None:
    """Without any checksum of its own."""
    store, array = FeatureStore(tmp_path), spec(encoding)
    write(store, [array], ROWS)
    folder = store.root / "features.zarr" / array.path
    rewrite(folder, shards=None, compressors=None)
    file = first_file(folder)
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedError, match=r"checksum.*receipt"):
        store.reader([array]).read(ROWS[0][0], array.name)
    assert store.reader([array], verify=False).read(ROWS[0][0], array.name).values.shape == (1, *array.shape)
    np.testing.assert_array_equal(store.reader([array]).read_float(ROWS[1][0], array.name), expected(ROWS[1][1], array))


def test_an_image_of_zeros_needs_no_file_in_another_layout(tmp_path: Path) -> None:
    store, array = FeatureStore(tmp_path), spec("float16")
    with store.writer([array], ROWS[:1]) as writer:
        (task,) = writer.pending()
        with writer.shard(task) as sink:
            sink.append({array.name: np.zeros(array.shape, np.float16)})
    folder = store.root / "features.zarr" / array.path
    rewrite(folder, shards=None, config={"write_empty_chunks": False})
    assert not (folder / "c").exists()
    assert store.reader([array]).read_float(ROWS[0][0], array.name).max() == 0
