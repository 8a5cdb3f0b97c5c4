"""What a receipt says is what is read of it."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import GroupKey, sealed
from cache.errors import DamagedError
from cache.receipts import Name, PartReceipt, Receipt, ReceiptBook, receipt_files, rewrite

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
CHECKSUMS = st.integers(0, 2**32 - 1)
NAMES = st.none() | st.builds(Name, TEXT, TEXT)


@st.composite
def receipts(draw: st.DrawFn) -> Receipt:
    rows = draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=4, unique=True))
    skipped = {row: draw(TEXT) for row in rows if draw(st.booleans())}

    def part() -> PartReceipt:
        return PartReceipt(
            draw(st.integers(0, 2**50)), tuple(None if row in skipped else draw(CHECKSUMS) for row in rows)
        )

    names = draw(st.lists(TEXT.filter(bool), min_size=1, max_size=3, unique=True))
    return Receipt(
        shard=draw(st.sampled_from([0, 1, 10, 200_000])),
        rows=tuple(rows),
        digests=tuple(draw(TEXT) for _ in rows),
        names=tuple(draw(NAMES) for _ in rows),
        skipped=skipped,
        arrays={
            name: (draw(TEXT), {suffix: part() for suffix in draw(st.sampled_from([("",), ("", ".scales")]))})
            for name in names
        },
        info=draw(st.dictionaries(TEXT, TEXT | st.integers() | st.booleans(), max_size=2)),
    )


@settings(max_examples=40)
@given(st.lists(receipts(), min_size=1, max_size=3))
def test_any_receipts_are_read_as_written_and_the_newest_counts(
    tmp_path_factory: pytest.TempPathFactory, written: list[Receipt]
) -> None:
    book = ReceiptBook(tmp_path_factory.mktemp("receipts"))
    for receipt in written:
        book.add(receipt)
    found = ReceiptBook(book.folder)
    assert found.shards == sorted({receipt.shard for receipt in written})
    for shard in found.shards:
        of_shard = [receipt for receipt in written if receipt.shard == shard]
        read = found.of_shard(shard)
        assert [replace(receipt, path=None, info={}) for receipt in read] == [replace(r, info={}) for r in of_shard]
        for one, other in zip(read, of_shard, strict=True):
            assert {**one.info, **other.info} == one.info
        for name in {name for receipt in of_shard for name in receipt.arrays}:
            newest = [receipt for receipt in read if name in receipt.arrays][-1]
            assert found.find(shard, name) == newest
    first = found.of_shard(found.shards[0])[0]
    found.withdraw(first.shard, first.arrays)
    assert all(ReceiptBook(book.folder).find(first.shard, name) is None for name in first.arrays)


@settings(max_examples=30)
@given(receipts(), st.integers(0, 3))
def test_a_receipt_that_contradicts_itself_is_refused_by_its_path(
    tmp_path_factory: pytest.TempPathFactory, receipt: Receipt, which: int
) -> None:
    path = tmp_path_factory.mktemp("receipts") / "0.0.json"
    more = (*receipt.rows, receipt.rows[0])
    other = {row: "x" for row in receipt.rows if row not in receipt.skipped}
    wrong = [{"rows": more}, {"digests": ()}, {"names": (None,) * len(more)}, {"skipped": other}][which]
    rewrite(replace(receipt, path=path, **wrong))  # type: ignore[arg-type]
    with pytest.raises(DamagedError) as caught:
        ReceiptBook(path.parent)
    assert str(caught.value).startswith(f"{path}: is no receipt")
    assert str(caught.value).isprintable()


def sound(shard: int = 0, **changes: object) -> Receipt:
    found = Receipt(
        shard=shard,
        rows=(4, 5),
        digests=("da", "db"),
        names=(Name("mine", "a.jpg"), None),
        skipped={5: "torn"},
        arrays={"tap": ("id", {"": PartReceipt(9, (7, None))}), "other": ("no", {})},
        info={"written": "then"},
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def test_a_receipt_to_the_last_word(tmp_path: Path) -> None:
    book = ReceiptBook.of(tmp_path, GroupKey("train", "identity", "abc", 3))
    assert book.folder == tmp_path / "receipts/train/identity/abc/t3"
    book.add(sound())
    content = sealed.read_json(book.folder / "0.0.json", "nothing")
    assert content == {
        "version": 1,
        "shard": 0,
        "rows": [4, 5],
        "digests": ["da", "db"],
        "names": [["mine", "a.jpg"], None],
        "skipped": {"5": "torn"},
        "arrays": {
            "tap": {"id": "id", "parts": {"": {"nbytes": 9, "crc32c": [7, None]}}},
            "other": {"id": "no", "parts": {}},
        },
        "info": {"written": "then"},
    }
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    book.add(sound(info={"device": "cpu"}))
    info = sealed.read_json(book.folder / "0.1.json", "nothing")["info"]
    assert info.keys() == {"device", "written"}
    assert began <= info["written"] <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def test_receipts_are_numbered_by_shard_and_the_newest_counts(tmp_path: Path) -> None:
    book = ReceiptBook(tmp_path)
    for number in range(11):
        book.add(sound(2, info={"number": number}))
    book.add(sound(10))
    assert [path.name for path in receipt_files(tmp_path)] == [
        *(f"2.{number}.json" for number in range(11)),
        "10.0.json",
    ]
    (tmp_path / "2.3.json").unlink()
    (tmp_path / "notes.txt").touch()
    book.add(sound(2, info={"number": 11}, arrays={"tap": ("id", {})}))
    found = ReceiptBook(tmp_path)
    assert found.shards == [2, 10]
    assert [receipt.info["number"] for receipt in found.of_shard(2)] == [0, 1, 2, *range(4, 12)]
    newest, other = found.find(2, "tap"), found.find(2, "other")
    assert newest is not None
    assert other is not None
    assert (newest.info["number"], other.info["number"]) == (11, 10)
    assert newest.path == tmp_path / "2.11.json"
    assert found.find(2, "none") is found.find(3, "tap") is None
    assert found.of_shard(3) == []
    assert ReceiptBook(tmp_path, 10).shards == [10]
    assert ReceiptBook(tmp_path / "none").shards == receipt_files(tmp_path / "none") == []


def test_what_is_withdrawn_leaves_the_others_of_its_receipt(tmp_path: Path) -> None:
    for shard in (0, 1):
        ReceiptBook(tmp_path).add(sound(shard))
    book, untouched = ReceiptBook(tmp_path), (tmp_path / "1.0.json").stat().st_mtime_ns
    before = (tmp_path / "0.0.json").stat().st_mtime_ns
    book.withdraw(0, ["none"])
    assert (tmp_path / "0.0.json").stat().st_mtime_ns == before
    book.withdraw(0, ["tap"])
    (kept,) = ReceiptBook(tmp_path).of_shard(0)
    assert kept.arrays.keys() == {"other"}
    ReceiptBook(tmp_path).withdraw(0, ["other", "none"])
    assert [path.name for path in receipt_files(tmp_path)] == ["1.0.json"]
    assert (tmp_path / "1.0.json").stat().st_mtime_ns == untouched
    rewrite(sound(path=tmp_path / "1.0.json", rows=(), digests=(), names=(), skipped={}))
    assert receipt_files(tmp_path) == []
