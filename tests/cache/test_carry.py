"""What a shard holds beside the images asked for, and is still theirs."""

import logging
from pathlib import Path

import pytest

from cache import FeatureStore
from cache.carry import carried_images
from cache.receipts import Name
from tests.cache.builders import digest, group, images, spec, write

ARRAY = spec("int8")
ROWS = images(5)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path, "mine")
    write(store, [ARRAY], ROWS, unreadable=[ROWS[2][0]])
    return store


def test_what_is_whole_and_of_today_is_carried_in_order(store: FeatureStore) -> None:
    store.rows("train").assign([(ROWS[1][0], digest("edited"))])
    found = list(carried_images(store.root, ARRAY, 0, 4, (3,)))
    assert [(image.row, image.digest, image.name, image.reason) for image in found] == [
        (0, ROWS[0][1], Name("mine", ROWS[0][0]), None),
        (2, ROWS[2][1], Name("mine", ROWS[2][0]), "truncated JPEG"),
    ]
    kept = store.reader([ARRAY]).read(ROWS[0][0], ARRAY.name)
    assert kept.scales is not None
    assert {suffix: chunk.tobytes() for suffix, chunk in found[0].chunks.items()} == {
        "": kept.values.tobytes(), ".scales": kept.scales.tobytes(),
    }  # fmt: skip
    assert found[1].chunks == {}
    assert [image.row for image in carried_images(store.root, ARRAY, 1, 4, ())] == [4]


@pytest.mark.parametrize("asked", [(0, 1, 2, 3), (0, 1, 2, 3, 9)])
def test_where_all_are_asked_for_nothing_is_carried(store: FeatureStore, asked: tuple[int, ...]) -> None:
    assert list(carried_images(store.root, ARRAY, 0, 4, asked)) == []


def test_of_another_recipe_or_shard_nothing_is_carried(store: FeatureStore) -> None:
    assert list(carried_images(store.root, spec(recipe={"unet": "other"}, key=group()), 0, 4, (3,))) == []
    assert list(carried_images(store.root, spec(tap="other"), 0, 4, (3,))) == []
    assert list(carried_images(store.root, ARRAY, 7, 4, (3,))) == []


def test_what_is_damaged_is_left_with_a_warning(store: FeatureStore, caplog: pytest.LogCaptureFixture) -> None:
    file = store.root / "features.zarr" / ARRAY.path / "c/0/0/0/0"
    data = bytearray(file.read_bytes())
    data[20 * 18 * 12 + 4] ^= 1  # of row 1
    file.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert [image.row for image in carried_images(store.root, ARRAY, 0, 4, (3,))] == [0, 2]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"row 1 of {ARRAY.path} is lost: {file}: image 1 of the shard does not match its receipt")
