"""Statistics are of the images that have a receipt, today's, and of nothing that is damaged."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from cache import FeatureStore
from cache.errors import DamagedError
from cache.statistics import BINS, statistics
from tests.cache.builders import expected, images, spec, write
from tests.cache.test_damage import flip

ROWS = images(10)
SCENES = [scene for scene, _ in ROWS]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


@pytest.mark.parametrize("name", ["tap@int8", "tap@int8.scales", "tap@float16"])
@pytest.mark.parametrize("shard", [0, 2])
def test_statistics_leave_nothing_out_that_is_damaged(store: FeatureStore, name: str, shard: int) -> None:
    """A missing file is no image of zeros, and what fails a checksum is named."""
    array = spec(name.removeprefix("tap@").removesuffix(".scales"))
    write(store, [array], ROWS)
    folder = store.root / "features.zarr" / array.group.path / name / "c" / str(shard)
    (path,) = (file for file in folder.rglob("*") if file.is_file())
    whole = path.read_bytes()
    flip(path, 20)
    with pytest.raises(DamagedError, match=rf"{path}.*checksum.*verify --repair"):
        statistics(store, array)
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedError, match=rf"{path}"):
        statistics(store, array)
    path.unlink()
    with pytest.raises(DamagedError, match=rf"{path}: the shard is missing"):
        statistics(store, array)
    path.write_bytes(whole)
    assert statistics(store, array).images == 10


def test_statistics_are_of_today_s_images(store: FeatureStore) -> None:
    write(store, [spec()], ROWS)
    store.rows("train").assign([(SCENES[0], "edited"), ("copy.jpg", ROWS[1][1]), *ROWS[1:]])
    found = statistics(store, spec())
    assert found.images == 9
    x = np.stack([expected(digest, spec()) for _, digest in ROWS[1:]]).reshape(-1, spec().shape[2])
    np.testing.assert_allclose(found.mean, x.mean(0, dtype=np.float64), atol=1e-6)


def test_statistics_can_be_taken_in_other_processes(store: FeatureStore) -> None:
    """What a cluster's workers are sent is opened anew by them."""
    write(store, [spec()], ROWS)
    ours = store.reader([spec()])
    theirs = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(theirs.read_float(SCENES[9], spec().name), ours.read_float(SCENES[9], spec().name))


def test_statistics_of_numbers_that_can_be_checked_by_hand(store: FeatureStore) -> None:
    """Two images of two positions and two channels, one of which is constant."""
    array = spec("float32", shape=(1, 2, 2))
    features = {ROWS[0][1]: [[0, 5], [1, 5]], ROWS[1][1]: [[2, 5], [5, 5]]}
    with store.writer([array], ROWS[:2], shard=1) as writer:
        for task in writer.pending():
            with writer.shard(task) as sink:
                sink.append({array.name: np.array([features[task.digests[0]]], np.float32)})
    found = statistics(store, array)
    assert found.images == 2
    assert found.mean.tolist() == [2, 5]
    np.testing.assert_allclose(found.deviation, [np.sqrt((4 + 1 + 0 + 9) / 4), 0])
    assert (found.low.tolist(), found.high.tolist()) == ([0, 5], [5, 5])
    np.testing.assert_allclose(found.variances, [3.5, 0], atol=1e-12)
    np.testing.assert_allclose(np.abs(found.components), [[1, 0], [0, 1]], atol=1e-12)
    # 64 bins from 0 to 5: 1 and 2 lie in the 13th and the 26th; a constant channel is in its first.
    assert BINS == 64
    assert {at: int(n) for at, n in enumerate(found.histogram[0]) if n} == {0: 1, 12: 1, 25: 1, 63: 1}
    assert {at: int(n) for at, n in enumerate(found.histogram[1]) if n} == {0: 4}
    assert found.histogram.dtype == np.int64
