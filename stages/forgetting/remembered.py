"""What beside the store and the index remembers an image, and how it is made to forget."""

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from cache.errors import DamagedError, NotCachedError
from cache.files import read_bytes, remove, sync, write_bytes
from cache.garbage import Garbage
from cache.garbage import remove as remove_arrays
from cache.sealed import LIST, read_table, table_in, write_table
from cache.system import files_below, naming
from stages.forgetting.chosen import Chosen
from stages.places import (
    ENCODED,
    EVALUATE,
    FIGURES,
    INPUTS,
    KNOWN_FILES,
    KNOWN_WEIGHTS,
    PROBE,
    REPORT,
    SWEEP,
    TRAIN,
    WORDS,
    calibration_file,
    similarity_file,
)
from stages.together import remake

RESULTS = Path("results")
LOG = "log.jsonl"
# What this program writes below data, but for the index, the store and galleries. Other data sets are not its own.
OWN = (ENCODED.parent, INPUTS, WORDS.parent, KNOWN_WEIGHTS)


@dataclass(frozen=True, slots=True)
class Memory:
    """A file or folder that remembers, why, and the act that makes it forget; None for what cannot."""

    path: Path
    why: str
    forget: Callable[[], None] | None


def memories(chosen: Chosen, head: Path, *, heads: bool) -> Iterator[Memory]:
    """Results that hold, show or learned from the images. ``heads``: delete what learned from them as well."""
    if "test" in chosen.splits:
        scored = [EVALUATE, *sorted(SWEEP.glob("heads/*/evaluate"))]
        for folder in scored:
            yield from _whole(folder, "scores, boxes and embeddings of all test scenes")
        tables = (SWEEP / name for name in ("effects.json", "table.csv", "table.parquet", LIST))
        for path in (*sorted(SWEEP.glob("heads/*/result.json")), *tables):
            yield from _whole(path, "scores over all test scenes")
        for path in _beside(head, similarity_file):
            yield from _whole(path, "drawn from the embeddings of all test scenes")
    for folder in (REPORT, FIGURES):
        yield from _whole(folder, "pictures")
    for path in _beside(head, calibration_file):
        yield from _whole(path, "measured on people of the dataset")
    if "train" in chosen.splits:
        yield from _whole(PROBE, "persons of training scenes as numbers")
        for folder in (TRAIN, *sorted(path.parent for path in SWEEP.glob("heads/*/head"))):
            yield from _whole(folder / "checkpoint", "a head's memory of whom it was shown")
            if (folder / "head").is_dir():
                yield _learned(folder / "head", heads=heads)
        if (head / "config.json").is_file() and head != TRAIN / "head":
            yield _learned(head, heads=heads)
    for log in sorted(RESULTS.rglob(LOG)):
        if _log_without(log, chosen.words) is not None:
            act = partial(_rewrite_log, log, chosen.words)
            yield Memory(log, "lines that name them", act)
    known = _known_without(chosen)
    if known is not None:
        yield Memory(KNOWN_FILES, "their size and digest", lambda: write_table(KNOWN_FILES, known))


def others(chosen: Chosen, known: Collection[Path]) -> Iterator[Memory]:
    """Whatever else this program wrote that names the images; ``known`` is left out."""
    traces = _traces(chosen.words)
    seen = [path.resolve() for path in known]
    for top in (*OWN, RESULTS):
        for path in files_below(top):
            if path.name == LOG or any(path.resolve().is_relative_to(each) for each in seen):
                continue
            if any(trace in _text(path) for trace in traces):
                yield Memory(path, "it names them", lambda path=path: delete(path))  # type: ignore[misc]


def fitted(root: Path, arrays: Sequence[str], *, heads: bool) -> Iterator[Memory]:
    """Arrays of the store at ``root`` under bases that may have been fitted on the images, with those bases."""
    for path in arrays:
        *_, step, name = path.split("/")
        bases = sorted((root / "bases").glob(f"*/{step}/{name}.npz"))

        def act(path: str = path, bases: Sequence[Path] = bases) -> None:
            remove_arrays(root, [Garbage(path, 0)])
            for basis in bases:
                remove(basis)

        yield Memory(
            root / "features.zarr" / path, "its principal channels were fitted on them", act if heads else None
        )


def _learned(head: Path, *, heads: bool) -> Memory:
    return Memory(head, "its weights learned from them", (lambda: delete(head)) if heads else None)


def _whole(path: Path, why: str) -> Iterator[Memory]:
    """All of a file or folder, but for its log."""
    if path.is_file() or any(each.name != LOG for each in files_below(path)):
        yield Memory(path, why, lambda: delete(path))


def delete(path: Path) -> None:
    """Remove a file or folder. Raises FileError."""
    with naming(path, "removed"):
        if path.is_dir():
            remove(path / LIST)  # the rest is not whole from now on
            for each in sorted(path.iterdir()):
                if each.is_dir():
                    shutil.rmtree(each)
                elif each.name != LOG:
                    each.unlink()
            sync(path)
            if not any(path.iterdir()):
                path.rmdir()
        else:
            remove(path)


def _text(path: Path) -> bytes:
    """Content of a file, with the texts of a table, which compression hides."""
    data = read_bytes(path)
    if path.suffix == ".parquet":
        try:
            table = table_in(data)
        except (pa.ArrowException, OSError):
            return data
        texts = [column for column in table.columns if not pa.types.is_primitive(column.type)]
        data += "\n".join(str(value) for column in texts for value in column.to_pylist()).encode()
    return data


def _log_without(log: Path, words: Collection[str]) -> bytes | None:
    """The log without lines that hold one of ``words``; None where none does."""
    traces = _traces(words)
    lines = read_bytes(log).splitlines(keepends=True)
    kept = [line for line in lines if not any(trace in line for trace in traces)]
    return b"".join(kept) if len(kept) < len(lines) else None


def _traces(words: Collection[str]) -> list[bytes]:
    """Words as files have them: plain, and as JSON writes them."""
    return [each.encode() for word in words if word for each in (word, json.dumps(word)[1:-1])]


def _beside(head: Path, file: Callable[[Path], Path]) -> list[Path]:
    """Files of this kind of the head that is scored, and of those that were trained here."""
    heads = {head, TRAIN / "head", *SWEEP.glob("heads/*/head")}
    return sorted({file(each) for each in heads})


def _rewrite_log(log: Path, words: Collection[str]) -> None:
    found = _log_without(log, words)
    if found is not None:
        write_bytes(log, found)


def _known_without(chosen: Chosen) -> pa.Table | None:
    """data/known-files.parquet without the images, by content and by name; None where it has none of them."""
    try:
        table = read_table(KNOWN_FILES, remake("index"))
    except (NotCachedError, DamagedError):
        return None
    kept = [
        row["digest"] not in chosen.digests and not any(row["path"].endswith(f"/{name}") for name in chosen.names)
        for row in table.select(["path", "digest"]).to_pylist()
    ]
    return None if all(kept) else table.filter(pa.array(kept))
