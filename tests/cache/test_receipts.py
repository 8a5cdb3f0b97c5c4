"""What a receipt says is what is read of it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import DamagedError
from cache.receipts import Name, PartReceipt, Receipt, ReceiptBook, rewrite

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
