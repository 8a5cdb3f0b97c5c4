"""An image comes out the same in whatever pieces it is read, and what is wrong with it is said exactly."""

import errno
import fcntl
import os
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cache import ArraySpec, FeatureStore
from cache import reader as reading
from cache.checksum import crc32c
from cache.direct import Bypass, go_direct
from cache.encodings import Project
from cache.errors import DamagedError, FileError, NotCachedError
from cache.shards import index_bytes
from tests.cache.builders import ENCODINGS, expected, images, spec, write

ROWS = images(5)
SCENES = [scene for scene, _ in ROWS]
SPECS = [spec(encoding) for encoding in ENCODINGS]
BYTES = 20 * 18 * 12  # of an image's values in int8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    store = FeatureStore(tmp_path_factory.mktemp("features"))
    write(store, SPECS, ROWS, unreadable=[SCENES[4]])
    return store


@pytest.mark.parametrize(
    ("room", "pieces"),
    [
        (0, [307, 2160, 2161, 4319, 4320, 4321, 4322, 1 << 20]),  # read twice as much at a time
        (1 << 40, [308, BYTES, 2 * BYTES - 2, 2 * BYTES, 2 * BYTES + 2, 1 << 20]),
    ],
    ids=["direct", "cached"],
)
def test_whatever_the_pieces_the_image_is_the_same(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, room: int, pieces: list[int]
) -> None:
    """Pieces that end in the values, with them, in the checksum behind them, and behind it."""
    monkeypatch.setattr(reading, "LARGER", 2)
    for piece in pieces:
        monkeypatch.setattr(reading, "PIECE", piece)
        reader = store.reader(SPECS, room=room)
        for scene, content in ROWS[1:2]:
            for array in SPECS:
                kept = reader.read(scene, array.name)
                np.testing.assert_array_equal(array.encoding.decode(kept)[0], expected(content, array))
                out = np.full(array.stored_shape, np.nan, np.float32)
                reader.read_coefficients(scene, array.name, out)
                if isinstance(array.encoding, Project):
                    basis = array.encoding.basis
                    assert basis is not None
                    out = out @ basis.vectors + basis.mean
                np.testing.assert_array_equal(out, expected(content, array))
        assert reader.bypass.on == (room == 0)


def shard(store: FeatureStore, array: ArraySpec, suffix: str = "") -> Path:
    folder = store.root / "features.zarr" / (array.path + suffix)
    (file,) = (path for path in (folder / "c/0").rglob("*") if path.is_file())
    return file


def index_of(file: Path) -> NDArray[np.uint64]:
    return np.frombuffer(file.read_bytes()[-index_bytes(4) : -4], "<u8").reshape(4, 2).copy()


def change_index(file: Path, slot: int, offset: int, size: int) -> None:
    """Another index that is whole in itself."""
    table = index_of(file)
    table[slot] = offset, size
    file.write_bytes(file.read_bytes()[: -index_bytes(4)] + table.tobytes() + crc32c(table).to_bytes(4, "little"))


@pytest.mark.parametrize("room", [0, 1 << 40], ids=["direct", "cached"])
def test_a_chunk_of_another_length_is_none(tmp_path: Path, room: int) -> None:
    store, array = FeatureStore(tmp_path), spec("float16")
    write(store, [array], ROWS)
    file = shard(store, array)
    start, size = (int(number) for number in index_of(file)[1])
    for more in (-1, 1):
        change_index(file, 1, start, size + more)
        with pytest.raises(DamagedError) as caught:
            store.reader([array], room=room).read(SCENES[1], array.name)
        what = f"chunk of {2 * BYTES + 4 + more} bytes, expected {2 * BYTES}"
        assert str(caught.value).startswith(f"{file}: scene {SCENES[1]!r} is damaged ({what}); `diffps cache verify")


def test_a_chunk_that_ends_with_its_file_is_there_and_one_behind_it_is_not(tmp_path: Path) -> None:
    store, array = FeatureStore(tmp_path), spec("float16")
    write(store, [array], ROWS)
    file = shard(store, array)
    size = file.stat().st_size
    for beyond, said in ((0, "checksum"), (1, "image 3 of the shard is absent from its index")):
        change_index(file, 3, size + beyond - 2 * BYTES - 4, 2 * BYTES + 4)
        with pytest.raises(DamagedError, match=re.escape(str(file)) + f".*{said}"):
            store.reader([array]).read(SCENES[3], array.name)


