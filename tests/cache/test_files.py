"""Whole or not at all, whoever writes at the same time and whoever is killed."""

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.errors import DamagedError, FileError
from cache.files import (
    ABANDONED_SECONDS,
    _exchange,
    clear_temporaries,
    make_folder,
    read_json,
    remove,
    sync,
    temporary_name,
    write_bytes,
    write_file,
    write_folder,
    write_json,
    write_text,
)
from tests.faults import shim

ROOT = Path(__file__).resolve().parents[2]
WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from cache.files import write_file, write_folder, write_json
who, folder = sys.argv[1], Path(sys.argv[2])
def slowly(path):
    with path.open("w") as file:
        for part in range(200):
            file.write(who * 100)
            file.flush()
def several(path):
    for name in ("a", "b", "c"):
        (path / name).write_text(who * 100)
print("started", flush=True)
for number in range(int(sys.argv[3])):
    write_json(folder / "manifest.json", {"who": who, "again": [who] * 2000})
    write_file(folder / "slow.txt", slowly)
    write_folder(folder / "several", several)
"""


def writers(folder: Path, times: int, who: str = "xyz") -> list[subprocess.Popen[str]]:
    commands = [[sys.executable, "-c", WRITE_FOR_EVER, name, str(folder), str(times)] for name in who]
    found = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for command in commands]
    for process in found:
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == "started\n"
    return found


def test_processes_that_write_the_same_names_tear_nothing(tmp_path: Path) -> None:
    processes = writers(tmp_path, 40)
    reads = 0
    while any(process.poll() is None for process in processes):
        for name, read in (("manifest.json", read_json), ("slow.txt", Path.read_text), ("several/b", Path.read_text)):
            try:
                content = read(tmp_path / name)  # type: ignore[operator]
            except FileNotFoundError:
                continue
            reads += 1
            if isinstance(content, dict):
                assert content["again"] == [content["who"]] * 2000
            else:
                assert content in {who * len(content) for who in "xyz"}
                assert len(content) in (20000, 100)
    for process in processes:
        assert process.wait() == 0
    assert reads > 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "several", "slow.txt"]


def kill_in_the_middle(process: subprocess.Popen[str], folder: Path) -> None:
    """At a moment when it has something unfinished there."""
    for _ in range(10_000):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.001)
        if unfinished(folder):
            break
        process.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert unfinished(folder)


def unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_what_killed_processes_left_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    """Some are killed in the middle of a file, some of a folder."""
    for _ in range(4):
        (process,) = writers(tmp_path, 10_000, "x")
        kill_in_the_middle(process, tmp_path)
        write_text(tmp_path / "next.txt", "next")
        assert unfinished(tmp_path) == []


def test_temporaries_of_the_living_stay(tmp_path: Path) -> None:
    mine = tmp_path / temporary_name()
    mine.touch()
    assert mine.name != temporary_name()
    write_text(tmp_path / "other.txt", "other")
    assert mine.exists()


def test_temporaries_of_who_cannot_be_looked_up_stay_for_an_hour(tmp_path: Path) -> None:
    """Of another machine, another container, or from before a restart."""
    theirs = tmp_path / ".diffps-00000000-1-1-00000000.tmp"
    (tmp_path / ".somebody.tmp").touch()
    late, soon = ABANDONED_SECONDS + 60, ABANDONED_SECONDS - 60
    assert soon < 3600 < late
    for age, stays in ((0.0, True), (soon, True), (late, False), (-soon, True), (-late, False)):
        theirs.touch()
        os.utime(theirs, (time.time() - age,) * 2)
        clear_temporaries(tmp_path)
        assert theirs.exists() == stays
    assert (tmp_path / ".somebody.tmp").exists()


def fail(path: Path) -> None:
    path.write_text("half") if not path.is_dir() else (path / "half").write_text("half")
    raise ZeroDivisionError


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_who_fails_leaves_what_was_there(tmp_path: Path, write: Callable[[Path, Callable[[Path], None]], None]) -> None:
    target = tmp_path / "deep/target"
    with pytest.raises(ZeroDivisionError):
        write(target, fail)
    assert list((tmp_path / "deep").iterdir()) == []
    write_text(target / "x" if write is write_folder else target, "before")
    with pytest.raises(ZeroDivisionError):
        write(target, fail)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["target"]
    assert (target / "x" if write is write_folder else target).read_text() == "before"


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        (path / "inner").mkdir()
        (path / "inner/new").write_text("new")

    (tmp_path / "target").mkdir()
    (tmp_path / "target/old").touch()
    for _ in range(2):
        write_folder(tmp_path / "target", fill)
        assert [path.name for path in (tmp_path / "target").rglob("*")] == ["inner", "new"]
        assert [path.name for path in tmp_path.iterdir()] == ["target"]


REPLACE = """
import sys
from pathlib import Path
from cache.files import write_folder
write_folder(Path(sys.argv[1]), lambda path: (path / "new").write_text("new"))
"""


def test_where_names_cannot_be_exchanged_two_renames_do(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/old").touch()
    done = shim.run(REPLACE, str(tmp_path / "target"), call="exchange", error=errno.EINVAL, pattern=f"{tmp_path}*")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.5, None], "b": 1}
    with pytest.raises(ValueError):
        write_json(tmp_path / "c.json", float("nan"))


def test_folders_and_removals(tmp_path: Path) -> None:
    make_folder(tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c").is_dir()
    write_bytes(tmp_path / "a/x", b"x")
    remove(tmp_path / "a/x")
    remove(tmp_path / "a/x")
    assert not (tmp_path / "a/x").exists()


@pytest.mark.parametrize("place", ["file/below", "file", "x" * 300])
def test_what_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=rf"{tmp_path}.* cannot be (written|made): [^;]+; \w+"):
        write_text(tmp_path / place / "target", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "target/inner").mkdir(parents=True)
    with pytest.raises(FileError, match="target: cannot be written: there is a folder of this name"):
        write_text(tmp_path / "target", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def exchangeable(folder: Path) -> None:
    """Skip where the system has no such step: renameat2 with RENAME_EXCHANGE, by the numbers of Linux."""
    names = [folder / ".a", folder / ".b"]
    for name in names:
        name.touch()
    one, other = map(os.fsencode, names)
    try:
        done = ctypes.CDLL(None).renameat2(-100, one, -100, other, 2) == 0
    except AttributeError:
        done = False
    for name in names:
        name.unlink()
    if not done:
        pytest.skip("this system does not let two names change places")


def test_two_names_change_places_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchangeable(tmp_path)
    assert _exchange(tmp_path / "one", tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    assert [path.name for path in Path("one").iterdir()] == ["other"]
    assert _exchange(Path("one"), Path("other"))
    assert [path.name for path in Path("one").iterdir()] == ["one"]
    assert not _exchange(Path("one"), Path("none"))
    assert [path.name for path in Path("one").iterdir()] == ["one"]


def test_a_folder_is_replaced_in_that_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sees a moment without it: only one rename is tried, and it is refused."""
    renamed, real = list[str](), Path.rename

    def rename(path: Path, target: Path) -> Path:
        renamed.append(target.name)
        return real(path, target)

    (tmp_path / "target").mkdir()
    (tmp_path / "target/old").touch()
    exchangeable(tmp_path)
    monkeypatch.setattr(Path, "rename", rename)
    write_folder(tmp_path / "target", lambda path: (path / "new").touch())
    assert renamed == ["target"]
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["new"]


