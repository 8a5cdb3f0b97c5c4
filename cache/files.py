"""Files and folders that are there whole or not at all, also after a power cut: the one way anything is written.

Content goes to a temporary name of its own beside the target, is made durable, and takes the target's name in one step.
The temporary name says which process it belongs to; whoever writes into a folder clears away what dead ones left there.
"""

import contextlib
import ctypes
import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache.errors import DamagedError
from cache.process import Process, is_running
from cache.system import naming

ABANDONED_SECONDS = 3600.0  # without a change, where the file's process cannot be looked up from here
_TEMPORARY = re.compile(r"\.diffps-([0-9a-f]{8})-(\d+)-(\d*)-[0-9a-f]{8}\.tmp")
_EXCHANGE = 2  # renameat2's flag
_HERE = -100  # its AT_FDCWD


def write_bytes(target: Path, data: bytes) -> None:
    """Replace ``target`` by ``data``. Raises FileError, StoreFullError; the old file then stays."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_file(target, write)


def write_text(target: Path, text: str) -> None:
    """:func:`write_bytes` with ``text`` in UTF-8."""
    write_bytes(target, text.encode())


def write_json(target: Path, value: object) -> None:
    """Indented, sorted JSON, so that equal content is equal bytes; see :func:`write_bytes`."""
    write_text(target, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_file(target: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill the temporary file it is given, then replace ``target`` by it. Raises FileError."""
    with naming(target, "written"):
        make_folder(target.parent)
        clear_temporaries(target.parent)
        temporary = target.with_name(temporary_name())
        try:
            write(temporary)
            sync(temporary)
            publish(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
            raise


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill the temporary folder it is given, then put it in the place of ``target``. Raises FileError.

    The exchange is one step where the system has one (Linux, but not on NFS); elsewhere a kill between the old
    folder's leaving and the new one's coming leaves none.
    """
    with naming(target, "written"):
        make_folder(target.parent)
        clear_temporaries(target.parent)
        temporary, old = (target.with_name(temporary_name()) for _ in range(2))
        temporary.mkdir()
        try:
            write(temporary)
            for place, _, names in os.walk(temporary):
                for name in (*names, ""):
                    sync(Path(place, name))
            try:
                temporary.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if not _exchange(temporary, target):
                    target.rename(old)
                    temporary.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def publish(temporary: Path, target: Path) -> None:
    """Give a finished and synced file its name, durably."""
    with naming(target, "written"):
        make_folder(target.parent)
        temporary.replace(target)
        sync(target.parent)


def remove(path: Path) -> None:
    """Take a file away, durably; it may be gone already."""
    with naming(path, "removed"):
        try:
            path.unlink()
        except FileNotFoundError:
            return
        sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's content durable, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems sync no folders; what they promise instead is not ours to choose.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it, durably. Raises FileError."""
    with naming(folder, "made"):
        if folder.is_dir():
            return
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def temporary_name() -> str:
    """A name nobody else uses, which says what process it belongs to."""
    me = Process.current()
    return f".diffps-{me.place}-{me.pid}-{me.started or ''}-{secrets.token_hex(4)}.tmp"


def clear_temporaries(folder: Path) -> None:
    """Remove the temporary files and folders that dead processes left in ``folder``."""
    for entry in os.scandir(folder):
        found = _TEMPORARY.fullmatch(entry.name)
        if found is not None and _is_abandoned(Path(entry.path), *found.groups()):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)


def read_bytes(path: Path) -> bytes:
    """Content of a file. Raises FileNotFoundError, and FileError for whatever else the system refuses."""
    with naming(path, "read"):
        return path.read_bytes()


def read_json(path: Path) -> Any:
    """Content of a JSON file the store wrote. Raises DamagedError when it is no JSON."""
    return parse_json(read_bytes(path), path)


def parse_json(data: bytes, path: Path) -> Any:
    """What :func:`read_json` does with the bytes it finds at ``path``."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: is not JSON ({error}); delete it and run the stage again") from error


def _is_abandoned(path: Path, place: str, pid: str, started: str) -> bool:
    if place == Process.current().place:
        return not is_running(int(pid), started or None)
    try:
        return abs(time.time() - path.stat().st_mtime) > ABANDONED_SECONDS
    except FileNotFoundError:
        return False


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)
