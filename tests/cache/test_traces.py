"""What a store holds of some images, counted by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from cache import FeatureStore, GroupKey
from cache.errors import DamagedError
from cache.receipts import Name
from cache.traces import Traces, find_removed, find_traces, groups_of, images_a_shard, part_file
from tests.cache.builders import digest, group, images, spec, write

INT8, PROJECTED = spec("int8"), spec("project:4", tap="other")
LATENTS = replace(spec("float32", key=GroupKey("train", "identity", "abc")), name="moments")
ROWS = images(6)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path)
    write(store, [INT8, PROJECTED], ROWS, unreadable=[ROWS[5][0]])
    write(store, [LATENTS], ROWS[:2])
    return store


def test_an_image_is_one_of_them_by_its_row_or_by_its_content() -> None:
    nothing = Traces(
        split="train", rows=frozenset(), digests=frozenset(), names=frozenset(), arrays={}, fitted=()
    )  # fmt: skip
    found = replace(nothing, rows=frozenset({1}), digests=frozenset({"a"}))
    assert [found.cover(row, content) for row in (1, 2) for content in ("a", "b")] == [True, True, True, False]
    assert nothing.nothing
    assert nothing.nbytes == 0
    for more in ({"rows": frozenset({0})}, {"names": frozenset({Name("", "a")})}, {"arrays": {"x": 1}}):
        assert not replace(nothing, **more).nothing  # type: ignore[arg-type]
    assert replace(nothing, arrays={"a": 3, "b": 4}).nbytes == 7


def test_chunks_are_counted_in_every_array_and_part(store: FeatureStore) -> None:
    found = find_traces(store.root, "train", scene_ids=[ROWS[0][0], ROWS[5][0]], digests=[ROWS[4][1]])
    assert found.rows == {0, 4, 5}
    assert found.digests == {ROWS[row][1] for row in (0, 4, 5)}
    assert found.names == {Name("", ROWS[row][0]) for row in (0, 4, 5)}
    assert found.fitted == (PROJECTED.path,)
    # The last was skipped; latents are of two images alone.
    assert list(found.arrays.items()) == [
        (PROJECTED.path, 2 * PROJECTED.image_bytes),
        (INT8.path, 2 * INT8.image_bytes),
        (LATENTS.path, LATENTS.image_bytes),
    ]
    part_file(store.root, INT8.group, INT8.name, "", 0).unlink()
    again = find_traces(store.root, "train", scene_ids=[ROWS[0][0]], digests=[ROWS[4][1]])
    values = 20 * 18 * 12 + 4
    assert again.arrays[INT8.path] == 2 * INT8.image_bytes - values
    assert find_traces(store.root, "train", scene_ids=[ROWS[3][0]]).arrays.keys() == {INT8.path, PROJECTED.path}


def test_content_that_only_an_array_still_has_is_found_in_its_row(store: FeatureStore) -> None:
    store.rows("train").assign([(ROWS[1][0], digest("edited"))])
    found = find_traces(store.root, "train", digests=[ROWS[1][1]])
    assert found.rows == found.names == frozenset()
    assert found.arrays.keys() == {LATENTS.path, INT8.path, PROJECTED.path}
    assert not found.nothing
    assert find_traces(store.root, "train", scene_ids=[ROWS[1][0]]).digests == {digest("edited")}


def test_what_is_kept_is_no_trace_and_what_nobody_calls_anything_is(tmp_path: Path) -> None:
    mine, theirs = FeatureStore(tmp_path, "mine"), FeatureStore(tmp_path, "theirs")
    mine.rows("train").assign(ROWS[:4])
    theirs.rows("train").assign([("x", ROWS[1][1]), ("y", digest("theirs"))])
    mine.rows("train").assign([(ROWS[3][0], ROWS[2][1])])  # row 3 has no name any more
    found = find_removed(tmp_path, "train", {ROWS[2][1]}, "mine")
    assert found.rows == {0, 3}
    assert found.names == {Name("mine", ROWS[0][0]), Name("mine", ROWS[1][0])}
    assert found.digests == {ROWS[0][1], ROWS[3][1]}
    assert find_removed(tmp_path, "train", {content for _, content in ROWS}, "mine").nothing


def test_groups_are_those_that_have_arrays_or_receipts(store: FeatureStore) -> None:
    root, own = store.root, INT8.group
    (root / "receipts/train/hflip/xyz/t12").mkdir(parents=True)
    (root / "receipts/train/hflip/xyz/tmp").mkdir()
    (root / "receipts/train/hflip/xyz/x3").mkdir()
    found = groups_of(root, "train")
    assert set(found) == {
        own, replace(own, timestep=None), LATENTS.group,
        GroupKey("train", "hflip", "xyz"), GroupKey("train", "hflip", "xyz", 12),
    }  # fmt: skip
    assert [each.path for each in found] == sorted(each.path for each in found)
    assert groups_of(root, "test") == []


def test_the_size_of_shards_is_known_or_said_to_be_lost(store: FeatureStore) -> None:
    assert images_a_shard(store.root, INT8.group) == 4
    other = group(view="hflip")
    with pytest.raises(DamagedError) as caught:
        images_a_shard(store.root, other)
    assert str(caught.value) == (
        f"{store.root / 'features.zarr' / other.scope}: has no zarr.json, which says what images lie in what shard; "
        "remove the folder and the one of this name below receipts, or restore the file from a backup"
    )
    place = store.root / "features.zarr" / INT8.path
    assert part_file(store.root, INT8.group, INT8.name, "", 3) == place / "c/3/0/0/0"
    scales = place.with_name("tap@int8.scales") / "c/3/0/0"
    assert part_file(store.root, INT8.group, INT8.name, ".scales", 3) == scales
