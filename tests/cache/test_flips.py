"""A thousand bytes flipped, one at a time, all over a store: each is told of in one line, or means nothing."""

import random
from pathlib import Path

import numpy as np
import pytest

from cache import CacheError, FeatureStore
from cache.verify import verify
from tests.cache.builders import expected, images, spec, write

SPECS = [spec("int8"), spec("bitround:6", tap="other"), spec("project:4"), spec("float32", tap="map")]
ROWS = images(6)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    store = FeatureStore(tmp_path_factory.mktemp("store") / "features", "mine")
    write(store, SPECS, ROWS, unreadable=[ROWS[4][0]])
    store.write_manifest(store.root / "manifests/x.json", SPECS, {"train": ROWS}, store.root / "manifests")
    return store


def use(store: FeatureStore) -> None:
    """Everything that reads a store. What it gives is what was written."""
    assert len(store.check(store.root / "manifests/x.json", store.root / "manifests")) == 4
    reader = store.reader(SPECS)
    for scene, content in ROWS:
        for array in SPECS:
            if scene != ROWS[4][0]:
                np.testing.assert_array_equal(reader.read_float(scene, array.name), expected(content, array))
            elif reader.has(scene, array.name):
                pytest.fail("a skipped image is there")
    (group,) = store.status()
    assert [(array.done, array.skipped, array.missing) for array in group.arrays] == [(5, 1, 0)] * 4
    assert [(found.dataset, found.images) for found in store.datasets()] == [("mine", 6)]
    damages = verify(store.root, store.arrays())
    if damages or not store.missing(SPECS, ROWS).nothing:  # what is missing is written again
        raise CacheError(f"{store.root}: {[damage.file for damage in damages]}")


def flip(store: FeatureStore, paths: list[Path], times: int, seed: int) -> tuple[int, list[str]]:
    """(told of, what passed although it should not) of ``times`` flips, evenly over ``paths``."""
    bits, told, wrong = random.Random(seed), 0, []
    for number in range(times):
        path = paths[number % len(paths)]
        whole = path.read_bytes()
        place, bit = bits.randrange(len(whole)), bits.randrange(8)
        data = bytearray(whole)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        where = f"{path.relative_to(store.root)} at {place} of {len(whole)}: {whole[place : place + 1]!r} bit {bit}"
        try:
            use(store)
        except CacheError as error:
            told += 1
            if "\n" in str(error) or str(store.root) not in str(error):
                wrong.append(f"{where}: {error}")
        except BaseException as error:
            wrong.append(f"{where}: {type(error).__name__}: {str(error)[:200]}")
        finally:
            path.write_bytes(whole)
    return told, wrong


def files(store: FeatureStore) -> list[Path]:
    every = [path for path in sorted(store.root.rglob("*")) if path.is_file()]
    return [path for path in every if path.relative_to(store.root).parts[0] not in ("locks", "tmp")]


@pytest.mark.parametrize("times", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_flips_over_all_files(store: FeatureStore, times: int) -> None:
    use(store)
    kinds = {path.relative_to(store.root).parts[0] for path in files(store)}
    assert kinds == {"features.zarr", "rows", "receipts", "manifests", "store.json"}
    told, wrong = flip(store, files(store), times, seed=0)
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:40])
    assert told > 0.7 * times
