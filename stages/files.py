"""Files that are either whole or not there."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

from diffps.errors import DiffPSError


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then give it that name: fsync, rename, fsync the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, in place whole."""
    replace_text(path, json.dumps(value, indent=2) + "\n")


def replace_bytes(path: Path, data: bytes) -> None:
    """:func:`replace_file` with ``data``."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    replace_file(path, write)


def replace_text(path: Path, text: str) -> None:
    """:func:`replace_file` with ``text`` in UTF-8."""
    replace_bytes(path, text.encode())


def replace_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary folder beside ``path``, then put it in the place of an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        write(temporary)
        for file in temporary.iterdir():
            _sync(file)
        if path.exists():
            rmtree(path)
        temporary.rename(path)
        _sync(path.parent)
    finally:
        rmtree(temporary, ignore_errors=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep ``folder`` for this process, as long as it lives. Raises DiffPSError naming the process that has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise DiffPSError(
                f"{folder}: process {file.read().strip() or 'unknown'} is training there; wait for it, or end it"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
