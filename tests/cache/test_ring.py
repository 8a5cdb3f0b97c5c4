from pathlib import Path

import numpy as np
import pytest

from cache import CacheError, FeatureReader, FeatureStore
from cache.encodings import Encoded
from cache.errors import DamagedError
from cache.ring import read_ahead
from tests.cache.builders import ENCODINGS, expected, images, spec, write

ROWS = images(9)
SCENES = [scene for scene, _ in ROWS]
SPECS = [spec(encoding) for encoding in ENCODINGS]
NAMES = [array.name for array in SPECS]
BATCHES = [[4, 1, 8], [0], [2, 3], [7, 7], [5, 6]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    store = FeatureStore(tmp_path_factory.mktemp("features"))
    write(store, SPECS, ROWS)
    return store


@pytest.fixture(scope="module")
def reader(store: FeatureStore) -> FeatureReader:
    return store.reader(SPECS)


@pytest.mark.parametrize(("threads", "depth"), [(1, 1), (1, 3), (2, 2), (3, 8)])
def test_batches_come_in_order_whatever_the_threads(reader: FeatureReader, threads: int, depth: int) -> None:
    positions = []
    for slot in read_ahead(
        reader, ([SCENES[i] for i in batch] for batch in BATCHES), NAMES, threads=threads, depth=depth
    ):
        positions.append(slot.position)
        for i, row in enumerate(BATCHES[slot.position]):
            assert slot.images[i] == SCENES[row]
            for array in SPECS:
                value = slot.values[array.name][i]
                if array.name.endswith("project:4"):
                    value = value @ array.encoding.basis.vectors + array.encoding.basis.mean  # type: ignore[union-attr]
                    np.testing.assert_allclose(value, expected(ROWS[row][1], array), rtol=1e-5, atol=1e-6)
                    continue
                np.testing.assert_array_equal(value, expected(ROWS[row][1], array))
    assert positions == list(range(len(BATCHES)))


def test_stored_output_decodes_to_the_same(reader: FeatureReader) -> None:
    for slot in read_ahead(reader, [[SCENES[3], SCENES[8]], [SCENES[0]]], NAMES, output="stored"):
        for array in SPECS:
            assert slot.values[array.name].dtype == array.encoding.dtype
            assert (array.name in slot.scales) == array.encoding.scaled
            decoded = array.encoding.decode(Encoded(slot.values[array.name], slot.scales.get(array.name)))
            for i, scene in enumerate(slot.images):
                np.testing.assert_array_equal(decoded[i], expected(dict(ROWS)[str(scene)], array))


def test_a_subset_of_the_arrays_is_enough(reader: FeatureReader) -> None:
    (slot,) = read_ahead(reader, [[SCENES[0]]], ["tap@int8"])
    assert set(slot.values) == {"tap@int8"}


def test_buffers_are_reused(reader: FeatureReader) -> None:
    addresses = [
        slot.values["tap@int8"].ctypes.data for slot in read_ahead(reader, [[SCENES[0]]] * 12, ["tap@int8"], depth=2)
    ]
    assert len(set(addresses)) == 2


def test_an_error_comes_with_its_batch(tmp_path: Path) -> None:
    store, array = FeatureStore(tmp_path), spec()
    write(store, [array], ROWS)
    (file,) = (path for path in (tmp_path / "features.zarr" / array.path / "c" / "1").rglob("*") if path.is_file())
    file.write_bytes(bytes(file.stat().st_size))
    ring = read_ahead(store.reader([array]), [[SCENES[0]], [SCENES[1]], [SCENES[5]]], [array.name])
    assert next(ring).position == 0
    assert next(ring).position == 1
    with pytest.raises(DamagedError):
        next(ring)


def test_leaving_early_stops_the_threads(reader: FeatureReader) -> None:
    import threading

    ring = read_ahead(reader, ([SCENES[0]] for _ in range(1000)), ["tap@int8"])
    next(ring)
    ring.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feature-reader")]


def test_what_cannot_be_is_refused(reader: FeatureReader) -> None:
    with pytest.raises(CacheError, match="threads 0"):
        read_ahead(reader, [], NAMES, threads=0)
    with pytest.raises(CacheError, match="not opened"):
        read_ahead(reader, [], ["other"])


def test_pinned_buffers_hold_the_same(reader: FeatureReader) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("page-locked memory needs a GPU's driver")
    for slot in read_ahead(reader, [[SCENES[3]], [SCENES[4]]], ["tap@int8"], output="stored", pin=True):
        assert torch.from_numpy(slot.values["tap@int8"]).is_pinned()
        decoded = SPECS[1].encoding.decode(Encoded(slot.values["tap@int8"], slot.scales["tap@int8"]))
        np.testing.assert_array_equal(decoded[0], expected(dict(ROWS)[str(slot.images[0])], SPECS[1]))
