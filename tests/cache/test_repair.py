"""A lost table of rows comes back from receipts."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cache import FeatureStore
from cache.errors import DamagedError
from cache.forget import forget
from cache.receipts import Name, ReceiptBook, rewrite
from cache.repair import Rebuilt, damaged_tables, rebuild_rows
from cache.rows import RowTable
from cache.traces import find_traces
from cache.verify import verify
from tests.cache.builders import as_first_version, check, digest, group, images, spec, write

ROWS = images(10)
SPECS = [spec("int8"), spec("float16", tap="other")]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "features")
    write(store, SPECS, ROWS[:6])
    write(store, SPECS[:1], ROWS)
    write(store, [spec(key=group(split="test"))], images(3))
    return store


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


DAMAGES: list[Callable[[Path], None]] = [
    Path.unlink,
    lambda path: path.write_bytes(b""),
    lambda path: os.truncate(path, 300),
    lambda path: path.write_bytes(b"PAR1 nonsense PAR1"),
    flipped,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=["deleted", "empty", "torn", "nonsense", "flipped"])
@pytest.mark.parametrize("known", [[], ROWS], ids=["receipts alone", "with the index"])
def test_it_is_what_it_was(store: FeatureStore, damage: Callable[[Path], None], known: list[tuple[str, str]]) -> None:
    path = store.root / "rows/train.parquet"
    before = path.read_bytes()
    assert damaged_tables(store.root) == {}
    damage(path)
    with pytest.raises(DamagedError, match=r"train\.parquet.*cache verify --repair"):
        store.rows("train")
    with pytest.raises(DamagedError, match=r"train\.parquet"):
        write(store, SPECS, ROWS)  # and nothing is assigned anew
    assert list(damaged_tables(store.root)) == ["train"]
    found = rebuild_rows(store.root, "train", known)
    assert found == Rebuilt(split="train", images=10, unnamed=0, lost=0)
    assert path.read_bytes() == before
    assert damaged_tables(store.root) == {}
    check(store, SPECS[:1], ROWS)
    assert write(store, SPECS[:1], ROWS) == []


def test_of_older_receipts_come_the_rows_and_of_the_index_the_names(store: FeatureStore) -> None:
    as_first_version(store)
    path = store.root / "rows/train.parquet"
    path.unlink()
    assert rebuild_rows(store.root, "train") == Rebuilt(split="train", images=10, unnamed=10, lost=0)
    assert write(store, SPECS[:1], ROWS) == []  # which names them
    assert RowTable.of(store.root, "train").scenes == {scene: row for row, (scene, _) in enumerate(ROWS)}
    path.unlink()
    assert rebuild_rows(store.root, "train", ROWS[:9]).unnamed == 1
    check(store, SPECS[:1], ROWS[:9])


def test_rows_that_were_never_written_are_lost_and_given_to_nobody(store: FeatureStore) -> None:
    more = images(14)
    with store.writer(SPECS[:1], more, shard=4):
        pass  # stopped before the first shard
    (store.root / "rows/train.parquet").unlink()
    assert rebuild_rows(store.root, "train", more) == Rebuilt(split="train", images=10, unnamed=0, lost=4)
    assert store.rows("train").digests[10:] == [""] * 4
    assert store.status()[1].arrays[1].missing == 0
    assert write(store, SPECS[:1], more) == [3, 4]  # appended, rows 14 to 17
    check(store, SPECS[:1], more)
    assert verify(store.root, store.arrays()) == []


def test_the_newest_content_of_a_row_counts(store: FeatureStore) -> None:
    edited = [(ROWS[0][0], digest("edited")), *ROWS[1:]]
    write(store, SPECS[:1], edited)  # the other array still speaks of what it was
    (store.root / "rows/train.parquet").unlink()
    rebuild_rows(store.root, "train", edited)
    check(store, SPECS[:1], edited)
    assert write(store, SPECS[:1], edited) == []


def test_renamed_images_are_called_what_the_index_calls_them(store: FeatureStore) -> None:
    moved = [(f"moved/{scene}", content) for scene, content in ROWS]
    (store.root / "rows/train.parquet").unlink()
    rebuild_rows(store.root, "train", moved)
    check(store, SPECS[:1], moved)
    check(store, SPECS[:1], ROWS)


def test_data_sets_are_told_apart(tmp_path: Path) -> None:
    mine, theirs = FeatureStore(tmp_path, "mine"), FeatureStore(tmp_path, "theirs")
    others = [(scene, digest(f"their {scene}")) for scene, _ in ROWS[:5]]
    write(mine, SPECS, ROWS)
    write(theirs, SPECS, others)
    before = (tmp_path / "rows/train.parquet").read_bytes()
    (tmp_path / "rows/train.parquet").unlink()
    rebuild_rows(tmp_path, "train", ROWS, "mine")
    assert (tmp_path / "rows/train.parquet").read_bytes() == before


def test_what_was_forgotten_stays_forgotten(store: FeatureStore) -> None:
    forget(store.root, find_traces(store.root, "train", scene_ids=[ROWS[3][0]]))
    before = (store.root / "rows/train.parquet").read_bytes()
    (store.root / "rows/train.parquet").unlink()
    assert rebuild_rows(store.root, "train").lost == 1
    assert (store.root / "rows/train.parquet").read_bytes() == before


def test_a_row_that_changed_twice_has_its_newest_content_and_names(tmp_path: Path) -> None:
    """By when receipts were written, not by which array they are of."""
    store = FeatureStore(tmp_path)
    arrays = [spec(key=group(view=view), recipe={"view": view}) for view in ("a", "b", "c")]
    contents = ["old", "newest", "middle"]
    for array, content, written in zip(arrays, contents, ("2020", "2022", "2021"), strict=True):
        write(store, [array], [("x.jpg", digest(content))])
        book = ReceiptBook.of(tmp_path, array.group)
        (receipt,) = book.of_shard(0)
        rewrite(replace(receipt, info={"written": written}, names=(Name("", f"{content}.jpg"),)))
    path = tmp_path / "rows/train.parquet"
    for known, digests, names in (
        ([], ["newest"], {"newest.jpg": 0}),
        ([("asked.jpg", digest("old"))], ["old"], {"asked.jpg": 0, "old.jpg": 0}),
    ):
        path.unlink()
        found = rebuild_rows(tmp_path, "train", known)
        assert found == Rebuilt(split="train", images=1, unnamed=0, lost=0)
        table = store.rows("train")
        assert table.digests == [digest(content) for content in digests]
        assert table.scenes == names
