"""Image files that were measured before: unchanged ones are not read again, as a correction of boxes needs none."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cache.errors import DamagedError, NotCachedError
from cache.sealed import read_table, write_table
from diffps.datasets.files import ImageFacts, measure_images
from diffps.images import decoder

HASHING_THREADS = 8  # reading waits for the disk, so more threads than cores pay
Stamp = tuple[str, int, int, int]  # absolute path, bytes, nanoseconds of the last change, inode


class KnownFiles:
    """What ``file`` holds of measured images, each for the file as it was: its size, time of change and inode.

    A file that cannot be read, or was written with other software, counts as empty: it only saves time.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._facts: dict[Stamp, ImageFacts] = {}
        self._now: dict[Stamp, ImageFacts] = {}
        try:
            table = read_table(file, "`diffps index`")
        except (NotCachedError, DamagedError):
            return
        if (table.schema.metadata or {}).get(b"decoder") == decoder().encode():
            for row in table.to_pylist():
                stamp = row["path"], row["bytes"], row["changed"], row["inode"]
                notes = tuple(row["notes"])
                self._facts[stamp] = ImageFacts(row["width"], row["height"], row["digest"], notes)

    def measure(
        self, paths: Sequence[Path], progress: Callable[[int], None], *, keep_unreadable: bool, max_pixels: int
    ) -> list[ImageFacts]:
        """:func:`diffps.datasets.files.measure_images`, which is asked for the new and changed ones alone."""
        stamps = [_stamp(path) for path in paths]
        new = [path for path, stamp in zip(paths, stamps, strict=True) if stamp is None or stamp not in self._facts]
        measured = dict(
            zip(
                new,
                measure_images(new, HASHING_THREADS, progress, keep_unreadable=keep_unreadable, max_pixels=max_pixels),
                strict=True,
            )
        )
        facts = []
        for path, stamp in zip(paths, stamps, strict=True):
            if path in measured:
                fact = measured[path]
            else:
                assert stamp is not None
                fact = self._facts[stamp]
                progress(stamp[1])
            # An unreadable file is looked at again each time: what stood in the way may be gone.
            if stamp is not None and any(fact[:2]):
                self._now[stamp] = fact
            facts.append(fact)
        return facts

    def keep(self) -> None:
        """Write down what was measured or met since, for the next time."""
        columns: dict[str, list[Any]] = {name: [] for name in ("path", "bytes", "changed", "inode")}
        columns |= {name: [] for name in ("width", "height", "digest", "notes")}
        for stamp, fact in self._now.items():
            values = (*stamp, fact.width, fact.height, fact.digest, list(fact.notes))
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
        schema = pa.schema(
            [
                ("path", pa.string()),
                *((name, pa.int64()) for name in ("bytes", "changed", "inode", "width", "height")),
                ("digest", pa.string()),
                ("notes", pa.list_(pa.string())),
            ],
            metadata={"decoder": decoder()},
        )
        table = pa.table(columns).select(schema.names).cast(schema).replace_schema_metadata(schema.metadata)
        write_table(self._file, table)


def _stamp(path: Path) -> Stamp | None:
    """None where the file cannot be looked at, or its name is no text; measuring it says what is wrong."""
    try:
        found = path.stat()
        str(path).encode()
    except (OSError, UnicodeEncodeError):
        return None
    return str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ino
