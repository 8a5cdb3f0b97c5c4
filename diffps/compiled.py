"""Numba behind one typed decorator, so that compiled functions keep their signatures.

Machine code is kept on disk between runs, in a folder named after everything that went into it. Numba by itself notices
a change of the file in which a function stands; it does not notice one in a function or a constant of another file,
which is compiled into it.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import ParamSpec, TypeVar

import numba
import numpy as np
from numba.core.registry import cpu_target

P = ParamSpec("P")
R = TypeVar("R")

PACKAGE = Path(__file__).parent
USES = b"from diffps.compiled import"

prange = numba.prange


def compiled(*, parallel: bool = False, reassociate: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile to machine code, kept on disk between runs where a folder can be written.

    ``reassociate`` lets a sum be vectorised; only for sums that are exact in every order.
    """
    fast = {"reassoc", "contract"} if reassociate else False

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        folder, config = kept_in(), numba.config
        before, config.CACHE_DIR = config.CACHE_DIR, folder or ""  # type: ignore[attr-defined]
        try:
            keep = folder is not None
            make = numba.njit(cache=keep, nogil=True, parallel=parallel, fastmath=fast)
            result: Callable[P, R] = make(function)
        finally:
            config.CACHE_DIR = before  # type: ignore[attr-defined]
        return result

    return decorate


def digest(package: Path) -> str:
    """Ten hex digits over all modules of a package that compile something, Numba, NumPy and the processor."""
    about = (numba.__version__, np.__version__, *processor())
    found = hashlib.sha256("\0".join(about).encode())
    for path in sorted(package.rglob("*.py")):
        source = path.read_bytes()
        if USES in source or path.name == "compiled.py":
            found.update(hashlib.sha256(source).digest())
    return found.hexdigest()[:10]


def processor() -> tuple[str, str, str]:
    """What machine code is made for: platform, processor and its features."""
    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    return triple, name, features


@cache
def kept_in() -> str | None:
    """The folder of the machine code: NUMBA_CACHE_DIR, else beside this file, else the user's own; None without any."""
    wanted, name = os.environ.get("NUMBA_CACHE_DIR"), f"compiled-{digest(PACKAGE)}"
    own = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "diffps")
    for place in [Path(wanted)] if wanted else [PACKAGE / "__pycache__", own]:
        try:
            folder = place.expanduser() / name
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except (OSError, RuntimeError):  # not to be written; nobody's home
            continue
        return str(folder)
    return None
