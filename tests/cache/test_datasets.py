"""Several data sets in one store: none costs another anything."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import FeatureStore
from cache.errors import NotCachedError
from cache.status import DatasetStatus
from cache.transcode import transcode
from cache.verify import verify
from tests.cache.builders import check, digest, images, spec, write

ROWS = images(6)
OTHERS = [(scene, digest(f"theirs: {scene}")) for scene, _ in ROWS]  # under the same names


def test_equal_names_with_other_content_evict_nothing(tmp_path: Path) -> None:
    mine, theirs = FeatureStore(tmp_path, "mine"), FeatureStore(tmp_path, "theirs")
    write(mine, [spec()], ROWS)
    assert write(theirs, [spec()], OTHERS) == [1, 2]
    check(mine, [spec()], ROWS)
    check(theirs, [spec()], OTHERS)
    assert write(mine, [spec()], ROWS) == []
    assert write(theirs, [spec()], OTHERS) == []
    assert mine.datasets() == [
        DatasetStatus(dataset="mine", split="train", images=6, alone=6),
        DatasetStatus(dataset="theirs", split="train", images=6, alone=6),
    ]


def test_equal_content_is_kept_once(tmp_path: Path) -> None:
    mine, theirs = FeatureStore(tmp_path, "mine"), FeatureStore(tmp_path, "theirs")
    write(mine, [spec()], ROWS)
    shared = [(f"elsewhere/{scene}", content) for scene, content in ROWS[:4]]
    assert write(theirs, [spec()], [*shared, *OTHERS[:1]]) == [1]
    check(theirs, [spec()], [*shared, *OTHERS[:1]])
    assert [(found.dataset, found.images, found.alone) for found in mine.datasets()] == [
        ("mine", 6, 2),
        ("theirs", 5, 1),
    ]
    with pytest.raises(NotCachedError, match="elsewhere"):
        mine.reader([spec()]).read("elsewhere/folder/000.jpg", spec().name)


def test_an_edited_image_leaves_the_row_to_whoever_else_has_it(tmp_path: Path) -> None:
    mine, theirs = FeatureStore(tmp_path, "mine"), FeatureStore(tmp_path, "theirs")
    write(mine, [spec()], ROWS)
    write(theirs, [spec()], ROWS[:1])
    edited = [(ROWS[0][0], digest("edited")), (ROWS[1][0], digest("edited too")), *ROWS[2:]]
    assert write(mine, [spec()], edited) == [0, 1]  # the second keeps its row, the first is appended
    check(theirs, [spec()], ROWS[:1])
    check(mine, [spec()], edited)
    assert write(theirs, [spec()], ROWS[:1]) == []


def test_a_store_from_before_data_sets_had_names_is_taken_as_it_is(tmp_path: Path) -> None:
    write(FeatureStore(tmp_path), [spec()], ROWS)
    mine = FeatureStore(tmp_path, "mine")
    check(mine, [spec()], ROWS)  # before anything is written
    assert write(mine, [spec()], ROWS) == []
    check(mine, [spec()], ROWS)
    assert [(found.dataset, found.images) for found in mine.datasets()] == [("mine", 6)]
    edited = [(ROWS[0][0], digest("edited")), *ROWS[1:]]
    assert write(mine, [spec()], edited) == [0]  # its names are this data set's now: the row is kept
    assert len(mine.rows("train").digests) == 6


def test_a_store_from_before_loses_nothing_to_another_data_set_of_equal_names(tmp_path: Path) -> None:
    unnamed, theirs = FeatureStore(tmp_path), FeatureStore(tmp_path, "theirs")
    write(unnamed, [spec()], ROWS)
    write(theirs, [spec()], OTHERS)
    check(unnamed, [spec()], ROWS)
    check(theirs, [spec()], OTHERS)
    assert write(unnamed, [spec()], ROWS) == []


def test_transcoding_and_manifests_are_each_data_set_s_own(tmp_path: Path) -> None:
    mine, theirs = FeatureStore(tmp_path, "mine"), FeatureStore(tmp_path, "theirs")
    source = spec("float16")
    write(mine, [source], ROWS)
    write(theirs, [source], OTHERS)
    for store, rows in ((mine, ROWS), (theirs, OTHERS)):
        made = transcode(store, source, spec("int8").encoding)
        manifest = tmp_path / f"{store.dataset}.json"
        store.write_manifest(manifest, [made], {"train": rows})
    for store, rows in ((mine, ROWS), (theirs, OTHERS)):
        assert store.check(tmp_path / f"{store.dataset}.json") == [spec("int8")]
        assert write(store, [spec("int8")], rows) == []
    assert verify(tmp_path, mine.arrays()) == []


def test_damage_is_named_by_data_set(tmp_path: Path) -> None:
    write(FeatureStore(tmp_path, "mine"), [spec()], ROWS)
    (file,) = (tmp_path / "features.zarr" / spec().path / "c/1").glob("*/*/*")
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    (damage,) = verify(tmp_path, FeatureStore(tmp_path).arrays())
    assert damage.scene_ids == ("mine: folder/004.jpg",)


STATES = st.lists(
    st.tuples(st.sampled_from(["", "a", "b"]), st.dictionaries(st.sampled_from("123"), st.sampled_from("uvwxyz"))),
    max_size=8,
)


@settings(max_examples=200)
@given(STATES)
def test_whatever_data_sets_do_each_finds_what_it_last_had(tmp_path_factory, states) -> None:
    """Of its own images, whatever the others call theirs; rows keep one content as long as somebody has it."""
    root = tmp_path_factory.mktemp("store")
    now: dict[str, dict[str, str]] = {}
    for dataset, files in states:
        if not files:
            continue
        store = FeatureStore(root, dataset)
        store.rows("train").assign(list(files.items()))
        now[dataset] = {**now.get(dataset, {}), **files}
        table = store.rows("train")
        assert len(set(table.digests)) == len(table.digests)
        for name, last in now.items():
            seen = FeatureStore(root, name).rows("train")
            for scene, content in last.items():
                if scene in seen.scenes:  # names of the unnamed data set are taken over by who has the content
                    assert seen.digests[seen.row(scene)] == content
                else:
                    assert name == ""
