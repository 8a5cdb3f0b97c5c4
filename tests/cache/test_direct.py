"""What is read past the page cache is what is read through it."""

import contextlib
import errno
import fcntl
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import FeatureStore
from cache.direct import (
    ALIGNED,
    LARGER,
    TRIED,
    Bypass,
    NotDirectError,
    direct_pieces,
    go_direct,
    go_through_cache,
    page_cache_room,
)
from cache.errors import DamagedError, FileError
from cache.reader import PIECE
from cache.ring import read_ahead
from cache.scratch import LARGE_PAGE, Scratch
from tests.cache.builders import ENCODINGS, images, spec, write

ROWS = images(5)
SCENES = [scene for scene, _ in ROWS]
SPECS = [spec(encoding) for encoding in ENCODINGS]
NAMES = [array.name for array in SPECS]


def direct_file(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    if not go_direct(descriptor):
        pytest.skip("this file system reads through the page cache alone")
    return descriptor


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("direct") / "file"
    path.write_bytes(np.random.default_rng(0).bytes(5 * ALIGNED + 123))
    return path


def test_what_a_disk_reads_into_may_lie_in_large_pages() -> None:
    buffer = Scratch().aligned(LARGE_PAGE + 1)
    assert len(buffer) == 2 * LARGE_PAGE
    assert buffer.ctypes.data % LARGE_PAGE == 0
    maps = Path("/proc/self/smaps")
    sizes = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not (maps.exists() and sizes.exists()) or "[never]" in sizes.read_text():
        pytest.skip("this system has no large pages to give")
    at, there = buffer.ctypes.data, False
    for name, _, rest in (line.partition(" ") for line in maps.read_text().splitlines()):
        if "-" in name:
            first, end = (int(edge, 16) for edge in name.split("-"))
            there = first <= at < end
        elif there and name == "THPeligible:":
            assert rest.strip() == "1"
            return
    pytest.skip("this kernel does not say which memory may lie in large pages")


@given(data=st.data())
def test_any_range_in_any_pieces(file: Path, data: st.DataObject) -> None:
    size = file.stat().st_size
    offset = data.draw(st.integers(0, size - 1))
    nbytes = data.draw(st.integers(1, size - offset))
    piece = data.draw(st.integers(1, 3 * ALIGNED))
    descriptor = direct_file(file)
    try:
        buffer = Scratch().aligned(piece + 2 * ALIGNED)
        pieces = [(at, part.tobytes()) for at, part in direct_pieces(descriptor, offset, nbytes, piece, buffer, file)]
    finally:
        os.close(descriptor)
    assert [at for at, _ in pieces] == list(range(0, nbytes, piece))
    assert b"".join(part for _, part in pieces) == file.read_bytes()[offset : offset + nbytes]


def test_the_end_of_a_file_is_named(file: Path) -> None:
    descriptor = direct_file(file)
    try:
        with pytest.raises(DamagedError, match="ends before byte"):
            list(direct_pieces(descriptor, ALIGNED, file.stat().st_size, 4096, Scratch().aligned(1 << 14), file))
    finally:
        os.close(descriptor)


def test_a_file_goes_back_through_the_cache(file: Path) -> None:
    descriptor = direct_file(file)
    try:
        direct = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        go_through_cache(descriptor)
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) == direct - os.O_DIRECT
        assert os.pread(descriptor, 10, 3) == file.read_bytes()[3:13]  # no direct read begins at byte 3
    finally:
        os.close(descriptor)


def test_a_file_that_knows_no_direct_reads_says_so() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    assert not go_direct(reading)


def test_a_refused_alignment_is_no_damage(file: Path) -> None:
    descriptor = direct_file(file)
    try:
        with contextlib.suppress(NotDirectError):
            list(direct_pieces(descriptor, 0, 100, 4096, Scratch().aligned(1 << 14)[1:], file))
            pytest.skip("this file system takes any alignment")
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    store = FeatureStore(tmp_path_factory.mktemp("features"))
    write(store, SPECS, ROWS)
    return store


