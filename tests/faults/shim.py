"""Errors of the system, injected into a process by preloading ``faults.c``.

A test's child process is started with :func:`environment`, which may arm one fault from the start; inside it
:class:`Faults` arms others between two commands. Calls: open (to read), create (to write), read, write, fsync, rename,
exchange, link, mkdir, unlink, stat, statvfs, touch, list, flock.
"""

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faults.c")
ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def library() -> Path:
    """The compiled shim; skips the test where it cannot be made."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    target = Path(tempfile.mkdtemp(prefix="faults-")) / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(target), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"faults.c does not compile here: {done.stderr.strip()[:200]}")
    return target


def environment(
    call: str = "", error: int = 0, pattern: str = "", *, nth: int = 1, lasting: bool = False
) -> dict[str, str]:
    """Environment of a child whose ``nth`` ``call`` on a path like ``pattern`` fails with ``error``."""
    fault = {"FAULT": f"{call} {error} {nth} {int(lasting)} {pattern}"} if call else {}
    return {**os.environ, "LD_PRELOAD": str(library()), **fault}


def recording(log: Path) -> dict[str, str]:
    """Environment of a child whose writes, fsyncs and renames are written into ``log``; see :func:`recorded`."""
    return {**environment(), "FAULT_LOG": str(log)}


def recorded(log: Path, below: Path) -> list[tuple[str, Path, Path | None]]:
    """(call, path, a rename's new path) in order, of files below a folder in which the child ran."""
    found = []
    for line in log.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        call, path, to = line.split("\t")
        place, target = Path(below, path), Path(below, to) if to else None
        if place.is_relative_to(below):
            found.append((call, place, target))
    return found


def run(script: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a child with the shim, in the repository's root; ``options`` are :func:`environment`'s."""
    command = [sys.executable, "-c", script, *arguments]
    env = environment(**options)  # type: ignore[arg-type]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


class Faults:
    """The shim as the child sees it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._library.fault_hits.restype = ctypes.c_long

    def arm(self, call: str, error: int, pattern: str, *, nth: int = 1, lasting: bool = False) -> None:
        """Let the ``nth`` ``call`` on a path like ``pattern`` fail; ``lasting`` also all after it."""
        arguments = (call.encode(), error, ctypes.c_long(nth), int(lasting), pattern.encode())
        self._library.fault_arm(*arguments)

    def disarm(self) -> int:
        """Let everything work again; how many calls failed since it was armed."""
        hits = int(self._library.fault_hits())
        self._library.fault_arm(b"", 0, ctypes.c_long(0), 0, b"")
        return hits

    def clock(self, seconds: int) -> None:
        """Put the clock off by so many seconds: the process's, not the one that stamps files."""
        self._library.fault_clock(ctypes.c_long(seconds))