def test_json_is_indented_sorted_and_ends_its_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": ["\u00fc"], "a": {}})
    assert (tmp_path / "a.json").read_bytes() == b'{\n "a": {},\n "b": [\n  "\\u00fc"\n ]\n}\n'
    write_text(tmp_path / "a.txt", "\u00fc\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xbc\n"
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DamagedError, match=r"a\.json: is not JSON \(.*\); delete it and run the stage again$"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("code", "folder", "refused"),
    [(errno.EINVAL, True, False), (errno.EINVAL, False, True), (errno.EIO, True, True), (errno.EIO, False, True)],
)
def test_folders_that_a_file_system_does_not_sync_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, folder: bool, refused: bool
) -> None:
    path = tmp_path if folder else tmp_path / "file"
    (tmp_path / "file").touch()

    def fsync(descriptor: int) -> None:
        raise OSError(code, "no")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        if refused:
            with pytest.raises(OSError) as caught:
                sync(path)
            assert caught.value.errno == code
        else:
            sync(path)


def test_a_folder_that_another_makes_meanwhile_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.mkdir

    def mkdir(path: Path, *arguments: int, **options: bool) -> None:
        real(path, *arguments, exist_ok=True)
        real(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    make_folder(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()


def test_a_temporary_name_says_whose_it_is() -> None:
    from cache.process import Process

    me = Process.current()
    parts = temporary_name().split("-")
    assert parts[:4] == [".diffps", me.place, str(os.getpid()), str(me.started or "")]
    assert len(me.place) == 8
    assert len(parts[4]) == len("01234567.tmp")


def test_dead_processes_folders_are_cleared_away_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    place = temporary_name().split("-")[1]
    dead = [f".diffps-{place}-{2**22 + 1}-1-0000000{number}.tmp" for number in range(4)]
    (tmp_path / dead[0]).mkdir()
    (tmp_path / dead[0] / "inside").touch()
    (tmp_path / dead[1]).touch()
    (tmp_path / dead[2]).symlink_to("kept")
    (tmp_path / dead[3]).symlink_to("gone")
    clear_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept/file").exists()
