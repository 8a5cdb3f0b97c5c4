import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cache import CacheError, FeatureReader, FeatureStore
from cache.encodings import Encoded
from cache.errors import DamagedError
from cache.ring import MOST_THREADS, Ring, _Buffers, read_ahead
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


def test_three_batches_are_held_unless_more_are_asked_for(reader: FeatureReader) -> None:
    taken = list[int]()

    def batches() -> Iterator[list[str]]:
        for number in range(9):
            taken.append(number)
            yield [SCENES[number]]

    ring = read_ahead(reader, batches(), ["tap@int8"])
    assert taken == []  # nothing is read before somebody asks
    first = next(ring)
    assert first.values["tap@int8"].dtype == np.float32
    assert first.scales == {}
    assert taken == [0, 1, 2]
    next(ring)
    assert taken == [0, 1, 2, 3]
    ring.close()  # type: ignore[attr-defined]


class Held:
    """A reader that reads as often as it is let: what the ring asks of it, and when, can be looked at."""

    def __init__(self, reader: FeatureReader) -> None:
        self.spec, self.bypass = reader.spec, reader.bypass
        self.let, self.asked = threading.Semaphore(2), list[tuple[str, str, str]]()

    def read_coefficients(self, image: str, name: str, out: NDArray[np.float32]) -> None:
        self.asked.append((image, name, threading.current_thread().name))
        self.let.acquire()


def test_what_is_being_read_is_waited_for_and_the_rest_is_left(reader: FeatureReader) -> None:
    held = Held(reader)
    batches = [[scene] for scene in SCENES]
    slots = read_ahead(held, batches, NAMES[:2], threads=1, depth=8)  # type: ignore[arg-type]
    assert next(slots).position == 0
    while len(held.asked) < 3:
        time.sleep(0.001)
    leaving = threading.Thread(target=slots.close)  # type: ignore[attr-defined]
    leaving.start()
    leaving.join(0.05)
    assert leaving.is_alive()
    held.let.release(100)
    leaving.join()
    order = [(SCENES[0], NAMES[0]), (SCENES[0], NAMES[1]), (SCENES[1], NAMES[0])]
    assert held.asked == [(*asked, "feature-reader_0") for asked in order]


def test_the_way_past_the_cache_is_told_how_long_each_batch_took(reader: FeatureReader) -> None:
    class Told:
        on = larger = False

        def __init__(self) -> None:
            self.batches = list[tuple[float, int]]()

        def batch_came(self, seconds: float, ahead: int) -> None:
            self.batches.append((seconds, ahead))

    opened, told, began = Held(reader), Told(), time.perf_counter()
    opened.bypass, opened.let = told, threading.Semaphore(100)  # type: ignore[assignment]
    for _ in read_ahead(opened, [[scene] for scene in SCENES], NAMES[:1], depth=2):  # type: ignore[arg-type]
        pass
    assert [ahead for _, ahead in told.batches] == [2] * len(SCENES)
    assert min(seconds for seconds, _ in told.batches) >= 0
    assert sum(seconds for seconds, _ in told.batches) < time.perf_counter() - began  # none counts twice


@pytest.mark.parametrize(("processors", "threads"), [(1, 2), (2, 2), (3, 3), (8, 8), (9, 8), (64, 8)])
def test_from_memory_each_processor_reads_and_from_a_disk_eight_threads(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, processors: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(processors)) if process == 0 else {0})

    def found(room: int | None, asked: int | None = None) -> int:
        reader = store.reader(SPECS, room=room)
        return Ring(reader, [], NAMES, threads=asked, depth=1, output="stored", pin=False)._threads

    assert found(1 << 40) == threads
    assert found(0) == MOST_THREADS == 8
    assert found(0, 1) == found(1 << 40, 1) == 1


def test_a_buffer_is_made_anew_for_a_larger_batch_alone() -> None:
    buffers = _Buffers(False)
    first = buffers.take("a", 2, (3, 4), "int8")
    assert first.shape == (2, 3, 4)
    assert first.dtype == np.int8
    assert buffers.take("a", 2, (3, 4), "int8").base is first.base
    assert buffers.take("a", 1, (3, 4), "int8").base is first.base
    larger = buffers.take("a", 3, (3, 4), "int8")
    assert larger.base is not first.base
    assert len(larger) == 3
    assert buffers.take("b", 1, (3, 4), "float16").base is not larger.base
