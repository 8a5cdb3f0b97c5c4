"""Every name of an image counts: copies share a row, and so do an old name and a new one."""

from pathlib import Path

import numpy as np
import pytest

from cache import CacheError, FeatureStore, SkippedImage, parse_encoding
from cache.errors import EncodingError, LockedError
from cache.guard import SILENT_SECONDS
from cache.lock import lock_file
from cache.receipts import ReceiptBook
from cache.transcode import cached_images, export, transcode
from tests.cache.builders import expected, images, pretend, spec, write

ROWS = images(10)


def test_copies_and_renamed_images_are_transcoded_under_every_name(tmp_path: Path) -> None:
    """Two names of one content share a row, as an old and a new name do: each reads, none is written twice."""
    store = FeatureStore(tmp_path)
    source, copy = spec("float16"), ("a_copy.jpg", ROWS[3][1])
    write(store, [source], [*ROWS, copy])
    renamed = [(f"new/{scene}", digest) for scene, digest in ROWS[:2]]
    now = [*renamed, *ROWS[2:], copy]
    assert write(store, [source], now) == []
    assert set(now) | set(ROWS) == set(cached_images(store, source))
    target = transcode(store, source, parse_encoding("int8"))
    assert write(store, [target], now) == []
    reader = store.reader([source, target])
    for scene, digest in now:
        again = target.encoding.encode(reader.read(scene, source.name).values)
        np.testing.assert_array_equal(reader.read(scene, target.name).values, again.values)
        np.testing.assert_array_equal(reader.read_float(scene, source.name), expected(digest, source))


def test_another_machine_s_writer_is_not_taken_over_unasked(tmp_path: Path) -> None:
    store, source = FeatureStore(tmp_path), spec("float16")
    write(store, [source], ROWS)
    left = lock_file(tmp_path, source.group)
    pretend(left, host="elsewhere", silent=SILENT_SECONDS + 5)
    with pytest.raises(LockedError, match=r"runtime\.takeover=true"):
        transcode(store, source, parse_encoding("int8"))
    transcode(store, source, parse_encoding("int8"), takeover=True)
    assert not left.exists()


def test_receipts_say_what_it_was_made_from_and_count_no_time_of_the_backbone(tmp_path: Path) -> None:
    store, source, told = FeatureStore(tmp_path), spec("float16"), list[int]()
    write(store, [source], ROWS, unreadable=[ROWS[2][0]])
    target = transcode(store, source, parse_encoding("int8"), told.append)
    assert told == [4, 4, 2]
    assert (target.name, target.recipe, target.group) == ("tap@int8", source.recipe, source.group)
    book = ReceiptBook.of(tmp_path, source.group)
    for shard in (0, 1, 2):
        receipt = book.find(shard, target.name)
        assert receipt is not None
        assert (receipt.info["transcoded_from"], receipt.info["seconds"]) == ("float16", 0.0)
    with pytest.raises(SkippedImage, match=f"^scene '{ROWS[2][0]}': was skipped when extracted: .*truncated JPEG$"):
        store.reader([target]).read(ROWS[2][0], target.name)
    told.clear()
    assert transcode(store, source, parse_encoding("int8"), told.append) == target
    assert told == []
    assert "transcoded_from" not in transcode(store, source, parse_encoding("float32")).recipe
    again = transcode(store, target, parse_encoding("bitround:6"))
    assert again.recipe == {**source.recipe, "transcoded_from": {"name": "int8", "block": 256}}


def test_what_is_not_transcoded_is_said(tmp_path: Path) -> None:
    from dataclasses import replace

    store, scores = FeatureStore(tmp_path), replace(spec("float32"), name="mid.person")
    for array, encoding, said in (
        (scores, "int8", "maps and latents stay float32; only taps are transcoded"),
        (spec("int8"), "int8", "is int8 already"),
    ):
        with pytest.raises(EncodingError) as caught:
            transcode(store, array, parse_encoding(encoding))
        assert str(caught.value) == f"{array.path}: {said}"


def test_exported_files_lie_by_scene(tmp_path: Path) -> None:
    store, arrays = FeatureStore(tmp_path / "store"), [spec("int8"), spec("float16")]
    write(store, arrays, [*ROWS[:2], ("../away", ROWS[2][1])])
    reader, names = store.reader(arrays), ["tap@int8", "tap@float16"]
    scenes, out = [scene for scene, _ in ROWS[:2]], tmp_path / "out"
    assert list(export(reader, scenes, names, out, "npy")) == [
        out / scene / f"{name}.npy" for scene in scenes for name in names
    ]
    assert list(export(reader, scenes, names, out, "safetensors")) == [out / f"{scene}.safetensors" for scene in scenes]
    with pytest.raises(CacheError) as caught:
        next(iter(export(reader, ["../away"], names, out, "npy")))
    assert str(caught.value) == f"scene '../away': cannot be a file below {out}"


def test_images_are_listed_by_row_and_name(tmp_path: Path) -> None:
    store, array = FeatureStore(tmp_path), spec()
    write(store, [array], [ROWS[1], ROWS[0], ("b.jpg", ROWS[1][1]), ("a.jpg", ROWS[1][1])])
    assert cached_images(store, array) == [
        ("a.jpg", ROWS[1][1]), ("b.jpg", ROWS[1][1]), ROWS[1], ROWS[0],
    ]  # fmt: skip
    assert cached_images(store, spec(recipe={"unet": "other"}, key=array.group)) == []
