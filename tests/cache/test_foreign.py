"""What another layout is called, and which of its files an image lies in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cache.arrays import parse
from cache.checksum import crc32c
from cache.errors import DamagedError
from cache.foreign import ForeignArray, why_foreign
from cache.layout import array_metadata
from tests.cache.builders import spec

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


def metadata(encoding: str = "float16") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(array_metadata(spec(encoding), "", 9, 4)))
    return found


def inner(found: dict[str, Any]) -> dict[str, Any]:
    configuration: dict[str, Any] = found["codecs"][0]["configuration"]
    return configuration


CHANGES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda m: m["chunk_key_encoding"].update(name="v2"),
     "chunk keys {'name': 'v2', 'configuration': {'separator': '/'}}"),
    (lambda m: m["chunk_key_encoding"]["configuration"].update(separator="."),
     "chunk keys {'name': 'default', 'configuration': {'separator': '.'}}"),
    (lambda m: m.update(codecs=[LITTLE, {"name": "gzip"}]), "codecs ['bytes', 'gzip']"),
    (lambda m: inner(m).update(codecs=[LITTLE, {"name": "gzip"}]), "codecs ['bytes', 'gzip'] inside the shards"),
    (lambda m: inner(m)["codecs"][0].update(configuration={"endian": "big"}), "big-endian values"),
    (lambda m: inner(m).update(chunk_shape=[2, 20, 18, 12]), "chunks of [2, 20, 18, 12]"),
    (lambda m: inner(m).update(chunk_shape=[1, 10, 18, 12]), "chunks of [1, 10, 18, 12]"),
    (lambda m: inner(m).update(index_codecs=[LITTLE]), "a shard index without its checksum"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), CHANGES)
def test_another_layout_is_told_from_ours(tmp_path: Path, change: Callable[[dict[str, Any]], Any], reason: str) -> None:
    found = metadata()
    assert why_foreign(found, tmp_path) == ""
    change(found)
    assert why_foreign(found, tmp_path) == reason


def test_what_says_the_same_in_fewer_words_is_ours(tmp_path: Path) -> None:
    for encoding in ("int8", "bitround:6"):
        assert why_foreign(metadata(encoding), tmp_path) == ""
    found = metadata()
    del found["chunk_key_encoding"]["configuration"]
    del inner(found)["codecs"][0]["configuration"]
    inner(found)["codecs"].pop()  # no checksums of its own
    assert why_foreign(found, tmp_path) == ""
    assert why_foreign(metadata() | {"codecs": []}, tmp_path) == "codecs []"
    for wrong in ({}, {"chunk_key_encoding": 3}, metadata() | {"codecs": [3]}):
        with pytest.raises(DamagedError, match=rf"^{tmp_path}/zarr.json: is no array's metadata \(.*\); delete the"):
            why_foreign(wrong, tmp_path)


@pytest.mark.parametrize(
    ("encoding", "change", "known"),
    [
        ("int8", lambda m: None, (None, True, True)),
        ("bitround:6", lambda m: None, ("blosc", True, True)),
        ("float16", lambda m: inner(m)["codecs"].pop(), (None, False, True)),
        ("float16", lambda m: inner(m).update(index_location="start"), (None, True, False)),
        ("float16", lambda m: inner(m).pop("index_location"), (None, True, True)),
    ],
)
def test_how_an_array_is_read_is_said_by_its_metadata(
    tmp_path: Path, encoding: str, change: Callable[[dict[str, Any]], Any], known: tuple[str | None, bool, bool]
) -> None:
    found, array = metadata(encoding), spec(encoding)
    change(found)
    (tmp_path / "zarr.json").write_text(json.dumps(found))
    part = parse(tmp_path)
    assert (part.shape, part.dtype, part.shard_size) == (array.stored_shape, np.dtype(array.encoding.dtype), 4)
    assert (part.codec and part.codec["name"], part.checked, part.index_at_end) == known
    assert part.nbytes == 20 * 18 * 12 * np.dtype(array.encoding.dtype).itemsize
    assert part.plain is None
    assert part.file(3) == tmp_path / "c/3/0/0/0"
    (tmp_path / "zarr.json").unlink()
    with pytest.raises(DamagedError) as caught:
        parse(tmp_path)
    remedy = "delete the array it belongs to and run `diffps extract`"
    assert str(caught.value) == f"{tmp_path}: is missing; {remedy}"


@pytest.mark.parametrize(("chunks", "shards"), [((2, 3, 4), None), ((1, 3, 4), (2, 6, 4)), ((2, 5, 4), None)])
def test_an_image_lies_in_the_files_its_grid_says(
    tmp_path: Path, chunks: tuple[int, ...], shards: tuple[int, ...] | None
) -> None:
    data = np.arange(1, 5 * 5 * 4 + 1, dtype="<f4").reshape(5, 5, 4)
    zarr.create_array(str(tmp_path), shape=data.shape, dtype="f4", chunks=chunks, shards=shards, fill_value=0)[:] = data
    array = ForeignArray(tmp_path, np.dtype("<f4"))
    grid = shards or chunks
    for row in range(5):
        np.testing.assert_array_equal(array.read(row, crc32c(data[row])), data[row])
        files = [tmp_path / f"c/{row // 2}/{place}/0" for place in range(-(-5 // grid[1]))]
        assert array._files(row) == files
    with pytest.raises(DamagedError) as caught:
        array.read(0, 7)
    assert str(caught.value) == f"{tmp_path}: checksum {crc32c(data[0]):08x}, receipt 00000007"
    for file in array._files(3):
        whole = file.read_bytes()
        file.unlink()
        for expected in (crc32c(data[3]), None):
            with pytest.raises(DamagedError) as missing:
                array.read(3, expected)
            assert str(missing.value) == f"{file}: is missing"
        file.write_bytes(whole)
    assert array.read(0, None).tolist() == data[0].tolist()
