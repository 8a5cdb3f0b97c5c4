"""No byte of a sealed file can change unnoticed, and everybody else reads it as before."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load, load_file, save

from cache import sealed
from cache.errors import CacheError, DamagedError, NotCachedError

REMAKE = "`diffps evaluate`"
TENSORS = {"weight": np.arange(12, dtype=np.float32).reshape(3, 4), "bias": np.ones(3, np.float16)}
TABLE = pa.table({"name": ["a", None, "ü"], "score": [0.5, float("nan"), -0.0], "boxes": [[1.0], [], None]})
ARRAY = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
VALUE = {"b": [1, 2.5, None, "ü"], "a": {"digest": "0" * 64, "deep": [[]]}}


def write_tensors(path: Path) -> None:
    sealed.write_tensors(path, save(TENSORS, {"recipe": "r"}))


WRITERS: dict[str, Callable[[Path], None]] = {
    "value.json": lambda path: sealed.write_json(path, VALUE),
    "table.parquet": lambda path: sealed.write_table(path, TABLE),
    "array.npy": lambda path: sealed.write_array(path, ARRAY),
    "head.safetensors": write_tensors,
    "arrays.npz": lambda path: sealed.write_arrays(path, {"array": ARRAY, "count": np.array(3)}),
}
READERS: dict[str, Callable[[Path, str], Any]] = {
    "value.json": sealed.read_json,
    "table.parquet": sealed.read_table,
    "array.npy": sealed.read_array,
    "head.safetensors": sealed.read_sealed,
    "arrays.npz": sealed.read_arrays,
}


def test_each_reads_what_it_was_given(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        write(tmp_path / name)
    assert sealed.read_json(tmp_path / "value.json", REMAKE) == VALUE
    table = sealed.read_table(tmp_path / "table.parquet", REMAKE)
    assert table.drop_columns(["score"]).equals(TABLE.drop_columns(["score"]))
    np.testing.assert_array_equal(table["score"].to_numpy(), TABLE["score"].to_numpy())
    assert sealed.read_table(tmp_path / "table.parquet", REMAKE, ["name"]).column_names == ["name"]
    np.testing.assert_array_equal(sealed.read_array(tmp_path / "array.npy", REMAKE), ARRAY)
    np.testing.assert_array_equal(sealed.read_arrays(tmp_path / "arrays.npz", REMAKE)["array"], ARRAY)
    found = load(sealed.read_sealed(tmp_path / "head.safetensors", REMAKE))
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_others_read_them_as_before(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        write(tmp_path / name)
    pq.write_table(TABLE, tmp_path / "plain.parquet")
    plain, found = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("plain", "table"))
    assert found.schema.equals(plain.schema, check_metadata=True)
    assert b"ARROW:schema" in pq.read_metadata(tmp_path / "table.parquet").metadata
    for mode in (None, "r"):
        np.testing.assert_array_equal(np.load(tmp_path / "array.npy", mmap_mode=mode), ARRAY)
    np.testing.assert_array_equal(np.load(tmp_path / "arrays.npz")["array"], ARRAY)
    for name, tensor in load_file(tmp_path / "head.safetensors").items():
        np.testing.assert_array_equal(tensor, TENSORS[name])
    with safe_open(tmp_path / "head.safetensors", "np") as file:
        assert file.metadata()["recipe"] == "r"


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        write(tmp_path / name)
        before = (tmp_path / name).read_bytes()
        write(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("name", WRITERS)
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, name: str) -> None:
    """A thousand flips a format, or all of its bytes where it has fewer."""
    path = tmp_path / name
    WRITERS[name](path)
    whole, bits = path.read_bytes(), random.Random(0)
    places = range(len(whole)) if len(whole) <= 1000 else bits.sample(range(len(whole)), 1000)
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << bits.randrange(8)
        path.write_bytes(data)
        with pytest.raises(DamagedError, match=rf"{name}: .*; {REMAKE} makes it anew"):
            READERS[name](path, REMAKE)


@settings(max_examples=200)
@given(name=st.sampled_from(sorted(WRITERS)), data=st.data())
def test_no_other_damage_passes(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    """Cut off, grown, overwritten, empty."""
    path = tmp_path_factory.mktemp("sealed") / name
    WRITERS[name](path)
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    damaged = whole[:start] + data.draw(st.binary(max_size=100)) + whole[end:]
    path.write_bytes(damaged)
    if damaged == whole:
        READERS[name](path, REMAKE)
    else:
        with pytest.raises(CacheError, match=REMAKE):
            READERS[name](path, REMAKE)


def test_what_is_missing_or_unsealed_is_named_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(NotCachedError, match=f"x.json: is not there; {REMAKE} makes it"):
        sealed.read_json(tmp_path / "x.json", REMAKE)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DamagedError, match="has no digest, so it is damaged or of an older version"):
        sealed.read_json(tmp_path / "x.json", REMAKE)


def test_content_that_looks_like_a_seal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="stands 2 times"):
        sealed.write_json(tmp_path / "x.json", {"name": sealed.OPEN})
    assert not (tmp_path / "x.json").exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, write in WRITERS.items():
        write(tmp_path / "result" / name)
    (tmp_path / "result/scores.csv").write_text("map,0.5\n")
    sealed.seal_folder(tmp_path / "result")
    return tmp_path / "result"


def test_a_folder_s_files_belong_together(folder: Path) -> None:
    before = sealed.check_folder(folder, REMAKE)
    sealed.seal_folder(folder)
    assert sealed.check_folder(folder, REMAKE) == before
    (folder / ".hidden").touch()
    assert sealed.check_folder(folder, REMAKE) == before
    (folder / "scores.csv").write_text("map,0.6\n")  # of another run
    with pytest.raises(
        DamagedError, match=r"scores\.csv: does not match .* \(it is \w{10}, listed is \w{10}\), .*; `diffps evaluate`"
    ):
        sealed.check_folder(folder, REMAKE)
    sealed.seal_folder(folder)
    assert sealed.check_folder(folder, REMAKE) != before
    (folder / "more.txt").touch()
    with pytest.raises(DamagedError, match=r"more\.txt: is not in digests\.json"):
        sealed.check_folder(folder, REMAKE)
    (folder / "more.txt").unlink()
    (folder / "value.json").unlink()
    with pytest.raises(DamagedError, match=r"value\.json: is missing, though"):
        sealed.check_folder(folder, REMAKE)


def test_a_folder_without_a_list_is_not_sealed(tmp_path: Path) -> None:
    with pytest.raises(NotCachedError, match=r"digests\.json: is not there"):
        sealed.check_folder(tmp_path, REMAKE)


def test_a_seal_is_the_digest_with_zeros_in_its_place(tmp_path: Path) -> None:
    mark, zeros = b"diffps:sha256:", b"0" * 64
    data = b"before " + mark + zeros + b" after"
    sealed_data = sealed.seal(data)
    assert sealed_data == b"before " + mark + hashlib.sha256(data).hexdigest().encode() + b" after"
    assert sealed.is_sealed(sealed_data)
    assert not sealed.is_sealed(b"before after")
    sealed.check(sealed_data, tmp_path, REMAKE)
    for wrong in (b"nothing", data + data):
        with pytest.raises(CacheError) as caught:
            sealed.seal(wrong)
        times = wrong.count(mark)
        what = f"seal: 'diffps:sha256:' stands {times} times in what is to be sealed; expected once"
        assert str(caught.value) == what
    sealed.write_json(tmp_path / "x.json", {"b": 1, "a": [2]})
    text = (tmp_path / "x.json").read_text()
    digest = json.loads(text)["seal"]
    assert text == f'{{\n "a": [\n  2\n ],\n "b": 1,\n "seal": "{digest}"\n}}\n'


def test_tensors_begin_at_a_multiple_of_eight_bytes(tmp_path: Path) -> None:
    for name in ("a", "ab", "abc", "abcdefgh"):
        plain = save({name: np.arange(3, dtype=np.float64)}, {"recipe": "r"})
        data = sealed.tensors_bytes(plain)
        length = int.from_bytes(data[:8], "little")
        assert length % 8 == 0
        assert data[8 + length :] == plain[8 + int.from_bytes(plain[:8], "little") :]
        assert load(data)[name].tolist() == [0, 1, 2]
        assert sealed.tensors_metadata(data) == {"recipe": "r"}
        assert sealed.tensors_metadata(save({name: np.ones(1)})) == {}


def test_a_table_s_pages_have_checksums_and_arrays_are_no_pickles(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=50)
    data = bytearray(sealed.table_bytes(pa.table({"score": scores})))
    data[data.index(scores[30].tobytes())] ^= 1
    with pytest.raises(OSError, match="CRC"):
        sealed.table_in(bytes(data))
    with pytest.raises(ValueError, match="pickle"):
        sealed.write_array(tmp_path / "x", np.array([object()]))
    assert not (tmp_path / "x").exists()


def test_a_folder_s_list_says_what_it_was_made_from(tmp_path: Path) -> None:
    for name in ("a", "deep/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "deep/b")}
    sealed.seal_folder(tmp_path)
    assert sealed.read_json(tmp_path / "digests.json", REMAKE) == {"files": digests, "from": {}}
    sealed.seal_folder(tmp_path, ["a"], {"head": "x"}, {"old": "y", "a": "z"})
    together = sealed.Together.of(tmp_path, REMAKE)
    assert together.files == {"a": digests["a"], "old": "y"}
    assert together.made_from == {"head": "x"}
    told = json.dumps({"a": digests["a"], "old": "y"}, sort_keys=True).encode()
    assert together.digest == hashlib.sha256(told).hexdigest()
    assert together.read("a") == b"a"
    with pytest.raises(DamagedError) as caught:
        together.check()
    said = "is missing, though digests.json lists it"
    assert str(caught.value) == f"{tmp_path}/old: {said}; {REMAKE} makes it anew"
    with pytest.raises(DamagedError) as unlisted:
        together.read("deep/b")
    said = f"is not in digests.json; remove it, or {REMAKE} makes all of it anew"
    assert str(unlisted.value) == f"{tmp_path}/deep/b: {said}"
    (tmp_path / "a").write_text("other")
    found = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(DamagedError) as changed:
        together.read("a")
    assert f"(it is {found[:10]}, listed is {digests['a'][:10]})" in str(changed.value)
    sealed.write_json(tmp_path / "digests.json", {"files": {}})
    with pytest.raises(DamagedError, match="digests.json: has no 'from'; `diffps evaluate` makes it anew"):
        sealed.Together.of(tmp_path, REMAKE)
