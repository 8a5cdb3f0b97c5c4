"""MATLAB files: what scipy writes is read as scipy reads it, other files are named by what they are."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.io import loadmat, savemat

from diffps.datasets.matlab import LARGEST, read_mat, reading, stream_records
from diffps.datasets.matrices import Matrices, split_names
from diffps.errors import DatasetError
from tests.architecture.repository import ROOT
from tests.datasets.trees import structs

FIXED = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0", max_codepoint=0xFFFF), min_size=1, max_size=12)
TABLES = hnp.arrays(
    st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=4),
)


def read(path: Path, *keys: str) -> Matrices:
    return read_mat(path, "X", "file", keys)[1]


@given(TABLES, st.booleans())
@FIXED
def test_numbers_of_every_type(tmp_path: Path, table: np.ndarray, compressed: bool) -> None:
    savemat(tmp_path / "a.mat", {"first": 1, "table": table}, do_compression=compressed)
    np.testing.assert_array_equal(read(tmp_path / "a.mat", "table").table(), table.astype(np.float64))


@given(st.lists(NAMES, min_size=1, max_size=6), st.booleans())
@FIXED
def test_cells_of_text(tmp_path: Path, names: list[str], compressed: bool) -> None:
    column = np.empty((len(names), 1), object)
    column[:, 0] = names
    savemat(tmp_path / "a.mat", {"names": column}, do_compression=compressed)
    assert next(read(tmp_path / "a.mat", "names").cells()).texts() == names


@given(st.lists(st.tuples(NAMES, TABLES), max_size=5), st.booleans())
@FIXED
def test_struct_arrays_whole_and_streamed(tmp_path: Path, rows: list[tuple[str, np.ndarray]], compressed: bool) -> None:
    inner = structs([{"name": name, "table": table} for name, table in rows])
    path = tmp_path / "a.mat"
    savemat(path, {"outer": structs([{"unread": 1, "inner": inner}] * 2)}, do_compression=compressed)
    whole = next(read(path, "outer").records((), ("inner",)))["inner"]
    streamed = [element["inner"] for element in stream_records(path, "X", "file", "outer", ("inner",))]
    for matrices in (whole, *streamed):
        for record in matrices.records(("name", "table"), ()) if rows else ():
            assert record["name"].texts() == [name for name, _ in rows]
            for found, (_, table) in zip(record["table"].numbers(), rows, strict=True):
                np.testing.assert_array_equal(found, table.ravel(order="F"))


def test_other_variables_are_passed_over_and_named(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"one": np.ones((300, 300)), "two": "text"}, do_compression=True)
    assert read(tmp_path / "a.mat", "two").texts() == ["text"]
    with pytest.raises(DatasetError, match=r"a.mat must hold exactly one of the keys three; found one, two"):
        read(tmp_path / "a.mat", "three")
    with pytest.raises(DatasetError, match=r"exactly one of the keys one, two; found one, two"):
        read(tmp_path / "a.mat", "one", "two")
    with pytest.raises(DatasetError, match=r"a.mat must hold the key three; found one, two"):
        list(stream_records(tmp_path / "a.mat", "X", "file", "three", ()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(600),
            r"is a MATLAB 7.3 file \(HDF5\), .*save\(..., '-v7'\)",
        ),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), r"is an HDF5 file, which is not read"),
        (b"<!DOCTYPE html><html>Sign in</html>", r"is a web page, not the file that was to be downloaded"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"is a Git LFS pointer, not the file itself"),
        (b"PK\x03\x04" + bytes(200), r"is a zip archive; unpack it"),
        (b"\x1f\x8b" + bytes(200), r"is a gzip archive; unpack it"),
        (b"", r"a.mat is empty"),
        (b"hello", r"a.mat is no MATLAB 5 file; it begins with b'hello'"),
        (bytes(124) + b"\x01\x00MI", r"a.mat is no MATLAB 5 file"),
    ],
)
def test_other_files_are_named_by_what_they_are(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read(tmp_path / "a.mat", "x")


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mat").mkdir()
    with pytest.raises(DatasetError, match=r"X: .*a.mat cannot be read: Is a directory"):
        read(tmp_path / "a.mat", "x")
    with pytest.raises(DatasetError, match=r"^X: file missing: expected .*b.mat; .* holds a.mat/$"):
        read(tmp_path / "b.mat", "x")
    with pytest.raises(DatasetError, match=r"^X: file missing: expected .*b.mat; .* holds a.mat/$"):
        list(stream_records(tmp_path / "b.mat", "X", "file", "x", ()))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones((2, 2, 2)), r"more than two dimensions"),
        (np.ones((2, 2), complex), r"an imaginary part"),
        ("text", r"a matrix is text, expected numbers"),
        (structs([{"a": 1}]), r"a matrix is a struct array, expected numbers"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, value: object, message: str) -> None:
    savemat(tmp_path / "a.mat", {"x": value})
    with pytest.raises(DatasetError, match=message), reading(tmp_path / "a.mat", "X"):
        read(tmp_path / "a.mat", "x").table()


def matrix(kind: int, rows: int, columns: int, rest: bytes) -> bytes:
    """A matrix of class ``kind`` without its tag."""
    return struct.pack("<12I", 6, 8, kind, 0, 5, 8, rows, columns, 1, 0, 0, 0)[:40] + rest


@pytest.mark.parametrize("compressed", [False, True])
def test_claims_are_not_believed(tmp_path: Path, compressed: bool) -> None:
    """Cells by the billion, and a variable of gigabytes, in a file of a hundred bytes."""
    body = matrix(1, 2**31 - 1, 2, struct.pack("<2I", 14, 0))
    for size in (len(body), LARGEST, 2**32 - 8):
        variable = struct.pack("<2I", 14, size) + body
        if compressed:
            packed = zlib.compress(variable)
            variable = struct.pack("<2I", 15, len(packed)) + packed
        (tmp_path / "a.mat").write_bytes(bytes(124) + b"\x00\x01IM" + variable)
        with pytest.raises(DatasetError, match=r"a.mat"), reading(tmp_path / "a.mat", "X"):
            list(read(tmp_path / "a.mat", "").cells())


def test_it_reads_what_scipy_reads_where_types_are_mixed(tmp_path: Path) -> None:
    """MATLAB stores whole doubles as bytes; scipy's reader is the second opinion."""
    table = np.array([[-2, 10.5, 20, 30.25, 60], [7, 1, 2, 3, 4]])
    savemat(tmp_path / "a.mat", {"box_new": table})
    np.testing.assert_array_equal(read(tmp_path / "a.mat", "box_new").table(), loadmat(tmp_path / "a.mat")["box_new"])


