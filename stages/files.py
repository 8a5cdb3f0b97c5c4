"""Files that are either whole or not there."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any


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

    def write(temporary: Path) -> None:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    replace_file(path, write)


def replace_text(path: Path, text: str) -> None:
    """:func:`replace_file` with ``text`` in UTF-8."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    replace_file(path, write)


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
