"""Which arrays a store has, and what is said where its metadata is none."""

import json
from pathlib import Path

import pytest

from cache import CacheError, FeatureStore, GroupKey
from cache.catalogue import array_folders, folders, group_folders, group_of, list_arrays, open_array
from cache.errors import DamagedError, NotCachedError
from tests.cache.builders import group, images, spec, write

ARRAY = spec("project:4")


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path)
    write(store, [ARRAY, spec("int8")], images(2))
    return store


def test_arrays_are_found_by_path_without_what_belongs_to_them(store: FeatureStore) -> None:
    zarr = store.root / "features.zarr"
    scope = zarr / group().scope
    (zarr / "a file").touch()
    (scope / "tx").mkdir()
    (scope / "t0" / "empty").mkdir()
    assert list_arrays(store.root) == [spec("int8"), ARRAY]
    assert array_folders(store.root) == [zarr / spec("int8").path, zarr / ARRAY.path]
    assert group_folders(store.root) == [scope, scope / "t0"]
    assert [path.name for path in folders(scope)] == ["t0", "tx"]
    assert folders(zarr / "none") == []
    (scope / "empty2").mkdir()
    (scope / "empty2/zarr.json").write_text('{"node_type": "other"}')
    with pytest.raises(DamagedError, match=r"empty2/zarr\.json: is neither an array's nor a group's metadata; delete"):
        list_arrays(store.root)


def test_a_path_names_group_and_array() -> None:
    assert group_of("train/identity/abc/t12/tap@int8") == (GroupKey("train", "identity", "abc", 12), "tap@int8")
    assert group_of("train/identity/abc/moments") == (GroupKey("train", "identity", "abc"), "moments")


@pytest.mark.parametrize("path", ["a/b/c", "a/b/c/d/e/f", "train/identity/abc/none", ""])
def test_what_is_no_array_is_said_with_what_lists_them(store: FeatureStore, path: str) -> None:
    (store.root / "features.zarr" / path).mkdir(parents=True, exist_ok=True)
    if path.startswith("a"):
        (store.root / "features.zarr" / path / "zarr.json").write_text("{}")
    with pytest.raises(NotCachedError) as caught:
        open_array(store.root, path)
    where = store.root / "features.zarr" / path
    assert str(caught.value) == f"{where}: no such array; `diffps cache status` lists those there are"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attributes": {}}, "has no 'diffps' under diffps; this store did not write it"),
        ({"attributes": {"diffps": {}}}, "has no 'encoding' under diffps; this store did not write it"),
        ({"attributes": {"diffps": 3}}, "is not what this store writes ("),
        ({"attributes": []}, "is not what this store writes ("),
    ],
)
def test_metadata_that_names_no_recipe_is_damage(store: FeatureStore, change: dict[str, object], said: str) -> None:
    path = store.root / "features.zarr" / ARRAY.path / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CacheError) as caught:
        open_array(store.root, ARRAY.path)
    assert str(caught.value).startswith(f"{path}: {said}")
