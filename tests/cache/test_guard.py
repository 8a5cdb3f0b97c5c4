"""Critical sections and locks where the system has no flock, and where clocks jump."""

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cache.errors import FileError, LockedError
from cache.guard import SILENT_SECONDS, exclusive, read_owner, shares_process_ids, silence
from cache.lock import StoreLock
from cache.process import Process
from tests.faults import shim

ROOT = Path(__file__).resolve().parents[2]
NO_FLOCK = {"call": "flock", "error": errno.ENOSYS, "pattern": "*", "lasting": True}
COUNT = """
import sys
from pathlib import Path
from cache.guard import exclusive
folder = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with exclusive(folder / "lock"):
        before = int((folder / "count").read_text())
        (folder / "count").write_text(str(before + 1))
"""
HOLD = """
import sys, time
from pathlib import Path
from cache.guard import exclusive
with exclusive(Path(sys.argv[1]) / "lock"):
    time.sleep(float(sys.argv[2]))
"""


def start(script: str, *arguments: object, **fault: object) -> subprocess.Popen[bytes]:
    env = shim.environment(**fault)  # type: ignore[arg-type]
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, env=env)


def until(condition: Callable[[], bool]) -> None:
    """Give another process half a minute."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("nothing happened in half a minute")


@pytest.mark.parametrize("fault", [{}, NO_FLOCK], ids=["flock", "no flock"])
def test_one_at_a_time(tmp_path: Path, fault: dict[str, object]) -> None:
    (tmp_path / "count").write_text("0")
    processes = [start(COUNT, tmp_path, 100, **fault) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "300"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["count", "lock"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_flock_a_section_is_held_by_a_file_and_a_dead_one_s_is_cleared(tmp_path: Path, code: int) -> None:
    fault = {**NO_FLOCK, "error": code}
    process = start(HOLD, tmp_path, 60, **fault)
    until(lambda: (tmp_path / "lock.held").exists() and (tmp_path / "lock.held").stat().st_size > 0)
    assert json.loads((tmp_path / "lock.held").read_text())["pid"] == process.pid
    waiting = start(HOLD, tmp_path, 0, **fault)
    time.sleep(0.5)
    assert waiting.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert waiting.wait() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("content", ["", json.dumps({"host": "elsewhere", "boot_id": "b", "pid": 1, "started": "1"})])
def test_who_cannot_be_looked_up_is_waited_for_until_silent(tmp_path: Path, content: str) -> None:
    held = tmp_path / "lock.held"
    held.write_text(content)
    waiting = start(HOLD, tmp_path, 0, **NO_FLOCK)
    time.sleep(0.5)
    assert waiting.poll() is None
    os.utime(held, (time.time() - SILENT_SECONDS - 5,) * 2)
    assert waiting.wait() == 0


def test_a_dead_clearer_hinders_nobody(tmp_path: Path) -> None:
    for name in ("lock.held", "lock.clearing"):
        (tmp_path / name).write_text(json.dumps(asdict(replace(Process.current(), pid=2**22 + 1, started="1"))))
    assert start(HOLD, tmp_path, 0, **NO_FLOCK).wait() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_whole_store_is_written_without_flock(tmp_path: Path) -> None:
    script = "import sys; from tests.cache.test_guard import fill; fill(sys.argv[1])"
    done = shim.run(script, str(tmp_path), **NO_FLOCK)
    assert done.returncode == 0, done.stderr
    fill(str(tmp_path))


def fill(root: str) -> None:
    from cache import FeatureStore
    from tests.cache.builders import check, images, spec, write

    write(FeatureStore(Path(root)), [spec()], images(6))
    check(FeatureStore(Path(root)), [spec()], images(6))
    assert write(FeatureStore(Path(root)), [spec()], images(6)) == []


def test_with_flock_nothing_is_left_beside_the_lock(tmp_path: Path) -> None:
    with exclusive(tmp_path / "deep/lock"):
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["lock"]


@pytest.mark.parametrize("back", [SILENT_SECONDS + 60, 3600.0, 86400.0 * 365])
def test_a_dead_owner_from_before_the_clock_was_set_back_is_no_obstacle(tmp_path: Path, back: float) -> None:
    """Its last heartbeat lies in the future, and a living one would have been heard of since."""
    path = tmp_path / "locks/x.json"
    here = Process.current()
    with StoreLock(path, here=replace(here, boot_id="another boot")):
        content = path.read_text()
    path.write_text(content)
    os.utime(path, (time.time() + back,) * 2)
    with StoreLock(path):
        assert json.loads(path.read_text())["boot_id"] == here.boot_id


def test_an_owner_heard_of_after_the_clock_was_set_back_is_alive(tmp_path: Path) -> None:
    path = tmp_path / "locks/x.json"
    with StoreLock(path, here=replace(Process.current(), pid_namespace="pid:[1]")):
        os.utime(path, (time.time() + 5,) * 2)
        with pytest.raises(LockedError, match="last heard of 5 s ago"), StoreLock(path):
            pass


def test_a_lock_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "locks/x.json").mkdir(parents=True)
    with (
        pytest.raises(FileError, match=r"x\.json: cannot be read: there is a folder of this name"),
        StoreLock(tmp_path / "locks/x.json"),
    ):
        pass


def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_what_holds_a_section_says_whose_it_is_and_may_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch)
    before = os.umask(0)
    try:
        with exclusive(tmp_path / "deep/lock"):
            held = tmp_path / "deep/lock.held"
            assert json.loads(held.read_text()) == asdict(Process.current())
            modes = [stat.S_IMODE(path.stat().st_mode) for path in (held, tmp_path / "deep/lock")]
    finally:
        os.umask(before)
    assert modes == [0o666, 0o666]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["lock"]


def test_a_section_ends_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "lock"):
            raise ZeroDivisionError
        without_flock(monkeypatch)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_an_error_of_flock_that_is_none_of_a_missing_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(FileError, match=r"lock: cannot be locked: the disk reports"), exclusive(tmp_path / "lock"):
        pytest.fail("nobody may be in here")
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_silence_is_told_by_the_clock_that_stamps_files(tmp_path: Path) -> None:
    path, clock = tmp_path / "path", tmp_path / "clock"
    for each in (path, clock):
        each.touch()
        os.utime(each, (0, 0))
    for off in (-50.0, 50.0):
        os.utime(path, (time.time() + off,) * 2)
        assert 40 < silence(path, clock) < 60
    assert clock.stat().st_mtime > 0
    path.unlink()
    with pytest.raises(FileNotFoundError):
        silence(path, clock)


def test_what_a_lock_file_says_of_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_owner(path) is None
    for content, owner in (('{"pid": 7}', {"pid": 7}), ("[7]", {}), ("{", {}), ("", {}), ("[" * 10**5, {})):
        path.write_text(content)
        assert read_owner(path) == owner


def test_process_ids_are_shared_where_host_boot_and_container_are_the_same() -> None:
    here = replace(Process.current(), host="a", boot_id="b", pid_namespace="c")
    sound = {"host": "a", "boot_id": "b", "pid_namespace": "c"}
    assert shares_process_ids(sound, here)
    for change in ({"host": "x"}, {"boot_id": "x"}, {"pid_namespace": "x"}):
        assert not shares_process_ids(sound | change, here)
    assert shares_process_ids(sound | {"pid_namespace": ""}, here)
    assert shares_process_ids({"host": "a", "boot_id": "b"}, here)
    assert shares_process_ids(sound, replace(here, pid_namespace=""))
    assert not shares_process_ids({}, here)
