import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cache import FeatureStore
from cache.errors import FileError, LockedError
from cache.guard import SILENT_SECONDS
from cache.lock import HEARTBEAT_SECONDS, StoreLock, lock_file
from cache.process import Process
from tests.cache.builders import check, images, pretend, spec, write

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from cache.lock import StoreLock
with StoreLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "train~identity~abc.json"


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


def pretend_silence(path: Path) -> None:
    os.utime(path, (time.time() - SILENT_SECONDS - 5,) * 2)


def test_it_is_gone_afterwards_and_can_be_taken_again(path: Path) -> None:
    for _ in range(2):
        with StoreLock(path):
            assert path.exists()
        assert not path.exists()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    with store.writer([spec()], images(4)), pytest.raises(LockedError, match="still writing"):
        write(store, [spec(tap="other")], images(4))
    write(store, [spec()], images(4))
    check(store, [spec()], images(4))


def test_an_orphan_that_lives_is_named(path: Path) -> None:
    process = holder(path)
    try:
        with pytest.raises(LockedError, match=rf"process {process.pid} on .*kill {process.pid}"), StoreLock(path):
            pass
    finally:
        process.kill()
        process.wait()


def test_a_dead_owner_is_taken_over(path: Path) -> None:
    process = holder(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()
    with StoreLock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_reused_process_id_is_not_the_owner(path: Path) -> None:
    pretend(path, started="1")
    with StoreLock(path):
        pass


def test_where_the_system_tells_no_start_times_the_process_id_decides(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    pretend(path, started=None, pid=process.pid)
    with StoreLock(path):
        pass
    pretend(path, started=None)
    with pytest.raises(LockedError, match="still writing"), StoreLock(path):
        pass


ELSEWHERE = [
    {"boot_id": "another boot"},
    {"pid_namespace": "pid:[1]"},
    {"boot_id": "other", "pid_namespace": "pid:[1]"},
]


@pytest.mark.parametrize("owner", ELSEWHERE)
def test_a_namesake_s_owner_is_waited_for_while_its_heart_beats(path: Path, owner: dict[str, object]) -> None:
    """Of another machine or container called the same, or from before a restart: its process id says nothing here."""
    for pid in ({}, {"pid": 2**22 + 1}):
        pretend(path, silent=3, **owner, **pid)
        with (
            pytest.raises(LockedError, match="last heard of 3 s ago; wait for it, or 120 s if it is dead"),
            StoreLock(path, takeover=True),
        ):
            pass
        assert json.loads(path.read_text()).items() >= owner.items()
        pretend_silence(path)
        with StoreLock(path):
            assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("known", [None, ""])
def test_an_owner_that_names_no_process_ids_of_its_own_is_looked_up(path: Path, known: str | None) -> None:
    """As older versions wrote it, and where the system does not tell."""
    pretend(path, pid_namespace=known)
    with pytest.raises(LockedError, match="still writing"), StoreLock(path):
        pass
    path.unlink()
    pretend(path, pid_namespace=known, pid=2**22 + 1)
    with StoreLock(path):
        pass


def test_a_system_without_process_namespaces_looks_its_owners_up(path: Path) -> None:
    here = replace(Process.current(), pid_namespace="")
    pretend(path)
    with pytest.raises(LockedError, match="still writing"), StoreLock(path, here=here):
        pass
    path.unlink()
    pretend(path, started="1")
    with StoreLock(path, here=here):
        pass


def test_another_host_that_was_just_heard_of_is_refused_whatever_the_user_says(path: Path) -> None:
    pretend(path, host="elsewhere", silent=30)
    with pytest.raises(LockedError, match="on elsewhere .*last heard of 30 s ago"), StoreLock(path, takeover=True):
        pass


def test_a_silent_owner_on_another_host_needs_the_user_s_word(path: Path) -> None:
    pretend(path, host="elsewhere", silent=SILENT_SECONDS + 5)
    with pytest.raises(LockedError, match=r"runtime\.takeover=true"), StoreLock(path):
        pass
    with StoreLock(path, takeover=True):
        assert json.loads(path.read_text())["host"] == socket.gethostname()


def test_a_torn_lock_file_holds_nobody(path: Path) -> None:
    pretend(path)
    path.write_text('{"host": ')
    os.utime(path, (0, 0))
    with StoreLock(path, takeover=True):
        pass


def test_the_owner_s_heartbeat_is_heard(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.lock.HEARTBEAT_SECONDS", 0.01)
    with StoreLock(path):
        os.utime(path, (0, 0))
        for _ in range(500):
            if path.stat().st_mtime > 0:
                return
            time.sleep(0.01)
    pytest.fail("no heartbeat in five seconds")


def test_who_lost_the_lock_publishes_nothing(tmp_path: Path) -> None:
    store, array = FeatureStore(tmp_path), spec()
    with store.writer([array], images(2)) as writer:
        (task,) = writer.pending()
        (lock,) = (tmp_path / "locks").glob("train*.json")
        lock.write_text(json.dumps({"token": "somebody else's"}))
        with pytest.raises(LockedError, match="taken over"), writer.shard(task) as sink:
            for _ in task.rows:
                sink.skip("no matter")
        theirs = tmp_path / "tmp" / "~".join(array.group.scope.split("/")) / "t0" / "0-tap@int8.theirs"
        theirs.parent.mkdir(parents=True, exist_ok=True)
        theirs.touch()
    assert lock.exists()
    assert theirs.exists()
    assert not list((tmp_path / "receipts").rglob("*.json"))


def test_the_lock_says_who_holds_it_and_since_when(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["diffps", "extract", "--params", "my file.yaml", "x" * 400])
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    with StoreLock(path) as lock:
        content = path.read_text()
        owner = json.loads(content)
        beating = [thread for thread in threading.enumerate() if thread.name == f"heartbeat {path.name}"]
        assert [thread.daemon for thread in beating] == [True]
        assert lock.held
        lock.check()
        with pytest.raises(LockedError) as caught, StoreLock(path):
            pass
    assert owner.keys() == {*asdict(Process.current()), "command", "since", "token"}
    assert owner.items() >= asdict(Process.current()).items()
    assert owner["command"] == f"diffps extract --params 'my file.yaml' {'x' * 400}"[:300]
    assert began <= owner["since"] <= time.strftime("%Y-%m-%d %H:%M:%S")
    assert content.startswith('{\n "host": ')
    who = f"process {os.getpid()} on {owner['host']} ({owner['command']}, since {owner['since']})"
    assert str(caught.value) == f"{path}: {who} is still writing; wait for it, or `kill {os.getpid()}`"
    assert not [thread for thread in threading.enumerate() if thread.name == f"heartbeat {path.name}"]


@pytest.mark.parametrize(
    ("silent", "told"),
    [
        (30, "is writing, last heard of N s ago; wait for it, or 120 s if it is dead"),
        (
            1000,
            "was last heard of N s ago and cannot be checked from here; "
            "if it is dead, run again with --set runtime.takeover=true",
        ),
    ],
)
def test_silent_owners_are_named_with_how_long_they_have_been(path: Path, silent: int, told: str) -> None:
    pretend(path, host="elsewhere", pid=7, command="diffps extract", since="then", silent=silent)
    with pytest.raises(LockedError) as caught, StoreLock(path):
        pass
    (seconds,) = re.findall(r"last heard of (\d+) s", str(caught.value))
    who = "process 7 on elsewhere (diffps extract, since then)"
    assert str(caught.value) == f"{path}: {who} {told.replace('N', seconds)}"
    assert silent <= int(seconds) < silent + 60


def test_a_heart_beats_often_enough_to_be_heard() -> None:
    assert 0 < 5 * HEARTBEAT_SECONDS <= SILENT_SECONDS


def test_one_scope_has_one_lock(tmp_path: Path) -> None:
    group = spec().group
    assert lock_file(tmp_path, group) == tmp_path / f"locks/train~identity~{group.recipe_id}.json"
    assert lock_file(tmp_path, replace(group, timestep=None)) == lock_file(tmp_path, group)


def test_who_lost_the_lock_leaves_it_to_its_new_owner(path: Path) -> None:
    with StoreLock(path) as lock:
        path.write_text(json.dumps({"token": "somebody else's"}))
        assert not lock.held
        with pytest.raises(LockedError) as caught:
            lock.check()
    assert str(caught.value) == f"{path}: was taken over while this process held it; nothing more is written"
    assert path.exists()
    path.unlink()
    with StoreLock(path) as lock:
        path.unlink()
        assert not lock.held


def test_a_lock_that_could_not_be_made_durable_is_given_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its name already when its folder cannot be synced."""
    real, made = os.fsync, list[bool]()

    def fsync(descriptor: int) -> None:
        if path.exists() and not made:
            made.append(True)
            raise OSError(errno.EIO, "broken")
        real(descriptor)

    path.parent.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(FileError, match="cannot be written: the disk reports"), StoreLock(path):
            pytest.fail("nobody holds it")
    assert made
    assert not path.exists()


@pytest.mark.parametrize("inside", [None, ZeroDivisionError])
def test_what_went_wrong_inside_is_told_rather_than_a_lock_that_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch, inside: type[Exception] | None
) -> None:
    real = Path.unlink

    def unlink(each: Path, missing_ok: bool = False) -> None:
        if each == path:
            raise OSError(errno.EROFS, "read-only")
        real(each, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(inside or FileError), StoreLock(path):
        if inside is not None:
            raise inside
    assert path.exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("heartbeat")]
