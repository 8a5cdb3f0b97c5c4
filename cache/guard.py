"""Short critical sections between processes, also on file systems that have no flock."""

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache.files import make_folder
from cache.process import Process, is_running
from cache.system import naming

SILENT_SECONDS = 120.0  # after which an owner that cannot be looked up may be declared dead
WAIT_SECONDS = 0.02
# What flock says where there is none: NFS without its lock service, Lustre mounted without flock, some FUSE drivers.
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextlib.contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Be the only process in this section, on a lock file that stays. Raises FileError.

    On a file system without flock the section is held by a file that only one process can create.
    """
    with naming(lock, "locked"):
        make_folder(lock.parent)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.nullcontext() if _flock(lock, descriptor) else _created(lock):
            yield
    finally:
        os.close(descriptor)


def shares_process_ids(owner: dict[str, Any], here: Process) -> bool:
    """True for an owner of this boot and container, as far as both sides can tell: its process id can be looked up."""
    there = owner.get("pid_namespace")
    same_container = not there or not here.pid_namespace or there == here.pid_namespace
    return owner.get("host") == here.host and owner.get("boot_id") == here.boot_id and same_container


def silence(path: Path, clock: Path) -> float:
    """Seconds since ``path`` was touched, by the file system's own clock, as touching ``clock`` tells it.

    Where that was set back meanwhile, an owner from before looks as dead as if it had been set forward.
    """
    with naming(clock, "read"):
        os.utime(clock)
        return abs(clock.stat().st_mtime - path.stat().st_mtime)


def read_owner(path: Path) -> dict[str, Any] | None:
    """What a lock file says of its owner: nothing where it is torn; None where there is no file."""
    try:
        with naming(path, "read"):
            owner = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        owner = None
    return owner if isinstance(owner, dict) else {}


def _flock(lock: Path, descriptor: int) -> bool:
    with naming(lock, "locked"):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            return False
    return True


@contextlib.contextmanager
def _created(lock: Path) -> Iterator[None]:
    held, clearing = (lock.with_name(f"{lock.name}.{word}") for word in ("held", "clearing"))
    while not _create(held):
        if _is_dead(held, lock):
            # One at a time: else the second of two clears away what the first has just taken.
            if _create(clearing):
                if _is_dead(held, lock):
                    _unlink(held)
                _unlink(clearing)
            elif _is_dead(clearing, lock):
                _unlink(clearing)
        time.sleep(WAIT_SECONDS)
    try:
        yield
    finally:
        _unlink(held)


def _create(path: Path) -> bool:
    with naming(path, "locked"):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        try:
            os.write(descriptor, json.dumps(asdict(Process.current())).encode())
        finally:
            os.close(descriptor)
    return True


def _unlink(path: Path) -> None:
    with naming(path, "removed"):
        path.unlink(missing_ok=True)


def _is_dead(path: Path, clock: Path) -> bool:
    try:
        owner, silent = read_owner(path), silence(path, clock)
    except FileNotFoundError:
        return False
    if owner and shares_process_ids(owner, Process.current()):
        return not is_running(int(owner["pid"]), owner["started"])
    return owner is not None and silent > SILENT_SECONDS
