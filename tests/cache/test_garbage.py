"""What is garbage and what is not, in bytes; and how it goes."""

from pathlib import Path

import pytest

from cache import FeatureStore
from cache.files import read_json, write_json
from cache.garbage import Garbage, find_garbage, remove
from tests.cache.builders import check, group, images, record_synced, spec, write

KEPT, GONE, LATER = spec(), spec("project:4", tap="other"), spec(tap="later", recipe={"unet": "later"})
ROWS = images(5)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path)
    write(store, [KEPT, GONE], ROWS)
    write(store, [LATER], ROWS)
    return store


def size(*folders: Path) -> int:
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def test_it_is_told_by_path_with_its_scales_and_basis(store: FeatureStore) -> None:
    zarr = store.root / "features.zarr"
    wanted = {(KEPT.path, KEPT.id), (GONE.path, "another")}
    places = [[zarr / (array.path + suffix) for suffix in ("", ".scales", ".basis")] for array in (GONE, LATER)]
    gone, later = (Garbage(array.path, size(*place)) for array, place in zip((GONE, LATER), places, strict=True))
    assert find_garbage(store.root, wanted) == sorted([gone, later], key=lambda item: item.path)
    assert find_garbage(store.root / "none", wanted) == []
    everything = {(array.path, array.id) for array in (KEPT, GONE, LATER)}
    assert find_garbage(store.root, everything) == []


def test_what_is_left_of_an_array_is_garbage_and_what_is_no_array_is_not(store: FeatureStore) -> None:
    zarr = store.root / "features.zarr"
    wanted = {(array.path, array.id) for array in (KEPT, GONE, LATER)}
    folder = zarr / LATER.path
    (folder / "zarr.json").rename(store.root / "kept.json")
    assert find_garbage(store.root, wanted) == []  # its stage writes it again
    wanted -= {(LATER.path, LATER.id)}
    assert [item.path for item in find_garbage(store.root, wanted)] == [LATER.path]
    for content in ([], {"node_type": "group"}):
        write_json(folder / "zarr.json", content)
        assert [item.path for item in find_garbage(store.root, wanted)] == [LATER.path]
    write_json(folder / "zarr.json", {"node_type": "array"})  # somebody's
    assert [item.path for item in find_garbage(store.root, wanted)] == [LATER.path]
    (folder / "zarr.json").unlink()
    (folder / "c").rename(folder / "d")
    assert find_garbage(store.root, wanted) == []
    # Scales whose array is gone are what a killed removal left.
    folder.rename(store.root / "away")
    (left,) = find_garbage(store.root, wanted)
    scales = folder.with_name(folder.name + ".scales")
    assert left == Garbage(f"{LATER.path}.scales", size(scales))
    assert read_json(scales / "zarr.json")["node_type"] == "array"


def test_groups_go_with_their_last_array_and_empty_folders_of_receipts_too(store: FeatureStore) -> None:
    zarr, receipts = store.root / "features.zarr", store.root / "receipts"
    remove(store.root, [Garbage(LATER.path, 0)])
    assert not (zarr / LATER.group.scope).exists()
    assert not (receipts / LATER.group.path).exists()
    assert (zarr / "train/identity/zarr.json").exists()
    remove(store.root, [Garbage(GONE.path, 0)])
    assert sorted(path.name for path in (zarr / KEPT.group.path).iterdir()) == [
        "tap@int8", "tap@int8.scales", "zarr.json",
    ]  # fmt: skip
    assert [list(read_json(path)["arrays"]) for path in (receipts / group().path).iterdir()] == [[KEPT.name]] * 2
    check(store, [KEPT], ROWS)
    remove(store.root, [Garbage(KEPT.path, 0)])
    assert [path.name for path in zarr.iterdir()] == ["zarr.json"]
    assert not (receipts / group().path).exists()
    assert not list((store.root / "locks").glob("*.json"))
    assert write(store, [KEPT], ROWS) == [0, 1]


def test_a_removal_is_on_the_disk_receipts_first(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    zarr, synced = store.root / "features.zarr", record_synced(monkeypatch)
    for array, above in ((LATER, zarr / LATER.group.scope), (GONE, zarr / GONE.path)):
        synced.clear()
        remove(store.root, [Garbage(array.path, 0)])
        receipts = [at for at, path in enumerate(synced) if path == store.root / "receipts" / array.group.path]
        folders = [at for at, path in enumerate(synced) if path == above.parent]
        metadata = [at for at, path in enumerate(synced) if path == zarr / array.path]
        assert max(receipts) < min(metadata) < max(folders)