@pytest.mark.slow
def test_a_bomb_of_empty_cells_takes_less_than_a_gigabyte(tmp_path: Path) -> None:
    """400 kB that inflate to the largest variable that is read, 16 million cells."""
    cells = LARGEST // 8 - 16
    body = matrix(1, cells, 1, struct.pack("<2I", 14, 0) * cells)
    packed = zlib.compress(struct.pack("<2I", 14, len(body)) + body)
    (tmp_path / "a.mat").write_bytes(bytes(124) + b"\x00\x01IM" + struct.pack("<2I", 15, len(packed)) + packed)
    code = """
import sys
from pathlib import Path
from diffps.datasets.matlab import read_mat, reading
from diffps.errors import DatasetError
path = Path(sys.argv[1])
try:
    with reading(path, "X"):
        next(read_mat(path, "X", "file", [""])[1].cells()).texts()
except DatasetError as error:
    print(error)
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.mat")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    message, megabytes = done.stdout.splitlines()
    assert "a text is empty" in message
    assert int(megabytes) < 1000


def written(path: Path, body: bytes) -> Path:
    """A file of the one variable without a name."""
    path.write_bytes(bytes(124) + b"\x00\x01IM" + struct.pack("<2I", 14, len(body)) + body)
    return path


def test_elements_without_any_bytes_are_empty(tmp_path: Path) -> None:
    """MATLAB writes a cell that was never filled as a tag alone."""
    path = written(tmp_path / "a.mat", matrix(1, 1, 2, struct.pack("<4I", 14, 0, 14, 0)))
    (both,) = read(path, "").cells()
    assert both.kinds() == {0}
    assert [len(numbers) for numbers in both.numbers()] == [0, 0]
    assert [len(inner.starts) for inner in both.cells()] == [0, 0]
    for record in both.records(("name", "box"), ("name",)):
        assert {name: part.texts() for name, part in record.items()} == {"name": [], "box": []}
    with pytest.raises(ValueError, match=r"^a text is empty$"):
        both.texts()
    with pytest.raises(ValueError, match=r"^it lacks other; found name, box$"):
        next(both.records(("name", "box"), ("box", "other")))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (matrix(1, 2, 1, struct.pack("<2I", 14, 0)), "it claims 2 elements, more than fit"),
        (matrix(1, 1, 1, struct.pack("<2I", 9, 0)), "an element is no matrix"),
        (matrix(1, 1, 1, struct.pack("<2I", 14, 8)), "a matrix goes on after the end of what holds it"),
        (matrix(7, 1, 1, b""), "a matrix is numbers, expected a cell array"),
        (matrix(17, 1, 1, b""), "a matrix is of class 17, expected a cell array"),
        (matrix(4, 1, 1, b""), "a matrix is text, expected a cell array"),
        (matrix(1 | 0x800, 1, 1, b""), "a matrix has an imaginary part"),
    ],
)
def test_what_is_wrong_with_a_cell_array_is_said(tmp_path: Path, body: bytes, message: str) -> None:
    path = written(tmp_path / "a.mat", body)
    with pytest.raises(DatasetError) as caught, reading(path, "X"):
        list(read(path, "").cells())
    assert str(caught.value) == f"X: {path} is damaged or of another layout: {message}"


@pytest.mark.parametrize(("width", "names"), [(1, ["a", "b"]), (2, ["ab"]), (128, ["ab"]), (0, None), (129, None)])
def test_names_of_fields_are_of_one_width(width: int, names: list[str] | None) -> None:
    if names is None:
        with pytest.raises(ValueError, match="a struct array's fields have no readable names"):
            split_names(b"ab", width)
    else:
        assert split_names(b"ab", width) == names
    assert split_names(b"ab\0\0abcd", 4) == ["ab", "abcd"]


def test_a_variable_is_passed_over_whatever_the_length_of_its_name(tmp_path: Path) -> None:
    content = {"n" * length: np.full((1, 1), length) for length in (1, 4, 5, 8, 9, 31)}
    for compressed in (False, True):
        savemat(tmp_path / "a.mat", content, do_compression=compressed)
        for name, value in content.items():
            assert read(tmp_path / "a.mat", name).table().tolist() == value.tolist()


def test_the_limit_of_a_variable_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    head = matrix(1, 1, 1, b"")
    path.write_bytes(bytes(124) + b"\x00\x01IM" + struct.pack("<2I", 14, LARGEST + 1) + head + bytes(200))
    with pytest.raises(DatasetError, match=rf"it claims an element of {LARGEST + 1} bytes; {2**27} is the limit$"):
        read(path, "")
    path.write_bytes(bytes(124) + b"\x00\x01IM" + struct.pack("<2I", 9, 8) + bytes(8))
    with pytest.raises(DatasetError, match=r"a variable of type 9 is no matrix$"):
        read(path, "x")
    packed = zlib.compress(struct.pack("<2I", 9, 8) + bytes(8))
    path.write_bytes(bytes(124) + b"\x00\x01IM" + struct.pack("<2I", 15, len(packed)) + packed)
    with pytest.raises(DatasetError, match=r"a compressed variable holds no matrix$"):
        read(path, "x")


def test_a_streamed_array_is_of_structs_with_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"x": structs([{"a": 1, "b": 2}, {"a": 3, "b": 4}])})
    found = [part["b"].table().item() for part in stream_records(path, "X", "file", "x", ("b",))]
    assert found == [2, 4]
    with pytest.raises(DatasetError) as caught, reading(path, "X"):
        list(stream_records(path, "X", "file", "x", ("a", "c", "d")))
    assert str(caught.value).endswith(": its elements lack c, d; found a, b")
    for value, kind in ((np.ones((2, 2)), "numbers"), ("text", "text")):
        savemat(path, {"x": value})
        with pytest.raises(DatasetError) as caught, reading(path, "X"):
            list(stream_records(path, "X", "file", "x", ("a",)))
        assert str(caught.value).endswith(f": it is {kind}, expected a struct array")


def numbers(claimed: int, held: int = 8, name: int = 0) -> bytes:
    """A row of bytes that claims so many and holds so many, under a name that claims ``name`` bytes."""
    body = matrix(9, 1, claimed, struct.pack("<2I", 2, claimed) + bytes(range(held)))
    body = body[:36] + struct.pack("<I", name) + body[40:]
    return struct.pack("<2I", 14, len(body)) + body


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (numbers(9), "data go on after the end of their matrix"),
        (numbers(16), "data go on after the end of their matrix"),
        (numbers(8, name=24), "a matrix goes on after the end of what holds it"),
    ],
)
def test_data_end_where_their_matrix_ends(tmp_path: Path, first: bytes, message: str) -> None:
    path = tmp_path / "a.mat"
    (both,) = read(written(path, matrix(1, 2, 1, numbers(8) + numbers(8))), "").cells()
    assert [part.tolist() for part in both.numbers()] == [list(range(8))] * 2
    (both,) = read(written(path, matrix(1, 2, 1, first + numbers(8))), "").cells()
    with pytest.raises(ValueError, match=rf"^{message}$"):
        both.numbers()


def test_matrices_are_whole_words(tmp_path: Path) -> None:
    inner = struct.pack("<I", 14) + struct.pack("<I", len(numbers(8)) - 10) + numbers(8)[8:]
    (one,) = read(written(tmp_path / "a.mat", matrix(1, 1, 1, inner)), "").cells()
    with pytest.raises(ValueError, match=r"^a matrix goes on after the end of what holds it$"):
        one.numbers()


@pytest.mark.parametrize(("at", "word"), [(0, 7), (1, 9), (4, 6), (5, 12), (8, 0)])
def test_a_matrix_begins_with_flags_and_two_dimensions(tmp_path: Path, at: int, word: int) -> None:
    words = np.frombuffer(numbers(8)[8:], "<u4").copy()
    words[at] = word
    inner = struct.pack("<2I", 14, words.nbytes) + words.tobytes()
    path = written(tmp_path / "a.mat", matrix(1, 1, 1, inner))
    (both,) = read(path, "").cells()
    if at == 8:  # the name's, which may be of any type
        assert both.numbers()[0].tolist() == list(range(8))
    else:
        with pytest.raises(ValueError, match=r"^a matrix has no MATLAB 5 header, or more than two dimensions$"):
            both.numbers()


def test_numbers_are_whole_numbers_of_their_type(tmp_path: Path) -> None:
    body = matrix(6, 1, 1, struct.pack("<2I", 9, 12) + bytes(16))
    with pytest.raises(ValueError, match=r"^numbers are coded in an unknown way$"):
        read(written(tmp_path / "a.mat", body), "").numbers()
    body = matrix(6, 1, 1, struct.pack("<2I", 8, 8) + bytes(8))
    with pytest.raises(ValueError, match=r"^numbers are coded in an unknown way$"):
        read(written(tmp_path / "a.mat", body), "").numbers()
    body = matrix(4, 1, 1, struct.pack("<2I", 8, 8) + bytes(8))
    with pytest.raises(ValueError, match=r"^a text is coded in an unknown way$"):
        read(written(tmp_path / "a.mat", body), "").texts()
