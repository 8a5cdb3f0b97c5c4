"""A store has an id that goes with it, and manifests that lie elsewhere know whose they are."""

import fcntl
import shutil
from pathlib import Path

import pytest

from cache import FeatureStore, sealed
from cache.errors import DamagedError, NotCachedError
from cache.identity import check_store, ensure_store_id, name_store, store_id
from tests.cache.builders import images, spec, write

SPECS = [spec("int8"), spec("float16", tap="other")]
ROWS = images(6)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "features")
    write(store, SPECS, ROWS)
    return store


def keep(store: FeatureStore, folder: Path) -> Path:
    manifest = folder / "extract/train/base.json"
    store.write_manifest(manifest, SPECS, {"train": ROWS}, folder)
    return manifest


def test_it_is_made_once_and_goes_with_the_store(store: FeatureStore, tmp_path: Path) -> None:
    first = store_id(store.root)
    assert first is not None
    write(store, SPECS, images(9))
    assert store_id(store.root) == first == ensure_store_id(store.root)
    moved = store.root.rename(tmp_path / "moved")
    assert store_id(moved) == first
    assert store_id(tmp_path / "none") is None


def test_manifests_elsewhere_go_with_a_moved_store(store: FeatureStore, tmp_path: Path) -> None:
    folder = tmp_path / "repository/manifests"
    manifest = keep(store, folder)
    assert len(store.check(manifest, folder)) == 2
    moved = FeatureStore(store.root.rename(tmp_path / "elsewhere"))
    assert len(moved.check(manifest, folder)) == 2
    before = manifest.stat().st_mtime_ns
    keep(moved, folder)
    assert manifest.stat().st_mtime_ns == before


def test_manifests_of_another_store_are_refused_in_one_line(store: FeatureStore, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    manifest = keep(store, folder)
    other = FeatureStore(tmp_path / "other")
    write(other, SPECS, ROWS[:3])
    with pytest.raises(NotCachedError, match=rf"manifests are of store {store_id(store.root)}, but .*other is store"):
        other.check(manifest, folder)
    with pytest.raises(NotCachedError, match=r"none holds none; set runtime\.store"):
        FeatureStore(tmp_path / "none").check(manifest, folder)
    write(other, SPECS, ROWS)
    keep(other, folder)
    assert len(other.check(manifest, folder)) == 2
    with pytest.raises(NotCachedError, match="of store"):
        store.check(manifest, folder)


def test_equal_stores_have_equal_manifests(store: FeatureStore, tmp_path: Path) -> None:
    """Who computes the same anew, in a store of one's own, changes nothing that DVC sees."""
    other = FeatureStore(tmp_path / "other")
    write(other, SPECS, ROWS)
    assert keep(store, tmp_path / "a").read_bytes() == keep(other, tmp_path / "b").read_bytes()
    assert store_id(tmp_path / "a") != store_id(tmp_path / "b")


def test_a_store_from_before_ids_is_given_one_when_it_is_next_written(store: FeatureStore, tmp_path: Path) -> None:
    (store.root / "store.json").unlink()
    inside = store.root / "manifests/x.json"
    store.write_manifest(inside, SPECS, {"train": ROWS})
    assert store_id(store.root) is None
    assert len(store.check(inside)) == 2
    manifest = keep(store, tmp_path / "manifests")
    assert store_id(store.root) == store_id(tmp_path / "manifests")
    assert len(store.check(manifest, tmp_path / "manifests")) == 2
    assert manifest.read_bytes() == inside.read_bytes()


def test_manifests_that_name_no_store_are_judged_by_their_content(store: FeatureStore, tmp_path: Path) -> None:
    manifest = keep(store, tmp_path / "manifests")
    (tmp_path / "manifests/store.json").unlink()
    assert len(store.check(manifest, tmp_path / "manifests")) == 2
    copy = FeatureStore(Path(shutil.copytree(store.root, tmp_path / "copy")))
    assert len(copy.check(keep(store, tmp_path / "manifests"), tmp_path / "manifests")) == 2


def test_a_damaged_id_is_named(store: FeatureStore) -> None:
    path = store.root / "store.json"
    path.write_text(path.read_text().replace("store", "stone", 1))
    with pytest.raises(DamagedError, match=r"store\.json: does not match its digest; deleting it"):
        write(store, SPECS, ROWS)


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b"{}", b'{"version": 1}', b'{"version": 2, "arrays": [{}]}', b"[" * 10**5]
)
def test_a_manifest_that_is_none_is_named(store: FeatureStore, tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(damage)
    with pytest.raises(DamagedError, match=r"x\.json: is n"):
        store.check(path)
    store.write_manifest(path, SPECS, {"train": ROWS})
    assert len(store.check(path)) == 2


def test_who_finds_it_made_meanwhile_takes_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two begin a store at once: the second waits, and looks again."""
    first = "0" * 32
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        real(descriptor, operation)
        if not (tmp_path / "store.json").exists():
            sealed.write_json(tmp_path / "store.json", {"store": first})

    monkeypatch.setattr(fcntl, "flock", flock)
    assert ensure_store_id(tmp_path) == store_id(tmp_path) == first
    assert [path.name for path in (tmp_path / "locks").iterdir()] == [".store"]


def test_an_id_is_no_one_else_s_and_manifests_are_told_of_it_once(tmp_path: Path) -> None:
    one, other = ensure_store_id(tmp_path / "one"), ensure_store_id(tmp_path / "other")
    assert one != other
    assert len(one) == 32
    folder = tmp_path / "manifests"
    check_store(tmp_path / "one", folder)  # names none
    name_store(tmp_path / "one", folder)
    stamp = (folder / "store.json").stat().st_mtime_ns
    name_store(tmp_path / "one", folder)
    assert (folder / "store.json").stat().st_mtime_ns == stamp
    check_store(tmp_path / "one", folder)
    for root, where in (("other", f"{tmp_path}/other is store {other}"), ("none", f"{tmp_path}/none holds none")):
        with pytest.raises(NotCachedError) as caught:
            check_store(tmp_path / root, folder)
        assert str(caught.value) == (
            f"{folder}: its manifests are of store {one}, but {where}; set runtime.store to where that one lies, or "
            "run `diffps encode` and `diffps extract` to fill this one (what that costs: `diffps cache plan`)"
        )
    name_store(tmp_path / "other", folder)
    assert store_id(folder) == other
