"""Where arrays lie and what their metadata says: other readers go by it, so none of it may change unnoticed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import FeatureStore, GroupKey
from cache.checksum import crc32c
from cache.encodings import Project
from cache.errors import DamagedError
from cache.files import read_json
from cache.layout import (
    absent_groups,
    array_metadata,
    ensure_groups,
    read_basis,
    shard_file,
    shard_size,
    spec_from_metadata,
    write_basis,
)
from tests.cache.builders import images, spec, write

SHAPE = (20, 18, 12)
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
CHECKED = {"name": "crc32c"}
BLOSC = {
    "name": "blosc",
    "configuration": {"cname": "zstd", "clevel": 3, "shuffle": "bitshuffle", "typesize": 2, "blocksize": 0},
}


@pytest.mark.parametrize(
    ("encoding", "suffix", "shape", "kind", "codecs", "fill", "axes"),
    [
        ("int8", "", SHAPE, "int8", [{"name": "bytes"}, CHECKED], 0, ["height", "width", "channel"]),
        ("int8", ".scales", (2, 12), "float16", [LITTLE, CHECKED], "NaN", ["block", "channel"]),
        ("float16", "", SHAPE, "float16", [LITTLE, CHECKED], "NaN", ["height", "width", "channel"]),
        ("float32", "", SHAPE, "float32", [LITTLE, CHECKED], "NaN", ["height", "width", "channel"]),
        ("bitround:6", "", SHAPE, "float16", [LITTLE, BLOSC, CHECKED], "NaN", ["height", "width", "channel"]),
        ("project:4", "", (20, 18, 4), "int8", [{"name": "bytes"}, CHECKED], 0, ["height", "width", "channel"]),
        ("project:4", ".scales", (2, 4), "float16", [LITTLE, CHECKED], "NaN", ["block", "channel"]),
    ],
)
def test_metadata_to_the_last_word(
    encoding: str, suffix: str, shape: tuple[int, ...], kind: str, codecs: list[Any], fill: object, axes: list[str]
) -> None:
    array = spec(encoding)
    assert array.parts()[suffix] == (shape, kind)
    attributes = {"id": array.id, "encoding": encoding, "shape": [20, 18, 12]}
    inner = {
        "chunk_shape": [1, *shape],
        "codecs": codecs,
        "index_codecs": [LITTLE, CHECKED],
        "index_location": "end",
    }
    assert array_metadata(array, suffix, 9, 4) == {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [9, *shape],
        "data_type": kind,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, *shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [{"name": "sharding_indexed", "configuration": inner}],
        "attributes": {"diffps": attributes if suffix else attributes | {"full_recipe": array.full_recipe}},
        "dimension_names": ["image", *axes],
        "storage_transformers": [],
    }


def test_what_an_array_s_id_is_taken_from() -> None:
    array = spec("int8")
    assert array.full_recipe == {
        "recipe": array.recipe,
        "name": "tap@int8",
        "shape": [20, 18, 12],
        "encoding": {"name": "int8", "block": 256},
    }
    basis = spec("project:4").encoding
    assert isinstance(basis, Project)
    assert spec("project:4").full_recipe["encoding"] == {"name": "project:4", "block": 256, "basis": basis.digest}
    assert spec("bitround:6").full_recipe["encoding"] == {"name": "bitround:6"}
    ids = {encoding: spec(encoding).id for encoding in ("float16", "int8", "bitround:6", "float32")}
    assert ids == {"float16": "f48c5e1677", "int8": "8effa1ada3", "bitround:6": "05c1b5fa3c", "float32": "d1b3531dda"}


def test_shards_lie_by_number_and_groups_have_metadata_from_the_top(tmp_path: Path) -> None:
    assert shard_file(tmp_path, 12, 3) == tmp_path / "c/12/0/0/0"
    assert shard_file(tmp_path, 0, 2) == tmp_path / "c/0/0/0"
    root, group = tmp_path / "features.zarr", GroupKey("train", "identity", "abc", 7)
    chain = [root, root / "train", root / "train/identity", root / "train/identity/abc"]
    assert absent_groups(tmp_path, group) == [*chain, chain[-1] / "t7"]
    with pytest.raises(FileNotFoundError):
        shard_size(tmp_path, group)
    assert ensure_groups(tmp_path, group, 5) == 5
    assert absent_groups(tmp_path, group) == []
    latents = replace(group, timestep=None)
    assert ensure_groups(tmp_path, latents, 6) == shard_size(tmp_path, latents) == 5  # of its first writer
    for folder in (*chain, chain[-1] / "t7"):
        told = '{\n  "diffps": {\n   "shard": 5\n  }\n }' if folder == chain[-1] else "{}"
        said = f'{{\n "attributes": {told},\n "node_type": "group",\n "zarr_format": 3\n}}\n'
        assert (folder / "zarr.json").read_text() == said


def test_a_basis_lies_beside_its_array_mean_first(tmp_path: Path) -> None:
    array = spec("project:4")
    assert isinstance(array.encoding, Project)
    assert array.encoding.basis is not None
    basis, folder = array.encoding.basis, tmp_path / "tap@project:4"
    write_basis(folder, array.encoding)
    table = basis.mean.tobytes() + basis.vectors.tobytes()
    beside = tmp_path / "tap@project:4.basis"
    assert (beside / "c/0/0").read_bytes() == table + crc32c(table).to_bytes(4, "little")
    assert read_json(beside / "zarr.json") == {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [5, 12],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [5, 12]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN",
        "codecs": [LITTLE, CHECKED],
        "attributes": {"diffps": {"digest": basis.digest}},
        "dimension_names": ["mean_then_vectors", "channel"],
        "storage_transformers": [],
    }
    found = read_basis(folder, array)
    np.testing.assert_array_equal(found.mean, basis.mean)
    np.testing.assert_array_equal(found.vectors, basis.vectors)
    remedy = "`diffps extract` with extract.encoding=project:4 writes it again"
    other = replace(array, encoding=Project(4, lost="0123456789"))
    values, metadata = beside / "c/0/0", beside / "zarr.json"
    for wanted, damage, said in (
        (other, lambda: None, "holds another basis than 0123456789, which tap@project:4 was made with"),
        (array, lambda: values.write_bytes(table + bytes(4)), "the basis does not match its checksum"),
        (array, lambda: values.write_bytes(table[:-4]), "the basis does not match its checksum"),
        (array, lambda: metadata.write_text("{"), "the basis of tap@project:4 has damaged metadata"),
        (array, metadata.unlink, "the basis of tap@project:4 is missing"),
    ):
        damage()
        with pytest.raises(DamagedError) as caught:
            read_basis(folder, wanted)
        assert str(caught.value) == f"{beside}: {said}; {remedy}"


def test_an_array_is_what_its_metadata_says(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for encoding in ("int8", "project:4"):
        array = spec(encoding)
        write(store, [array], images(1))
        folder = tmp_path / "features.zarr" / array.path
        found = spec_from_metadata(array.group, array_metadata(array, "", 1, 4), folder)
        assert found == array
        assert found.id == array.id
    (folder.with_name(folder.name + ".basis") / "c/0/0").unlink()
    lost = spec_from_metadata(array.group, array_metadata(array, "", 1, 4), folder)
    assert isinstance(lost.encoding, Project)
    assert lost.encoding.basis is None
    assert lost.id == array.id
