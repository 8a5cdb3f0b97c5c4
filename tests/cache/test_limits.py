"""What the store is told and cannot be: the last that is taken, the first that is refused, and what is said of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import CacheError, FeatureStore, GroupKey
from cache.encodings import Encoded
from cache.errors import DamagedError, EncodingError, IncompleteError
from cache.layout import ArraySpec, shard_size
from cache.process import is_running, start_time
from cache.receipts import ReceiptBook
from cache.ring import read_ahead
from cache.verify import verify
from tests.cache.builders import feature, group, images, spec, write

ROWS = images(6)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = FeatureStore(tmp_path / "features")
    write(made, [spec()], ROWS)
    return made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (0, 1, 1)}, "has shape (0, 1, 1); expected (height, width, channels), all >= 1"),
        ({"shape": (1, 1)}, "has shape (1, 1); expected"),
        ({"shape": (1, 1, 1, 1)}, "has shape (1, 1, 1, 1); expected"),
        ({"name": "a/b"}, "'a/b' cannot be an array's name; use letters"),
        ({"name": "a.scales"}, "'a.scales' cannot be an array's name"),
        ({"name": "a.basis"}, "'a.basis' cannot be an array's name"),
        ({"name": ".a"}, "'.a' cannot be an array's name"),
        ({"name": ""}, "'' cannot be an array's name"),
    ],
)
def test_arrays_have_names_and_three_sides(change: dict[str, Any], message: str) -> None:
    sound = {"group": group(), "name": "a", "shape": (1, 1, 1), "encoding": spec().encoding, "recipe": {}}
    ArraySpec(**sound)
    with pytest.raises(CacheError) as caught:
        ArraySpec(**{**sound, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize("part", ["split", "view", "recipe_id"])
def test_groups_have_names_of_folders(part: str) -> None:
    sound = {"split": "train", "view": "identity", "recipe_id": "a"}
    GroupKey(**sound)
    for wrong in ("", ".", "..", "a/b", "-a", "ä"):
        with pytest.raises(CacheError, match="cannot be a folder name"):
            GroupKey(**{**sound, part: wrong})
    assert GroupKey(**sound, timestep=0).path == "train/identity/a/t0"
    assert GroupKey(**sound).path == GroupKey(**sound).scope == "train/identity/a"
    assert [GroupKey(**sound, timestep=step).command for step in (None, 0)] == ["`diffps encode`", "`diffps extract`"]


def test_a_writer_takes_one_group_different_names_and_shards_of_one_image(store: FeatureStore) -> None:
    other = spec(recipe={"unet": "other"}, tap="other")
    for arrays in ([spec(), other], [spec(), spec()]):
        with pytest.raises(CacheError, match="written together need one group and different names"):
            store.writer(arrays, ROWS)
    with pytest.raises(CacheError, match="shard 0 must be at least 1 image"):
        store.writer([other], ROWS, shard=0)
    assert write(store, [other], ROWS[:2], shard=1) == [0, 1]


def test_a_shard_takes_its_images_and_no_more(store: FeatureStore) -> None:
    array = spec(tap="other")
    with store.writer([array], ROWS, shard=4) as writer:
        first, second = writer.pending()
        with pytest.raises(IncompleteError, match=r"has 2 images and was given one more"), writer.shard(second) as sink:
            for content in (*second.digests, second.digests[0]):
                sink.append({array.name: feature(content, array)})
        with pytest.raises(IncompleteError), writer.shard(first) as sink:
            sink.append({array.name: feature(first.digests[0], array)})
        wrong = pytest.raises(CacheError, match=r"scene 'folder/000.jpg': .* came with shape \(1, 18, 12\), expected")
        with wrong, writer.shard(first) as sink:
            sink.append({array.name: feature(first.digests[0], array)[:1]})
        with pytest.raises(EncodingError, match="int8 values came without scales"), writer.shard(first) as sink:
            sink._store(array, 0, Encoded(np.zeros((1, *array.shape), np.int8), None))
    assert ReceiptBook.of(store.root, array.group).shards == ReceiptBook.of(store.root, spec().group).shards
    assert verify(store.root, [spec()]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads 0 and depth 2 must be at least 1"),
        ({"depth": 0}, "threads 1 and depth 0 must be at least 1"),
        ({"output": "float16"}, "output 'float16': expected 'stored' or 'float32'"),
    ],
)
def test_a_ring_has_a_thread_and_a_place(store: FeatureStore, options: dict[str, Any], message: str) -> None:
    reader, sound = store.reader([spec()]), {"threads": 1, "depth": 2, "output": "float32"}
    batches = [[scene for scene, _ in ROWS[:2]]]

    def read(**changed: Any) -> int:
        return sum(1 for _ in read_ahead(reader, batches, [spec().name], **{**sound, **changed}))

    assert read() == read(depth=1) == 1
    with pytest.raises(CacheError, match=f"ring: {message}"):
        read(**options)


def test_two_arrays_of_one_name_are_not_read_together(store: FeatureStore) -> None:
    other = spec(recipe={"unet": "other"})
    write(store, [other], ROWS)
    with pytest.raises(CacheError, match="two arrays are called 'tap@int8' in view ''"):
        store.reader([spec(), other])


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    own = os.getpid()
    started = start_time(own)
    assert started is not None
    assert is_running(own, started)
    assert is_running(own, None)
    assert not is_running(own, str(int(started) - 1))
    assert not is_running(0, None)
    assert not is_running(-1, None)
    assert is_running(1, None)
    assert is_running(2**70, None)  # no number a process can have: nobody can say
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert not is_running(done.pid, None)
    assert not is_running(done.pid, started)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing"),
        ("[]", "is no array's metadata"),
        ("{", "is no array's metadata"),
        ('{"shape": []}', "is no array's metadata"),
        ('{"shape": 3}', "is no array's metadata"),
        ("fill", "is not the metadata this store writes"),
    ],
)
def test_metadata_that_is_not_the_store_s_is_named(store: FeatureStore, content: str | None, reason: str) -> None:
    path = store.root / "features.zarr" / spec().path / "zarr.json"
    arrays = store.arrays()
    metadata = json.loads(path.read_text())
    path.unlink()
    if content is not None:
        path.write_text(json.dumps(metadata | {"fill_value": 7}) if content == "fill" else content)
    (damage,) = [damage for damage in verify(store.root, arrays) if damage.file == path]
    assert damage.what == reason


def test_a_group_that_lost_the_size_of_its_shards_says_what_to_write(store: FeatureStore) -> None:
    assert shard_size(store.root, group()) == 4
    path = store.root / "features.zarr" / group().scope / "zarr.json"
    metadata = json.loads(path.read_text())
    for attributes in ({}, {"diffps": {}}, {"diffps": 3}, {"diffps": {"shard": "x"}}):
        path.write_text(json.dumps(metadata | {"attributes": attributes}))
        with pytest.raises(DamagedError, match='write {"diffps": {"shard": N}} into its'):
            shard_size(store.root, group())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rows": [0, 1, 2, 2]}, "4 rows, 4 digests, 4 names"),
        ({"rows": [0, 1, 2]}, "3 rows, 4 digests, 4 names"),
        ({"names": []}, "4 rows, 4 digests, 0 names"),
        ({"skipped": {"1": "no image"}}, "tap@int8: checksums and skipped rows differ"),
        ({"rows": "x"}, "is no receipt"),
    ],
)
def test_a_receipt_that_contradicts_itself_is_none(store: FeatureStore, change: dict[str, Any], reason: str) -> None:
    path = store.root / "receipts" / group().path / "0.0.json"
    receipt = json.loads(path.read_text()) | change
    del receipt["seal"]  # as the first version wrote them, without a digest
    path.write_text(json.dumps(receipt))
    with pytest.raises(DamagedError) as caught:
        ReceiptBook.of(store.root, group())
    assert reason in str(caught.value)
    assert f"{path}: is no receipt" in str(caught.value)
    path.rename(path.with_name("a.b.json"))
    with pytest.raises(DamagedError, match="a.b.json: is no receipt's name; remove the file"):
        ReceiptBook.of(store.root, group())
