"""Where the files of a dataset are looked for, and what is said when they lie elsewhere."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from diffps.datasets.files import require, summarise
from diffps.errors import DatasetError

FOLDERS_LOOKED_AT = 200  # below a root, for a dataset that was unpacked a level off
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")


def locate(root: Path, relative: str, dataset: str, what: str) -> Path:
    """``root``/``relative``. Raises DatasetError in one line where it is not there: what was looked for, what lies
    there instead, and where the same file was found: a level off, in another letter case, in an archive."""
    path = root / relative
    if path.exists():
        return path
    hint = _hint(root, relative)
    try:
        require(path, dataset, what)
    except DatasetError as error:
        raise DatasetError(f"{error}{hint}") from None
    return path


def require_files(folder: Path, names: Sequence[str], dataset: str) -> int:
    """How many other files lie in ``folder`` beside ``names``, which may name files in folders below it. Raises
    DatasetError where some are not there: how many, what is there, where they may be.

    One listing instead of a look-up per file: thousands of stat calls are slow on a network disk.
    """
    outside = [name for name in names if name.startswith("/") or ".." in PurePosixPath(name).parts]
    if outside:
        raise DatasetError(f"{dataset}: {outside[0]} is no file below {folder}")
    present: set[str] = set()
    for part in sorted({str(PurePosixPath(name).parent) for name in names} | {"."}):
        if _exists(folder / part):
            start = "" if part == "." else f"{part}/"
            present |= {f"{start}{entry.name}" for entry in os.scandir(folder / part) if not entry.is_dir()}
    missing = [name for name in names if name not in present]
    if missing:
        raise DatasetError(
            f"{dataset}: {len(missing)} of {len(names)} files missing in {folder}: {summarise(missing, 3)}; "
            f"{len(present)} files found there: {summarise(sorted(present), 3) or 'none'}"
            f"{_hint_for_file(folder, missing[0], present)}"
        )
    return len(present) - len(set(names))


def _hint(root: Path, relative: str) -> str:
    if not root.is_dir():
        return ""
    spelled = _other_case(root, relative)
    if spelled is not None:
        return f"; {spelled} differs in letter case: rename it"
    inner = next((folder for folder in _folders(root) if (folder / relative).exists()), None)
    if inner is not None:
        return f"; the dataset lies in {inner}: set index.root to that"
    for outer in islice(root.resolve().parents, 2):
        if (outer / relative).exists():
            return f"; the dataset lies in {outer}: set index.root to that"
    packed = sorted(entry.name for entry in root.iterdir() if entry.suffix.lower() in ARCHIVES)
    return f"; unpack {summarise(packed, 3)}" if packed else ""


def _hint_for_file(folder: Path, name: str, present: Iterable[str]) -> str:
    folded = {other.casefold(): other for other in present}
    if name.casefold() in folded:
        return f"; {folded[name.casefold()]} differs in letter case: rename such files"
    inner = next((below for below in _folders(folder) if _exists(below / name)), None)
    return f"; {name} lies in {inner}: move the files of that folder up" if inner else ""


def _other_case(root: Path, relative: str) -> Path | None:
    """The path that differs from ``root``/``relative`` in letter case only."""
    found = root
    for part in Path(relative).parts:
        if not found.is_dir():
            return None
        matching = [entry for entry in found.iterdir() if entry.name.casefold() == part.casefold()]
        if not matching:
            return None
        found = next((entry for entry in matching if entry.name == part), matching[0])
    return found


def _folders(root: Path) -> Iterator[Path]:
    """Folders one and two levels below, the upper ones first."""
    upper = [entry for entry in sorted(root.iterdir()) if entry.is_dir()][:FOLDERS_LOOKED_AT]
    lower = (entry for folder in upper for entry in sorted(folder.iterdir()) if entry.is_dir())
    yield from (*upper, *islice(lower, FOLDERS_LOOKED_AT))


def _exists(path: Path) -> bool:
    """Something lies at a path that somebody else wrote: no file has a name of thousands of characters."""
    try:
        return path.exists()
    except OSError:
        return False
