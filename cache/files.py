"""Files that are there whole or not at all, also after a power cut."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cache.errors import DamagedError, StoreFullError


def sync_folder(folder: Path) -> None:
    """Make renames and removals inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(temporary: Path, target: Path) -> None:
    """Give a finished and synced file its name, durably."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.replace(target)
    sync_folder(target.parent)


def write_atomic(target: Path, data: bytes) -> None:
    """Replace ``target`` by ``data``. Raises StoreFullError when the disk is full; the old file then stays.

    One writer at a time: the temporary name is always the same, so that whoever does the work again after a crash also
    clears away what it left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with naming_full_disk(target), temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(target: Path, value: object) -> None:
    """Indented, sorted JSON, so that equal content is equal bytes; see :func:`write_atomic`."""
    write_atomic(target, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Content of a JSON file the store wrote. Raises DamagedError when it is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedError(f"{path}: is not JSON ({error}); delete it and run the stage again") from error


@contextlib.contextmanager
def naming_full_disk(target: Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into StoreFullError naming the file and what is free."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = free_bytes(target)
        raise StoreFullError(
            f"{target}: disk full ({free / 1e9:.2f} GB free); finished shards are kept: free space and run the same "
            "command again, or see `diffps cache plan`"
        ) from error


def free_bytes(path: Path) -> int:
    """What can still be written at ``path``, which need not exist yet."""
    while not path.exists():
        path = path.parent
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


@contextlib.contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """A short critical section between processes, on a lock file that stays."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