@pytest.mark.parametrize("encoding", ["float16", "bitround:6"])
@pytest.mark.parametrize("room", [0, 1 << 40], ids=["direct", "cached"])
def test_what_differs_is_said_in_numbers(tmp_path: Path, encoding: str, room: int) -> None:
    """What the bytes sum up to, what the file says behind them, what the receipt says: in this order."""
    store, array = FeatureStore(tmp_path), spec(encoding)
    write(store, [array], ROWS)
    file = shard(store, array)
    whole = file.read_bytes()
    start, size = (int(number) for number in index_of(file)[1])
    end = start + size - 4
    told = int.from_bytes(whole[end : end + 4], "little")
    for at in (start, end - 1, end, end + 3):
        data = bytearray(whole)
        data[at] ^= 1
        file.write_bytes(data)
        found, says = crc32c(bytes(data[start:end])), int.from_bytes(data[end : end + 4], "little")
        with pytest.raises(DamagedError) as caught:
            store.reader([array], room=room).read(SCENES[1], array.name)
        what = f"checksum {found:08x}, file says {says:08x}, receipt {told:08x}"
        assert f"{file}: scene {SCENES[1]!r} is damaged ({what}); " in str(caught.value)
        for name in (SCENES[0], SCENES[2]):
            store.reader([array], room=room).read(name, array.name)
        if at >= end:  # the values themselves are whole
            kept = store.reader([array], verify=False, room=room).read_float(SCENES[1], array.name)
            np.testing.assert_array_equal(kept, expected(ROWS[1][1], array))


def test_a_shard_that_changed_is_read_by_its_new_index(tmp_path: Path) -> None:
    """By a reader that knew the old one."""
    store, array = FeatureStore(tmp_path), spec("bitround:6")
    write(store, [array], ROWS[:1])
    reader = store.reader([array])
    before = reader.read_float(SCENES[0], array.name)
    write(store, [array], ROWS[1:4])
    write(store, [array], ROWS[:1])
    np.testing.assert_array_equal(reader.read_float(SCENES[0], array.name), before)


def test_a_disk_that_refuses_direct_reads_is_read_through_the_cache(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    array, calls, preadv = SPECS[0], list[int](), os.preadv

    def refuse_first(descriptor: int, buffers: Sequence[Any], offset: int, *flags: int) -> int:
        calls.append(offset)
        if len(calls) == 1 and not flags:
            raise OSError(errno.EINVAL, "not aligned")
        assert not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT
        return preadv(descriptor, buffers, offset, *flags)

    reader = store.reader([array], room=0)
    assert reader.bypass.on
    monkeypatch.setattr(os, "preadv", refuse_first)
    np.testing.assert_array_equal(reader.read_float(SCENES[0], array.name), expected(ROWS[0][1], array))
    assert reader.bypass.larger
    if go_direct(descriptor := os.open(shard(store, array), os.O_RDONLY)):  # else this file system knows none
        assert not reader.bypass.on
    os.close(descriptor)
    monkeypatch.setattr(os, "preadv", preadv)
    np.testing.assert_array_equal(reader.read_float(SCENES[1], array.name), expected(ROWS[1][1], array))


def test_arrays_and_views_that_were_not_opened_are_named_with_those_that_were(store: FeatureStore) -> None:
    reader = store.reader({"identity": [SPECS[1], SPECS[0]]})
    there = "there are tap@float16 (identity), tap@int8 (identity)"
    for image, name, view in ((SCENES[0], "other", "identity"), ((SCENES[0], "hflip"), "tap@int8", "hflip")):
        with pytest.raises(NotCachedError) as caught:
            reader.read(image, name)
        assert str(caught.value) == f"reader: {name!r} in view {view!r} was not opened; {there}"
    assert reader.spec("tap@int8") == reader.spec("tap@int8", "identity") == SPECS[1]
    with pytest.raises(NotCachedError, match="in view 'hflip' was not opened"):
        reader.spec("tap@int8", "hflip")
    assert not reader.has(SCENES[4], "tap@int8")
    assert reader.has((SCENES[3], "identity"), "tap@int8")


def test_memory_is_made_for_one_image_where_none_is_given(store: FeatureStore) -> None:
    reader = store.reader(SPECS)
    for array in SPECS:
        kept = reader.read(SCENES[0], array.name)
        assert kept.values.shape == (1, *array.stored_shape)
        assert kept.values.dtype == array.encoding.dtype
        if array.scales_shape is None:
            assert kept.scales is None
        else:
            assert kept.scales is not None
            assert kept.scales.shape == (1, *array.scales_shape)
            assert kept.scales.dtype == np.float16
        feature = reader.read_float(SCENES[0], array.name)
        assert feature.shape == array.shape
        assert feature.dtype == np.float32


def test_what_memory_holds_is_asked_of_the_images_that_are_read(store: FeatureStore) -> None:
    """Of all that have a row, or of those that an index has; of every view."""
    one = SPECS[0].image_bytes
    for images_read, count in ((None, 5), (ROWS[:2], 2), ([], 0)):
        for views in ({"a": [SPECS[0]]}, {"a": [SPECS[0]], "b": [SPECS[0]]}):
            stored = one * count * len(views)
            larger = [store.reader(views, images=images_read, room=room).bypass.larger for room in (stored - 1, stored)]
            assert larger == [True, False]
    arrived = pickle.loads(pickle.dumps(store.reader([SPECS[0]], verify=False, images=ROWS[:2], room=7)))
    assert arrived.__reduce__()[1][2:] == (False, "", ROWS[:2], 7)
    assert isinstance(arrived.bypass, Bypass)


def test_what_the_system_does_not_read_is_named(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "preadv", fail)
    for room in (0, 1 << 40):
        with pytest.raises(FileError, match=rf"^{re.escape(str(shard(store, SPECS[0])))}: cannot be read: the disk"):
            store.reader([SPECS[0]], room=room).read(SCENES[0], SPECS[0].name)
