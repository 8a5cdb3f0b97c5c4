from pathlib import Path

import pytest

from cache import CacheError, FeatureStore
from cache.errors import DamagedError, IncompleteError, NotCachedError, RecipeError
from tests.cache.builders import digest, group, images, spec, write

ROWS = images(9)
SPECS = [spec("int8"), spec("float16", tap="other")]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "features")
    write(store, SPECS, ROWS)
    return store


def manifest(store: FeatureStore, rows: list[tuple[str, str]] = ROWS, name: str = "x.json") -> Path:
    path = store.root / "manifests" / name
    store.write_manifest(path, SPECS, {"train": rows})
    return path


def test_it_names_the_arrays_and_the_store_is_checked_against_it(store: FeatureStore) -> None:
    assert store.check(manifest(store)) == sorted(SPECS, key=lambda array: array.path)


def test_equal_content_is_equal_bytes(store: FeatureStore, tmp_path: Path) -> None:
    path = manifest(store)
    before, time = path.read_bytes(), path.stat().st_mtime_ns
    assert manifest(store, ROWS[::-1]).read_bytes() == before
    assert manifest(store).stat().st_mtime_ns == time
    other = FeatureStore(tmp_path / "other")
    write(other, SPECS, ROWS[:4])
    write(other, SPECS[::-1], ROWS)
    assert manifest(other).read_bytes() == before
    with store.writer(SPECS, ROWS) as writer:
        writer.write_manifest(store.root / "y.json")
    assert (store.root / "y.json").read_bytes() == before


def test_renamed_images_leave_it_alone(store: FeatureStore) -> None:
    before = manifest(store).read_bytes()
    moved = [(f"moved/{scene}", content) for scene, content in ROWS]
    write(store, SPECS, moved)
    assert manifest(store, moved).read_bytes() == before


def test_an_edited_or_added_image_changes_it(store: FeatureStore) -> None:
    before = manifest(store).read_bytes()
    edited = [*ROWS[:3], (ROWS[3][0], digest("edited")), *ROWS[4:]]
    write(store, SPECS, edited)
    changed = manifest(store, edited).read_bytes()
    assert changed != before
    write(store, SPECS, [*edited, *images(1, start=9)])
    assert manifest(store, edited).read_bytes() == changed
    assert manifest(store, [*edited, *images(1, start=9)]).read_bytes() != changed


def test_another_timestep_leaves_it_alone(store: FeatureStore) -> None:
    before = manifest(store).read_bytes()
    from dataclasses import replace

    later = replace(spec(), group=replace(group(), timestep=50), recipe={"timestep": 50})
    write(store, [later], ROWS)
    assert manifest(store).read_bytes() == before


def test_an_incomplete_array_has_none(store: FeatureStore) -> None:
    more = [*ROWS, *images(2, start=9)]
    store.rows("train").assign(more)
    with pytest.raises(IncompleteError, match=r"tap@int8|other@float16.*009\.jpg"):
        manifest(store, more)
    assert not (store.root / "manifests/x.json").exists()


def test_a_store_that_lost_something_does_not_match(store: FeatureStore) -> None:
    path = manifest(store)
    (file,) = (f for f in (store.root / "features.zarr" / SPECS[0].path / "c/1").rglob("*") if f.is_file())
    file.rename(file.with_name("away"))
    with pytest.raises(DamagedError, match="missing"):
        store.check(path)
    file.with_name("away").rename(file)
    store.check(path)
    next((store.root / "receipts").rglob("1.*.json")).unlink()
    with pytest.raises(NotCachedError, match="diffps extract|stage again"):
        store.check(path)


def test_a_store_with_other_bytes_does_not_match(store: FeatureStore) -> None:
    path = manifest(store)
    edited = [(ROWS[0][0], digest("edited")), *ROWS[1:]]
    write(store, SPECS, edited)
    with pytest.raises(DamagedError, match="digest: "):
        store.check(path)


def test_a_missing_store_or_manifest_is_named(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(NotCachedError, match="no such manifest"):
        store.check(tmp_path / "none.json")
    with pytest.raises(CacheError, match="no such array"):
        FeatureStore(tmp_path / "empty").check(manifest(store))


def test_another_recipe_at_the_place_does_not_match(store: FeatureStore) -> None:
    path = manifest(store)
    path.write_text(path.read_text().replace(SPECS[0].id, "0123456789"))
    with pytest.raises(RecipeError, match="0123456789"):
        store.check(path)
