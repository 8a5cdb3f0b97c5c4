"""What is said of an error of the system: to which file, in whose words, with which way out."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cache import CacheError, FeatureStore
from cache.errors import FileError, StoreFullError
from cache.system import files_below, free_bytes, naming, naming_below, refusal
from tests.cache.builders import images


def test_a_full_disk_and_a_full_quota_say_how_much_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=2_345_000, f_frsize=1000, f_bfree=9))
    path = tmp_path / "not/there"
    assert free_bytes(path) == 2_345_000_000
    assert str(refusal(OSError(errno.ENOSPC, "x"), path, "written")) == (
        f"{path}: disk full (2.35 GB free); finished shards are kept: free space and run the same command again, "
        "or see `diffps cache plan`"
    )
    assert str(refusal(OSError(errno.EDQUOT, "x"), path, "written")) == (
        f"{path}: this user's disk quota is used up (the disk itself has 2.35 GB free); what was finished is kept: "
        "free space of yours or have the quota raised and run the same command again"
    )

    def broken(place: Path) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "statvfs", broken)
    assert "disk full (? GB free)" in str(refusal(OSError(errno.ENOSPC, "x"), path, "written"))
    with pytest.raises(FileError, match="cannot be looked at: the disk reports"):
        free_bytes(path)


def test_an_unknown_error_is_told_in_the_system_s_words_or_by_its_kind(tmp_path: Path) -> None:
    for error, words in (
        (OSError(9999, "its words"), "its words"),
        (OSError("its text"), "its text"),
        (OSError(), "OSError"),
        (OSError(errno.EIO, "x"), "the disk reports an input/output error"),
    ):
        found = refusal(error, tmp_path, "read")
        assert str(found).startswith(f"{tmp_path}: cannot be read: {words}; ")
        assert found.errno == error.errno
        assert not isinstance(found, StoreFullError)


def test_what_is_not_there_to_be_read_stays_that_and_all_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as absent, naming(tmp_path / "x", "read"):
        (tmp_path / "x").read_bytes()
    assert not isinstance(absent.value, CacheError)
    for error, doing in (
        (FileNotFoundError(errno.ENOENT, "x"), "written"),
        (PermissionError(errno.EACCES, "x"), "read"),
        (PermissionError(errno.EACCES, "x"), "written"),
    ):
        with pytest.raises(FileError, match=f"^{tmp_path}/x: cannot be {doing}: "), naming(tmp_path / "x", doing):
            raise error
    own = CacheError("own")
    for manager in (naming(tmp_path, "read"), naming_below(tmp_path)):
        with pytest.raises(CacheError) as caught, manager:
            raise own
        assert caught.value is own


def test_over_a_longer_stretch_the_file_is_the_one_the_system_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=f"^{tmp_path}/x: cannot be used: "), naming_below(tmp_path):
        (tmp_path / "x").read_bytes()
    with pytest.raises(FileError, match=f"^{tmp_path}: cannot be used: "), naming_below(tmp_path):
        raise OSError(errno.EIO, "broken")


def test_files_are_listed_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/2", "b/1", "a/deep/x", "c", "a/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)] == [
        "c", "a/y", "a/deep/x", "b/1", "b/2",
    ]  # fmt: skip
    assert list(files_below(tmp_path / "none")) == []
    with pytest.raises(FileError, match=f"^{tmp_path}/c: cannot be read: part of the path is a file"):
        list(files_below(tmp_path / "c"))


@pytest.mark.parametrize(
    ("code", "readable"),
    [(errno.EROFS, True), (errno.EACCES, True), (errno.EPERM, True), (errno.EIO, False), (errno.ENOSPC, False)],
)
def test_names_are_not_recorded_where_a_store_can_only_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, readable: bool
) -> None:
    store, real = FeatureStore(tmp_path), Path.write_bytes
    assert store.record_names("train", images(1))

    def refuse(path: Path, data: bytes) -> int:
        raise OSError(code, "no")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    if readable:
        assert not store.record_names("train", images(2))
    else:
        with pytest.raises(FileError):
            store.record_names("train", images(2))
    monkeypatch.setattr(Path, "write_bytes", real)
    assert len(store.rows("train").digests) == 1
