"""What the system refuses, in one line: which file, what with it, why, and the way out."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from cache.errors import CacheError, FileError, StoreFullError

_KEPT = "what was finished is kept: {} and run the same command again"
# errno -> (why, the way out)
_REFUSALS = {
    errno.EIO: (
        "the disk reports an input/output error",
        "look at the system's log and at the disk's health, bring what is still readable to another disk, and let "
        "`diffps cache verify` say what was lost",
    ),
    errno.EROFS: (
        "the file system is read-only",
        "mount it for writing, or name a folder that can be written (the store: runtime.store)",
    ),
    errno.EACCES: (
        "this user has no right to",
        "have it given (`ls -ld` shows who has it), or name another folder (the store: runtime.store)",
    ),
    errno.EPERM: (
        "the system does not permit it",
        "`ls -ld` and `lsattr` show what protects it; or name another folder (the store: runtime.store)",
    ),
    errno.EMFILE: (
        "this process has too many files open",
        "raise `ulimit -n` and run the same command again, with fewer threads and readers if it cannot be raised",
    ),
    errno.ENFILE: ("this machine has too many files open", "end what else runs here and run the same command again"),
    errno.ENOMEM: ("the machine is out of memory", "end what else runs here and run the same command again"),
    errno.ESTALE: (
        "the network file system no longer knows it (stale handle)",
        "mount it again and run the same command again; finished shards are kept",
    ),
    errno.EXDEV: (
        "it lies on another file system than its temporary file",
        "let folders of one store, or of one result, lie on one file system: no mount or link into the middle of them",
    ),
    errno.ENOLCK: ("the file system has no locks to give", "have its lock service started, or use another file system"),
    errno.ENOTDIR: ("part of the path is a file, not a folder", "move that file away, or name another folder"),
    errno.EISDIR: ("there is a folder of this name", "move it away, or name another file"),
    errno.EEXIST: ("there is a file where a folder is to be", "move it away, or name another folder"),
    errno.ENOTEMPTY: ("the folder is not empty", "see what lies in it, and run the same command again"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "choose a shorter one"),
    errno.ELOOP: ("links lead in a circle", "remove the circle"),
    errno.EBUSY: ("something else uses it", "end that and run the same command again"),
    errno.ETIMEDOUT: ("the network file system does not answer", "run the same command again once it does"),
    errno.EINVAL: ("the file system cannot do this", "use another file system"),
    errno.ENOENT: ("it, or its folder, was taken away meanwhile", "run the same command again"),
}


@contextlib.contextmanager
def naming(path: Path, doing: str) -> Iterator[None]:
    """Turn the system's refusals into one-line FileErrors, StoreFullError where space or quota ran out.

    ``doing`` completes "cannot be ...". Reading what is not there stays FileNotFoundError: callers know what makes it.
    """
    try:
        yield
    except CacheError:
        raise
    except FileNotFoundError as error:
        if doing == "read":
            raise
        raise refusal(error, path, doing) from error
    except OSError as error:
        raise refusal(error, path, doing) from error


@contextlib.contextmanager
def naming_below(root: Path) -> Iterator[None]:
    """The same over a longer stretch of work below ``root``: what is named is the file the system named."""
    try:
        yield
    except CacheError:
        raise
    except OSError as error:
        raise refusal(error, Path(error.filename or root), "used") from error


def refusal(error: OSError, path: Path, doing: str) -> FileError:
    """The error that says in one line what ``error`` said of ``path``."""
    found: FileError
    match error.errno:
        case errno.ENOSPC:
            way = "finished shards are kept: free space and run the same command again, or see `diffps cache plan`"
            found = StoreFullError(f"{path}: disk full ({_room(path)} free); {way}")
        case errno.EDQUOT:
            why = f"this user's disk quota is used up (the disk itself has {_room(path)} free)"
            found = StoreFullError(f"{path}: {why}; {_KEPT.format('free space of yours or have the quota raised')}")
        case errno.EFBIG:
            why = "disk full for this file: `ulimit -f` or the file system allows no larger one"
            found = StoreFullError(f"{path}: {why}; {_KEPT.format('raise the limit')}")
        case _:
            unknown = (error.strerror or str(error) or type(error).__name__, "mend that and run the same command again")
            why, way = _REFUSALS.get(error.errno or 0, unknown)
            found = FileError(f"{path}: cannot be {doing}: {why}; {way}")
    found.errno = error.errno
    return found


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below ``folder``, by path; none where it is not there. Raises FileError where it cannot be listed."""

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise refusal(error, Path(error.filename or folder), "read") from error

    for place, inside, names in os.walk(folder, onerror=stop):
        inside.sort()
        yield from (Path(place, name) for name in sorted(names))


def free_bytes(path: Path) -> int:
    """What can still be written at ``path``, which need not exist yet. Raises FileError."""
    with naming(path, "looked at"):
        while not path.exists():
            path = path.parent
        status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def _room(path: Path) -> str:
    try:
        return f"{free_bytes(path) / 1e9:.2f} GB"
    except FileError:
        return "? GB"
