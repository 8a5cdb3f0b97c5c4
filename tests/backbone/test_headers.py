"""Headers of safetensors files: what is believed, and what is refused in one line, whatever the bytes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save, save_file

from diffps.backbone import headers
from diffps.backbone.headers import one_line, read_header
from diffps.errors import CheckpointError


def _file(path: Path, header: Any, data: bytes = b"\0" * 8) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _entry(start: Any = 0, stop: Any = 8, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_a_header_says_where_tensors_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"b": torch.ones(2, 3), "a": torch.zeros(0), "c": torch.tensor(1.5)}, {"format": "pt"}))
    found = read_header(path)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == {
        "a": ("F32", (0,)),
        "b": ("F32", (2, 3)),
        "c": ("F32", ()),
    }
    data = path.read_bytes()[found["b"].start : found["b"].stop]
    assert torch.equal(torch.frombuffer(bytearray(data), dtype=torch.float32), torch.ones(6))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": _entry(-8, 0)}, "'a': its shape and data_offsets are not"),
        ({"a": _entry(0.0, 8.0)}, "'a': its shape and data_offsets are not"),
        ({"a": _entry(False, 8)}, "'a': its shape and data_offsets are not"),
        ({"a": _entry(0, 1 << 70)}, "'a': its shape and data_offsets are not"),
        ({"a": _entry(shape=(-2,))}, "'a': its shape and data_offsets are not"),
        ({"a": _entry(shape=[1 << 60] * 9)}, "'a': its shape and data_offsets are not"),
        ({"a": _entry(shape="2")}, "'a': its shape and data_offsets are not"),
        ({"a": _entry(0, 1 << 50, [1 << 48])}, "cut short in tensor a .* fetch it again"),
        ({"a": _entry(shape=(3,))}, "'a': 8 bytes for F32 of shape"),
        ({"a": _entry(dtype="F4")}, "'a' is of dtype 'F4'"),
        ({"a": _entry(dtype=["F32"])}, "'a' is of dtype"),
        ({"a": _entry(), "b": _entry()}, "'a' and 'b' overlap"),
        ({"a": _entry(0, 4, (1,)), "b": _entry(8, 12, (1,))}, "'a' and 'b' leave a hole between them"),
        ({"a": _entry(4, 8, (1,))}, "'its header' and 'a' leave a hole"),
        ({"a": _entry(0, 4, (1,))}, "4 bytes behind its last tensor"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "'a' has no dtype, shape and two data_offsets"),
        ({"a": _entry() | {"data_offsets": [0, 4, 8]}}, "'a' has no dtype, shape and two data_offsets"),
        ({"a": 3}, "'a' has no dtype"),
        ([1], "no JSON object"),
        (b'{"a": {}, "a": {}}', "names 'a' twice"),
        (b'{"__metadata__": {"x": "1", "x": "2"}}', "names 'x' twice"),
        (b'{"a": ' * 100_000, "its header is no JSON"),
        (b"\xff\xfe", "its header is no JSON"),
        (b"[" * 1_000_000, "its header is no JSON"),
    ],
)
def test_what_a_header_says_that_cannot_be_true(tmp_path: Path, header: Any, message: str) -> None:
    path = _file(tmp_path / "a.safetensors", header)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"abc", "its header would have"),
        (
            (1 << 60).to_bytes(8, "little") + b"{}",
            "its header would have 1,152,921,504,606,846,976 bytes, the file has 10",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>not found</html>", "a web page, so its download failed"),
        (b"PK\x03\x04" + bytes(60), "a pickle under another name; `python -m diffps.backbone.convert"),
        (b"\x80\x02}q\x00." + bytes(60), "a pickle under another name"),
        (b"GGUF" + bytes(60), "GGUF"),
        (b'{"error": "not found"}', "a JSON file"),
    ],
)
def test_another_file_is_told_by_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_header(path)
    with pytest.raises(CheckpointError, match=r"Is a directory|not a safetensors file"):
        read_header(tmp_path)
    with pytest.raises(CheckpointError, match="No such file"):
        read_header(tmp_path / "nowhere")


SOUND = save({"a": torch.arange(4.0), "b.weight": torch.ones(2, 3, dtype=torch.float16), "c": torch.zeros(0, 5)})
BYTES = st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255))
NUMBERS = st.one_of(st.integers(-(1 << 70), 1 << 70), st.floats(), st.none(), st.booleans(), st.text(max_size=3))


@settings(max_examples=500)
@given(st.lists(BYTES, max_size=6), st.integers(0, len(SOUND)))
def test_whatever_bytes_change_it_is_a_header_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], kept: int
) -> None:
    data = bytearray(SOUND)
    for place, value in changes:
        data[place] = value
    _read(tmp_path_factory.getbasetemp() / "mutated.safetensors", bytes(data[: kept or None]))


@settings(max_examples=500)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.lists(NUMBERS, max_size=3)), max_size=3))
def test_whatever_numbers_it_holds_it_is_a_header_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, tensors: list[tuple[Any, Any, list[Any]]]
) -> None:
    header = {f"t{n}": _entry(start, stop, shape) for n, (start, stop, shape) in enumerate(tensors)}
    text = json.dumps(header).encode()
    _read(tmp_path_factory.getbasetemp() / "numbers.safetensors", len(text).to_bytes(8, "little") + text + bytes(16))


def _read(path: Path, data: bytes) -> None:
    """What is believed here the library believes too."""
    path.write_bytes(data)
    try:
        found = read_header(path)
    except CheckpointError as error:
        message = str(error)
    else:
        with safe_open(path, framework="numpy") as opened:
            assert set(opened.keys()) == set(found)
        return
    assert "\n" not in message


@pytest.mark.parametrize("name", sorted(headers._SIZES))
def test_every_dtype_takes_as_many_bytes_as_in_torch(name: str, tmp_path: Path) -> None:
    said = {"BOOL": "bool", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
    spelt = said.get(name) or {"F": "float", "I": "int", "U": "uint"}[name[0]] + name[1:]
    tensor = torch.zeros(3, 2, dtype=getattr(torch, spelt))
    save_file({"a": tensor}, tmp_path / "a.safetensors")
    found = read_header(tmp_path / "a.safetensors")["a"]
    assert (found.dtype, found.shape, found.stop - found.start) == (name, (3, 2), 6 * tensor.element_size())


def test_a_header_may_reach_to_the_file_s_end_and_no_further(tmp_path: Path) -> None:
    assert read_header(_file(tmp_path / "a", {}, b"")) == {}
    path = _file(tmp_path / "b", {}, b"")
    path.write_bytes((3).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="its header would have 3 bytes, the file has 10"):
        read_header(path)


def test_the_limits_of_a_header_are_sixteen_mebibytes_eight_sides_and_two_to_the_62(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for length, message in ((1 << 24, "its header is no JSON"), ((1 << 24) + 1, "its header would have 16,777,217")):
        path.write_bytes(length.to_bytes(8, "little"))
        os.truncate(path, 8 + length)
        with pytest.raises(CheckpointError, match=message):
            read_header(path)
    found = read_header(_file(path, {"a": _entry(0, 8, [2] + [1] * 7)}))
    assert found["a"].shape == (2, *[1] * 7)
    with pytest.raises(CheckpointError, match="the few whole numbers"):
        read_header(_file(path, {"a": _entry(0, 8, [2] + [1] * 8)}))
    for stop, message in (((1 << 62) - 4, "cut short in tensor a at"), (1 << 62, "the few whole numbers")):
        with pytest.raises(CheckpointError, match=message):
            read_header(_file(path, {"a": _entry(0, stop, [stop // 4])}))


def test_a_file_of_seven_bytes_has_no_length_and_one_of_eight_has(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for size, message in ((7, r"\(its header would have 0 bytes, the file has 7\)"), (8, r"\(its header is no JSON\)")):
        path.write_bytes(bytes(size))
        with pytest.raises(CheckpointError, match=message):
            read_header(path)


def test_what_is_said_of_a_file_is_not_too_long(tmp_path: Path) -> None:
    assert one_line(ValueError("a\n b" + "c" * 400)) == "a b" + "c" * 297
    assert one_line(KeyError()) == "KeyError"
    with pytest.raises(CheckpointError, match=rf"is of dtype '{'F' * 40}'; known are BOOL, U8"):
        read_header(_file(tmp_path / "a", {"a": _entry(dtype="F" * 41)}))
    path = _file(tmp_path / "b", {"a": _entry()}, b"\0" * 7)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    end = path.stat().st_size
    assert str(caught.value) == f"{path}: cut short in tensor a at {end:,} of {end + 1:,} bytes; fetch it again"
