from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import CacheError, FeatureStore, SkippedImage
from cache.encodings import Project
from cache.errors import EncodingError, IncompleteError, NonFiniteError, NotCachedError, RecipeError
from cache.verify import verify
from tests.cache.builders import (
    ENCODINGS,
    as_first_version,
    check,
    digest,
    expected,
    feature,
    group,
    images,
    spec,
    tree,
    write,
)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


@settings(max_examples=25)
@given(
    count=st.integers(1, 11),
    shard=st.integers(1, 6),
    shape=st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(4, 9)),
    encodings=st.lists(st.sampled_from(ENCODINGS), min_size=1, max_size=3, unique=True),
    split=st.sampled_from(["train", "test"]),
    order=st.randoms(use_true_random=False),
)
def test_what_is_written_is_read(tmp_path_factory, count, shard, shape, encodings, split, order) -> None:
    store = FeatureStore(tmp_path_factory.mktemp("features"))
    specs = [spec(encoding, shape=shape, key=group(split=split)) for encoding in encodings]
    rows = images(count)
    order.shuffle(rows)
    assert write(store, specs, rows, shard) == list(range(-(-count // shard)))
    order.shuffle(rows)
    check(store, specs, rows)
    assert store.arrays() == sorted(specs, key=lambda array: array.path)


def test_a_second_run_writes_nothing(store: FeatureStore) -> None:
    specs = [spec("int8"), spec("float16", tap="other")]
    write(store, specs, images(10))
    before = tree(store.root)
    assert write(store, specs, images(10)) == []
    assert tree(store.root) == before


def test_added_images_compute_only_the_last_shard(store: FeatureStore) -> None:
    write(store, [spec()], images(10))
    assert write(store, [spec()], images(15)) == [2, 3]
    check(store, [spec()], images(15))


def test_a_replaced_image_computes_only_its_shard(store: FeatureStore) -> None:
    rows = images(12)
    write(store, [spec()], rows)
    rows[5] = (rows[5][0], digest("edited"))
    with pytest.raises(NotCachedError, match="no receipt|edited"):
        store.rows("train").assign(rows)
        store.reader([spec()]).read(rows[5][0], spec().name)
    assert write(store, [spec()], rows) == [1]
    check(store, [spec()], rows)


def test_five_added_and_one_replaced_compute_only_their_shards(store: FeatureStore) -> None:
    rows = images(16)
    write(store, [spec()], rows)
    rows[2] = (rows[2][0], digest("edited"))
    assert write(store, [spec()], [*rows, *images(5, start=16)]) == [0, 4, 5]


def test_moved_renamed_and_shuffled_images_compute_nothing(store: FeatureStore) -> None:
    rows = images(10)
    write(store, [spec()], rows)
    moved = [(f"elsewhere/{scene}", content) for scene, content in rows]
    assert write(store, [spec()], moved) == []
    assert write(store, [spec()], rows[::-1]) == []
    assert write(store, [spec()], rows[3:7]) == []
    names = [scene for scene, _ in rows]
    shuffled = [(names[-1 - i], content) for i, (_, content) in enumerate(rows)]
    assert write(store, [spec()], shuffled) == []
    check(store, [spec()], shuffled)
    check(store, [spec()], moved)


def test_images_that_are_not_asked_for_are_not_lost(store: FeatureStore) -> None:
    """Two datasets may share a shard; writing one must not cost the other anything."""
    arrays = [spec("int8"), spec("bitround:6"), spec("project:4")]
    first, second = images(3), images(5, start=3)
    assert write(store, arrays[:2], first, unreadable=[first[1][0]]) == [0]
    assert write(store, arrays, second) == [0, 1]
    assert verify(store.root, store.arrays()) == []
    check(store, arrays, second)
    check(store, arrays[:2], [first[0], first[2]])
    assert not store.reader(arrays).has(first[1][0], "tap@int8")
    with pytest.raises(NotCachedError, match="no receipt"):
        store.reader(arrays).read(first[0][0], "tap@project:4")
    assert write(store, arrays[:2], first) == []
    assert write(store, arrays, second) == []
    edited = [(first[0][0], digest("edited"))]
    assert write(store, arrays[:2], edited) == [0]
    check(store, arrays[:2], [*edited, first[2], *second])


def test_a_damaged_image_that_is_not_asked_for_is_not_carried_over(store: FeatureStore) -> None:
    write(store, [spec()], images(2))
    (file,) = (path for path in (store.root / "features.zarr" / spec().path / "c/0").rglob("*") if path.is_file())
    data = bytearray(file.read_bytes())
    data[7] ^= 1
    file.write_bytes(data)
    write(store, [spec()], images(1, start=2))
    check(store, [spec()], images(2, start=1))
    assert verify(store.root, store.arrays()) == []
    assert write(store, [spec()], images(3)) == [0]


def test_a_moved_store_is_the_same(store: FeatureStore) -> None:
    write(store, [spec()], images(5))
    moved = store.root.rename(store.root.with_name("moved"))
    check(FeatureStore(moved), [spec()], images(5))
    assert write(FeatureStore(moved), [spec()], images(5)) == []


def test_a_store_of_the_first_version_is_taken_as_it_is(store: FeatureStore) -> None:
    write(store, [spec(), spec("project:4")], images(10), unreadable=[images(10)[4][0]])
    manifest = store.root / "manifests/x.json"
    store.write_manifest(manifest, [spec()], {"train": images(10)})
    as_first_version(store)
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    kept = [image for image in images(10) if image != images(10)[4]]
    for dataset in ("", "mine"):
        again = FeatureStore(store.root, dataset)
        check(again, [spec(), spec("project:4")], kept)
        assert again.check(manifest) == [spec()]
        assert verify(store.root, again.arrays()) == []
        assert again.missing([spec(), spec("project:4")], images(10)).tasks == ()
    assert store.missing([spec(), spec("project:4")], images(10)).nothing
    assert {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()} == before
    assert write(FeatureStore(store.root, "mine"), [spec(), spec("project:4")], images(12)) == [2]
    untouched = [path for path in before if "/c/0/" in str(path) or "/c/1/" in str(path) or path == manifest]
    assert [path for path in untouched if path.read_bytes() != before[path]] == []
    assert {array.id for array in store.arrays()} == {spec().id, spec("project:4").id}


def test_another_array_computes_only_itself(store: FeatureStore) -> None:
    write(store, [spec()], images(6))
    with store.writer([spec(), spec(tap="new")], images(6), shard=4) as writer:
        assert [[array.name for array in task.specs] for task in writer.pending()] == [["new@int8"], ["new@int8"]]


def test_the_shard_size_of_a_scope_stays(store: FeatureStore) -> None:
    write(store, [spec()], images(6), shard=4)
    with store.writer([spec(tap="new")], images(6), shard=3) as writer:
        assert writer.shard_size == 4
    assert write(store, [spec()], images(6), shard=3) == []


def test_copies_of_an_image_are_kept_once(store: FeatureStore) -> None:
    rows = [*images(3), ("copy.jpg", images(1)[0][1])]
    assert write(store, [spec()], rows, shard=2) == [0, 1]
    check(store, [spec()], rows)


def test_skipped_images_are_recorded(store: FeatureStore) -> None:
    rows = images(6)
    write(store, [spec(), spec("float16")], rows, unreadable=[rows[1][0]])
    reader = store.reader([spec(), spec("float16")])
    for array in (spec(), spec("float16")):
        with pytest.raises(SkippedImage, match="001.jpg.*truncated JPEG"):
            reader.read(rows[1][0], array.name)
        assert not reader.has(rows[1][0], array.name)
        assert reader.has(rows[2][0], array.name)
    check(store, [spec()], [rows[0], *rows[2:]])
    assert write(store, [spec()], rows) == []


def test_a_repaired_image_is_no_longer_skipped(store: FeatureStore) -> None:
    rows = images(6)
    write(store, [spec()], rows, unreadable=[rows[1][0]])
    rows[1] = (rows[1][0], digest("whole again"))
    assert write(store, [spec()], rows) == [0]
    check(store, [spec()], rows)


def test_a_skipped_image_that_can_be_read_after_all_is_missing(store: FeatureStore) -> None:
    rows = images(6)
    write(store, [spec()], rows, unreadable=[rows[1][0], rows[5][0]])
    with store.writer([spec()], rows) as writer:
        assert writer.pending() == []
        assert [task.shard for task in writer.pending(lambda scene: scene == rows[1][0])] == [0]


def test_a_receipt_withdrawn_while_they_are_listed_is_none(store: FeatureStore) -> None:
    write(store, [spec()], images(4))
    (store.root / "receipts" / group().path / "0.7.json").symlink_to("gone")
    check(store, [spec()], images(4))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stops_the_shard_by_name(store: FeatureStore, bad: float) -> None:
    array = spec("int8")
    with store.writer([array], images(6), shard=4) as writer:
        first, second = writer.pending()
        with writer.shard(first) as sink:
            for content in first.digests:
                sink.append({array.name: feature(content, array)})
        with pytest.raises(NonFiniteError, match=r"'folder/005.jpg'.*tap@int8"), writer.shard(second) as sink:
            sink.append({array.name: feature(second.digests[0], array)})
            sink.append({array.name: np.full(array.shape, bad, np.float32)})
        assert [task.shard for task in writer.pending()] == [1]
    assert not [path for path in (store.root / "tmp").rglob("*") if path.is_file()]
    check(store, [array], images(4))


def test_a_shard_is_whole_or_not_there(store: FeatureStore) -> None:
    array = spec()
    with store.writer([array], images(4), shard=4) as writer:
        (task,) = writer.pending()
        with pytest.raises(IncompleteError, match="1 of 4"), writer.shard(task) as sink:
            sink.append({array.name: feature("x", array)})
        with pytest.raises(IncompleteError, match="one more"), writer.shard(task) as sink:
            for _ in range(5):
                sink.append({array.name: feature("x", array)})
        with pytest.raises(CacheError, match=r"shape \(1, 2, 3\)"), writer.shard(task) as sink:
            sink.append({array.name: np.zeros((1, 2, 3), np.float32)})
        assert writer.pending() == [task]


def test_another_recipe_is_refused_by_field(store: FeatureStore) -> None:
    write(store, [spec()], images(4))
    mine = spec(recipe={**PASS_OTHER}, key=group())
    for attempt in (lambda: store.reader([mine]), lambda: write(store, [mine], images(4))):
        with pytest.raises(RecipeError, match='recipe.pass.unet: "other" != "1234"'):
            attempt()


PASS_OTHER = {"unet": "other", "prompt": "person"}


def test_another_recipe_has_another_place(store: FeatureStore) -> None:
    write(store, [spec()], images(4))
    other = spec(recipe=PASS_OTHER)
    with pytest.raises(NotCachedError, match="no such array"):
        store.reader([other])
    assert write(store, [other], images(4)) == [0]
    check(store, [spec(), spec()][:1], images(4))


def test_arrays_of_two_groups_have_two_writers(store: FeatureStore) -> None:
    with pytest.raises(CacheError, match="one group"):
        store.writer([spec(), spec(recipe=PASS_OTHER)], images(4))


def test_names_that_are_paths_are_refused() -> None:
    with pytest.raises(CacheError, match="array's name"):
        spec(tap="../tap")
    with pytest.raises(CacheError, match="folder name"):
        group(view="a/b")


def test_project_needs_its_basis(store: FeatureStore) -> None:
    from cache import parse_encoding

    array = replace(spec(), name="tap@project:4", encoding=parse_encoding("project:4"))
    with pytest.raises(EncodingError, match="basis"):
        write(store, [array], images(4))


def test_a_basis_known_by_its_digest_alone_is_read_from_the_store(store: FeatureStore) -> None:
    whole = spec("project:4")
    assert isinstance(whole.encoding, Project)
    rows = images(4)
    write(store, [whole], rows)
    told = replace(whole, encoding=Project(4, lost=whole.encoding.digest))
    reader = store.reader([told])
    for scene, content in rows:
        np.testing.assert_array_equal(reader.read_float(scene, told.name), expected(content, whole))


def test_views_are_read_side_by_side(store: FeatureStore) -> None:
    plain, mirrored = spec(), spec(tap="tap", key=group(view="hflip"), recipe={**PASS_OTHER, "view": "hflip"})
    write(store, [plain], images(4))
    write(store, [mirrored], images(4))
    reader = store.reader({"identity": [plain], "hflip": [mirrored]})
    scene, content = images(4)[2]
    np.testing.assert_array_equal(reader.read_float((scene, "hflip"), "tap@int8"), expected(content, mirrored))
    np.testing.assert_array_equal(reader.read_float(scene, "tap@int8"), expected(content, plain))
    with pytest.raises(NotCachedError, match="hflip"):
        reader.read((scene, "hflip"), "tap@float16")


def test_reading_fills_the_caller_s_buffers(store: FeatureStore) -> None:
    write(store, [spec()], images(4))
    reader = store.reader([spec()])
    first = reader.read(images(4)[0][0], "tap@int8")
    values = first.values
    second = reader.read(images(4)[1][0], "tap@int8", out=first)
    assert second.values is values
    np.testing.assert_array_equal(spec().encoding.decode(second)[0], expected(images(4)[1][1], spec()))
