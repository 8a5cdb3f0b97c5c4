"""Where files of a dataset are looked for, and what is said when they lie elsewhere."""

from pathlib import Path

import pytest

from diffps.datasets.layouts import FOLDERS_LOOKED_AT, locate, require_files
from diffps.errors import DatasetError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def hint(root: Path, relative: str = "a/x.csv") -> str:
    """What follows behind what every error about a missing file says."""
    with pytest.raises(DatasetError) as caught:
        locate(root, relative, "X", "list")
    assert str(caught.value).startswith(f"X: list missing: expected {root / relative}; ")
    return str(caught.value).partition("; ")[2].partition("; ")[2]


def test_what_is_there_is_found(tmp_path: Path) -> None:
    path = touch(tmp_path / "a" / "x.csv")
    assert locate(tmp_path, "a/x.csv", "X", "list") == path


def test_nothing_is_said_where_nothing_is_known(tmp_path: Path) -> None:
    assert hint(tmp_path) == hint(tmp_path / "nowhere") == ""
    assert hint(touch(tmp_path / "file")) == ""


@pytest.mark.parametrize("below", ["one", "one/two"])
def test_the_dataset_may_lie_one_or_two_folders_below(tmp_path: Path, below: str) -> None:
    touch(tmp_path / "root" / below / "a" / "x.csv")
    assert hint(tmp_path / "root") == f"the dataset lies in {tmp_path / 'root' / below}: set index.root to that"


def test_not_three_folders_below_and_the_upper_one_first(tmp_path: Path) -> None:
    touch(tmp_path / "root" / "one" / "two" / "three" / "a" / "x.csv")
    assert hint(tmp_path / "root") == ""
    touch(tmp_path / "root" / "four" / "five" / "a" / "x.csv")
    touch(tmp_path / "root" / "six" / "a" / "x.csv")
    assert f"lies in {tmp_path / 'root' / 'six'}:" in hint(tmp_path / "root")


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_dataset_may_lie_one_or_two_folders_above(tmp_path: Path, depth: int) -> None:
    touch(tmp_path / "a" / "x.csv")
    root = tmp_path.joinpath(*["d"] * depth)
    root.mkdir(parents=True)
    expected = f"the dataset lies in {tmp_path.resolve()}: set index.root to that" if depth < 3 else ""
    assert hint(root) == expected


@pytest.mark.parametrize("level", ["", "upper/"])
def test_so_many_folders_are_looked_at_and_no_more(tmp_path: Path, level: str) -> None:
    for number in range(FOLDERS_LOOKED_AT):
        (tmp_path / f"{level}f{number:03d}").mkdir(parents=True)
    last = f"{level}f{FOLDERS_LOOKED_AT - 1:03d}"
    path = touch(tmp_path / last / "a" / "x.csv")
    assert hint(tmp_path) == f"the dataset lies in {tmp_path / last}: set index.root to that"
    path.unlink()
    touch(tmp_path / f"{level}f{FOLDERS_LOOKED_AT:03d}" / "a" / "x.csv")
    assert hint(tmp_path) == ""
    assert FOLDERS_LOOKED_AT == 200


def test_archives_that_nobody_unpacked_are_named(tmp_path: Path) -> None:
    for name in ("d.zip", "c.TAR", "b.7z", "a.rar", "e.txt"):
        touch(tmp_path / name)
    assert hint(tmp_path) == "unpack a.rar, b.7z, c.TAR and 1 more"


def test_another_letter_case_comes_before_all_else_and_the_own_case_before_another(tmp_path: Path) -> None:
    touch(tmp_path / "A" / "y.csv")
    assert hint(tmp_path) == ""
    touch(tmp_path / "a" / "X.csv")
    touch(tmp_path / "below" / "a" / "x.csv")
    assert hint(tmp_path) == f"{tmp_path / 'a' / 'X.csv'} differs in letter case: rename it"
    touch(tmp_path / "b")
    assert hint(tmp_path, "b/x.csv") == ""


def test_files_of_a_list_are_counted_with_what_else_lies_there(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg", "sub/3.jpg", "sub/4.jpg", "other/5.jpg"):
        touch(tmp_path / name)
    assert require_files(tmp_path, ["1.jpg", "sub/3.jpg", "1.jpg"], "X") == 2  # 2 and 4; nobody asked for other/
    assert require_files(tmp_path, ["1.jpg", "2.jpg"], "X") == 0
    with pytest.raises(DatasetError) as caught:
        require_files(tmp_path, ["7.jpg", "1.jpg", "sub/8.jpg", "sub", "sub/9.jpg"], "X")
    assert str(caught.value) == (
        f"X: 4 of 5 files missing in {tmp_path}: 7.jpg, sub/8.jpg, sub and 1 more; 4 files found there: "
        "1.jpg, 2.jpg, sub/3.jpg and 1 more"
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"1 of 1 files missing in .*: 7.jpg; 0 files found there: none$"):
        require_files(tmp_path / "empty", ["7.jpg"], "X")
    with pytest.raises(DatasetError, match=r"2 files found there: .*; 3.jpg lies in .*/sub: move the files of that"):
        require_files(tmp_path, ["3.jpg", "2.JPG"], "X")
    with pytest.raises(
        DatasetError, match=r"2 files found there: .*; 2.jpg differs in letter case: rename such files$"
    ):
        require_files(tmp_path, ["2.JPG", "7.jpg"], "X")


@pytest.mark.parametrize("name", ["/etc/hosts", "../1.jpg", "sub/../../1.jpg"])
def test_files_outside_of_the_folder_are_not_looked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=rf"^X: {name} is no file below {tmp_path}$"):
        require_files(tmp_path, [name], "X")


def test_a_name_of_thousands_of_characters_is_missing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DatasetError, match=r"^X: 1 of 1 files missing"):
        require_files(tmp_path, ["x" * 5000], "X")
    with pytest.raises(DatasetError, match=r"^X: 1 of 1 files missing"):
        require_files(tmp_path, ["x" * 5000 + "/y"], "X")
