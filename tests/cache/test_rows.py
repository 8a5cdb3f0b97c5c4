from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import FeatureStore
from cache.errors import DamagedError, NotCachedError
from cache.receipts import Name
from cache.rows import splits

A, B, C, D = ("a.jpg", "da"), ("b.jpg", "db"), ("c.jpg", "dc"), ("d.jpg", "dd")


def test_rows_are_appended_and_kept(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    assert store.rows("train").assign([A, B]) == [0, 1]
    assert store.rows("train").assign([C, B, A]) == [2, 1, 0]
    assert store.rows("train").row("c.jpg") == 2
    assert store.rows("test").assign([C]) == [0]


def test_renamed_swapped_and_copied_files_keep_their_content_s_row(tmp_path: Path) -> None:
    rows = FeatureStore(tmp_path).rows("train")
    rows.assign([A, B])
    assert rows.assign([("new/a.jpg", "da")]) == [0]
    assert rows.assign([("a.jpg", "db"), ("b.jpg", "da")]) == [1, 0]
    assert rows.assign([("copy.jpg", "db")]) == [1]


def test_an_edited_file_keeps_its_row(tmp_path: Path) -> None:
    rows = FeatureStore(tmp_path).rows("train")
    rows.assign([A, B])
    assert rows.assign([A, ("b.jpg", "db2")]) == [0, 1]
    assert rows.digests == ["da", "db2"]


def test_an_edited_file_leaves_a_row_that_another_name_stands_for(tmp_path: Path) -> None:
    rows = FeatureStore(tmp_path).rows("train")
    rows.assign([A, B])
    assert rows.assign([("a.jpg", "edited"), ("moved.jpg", "da"), B]) == [2, 0, 1]


def test_an_unknown_scene_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotCachedError, match=r"'x\.jpg'.*diffps extract"):
        FeatureStore(tmp_path).rows("train").row("x.jpg")


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    FeatureStore(tmp_path).rows("train").assign([A])
    (tmp_path / "rows/train.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DamagedError, match=r"train\.parquet"):
        FeatureStore(tmp_path).rows("train")


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), max_size=6))
def test_whatever_happens_to_files_a_row_has_one_content(tmp_path_factory: pytest.TempPathFactory, states) -> None:
    root = tmp_path_factory.mktemp("store")
    length = 0
    for state in states:
        table = FeatureStore(root).rows("train")
        known = {content: row for row, content in enumerate(table.digests)}
        rows = table.assign(list(state.items()))
        again = FeatureStore(root).rows("train")
        assert again.digests == table.digests
        assert len(again.digests) >= length
        length = len(again.digests)
        for (scene, content), row in zip(state.items(), rows, strict=True):
            assert again.digests[row] == content
            assert again.row(scene) == row
            # Content that was known is found where it was.
            assert row == known.get(content, row)


def columns(path: Path) -> dict[str, list[object]]:
    return pq.read_table(path).to_pydict()


def test_a_table_to_the_last_entry(tmp_path: Path) -> None:
    """Rows in order, names of one row by data set and name; behind them those that have no name any more."""
    plain = FeatureStore(tmp_path).rows("train")
    assert (plain.path, plain.path.exists()) == (tmp_path / "rows/train.parquet", False)
    assert plain.scenes == {}
    assert plain.assign([]) == []
    assert not plain.path.exists()
    plain.assign([B, A, C])
    assert columns(plain.path) == {
        "row": [0, 1, 2], "scene_id": ["b.jpg", "a.jpg", "c.jpg"], "digest": ["db", "da", "dc"],
    }  # fmt: skip
    plain.assign([("a.jpg", "db"), ("c.jpg", "db")])
    mine = FeatureStore(tmp_path, "mine").rows("train")
    assert mine.scenes == plain.scenes == {"a.jpg": 0, "b.jpg": 0, "c.jpg": 0}
    mine.assign([D, ("z.jpg", "da")])
    assert columns(plain.path) == {
        "row": [0, 0, 0, 1, 3, 2],
        "scene_id": ["a.jpg", "b.jpg", "c.jpg", "z.jpg", "d.jpg", ""],
        "digest": ["db", "db", "db", "da", "dd", "dc"],
        "dataset": ["", "", "", "mine", "mine", ""],
    }
    stamp = plain.path.stat().st_mtime_ns
    assert mine.assign([D, ("z.jpg", "da")]) == [3, 1]
    assert plain.path.stat().st_mtime_ns == stamp
    assert mine.called() == {
        0: [Name("", "a.jpg"), Name("", "b.jpg"), Name("", "c.jpg")],
        1: [Name("mine", "z.jpg")],
        3: [Name("mine", "d.jpg")],
    }
    assert [mine.digest(row) for row in (2, 3, 4)] == ["dc", "dd", ""]
    assert mine.scenes == {"d.jpg": 3, "z.jpg": 1}


