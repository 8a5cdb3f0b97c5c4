"""Weight files as they were when their digests were taken: who has not changed since is not read again.

Says nothing of identity: those are digests. The file is this machine's own, and only saves time.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cache.errors import FileError
from cache.sealed import read_json, write_json
from cache.system import files_below
from diffps.backbone.prior import CLIP, TIMM
from stages.places import KNOWN_WEIGHTS


def local_files(names: Sequence[str | None]) -> list[list[Any]]:
    """[path, bytes, time of change in ns, inode] of every file in what ``names`` name of this machine's folders and
    files; nothing of hub ids and of what comes with the program."""
    found = []
    for name in names:
        path = Path((name or "").removeprefix(CLIP).removeprefix(TIMM).rpartition("@")[2]).expanduser()
        if not name or not path.exists():
            continue
        for file in [path] if path.is_file() else files_below(path):
            status = file.stat()
            found.append([str(file.absolute()), status.st_size, status.st_mtime_ns, status.st_ino])
    return found


def are_known(pass_name: str, files: list[list[Any]]) -> bool:
    """These files are those whose digests the pass was last recorded with."""
    path = KNOWN_WEIGHTS / f"{pass_name}.json"
    return path.is_file() and read_json(path, "`diffps extract`")["files"] == files


def keep_known(pass_name: str, files: list[list[Any]]) -> None:
    """From now on they are; where nothing can be written they are read again next time."""
    with suppress(FileError):
        if files:
            write_json(KNOWN_WEIGHTS / f"{pass_name}.json", {"files": files})
