"""Files that one run of a stage left: they belong together, and to what they were made from.

A folder says so in ``digests.json``. What has none, as folders of older versions and those made by hand, is read as it
is; `diffps verify` tells which those are.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import DamagedError
from cache.files import parse_json, read_bytes
from cache.sealed import LIST, Together, seal_folder, table_in
from stages.places import INDEX

if TYPE_CHECKING:
    import pyarrow as pa

WEIGHTS = ("config.json", "model.safetensors")  # what a head computes with; its card may be written on


def remake(stage: str) -> str:
    """How messages name the command that makes a result anew."""
    return f"`diffps {stage}`"


def begin(folder: Path) -> None:
    """Say that nothing in ``folder`` is whole from now on, until :func:`finish`."""
    seal_folder(folder, ())


def finish(folder: Path, names: Sequence[str], made_from: Mapping[str, str]) -> None:
    """Say that files of ``folder`` are one result, ``made_from`` (name -> digest)."""
    seal_folder(folder, sorted(names), made_from)


def add(folder: Path, names: Sequence[str], stage: str) -> None:
    """Say that files of ``folder`` are whole, beside those that were before; what is gone is not listed."""
    found = together(folder, stage)
    before = {} if found is None else {name: digest for name, digest in found.files.items() if (folder / name).exists()}
    seal_folder(folder, sorted(names), {}, before)


def together(folder: Path, stage: str) -> Together | None:
    """What ``folder`` says of its files; None where it says nothing. Raises DamagedError."""
    return Together.of(folder, remake(stage)) if (folder / LIST).exists() else None


def content(path: Path, stage: str) -> io.BytesIO:
    """Content of a file of a result. Raises DamagedError where it is of another run than those it lies with, or where
    that run did not end."""
    found = together(path.parent, stage)
    return io.BytesIO(read_bytes(path) if found is None else found.read(path.name))


def json_content(path: Path, stage: str) -> dict[str, Any]:
    """The same of a JSON object. Raises DamagedError for anything else."""
    found = parse_json(content(path, stage).getvalue(), path)
    if not isinstance(found, dict):
        raise DamagedError(f"{path}: holds no object; {remake(stage)} makes it anew")
    return found


def table_content(path: Path, stage: str, columns: list[str] | None = None) -> "pa.Table":
    """The same of a Parquet table, or some of its columns."""
    import pyarrow as pa

    try:
        return table_in(content(path, stage).getvalue(), columns)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, DamagedError):
            raise
        reason = str(error).splitlines()[0]
        raise DamagedError(f"{path}: is no table ({reason}); {remake(stage)} makes it anew") from error


def index_folder() -> Path:
    """The index. Raises DamagedError naming a file that is not what `diffps index` wrote."""
    found = together(INDEX, "index")
    if found is not None:
        found.check()
    return INDEX


def sealed_head(folder: Path, stage: str = "train") -> str:
    """Digest of what a head computes with; empty where its folder is not sealed. Raises DamagedError where a file of
    it is not what was saved."""
    found = together(folder, stage)
    if found is None:
        return ""
    found.check()
    return "".join(found.files.get(name, "")[:32] for name in WEIGHTS)


def require_same(found: Together, name: str, now: str, where: Path) -> None:
    """Raise DamagedError where ``found`` was made from another ``name`` than the one at ``where``, whose digest is
    ``now``; what either says nothing of is not compared."""
    then = found.made_from.get(name, "")
    if then and now and then != now:
        raise DamagedError(
            f"{found.folder}: was made from {name} {then[:10]}, but {where} is {name} {now[:10]}: they are of two "
            f"runs; {found.remake} makes it anew"
        )
