"""A writer's shards: what is told, what is taken over, what is cleared away."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cache import CacheError, FeatureStore
from cache.errors import FileError, IncompleteError, LockedError, NonFiniteError, StoreFullError
from cache.receipts import Name, ReceiptBook
from cache.writer import temporary_folder
from tests.cache.builders import check, digest, feature, group, images, spec, write

ROWS = images(20)
SPECS = [spec("int8"), spec("float16", tap="other")]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path, "mine")


def test_sixteen_images_are_a_shard_unless_another_number_is_asked_for(store: FeatureStore) -> None:
    assert [len(task.rows) for task in store.missing(SPECS, ROWS).tasks] == [16, 4]
    with store.writer(SPECS, ROWS) as writer:
        assert (writer.shard_size, [len(task.rows) for task in writer.pending()]) == (16, [16, 4])
        first = writer.pending()[0]
        assert first == store.missing(SPECS, ROWS).tasks[0]
        assert (first.shard, first.shard_size, first.dataset) == (0, 16, "mine")
        assert first.scene_ids == tuple(scene for scene, _ in ROWS[:16])
        assert first.digests == tuple(content for _, content in ROWS[:16])
        assert first.specs == tuple(SPECS)
    with pytest.raises(CacheError, match="need one group"):
        store.missing([SPECS[0], spec(recipe={"unet": "other"})], ROWS)


def test_a_receipt_says_what_was_asked_and_what_was_taken_over(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, SPECS, ROWS[:3], unreadable=[ROWS[1][0]])
    with store.writer([*SPECS, spec("float32", tap="map")], ROWS[3:4], shard=4) as writer:
        (task,) = writer.pending()
        with monkeypatch.context() as patched:
            seconds = iter([10.0, 12.34567])
            patched.setattr(time, "monotonic", lambda: next(seconds))
            with writer.shard(task) as sink:
                sink.info = {"device": "cpu"}
                sink.append({array.name: feature(task.digests[0], array) for array in task.specs})
    both, alone = ReceiptBook.of(store.root, group()).of_shard(0)
    assert sorted(both.arrays) == sorted(array.name for array in SPECS)
    assert both.rows == (3, 0, 1, 2)
    assert both.digests == tuple(ROWS[row][1] for row in both.rows)
    assert both.names == tuple(Name("mine", ROWS[row][0]) for row in both.rows)
    assert both.skipped == {1: "truncated JPEG"}
    assert list(alone.arrays) == ["map@float32"]
    assert (alone.rows, alone.names, alone.skipped) == ((3,), (Name("mine", ROWS[3][0]),), {})
    # The time the shard took is on one of them.
    assert both.info["seconds"] == 2.346
    assert alone.info["seconds"] == 0.0
    assert both.info["device"] == alone.info["device"] == "cpu"
    check(store, SPECS, [ROWS[0], ROWS[2], ROWS[3]])


def test_a_skipped_image_has_its_place_in_every_file(store: FeatureStore) -> None:
    with store.writer(SPECS, ROWS[:4], shard=4) as writer:
        (task,) = writer.pending()
        with writer.shard(task) as sink:
            for row, content in enumerate(task.digests):
                if row in (0, 2):
                    sink.skip(f"reason {row}")
                else:
                    sink.append({array.name: feature(content, array) for array in task.specs})
    (receipt,) = ReceiptBook.of(store.root, group()).of_shard(0)
    assert receipt.skipped == {0: "reason 0", 2: "reason 2"}
    for _, parts in receipt.arrays.values():
        for part in parts.values():
            assert [checksum is None for checksum in part.crc32c] == [True, False, True, False]


def test_what_is_wrong_with_a_feature_is_said_with_its_image(store: FeatureStore) -> None:
    with store.writer(SPECS[1:], ROWS[:2], shard=4) as writer:
        (task,) = writer.pending()
        place = f"scene {ROWS[1][0]!r}: {SPECS[1].path}"
        for wrong, kind, said in (
            (np.ones((20, 18, 11)), CacheError, f"{place} came with shape (20, 18, 11), expected (20, 18, 12)"),
            (np.full((20, 18, 12), np.nan), NonFiniteError,
             f"{place} has NaN at (0, 0, 0), 4320 of 4320 values; nothing of its shard is kept"),
        ):  # fmt: skip
            with pytest.raises(kind) as caught, writer.shard(task) as sink:
                sink.append({SPECS[1].name: feature(task.digests[0], SPECS[1])})
                sink.append({SPECS[1].name: wrong})
            assert str(caught.value) == said
        with pytest.raises(IncompleteError) as few, writer.shard(task) as sink:
            sink.skip("x")
        assert str(few.value) == "shard 0: 1 of 2 images were given"
        with pytest.raises(IncompleteError) as many, writer.shard(task) as sink:
            for _ in range(3):
                sink.skip("x")
        assert str(many.value) == "shard 0: has 2 images and was given one more"
        assert list(temporary_folder(store.root, group()).iterdir()) == []


def test_files_that_are_being_made_lie_by_scope_and_timestep(store: FeatureStore) -> None:
    key = group()
    place = store.root / f"tmp/train~identity~{key.recipe_id}"
    assert temporary_folder(store.root, key) == place / "t0"
    assert temporary_folder(store.root, replace(key, timestep=None)) == place / "latents"
    left = place / "t7/0-tap.left"
    left.parent.mkdir(parents=True)
    left.touch()
    with store.writer(SPECS, ROWS[:4], shard=4) as writer:
        assert not place.exists()  # what an owner before left
        (task,) = writer.pending()
        with writer.shard(task) as sink:
            names = sorted(path.name.rpartition(".")[0] for path in (place / "t0").iterdir())
            assert names == ["0-other@float16", "0-tap@int8", "0-tap@int8.scales"]
            for _ in task.rows:
                sink.skip("torn")
        assert list((place / "t0").iterdir()) == []
        left.parent.mkdir()
        left.touch()
    assert not place.exists()


def test_what_does_not_fit_is_refused_before_it_is_computed(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted are the images that are missing, in every array that lacks them."""
    write(store, SPECS[:1], ROWS[:8])
    needed = 4 * SPECS[0].image_bytes + 12 * SPECS[1].image_bytes
    with store.writer(SPECS, ROWS[:12], shard=4) as writer:
        for free, fits in ((needed / 0.99 - 1, False), (needed / 0.99 + 1, True)):
            with monkeypatch.context() as patched:
                status = SimpleNamespace(f_bavail=int(free), f_frsize=1)
                patched.setattr(os, "statvfs", lambda path, status=status: status)
                if fits:
                    assert len(writer.pending()) == 3
                else:
                    with pytest.raises(StoreFullError, match="0.00 GB are still to be written"):
                        writer.pending()


