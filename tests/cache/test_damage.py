"""Nothing that is not exactly what was written is ever read, and exactly the damaged shards are written again."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import CacheError, FeatureStore
from cache.basis import fit_basis
from cache.checksum import crc32c
from cache.encodings import Project
from cache.errors import DamagedError, FileError, LockedError, NotCachedError
from cache.layout import BASIS, write_basis
from cache.shards import read_fully, read_index
from cache.verify import verify, withdraw
from tests.cache.builders import check, images, spec, tree, write

SPECS = [spec("int8"), spec("float16", tap="other")]
ROWS = images(10)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "features")
    write(store, SPECS, ROWS)
    return store


def shard_of(store: FeatureStore, shard: int, name: str = "tap@int8") -> Path:
    folder = store.root / "features.zarr" / SPECS[0].group.path / name / "c" / str(shard)
    (path,) = (file for file in folder.rglob("*") if file.is_file())
    return path


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def repaired(store: FeatureStore) -> list[int]:
    """Shards that running the stage again computes after a repair, with the store whole afterwards."""
    withdraw(store.root, verify(store.root, store.arrays()))
    shards = write(store, SPECS, ROWS)
    assert verify(store.root, store.arrays()) == []
    check(store, SPECS, ROWS)
    return shards


def test_nothing_is_taken_back_while_somebody_writes(store: FeatureStore) -> None:
    flip(shard_of(store, 0), 10)
    damages = verify(store.root, store.arrays())
    with store.writer(SPECS, ROWS), pytest.raises(LockedError, match="still writing"):
        withdraw(store.root, damages)
    assert withdraw(store.root, damages) == 1


@settings(max_examples=40)
@given(
    part=st.sampled_from(["tap@int8", "tap@int8.scales", "other@float16"]), where=st.floats(0, 1), bit=st.integers(0, 7)
)
def test_any_flipped_bit_is_found(tmp_path_factory, part: str, where: float, bit: int) -> None:
    store = FeatureStore(tmp_path_factory.mktemp("features"))
    write(store, SPECS, ROWS[:4])
    path = shard_of(store, 0, part)
    whole = path.read_bytes()
    flip(path, min(int(where * len(whole)), len(whole) - 1), bit)
    assert {damage.file for damage in verify(store.root, store.arrays())} == {path}
    reader = store.reader(SPECS)
    refusals = []
    for scene, _ in ROWS[:4]:
        try:
            reader.read(scene, part.removesuffix(".scales"))
        except DamagedError as error:
            refusals.append(str(error))
    assert all(str(path) in refusal for refusal in refusals)
    assert len(refusals) in (1, 4)  # one image, or the index and with it all


def test_a_flipped_byte_is_refused_and_repaired(store: FeatureStore) -> None:
    before = tree(store.root)
    flip(shard_of(store, 1), 100)
    with pytest.raises(DamagedError, match=r"folder/004\.jpg.*checksum.*diffps cache verify --repair"):
        store.reader(SPECS).read("folder/004.jpg", "tap@int8")
    (damage,) = verify(store.root, store.arrays())
    assert (damage.shard, damage.scene_ids) == (1, ("folder/004.jpg",))
    assert repaired(store) == [1]
    assert tree(store.root) == before


def test_a_truncated_shard_is_refused_and_rewritten(store: FeatureStore) -> None:
    path = shard_of(store, 0)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DamagedError, match="index|absent"):
        store.reader(SPECS).read("folder/000.jpg", "tap@int8")
    assert write(store, SPECS, ROWS) == [0]  # seen without a repair: the size is wrong
    check(store, SPECS, ROWS)


def test_a_missing_shard_is_refused_and_rewritten(store: FeatureStore) -> None:
    shard_of(store, 2).unlink()
    with pytest.raises(DamagedError, match="missing"):
        store.reader(SPECS).read("folder/009.jpg", "tap@int8")
    assert [damage.what for damage in verify(store.root, store.arrays())] == ["missing"]
    assert write(store, SPECS, ROWS) == [2]
    check(store, SPECS, ROWS)


def test_a_missing_receipt_is_refused_and_rewritten(store: FeatureStore) -> None:
    (receipt,) = (store.root / "receipts").rglob("1.*.json")
    receipt.unlink()
    with pytest.raises(NotCachedError, match=r"folder/005\.jpg.*diffps extract"):
        store.reader(SPECS).read("folder/005.jpg", "tap@int8")
    assert write(store, SPECS, ROWS) == [1]
    check(store, SPECS, ROWS)


def test_a_shard_of_another_row_is_refused(store: FeatureStore) -> None:
    """Valid in itself, checksums and all: only the receipt knows that it is not this one."""
    path = shard_of(store, 0, "other@float16")
    path.write_bytes(shard_of(store, 1, "other@float16").read_bytes())
    with pytest.raises(DamagedError, match="receipt"):
        store.reader(SPECS).read("folder/000.jpg", "other@float16")
    assert repaired(store) == [0]


def test_a_receipt_of_another_recipe_does_not_count(store: FeatureStore) -> None:
    (path,) = (store.root / "receipts").rglob("0.*.json")
    receipt = json.loads(path.read_text())
    del receipt["seal"]  # as older versions wrote them
    receipt["arrays"]["tap@int8"]["id"] = "0123456789"
    path.write_text(json.dumps(receipt))
    with pytest.raises(NotCachedError, match="no receipt"):
        store.reader(SPECS).read("folder/000.jpg", "tap@int8")
    assert "another recipe" in verify(store.root, store.arrays())[0].what
    assert write(store, SPECS, ROWS) == [0]


def test_a_torn_receipt_is_named(store: FeatureStore) -> None:
    (path,) = (store.root / "receipts").rglob("0.*.json")
    path.write_text(path.read_text()[:50])
    with pytest.raises(DamagedError, match=str(path)):
        store.reader(SPECS)


def test_missing_metadata_is_named_and_written_again(store: FeatureStore) -> None:
    path = store.root / "features.zarr" / SPECS[0].path / "zarr.json"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(CacheError, match="no such array"):
        store.reader(SPECS)
    assert write(store, SPECS, ROWS) == []
    assert path.read_bytes() == whole


def test_several_damages_are_repaired_at_once(store: FeatureStore) -> None:
    flip(shard_of(store, 0), 3)
    flip(shard_of(store, 2, "other@float16"), 3)
    assert repaired(store) == [0, 2]


def test_unverified_reading_is_possible_for_those_who_ask(store: FeatureStore) -> None:
    flip(shard_of(store, 0), 3)
    assert store.reader(SPECS, verify=False).read("folder/000.jpg", "tap@int8").values.dtype == np.int8


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def without_metadata(folder: Path) -> None:
    (folder / "zarr.json").unlink()


def torn_metadata(folder: Path) -> None:
    (folder / "zarr.json").write_text('{"shape": [')


def flipped(folder: Path) -> None:
    flip(folder / "c/0/0", 40)


def cut(folder: Path) -> None:
    os.truncate(folder / "c/0/0", 101)


def another(folder: Path) -> None:
    """Whole in itself, but of other features."""
    basis = fit_basis(np.random.default_rng(1).normal(size=(64, 12)), 4)
    write_basis(folder.with_name(folder.name.removesuffix(BASIS)), Project(4, basis))


@pytest.mark.parametrize("damage", [gone, without_metadata, torn_metadata, flipped, cut, another])
def test_a_damaged_basis_is_named_and_written_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    store, array = FeatureStore(tmp_path / "features"), spec("project:4")
    write(store, [array, *SPECS], ROWS)
    before = tree(store.root)
    folder = store.root / "features.zarr" / (array.path + BASIS)
    damage(folder)
    (status,) = store.status()  # the rest of the store is not locked by it
    assert [(entry.done, entry.missing) for entry in status.arrays] == [(10, 0)] * 3
    assert store.array(array.path).id == array.id
    check(store, SPECS, ROWS)
    (found,) = verify(store.root, store.arrays())
    assert (found.shard, found.file) == (None, folder)
    with pytest.raises(DamagedError, match=rf"{folder}.*`diffps extract` with extract.encoding=project:4 writes it"):
        store.reader([array.path])
    assert withdraw(store.root, [found]) == 0  # the shards are whole
    assert write(store, [array, *SPECS], ROWS) == []
    assert tree(store.root) == before
    assert verify(store.root, store.arrays()) == []
    check(store, [store.array(array.path)], ROWS)


def test_what_is_said_to_do_is_the_stage_that_writes_the_array(tmp_path: Path) -> None:
    from dataclasses import replace

    from cache import GroupKey

    store = FeatureStore(tmp_path / "features")
    moments = replace(spec("float32", key=GroupKey("train", "identity", "abc")), name="moments")
    with pytest.raises(NotCachedError, match="run `diffps encode`"):
        store.reader([moments])
    write(store, [moments], ROWS[:4])
    store.rows("train").assign([(ROWS[1][0], "edited"), ROWS[5]])
    reader = store.reader([moments])
    with pytest.raises(NotCachedError, match="edited since; run `diffps encode`"):
        reader.read(ROWS[1][0], "moments")
    with pytest.raises(NotCachedError, match="no receipt.*run `diffps encode`"):
        reader.read(ROWS[5][0], "moments")


def test_a_shard_that_the_system_does_not_read_is_named(tmp_path: Path) -> None:
    """A folder in its place: what can be opened, and not read."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileError, match=rf"^{re.escape(str(tmp_path))}: cannot be read: .*; "):
            read_index(descriptor, tmp_path, 4)
        with pytest.raises(FileError, match=rf"^{re.escape(str(tmp_path))}: cannot be read: .*; "):
            read_fully(descriptor, memoryview(bytearray(8)), 0, tmp_path)
    finally:
        os.close(descriptor)


def test_an_index_that_is_not_as_written_is_not_read(tmp_path: Path) -> None:
    """One bit of any byte; and a file that ends before the index is whole."""
    table = np.array([[0, 20], [20, 30]], "<u8")
    whole = table.tobytes() + crc32c(table).to_bytes(4, "little")

    def found(content: bytes) -> list[list[int]]:
        (tmp_path / "shard").write_bytes(content)
        descriptor = os.open(tmp_path / "shard", os.O_RDONLY)
        try:
            index: list[list[int]] = read_index(descriptor, tmp_path / "shard", 2).tolist()
            return index
        finally:
            os.close(descriptor)

    assert found(b"chunks" + whole) == table.tolist()
    flipped = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(len(whole))]
    for content in (*flipped, *(whole[at:] for at in range(1, len(whole)))):
        with pytest.raises(DamagedError, match="the shard's index does not match its checksum"):
            found(content)