def test_a_store_that_memory_does_not_hold_is_read_directly(store: FeatureStore) -> None:
    stored = len(ROWS) * sum(array.image_bytes for array in SPECS)
    assert store.reader(SPECS, room=stored - 1).bypass.on
    assert not store.reader(SPECS, room=stored).bypass.on
    assert store.reader(SPECS, images=ROWS[:2], room=stored // 2).bypass.larger is False
    assert not store.reader(SPECS).bypass.on
    assert 0 < page_cache_room() < 1 << 62


@pytest.mark.parametrize("output", ["stored", "float32"])
def test_direct_equals_cached(store: FeatureStore, output: str) -> None:
    batches = [[SCENES[4], SCENES[0]], [SCENES[2]], [SCENES[1], SCENES[3]]]
    direct, cached = store.reader(SPECS, room=0), store.reader(SPECS)
    slots = zip(
        read_ahead(direct, batches, NAMES, output=output),  # type: ignore[arg-type]
        read_ahead(cached, batches, NAMES, output=output, threads=1),  # type: ignore[arg-type]
        strict=True,
    )
    for ours, theirs in slots:
        for name in NAMES:
            assert ours.values[name].tobytes() == theirs.values[name].tobytes()
            assert (name in ours.scales) == (name in theirs.scales)
            if name in ours.scales:
                assert ours.scales[name].tobytes() == theirs.scales[name].tobytes()
    assert direct.bypass.on


@pytest.mark.parametrize(("through", "past_it"), [(0.74, False), (0.75, True), (1.5, True)])
def test_the_way_is_kept_whose_batches_come_clearly_sooner(through: float, past_it: bool) -> None:
    bypass, ways = Bypass(larger=True), []
    for seconds in [*[9.0] * 3, *[2.0] * TRIED, *[9.0] * 3, *[2 * through] * TRIED, *[9.0] * 20]:
        ways.append(bypass.on)
        bypass.batch_came(seconds, ahead=3)
    turn = 3 + TRIED
    assert turn == 9
    assert ways == [True] * turn + [False] * turn + [past_it] * 20
    assert len(bypass._seconds) == 2 * turn  # what comes later is not kept


def test_a_store_that_memory_holds_has_one_way() -> None:
    bypass = Bypass(larger=False)
    for seconds in range(100):
        bypass.batch_came(seconds, ahead=1)
        assert not bypass.on


def test_a_disk_without_direct_reads_is_asked_once() -> None:
    bypass = Bypass(larger=True)
    bypass.give_up()
    for seconds in range(100, 0, -1):
        bypass.batch_came(seconds, ahead=1)
        assert not bypass.on
    assert bypass.larger


def test_batches_are_the_same_while_both_ways_are_tried(store: FeatureStore) -> None:
    reader, cached = store.reader(SPECS, room=0), store.reader(SPECS)
    order = [[SCENES[i % len(SCENES)]] for i in range(2 * (1 + TRIED) + 3)]
    ways = []
    for slot in read_ahead(reader, order, NAMES, depth=1, output="stored"):
        ways.append(reader.bypass.on)
        for name in NAMES:
            assert slot.values[name][0].tobytes() == cached.read(slot.images[0], name).values.tobytes()
    assert {True, False} <= set(ways)


def test_a_changed_byte_is_found_directly_too(tmp_path: Path) -> None:
    store, array = FeatureStore(tmp_path), spec()
    write(store, [array], ROWS)
    file = next(path for path in (tmp_path / "features.zarr" / array.path / "c" / "0").rglob("*") if path.is_file())
    values = int(np.prod(array.stored_shape)) * np.dtype(array.encoding.dtype).itemsize
    for at in (5, values + 1):  # a value of the first image, and the checksum behind it
        whole = bytearray(file.read_bytes())
        whole[at] ^= 1
        file.write_bytes(whole)
        with pytest.raises(DamagedError, match=f"{SCENES[0]}.*damaged"):
            store.reader([array], room=0).read(SCENES[0], array.name)
        whole[at] ^= 1
        file.write_bytes(whole)
    assert store.reader([array], room=0).read(SCENES[0], array.name).values.any()


def test_a_reader_that_is_sent_looks_at_the_memory_where_it_arrives(store: FeatureStore) -> None:
    assert pickle.loads(pickle.dumps(store.reader(SPECS, room=0))).bypass.on
    arrived = pickle.loads(pickle.dumps(store.reader(SPECS)))
    assert arrived.__reduce__()[1][-1] is None
    assert not arrived.bypass.on


MEMORY = {"/proc/meminfo": "MemTotal:  999 kB\nMemAvailable:   123 kB\nMemFree: 1 kB\n"}
GROUP, OLD_GROUP = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"


@pytest.mark.parametrize(
    ("files", "room"),
    [
        (MEMORY, 123 * 1024),
        (MEMORY | {GROUP: "max\n"}, 123 * 1024),
        (MEMORY | {GROUP: "4096\n"}, 4096),
        (MEMORY | {GROUP: "max\n", OLD_GROUP: "8192\n"}, 8192),
        (MEMORY | {GROUP: "999999999\n"}, 123 * 1024),
        ({GROUP: "4096\n"}, 4096),
        ({"/proc/meminfo": "MemTotal: 9 kB\n"}, 1 << 62),
        ({"/proc/meminfo": "MemAvailable:\n"}, 1 << 62),
        ({}, 1 << 62),
    ],
)
def test_memory_is_what_is_available_within_the_container_s_limit(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], room: int
) -> None:
    def read_text(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert page_cache_room() == room


def test_a_direct_piece_is_two_large_requests() -> None:
    """Of 4 MB each, with the blocks at its ends; pieces begin and end with a disk's blocks."""
    assert 8 << 20 >= LARGER * PIECE + 2 * ALIGNED > (8 << 20) - PIECE
    assert PIECE == 1 << 20
    assert ALIGNED % 4096 == 0
    assert PIECE % ALIGNED == 0


def pieces_of(path: Path, offset: int, nbytes: int, piece: int) -> list[tuple[int, bytes]]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        buffer = Scratch().aligned(piece + 2 * ALIGNED)
        return [(at, part.tobytes()) for at, part in direct_pieces(descriptor, offset, nbytes, piece, buffer, path)]
    finally:
        os.close(descriptor)


def test_what_a_disk_gives_in_whole_blocks_is_gone_on_with_and_else_is_the_end(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked, most = os.preadv, list[tuple[int, int]](), ALIGNED

    def preadv(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        asked.append((offset, len(buffers[0])))
        return real(descriptor, [buffers[0][:most]], offset)

    monkeypatch.setattr(os, "preadv", preadv)
    # Bytes 100 to 9099 lie in three blocks; a second piece of 1000 in the third.
    assert pieces_of(file, 100, 10000, 9000)[0] == (0, file.read_bytes()[100:9100])
    assert asked == [
        (0, 3 * ALIGNED), (ALIGNED, 2 * ALIGNED), (2 * ALIGNED, ALIGNED), (2 * ALIGNED, ALIGNED),
    ]  # fmt: skip
    most = ALIGNED - 1
    with pytest.raises(DamagedError) as caught:
        pieces_of(file, 100, 9000, 9000)
    assert str(caught.value).startswith(f"{file}: ends before byte 9100; `diffps cache verify --repair`")
    assert pieces_of(file, 100, 900, 900) == [(0, file.read_bytes()[100:1000])]  # all that was wanted came


@pytest.mark.parametrize(("code", "nth", "kind"), [
    (errno.EINVAL, 1, NotDirectError), (errno.EINVAL, 2, FileError), (errno.EINVAL, 3, FileError),
    (errno.EIO, 1, FileError),
])  # fmt: skip
def test_a_refusal_is_one_of_alignment_before_anything_was_read_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: int, nth: int, kind: type[Exception]
) -> None:
    real, calls = os.preadv, list[int]()

    def preadv(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        calls.append(offset)
        if len(calls) == nth:
            raise OSError(code, "no")
        return real(descriptor, [buffers[0][:ALIGNED]], offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(kind) as caught:
        pieces_of(file, 0, 3 * ALIGNED, 2 * ALIGNED)
    assert len(calls) == nth
    if kind is FileError:
        assert str(caught.value).startswith(f"{file}: cannot be read: ")


def test_where_a_file_can_be_opened_past_the_cache_it_is_read_so(store: FeatureStore, file: Path) -> None:
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system reads through the page cache alone")
    descriptor = os.open(file, os.O_RDONLY)
    try:
        assert go_direct(descriptor) is True
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(("room", "past_it"), [(0, True), (1 << 40, False)])
def test_the_flag_goes_with_the_room(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, room: int, past_it: bool
) -> None:
    asked, real = list[int](), fcntl.fcntl

    def told(descriptor: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL:
            asked.append(flags & os.O_DIRECT)
        return real(descriptor, command, flags)

    monkeypatch.setattr(fcntl, "fcntl", told)
    store.reader(SPECS, room=room).read(SCENES[0], "tap@float16")
    assert asked == ([os.O_DIRECT] if past_it else [])
