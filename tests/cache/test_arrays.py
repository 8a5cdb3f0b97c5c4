"""Where an image lies, and what is said where it does not."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cache import ArraySpec, FeatureStore, GroupKey, SkippedImage
from cache.arrays import StoredArray
from cache.errors import DamagedError, NotCachedError, RecipeError
from cache.receipts import ReceiptBook
from tests.cache.builders import digest, group, images, spec, write

ARRAY = spec("float16")
ROWS = images(6)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path)
    write(store, [ARRAY], ROWS, unreadable=[ROWS[2][0]])
    return store


def opened(store: FeatureStore, array: ArraySpec = ARRAY) -> StoredArray:
    return StoredArray(store.root, array, ReceiptBook.of(store.root, group()), store.rows("train"))


def test_an_image_has_a_shard_a_slot_and_a_place_in_its_receipt(store: FeatureStore) -> None:
    write(store, [ARRAY], [*ROWS[4:], *images(1, start=9)])
    array = opened(store)
    for row, (scene, _) in enumerate(ROWS):
        if row == 2:
            with pytest.raises(SkippedImage) as caught:
                array.locate(scene)
            assert str(caught.value) == f"scene {scene!r}: was skipped when extracted: truncated JPEG"
            continue
        place = array.locate(scene)
        assert (place.shard, place.slot) == (row // 4, row % 4)
        assert place.receipt.rows[place.position] == row
        assert place.receipt.shard == row // 4
    values = 20 * 18 * 12 * 2
    assert array.parts[""].nbytes == values
    descriptor_to_close, offset, size = array.parts[""].open(0, 3)
    os.close(descriptor_to_close)
    assert (offset, size) == (2 * (values + 4), values + 4)
    with pytest.raises(DamagedError, match="image 2 of the shard is absent from its index"):
        array.parts[""].open(0, 2)


def test_who_is_not_there_is_said_with_the_command_that_writes_it(store: FeatureStore) -> None:
    store.rows("train").assign([(ROWS[0][0], digest("edited")), ("new.jpg", digest("new"))])
    array = opened(store)
    for scene, said in (
        (ROWS[0][0], f"{ARRAY.path}: scene {ROWS[0][0]!r} was edited since; run `diffps extract`"),
        ("new.jpg", f"{ARRAY.path}: no receipt for scene 'new.jpg'; run `diffps extract`"),
    ):
        with pytest.raises(NotCachedError) as caught:
            array.locate(scene)
        assert str(caught.value) == said
    zarr = store.root / "features.zarr"
    latents = replace(ARRAY, group=GroupKey("train", "identity", "abc"))
    for missing, command in ((spec("float16", tap="x"), "`diffps extract`"), (latents, "`diffps encode`")):
        with pytest.raises(NotCachedError) as absent:
            opened(store, missing)
        assert str(absent.value) == f"{zarr / missing.path}: no such array; run {command}"


def test_an_array_of_another_recipe_or_of_none_is_told(store: FeatureStore) -> None:
    path = store.root / "features.zarr" / ARRAY.path / "zarr.json"
    other = replace(ARRAY, recipe={**ARRAY.recipe, "tap": "other"})
    with pytest.raises(RecipeError) as caught:
        opened(store, other)
    difference = 'recipe.tap: "other" != "tap"'
    assert str(caught.value) == f"{path.parent}: holds another recipe ({difference}); run `diffps extract` for this one"
    metadata = json.loads(path.read_text())
    metadata["attributes"]["diffps"]["id"] = "0123456789"
    path.write_text(json.dumps(metadata))
    with pytest.raises(RecipeError, match=r"holds another recipe \(its metadata contradicts itself\); run `diffps"):
        opened(store)
    for attributes in ({}, {"diffps": 3}, {"diffps": {"id": "x"}}):
        path.write_text(json.dumps(metadata | {"attributes": attributes}))
        with pytest.raises(DamagedError, match=rf"^{path}: is no array's metadata \(.*\); delete the file and run the"):
            opened(store)
