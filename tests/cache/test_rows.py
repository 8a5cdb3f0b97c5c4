from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import FeatureStore
from cache.errors import DamagedError, NotCachedError

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