def test_a_shard_that_somebody_cleared_away_is_not_published(store: FeatureStore) -> None:
    with store.writer(SPECS, ROWS[:4], shard=4) as writer:
        (task,) = writer.pending()
        with pytest.raises(LockedError) as caught, writer.shard(task) as sink:
            for content in task.digests:
                sink.append({array.name: feature(content, array) for array in task.specs})
            next(temporary_folder(store.root, group()).glob("0-other*")).unlink()
    assert "another process writes it now" in str(caught.value)
    assert ReceiptBook.of(store.root, group()).shards == []


@pytest.mark.parametrize("inside", [None, ZeroDivisionError])
def test_what_went_wrong_inside_is_told_before_what_cannot_be_cleared(
    store: FeatureStore, inside: type[Exception] | None
) -> None:
    """The lock cannot be read any more when the writer ends."""
    with pytest.raises(inside or FileError), store.writer(SPECS, ROWS[:4]):
        (lock,) = (store.root / "locks").glob("train*.json")
        lock.unlink()
        lock.mkdir()
        if inside is not None:
            raise inside
    assert lock.is_dir()


def test_an_edited_image_is_not_carried_over_for_another(store: FeatureStore) -> None:
    write(store, SPECS, ROWS[:3])
    edited = (ROWS[0][0], digest("edited"))
    store.rows("train").assign([edited])
    write(store, SPECS, ROWS[3:4])
    receipt = ReceiptBook.of(store.root, group()).find(0, SPECS[0].name)
    assert receipt is not None
    assert receipt.rows == (3, 1, 2)
    assert write(store, SPECS, [edited]) == [0]


def test_metadata_grows_with_the_rows_and_never_shrinks(store: FeatureStore) -> None:
    path = store.root / "features.zarr" / SPECS[0].path / "zarr.json"
    for rows, length in ((ROWS[:3], 3), (ROWS[:1], 3), (ROWS[2:6], 6), ([], 6)):
        with store.writer(SPECS, rows, shard=4):
            assert json.loads(path.read_text())["shape"][0] == length
