"""How a process is known: by the machine, its start, its container, its number and its start."""

import hashlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cache.process import Process, boot_id, is_running, pid_namespace, start_time


def test_this_process_is_told_from_others_by_five_things() -> None:
    me = Process.current()
    assert (me.host, me.pid, me.started) == (socket.gethostname(), os.getpid(), start_time(os.getpid()))
    assert (me.boot_id, me.pid_namespace) == (boot_id(), pid_namespace())
    known = f"{me.host}/{me.boot_id}/{me.pid_namespace}"
    assert me.place == hashlib.sha256(known.encode()).hexdigest()[:8]
    assert replace(me, pid=7, started=None).place == me.place
    for other in ({"host": "x"}, {"boot_id": "x"}, {"pid_namespace": "x"}):
        assert replace(me, **other).place != me.place  # type: ignore[arg-type]


def test_a_system_that_tells_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(Path, "readlink", refuse)
    me = Process.current()
    assert (me.boot_id, me.pid_namespace, me.started) == ("", "", None)
    assert is_running(os.getpid(), None)


def test_a_start_is_the_kernel_s_whatever_a_program_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twenty-second field, behind a name that may hold spaces and brackets."""
    fields = [str(number) for number in range(4, 53)]
    for state, started in (("S", "22"), ("R", "22"), ("Z", None), ("X", None)):
        monkeypatch.setattr(Path, "read_text", lambda path, state=state: f"7 (a) b) {state} {' '.join(fields)}\n")
        assert start_time(7) == started


def test_a_process_that_ended_and_was_not_looked_after_does_not_run() -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system does not tell when processes started")
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = start_time(process.pid)
    assert is_running(process.pid, started)
    assert process.stdin is not None
    process.stdin.close()
    while start_time(process.pid) is not None:  # a zombie by now
        time.sleep(0.01)
    assert not is_running(process.pid, started)
    process.wait()
