import hashlib
from pathlib import Path

import pytest

from cache import CacheError, FeatureStore
from cache.errors import DamagedError, IncompleteError, NotCachedError, RecipeError
from cache.files import read_json, write_json
from cache.layout import shard_file
from cache.manifests import _ranges, rows_of
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


def test_a_manifest_to_the_last_word(store: FeatureStore) -> None:
    """The digest is of what receipts say, row by row: content, then the checksum of each part."""
    more = [*ROWS, *images(2, start=20)]
    write(store, SPECS, more, unreadable=[more[10][0]])
    path = manifest(store, [*ROWS[:3], *ROWS[5:6], *more[9:]])
    content = read_json(path)
    assert content.keys() == {"version", "arrays"}
    assert content["version"] == 1
    assert [entry["path"] for entry in content["arrays"]] == sorted(array.path for array in SPECS)
    for entry, array in zip(content["arrays"], SPECS[::-1], strict=True):
        receipts = {}
        for file in sorted((store.root / "receipts").rglob("*.json"), key=lambda file: file.stat().st_mtime_ns):
            receipt = read_json(file)
            for place, (row, told) in enumerate(zip(receipt["rows"], receipt["digests"], strict=True)):
                if array.name in receipt["arrays"]:
                    parts = receipt["arrays"][array.name]["parts"]
                    receipts[row] = told + "".join(f"{s}:{parts[s]['crc32c'][place]}" for s in array.parts())
        assert entry == {
            "path": array.path,
            "id": array.id,
            "name": array.name,
            "encoding": array.encoding.name,
            "shape": [20, 18, 12],
            "images": 6,
            "skipped": [10],
            "nbytes": 5 * array.image_bytes,
            "rows": [[0, 2], [5, 5], [9, 10]],
            "digest": hashlib.sha256("".join(receipts[row] for row in (0, 1, 2, 5, 9, 10)).encode()).hexdigest(),
        }
    assert rows_of(content["arrays"][0]) == [0, 1, 2, 5, 9, 10]
    assert store.check(path) == SPECS[::-1]


@pytest.mark.parametrize(
    ("rows", "runs"),
    [([], []), ([3], [[3, 3]]), ([3, 4], [[3, 4]]), ([3, 5], [[3, 3], [5, 5]]), ([0, 1, 2, 7, 8], [[0, 2], [7, 8]])],
)
def test_runs_of_rows(rows: list[int], runs: list[list[int]]) -> None:
    assert _ranges(rows) == runs
    assert rows_of({"rows": runs}) == rows


def test_images_are_found_by_their_content_whatever_the_store_calls_them(store: FeatureStore) -> None:
    theirs = FeatureStore(store.root, "theirs")
    named = [(f"theirs/{scene}", content) for scene, content in ROWS]
    theirs.write_manifest(store.root / "theirs.json", SPECS, {"train": named})
    assert (store.root / "theirs.json").read_bytes() == manifest(store).read_bytes()
    with pytest.raises(IncompleteError) as caught:
        theirs.write_manifest(store.root / "none.json", SPECS, {"train": [(ROWS[0][0], "unknown")]})
    said = f"{SPECS[1].path}: image {ROWS[0][0]!r} is not in the store; run the stage again"
    assert str(caught.value) == said


def test_what_is_missing_of_a_shard_is_said(store: FeatureStore, tmp_path: Path) -> None:
    path, array = manifest(store), SPECS[1]
    file = shard_file(store.root / "features.zarr" / array.path, 1, 3)
    whole = file.read_bytes()
    for content, said in (
        (whole + b"x", f"has {len(whole) + 1} bytes instead of {len(whole)}; run `diffps extract` again to rewrite it"),
        (None, "the shard is missing; run `diffps extract` again to rewrite it"),
    ):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(DamagedError) as caught:
            store.check(path)
        assert str(caught.value) == f"{file}: {said}"
    file.write_bytes(whole)
    with pytest.raises(NotCachedError) as missing:
        store.check(tmp_path / "none.json")
    how = "run `diffps extract` first (what that costs: `diffps cache plan`)"
    assert str(missing.value) == f"{tmp_path}/none.json: no such manifest; {how}"
    store.rows("train").assign([(ROWS[0][0], "edited")])
    with pytest.raises(IncompleteError) as edited:
        manifest(store, [(ROWS[0][0], "edited")])
    where = f"{array.path}: shard 0, image {ROWS[0][0]!r}"
    assert str(edited.value) == f"{where} was edited after it was written; run the stage again"
    next((store.root / "receipts").rglob("0.0.json")).unlink()
    with pytest.raises(NotCachedError) as lost:
        store.check(path)
    assert str(lost.value) == f"{path}: {array.path}: shard 0, image 0 is not in the store; run the stage again"


def test_another_version_is_no_manifest(store: FeatureStore) -> None:
    path = manifest(store)
    content = read_json(path)
    stamp = path.stat().st_mtime_ns
    assert manifest(store).stat().st_mtime_ns == stamp
    for change in ({"version": 2}, {"version": 0}):
        write_json(path, content | change)
        with pytest.raises(DamagedError) as caught:
            store.check(path)
        why = "ValueError('of another version')"
        assert str(caught.value) == f"{path}: is no manifest ({why}); delete it and run the stage again"
