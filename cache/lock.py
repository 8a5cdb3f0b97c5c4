"""One writer per (split, view, recipe): a lock file that says who holds it.

The owner touches the file every few seconds (heartbeat). Where its process id can be looked up, a dead owner's lock is
taken over and a live one is named. Of another machine only the heartbeat can be judged, and the user has to say so; of
one that has this machine's name, but not its boot or process ids (a restart, another container), silence is enough.
"""

import contextlib
import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from cache.errors import LockedError
from cache.files import exclusive, write_atomic
from cache.layout import GroupKey

HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 120.0  # after which another host's owner may be declared dead


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _pid_namespace() -> str:
    """Within which process ids mean something: containers of one machine have their own."""
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _start_time(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None when there is none. Tells apart reused process ids."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # a zombie writes nothing any more


def _is_running(pid: int, started: str | None) -> bool:
    """Whether the process that started then still runs; where the system has no /proc, whether any of that id does."""
    if started is not None:
        return _start_time(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _describe_self() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot_id": _boot_id(),
        "pid_namespace": _pid_namespace(),
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
        "command": shlex.join(sys.argv)[:300],
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "token": uuid.uuid4().hex,
    }


def _shares_process_ids(owner: dict[str, Any]) -> bool:
    """Whether an owner of this host's name is of this boot and container, as far as both sides can tell."""
    there, here = owner.get("pid_namespace"), _pid_namespace()
    return owner.get("boot_id") == _boot_id() and (not there or not here or there == here)


def lock_file(root: Path, group: GroupKey) -> Path:
    """The lock that covers ``group`` in the store at ``root``."""
    return root / "locks" / f"{group.scope.replace('/', '~')}.json"


class StoreLock:
    """Exclusive right to write below one scope, held from ``with`` to its end. Raises LockedError on entry."""

    def __init__(self, path: Path, *, takeover: bool = False) -> None:
        self._path, self._takeover = path, takeover
        # Reading, judging and replacing a lock is one step, also between processes.
        self._guard = path.with_name(".guard")
        self._owner: dict[str, Any] = {}
        self._released = threading.Event()
        self._heartbeat: threading.Thread | None = None

    def __enter__(self) -> "StoreLock":
        with exclusive(self._guard):
            owner = self._read()
            if owner is not None:
                self._refuse_if_alive(owner)
            self._owner = _describe_self()
            write_atomic(self._path, json.dumps(self._owner, indent=1).encode())
        self._heartbeat = threading.Thread(target=self._beat, name=f"heartbeat {self._path.name}", daemon=True)
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        if self._heartbeat is not None:
            self._heartbeat.join()
        with exclusive(self._guard):
            if self.held:
                self._path.unlink()

    @property
    def held(self) -> bool:
        """Whether nobody took the lock over meanwhile."""
        owner = self._read()
        return owner is not None and owner.get("token") == self._owner["token"]

    def check(self) -> None:
        """Raise LockedError when somebody took the lock over meanwhile; called before anything is published."""
        if not self.held:
            raise LockedError(f"{self._path}: was taken over while this process held it; nothing more is written")

    def _read(self) -> dict[str, Any] | None:
        try:
            owner = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            owner = None
        return owner if isinstance(owner, dict) else {}

    def _refuse_if_alive(self, owner: dict[str, Any]) -> None:
        try:
            silent = time.time() - self._path.stat().st_mtime
        except FileNotFoundError:
            return
        who = f"process {owner.get('pid')} on {owner.get('host')} ({owner.get('command')}, since {owner.get('since')})"
        same_name = owner.get("host") == socket.gethostname()
        if same_name and _shares_process_ids(owner):
            if _is_running(int(owner.get("pid", -1)), owner.get("started")):
                raise LockedError(f"{self._path}: {who} is still writing; wait for it, or `kill {owner.get('pid')}`")
        elif silent < SILENT_SECONDS:
            raise LockedError(
                f"{self._path}: {who} is writing, last heard of {silent:.0f} s ago; wait for it, "
                f"or {SILENT_SECONDS:.0f} s if it is dead"
            )
        elif not same_name and not self._takeover:
            raise LockedError(
                f"{self._path}: {who} was last heard of {silent:.0f} s ago and cannot be checked from here; "
                "if it is dead, run again with --set runtime.takeover=true"
            )

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._path)