def test_a_preview_changes_nothing(tmp_path: Path) -> None:
    rows = FeatureStore(tmp_path).rows("train")
    rows.assign([A, B])
    for images, found in (
        ([A, B], ([0, 1], False)),
        ([B], ([1], False)),
        ([("new.jpg", "da")], ([0], True)),
        ([A, C], ([0, 2], True)),
        ([("a.jpg", "edited")], ([0], True)),
        ([], ([], False)),
    ):
        assert rows.preview(images) == found
        assert rows.scenes == {"a.jpg": 0, "b.jpg": 1}
        assert rows.digests == ["da", "db"]


def test_what_is_forgotten_belongs_to_nobody(tmp_path: Path) -> None:
    rows = FeatureStore(tmp_path).rows("train")
    rows.assign([A, B, C, D])
    rows.forget([1], [Name("", "c.jpg"), Name("other", "d.jpg")])
    again = FeatureStore(tmp_path).rows("train")
    assert again.digests == ["da", "", "dc", "dd"]
    assert again.scenes == {"a.jpg": 0, "d.jpg": 3}
    assert again.assign([B]) == [4]
    assert again.assign([C]) == [2]


def test_images_are_known_by_their_content_alone(tmp_path: Path) -> None:
    rows = FeatureStore(tmp_path).rows("train")
    rows.assign([A, B])
    rows.see([("x.jpg", "db"), ("a.jpg", "unknown"), ("y.jpg", "db")])
    assert rows.scenes == {"x.jpg": 1, "y.jpg": 1}
    with pytest.raises(NotCachedError) as caught:
        rows.row("a.jpg")
    what = "run `diffps extract` with this image in the index"
    assert str(caught.value) == f"scene 'a.jpg': not in {tmp_path}/rows/train.parquet; {what}"


def test_splits_are_those_with_rows_or_receipts(tmp_path: Path) -> None:
    assert splits(tmp_path) == []
    for split in ("test", "train"):
        FeatureStore(tmp_path).rows(split).assign([A])
    (tmp_path / "rows/notes.txt").touch()
    (tmp_path / "receipts/lost").mkdir(parents=True)
    assert splits(tmp_path) == ["lost", "test", "train"]
    (tmp_path / "receipts/lost/notes").touch()
    assert FeatureStore(tmp_path).rows("lost").digests == []
    (tmp_path / "receipts/lost/0.0.json").touch()
    with pytest.raises(
        DamagedError, match="lost.parquet: is lost, but receipts are there; `diffps cache verify --repair`"
    ):
        FeatureStore(tmp_path).rows("lost")


def test_what_another_process_wrote_meanwhile_is_not_lost(tmp_path: Path) -> None:
    one, other, third = (FeatureStore(tmp_path).rows("train") for _ in range(3))
    assert one.assign([A]) == [0]
    assert other.assign([B]) == [1]
    third.forget([0])
    assert FeatureStore(tmp_path).rows("train").digests == ["", "db"]
    assert one.assign([A, B]) == [2, 1]
