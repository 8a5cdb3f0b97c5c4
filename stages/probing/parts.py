"""Parts of a probe on disk: written whole, so that a probe that was killed goes on where it stopped.

``t<timestep>/<phase>-<n>.npz`` holds the rows of a stretch. Its sums lie beside it until they are added to
``sums.npz``, always in the order of the stretches: whoever computed them, and however often they were interrupted, the
bits are the same.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.sealed import read_arrays, write_arrays
from diffps.probe.part import Arrays, Part, together
from stages.probing.setting import Phase, Stretch

FOLDED = "folded"  # how many stretches are in sums.npz


class ProbeState:
    """The parts of one timestep in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, stretch: Stretch) -> bool:
        """True where the stretch is probed."""
        return self._rows_file(stretch.phase, stretch.number).is_file()

    def keep(self, stretch: Stretch, part: Part) -> None:
        """Write a stretch's part; its rows last, whose presence says that it is whole."""
        if part.sums:
            write_arrays(self._sums_file(stretch.number), part.sums)
        write_arrays(self._rows_file(stretch.phase, stretch.number), part.rows)

    def fold(self) -> None:
        """Add the sums that lie beside their rows to those before them, as far as none is missing."""
        total = self._total()
        count = folded = int(total.pop(FOLDED, np.array(0)))
        while self._rows_file("fit", count).is_file() and self._sums_file(count).is_file():
            total = together([Part(sums=total), Part(sums=dict(_read(self._sums_file(count))))]).sums
            count += 1
        if count > folded:
            write_arrays(self.folder / "sums.npz", {**total, FOLDED: np.array(count)})
        for number in range(count):
            self._sums_file(number).unlink(missing_ok=True)

    def sums(self) -> Arrays:
        """The normal equations of all stretches folded."""
        total = self._total()
        total.pop(FOLDED, None)
        return total

    def rows(self) -> "StoredRows":
        """The rows of every stretch, those of the fit first, read when they are asked for."""
        files = sorted(self.folder.glob("fit-*.npz")) + sorted(self.folder.glob("score-*.npz"))
        return StoredRows(files)

    def _total(self) -> Arrays:
        path = self.folder / "sums.npz"
        return dict(_read(path)) if path.is_file() else {}

    def _rows_file(self, phase: Phase, number: int) -> Path:
        return self.folder / f"{phase}-{number:05}.npz"

    def _sums_file(self, number: int) -> Path:
        return self.folder / f"sums-{number:05}.npz"


class StoredRows(Mapping[str, NDArray[Any]]):
    """Rows by name, put together from the files that have them."""

    def __init__(self, files: list[Path]) -> None:
        self._files = [_read(path) for path in files]

    def __getitem__(self, name: str) -> NDArray[Any]:
        found = [file[name] for file in self._files if name in file]
        if not found:
            raise KeyError(name)
        return np.concatenate(found)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for file in self._files for name in file))

    def __len__(self) -> int:
        return len(list(iter(self)))


def remake(folder: Path) -> str:
    """How messages name the way to new parts of the timestep in ``folder``."""
    return f"delete {folder}, `diffps probe`"


def _read(path: Path) -> Mapping[str, NDArray[Any]]:
    return read_arrays(path, remake(path.parent))
