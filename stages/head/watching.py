"""What can be seen of a head while it is trained: its losses as a growing CSV file, and in a tracker's own files."""

import csv
import io
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cache.files import write_text
from diffps.errors import ConfigError
from diffps.training import StepResult
from stages.job import TrackerName

Watch = Callable[[str, StepResult], None]  # is shown every step of every head by its name

CURVE_ROWS = 1000  # a longer training is averaged down to this many rows of losses.csv


class LossFile:
    """losses.csv: a row a step, or the means of as many of the ``total`` steps as keep it at :data:`CURVE_ROWS` rows.

    It grows by whole lines. Stopped, killed and continued it ends as the file of an uninterrupted training.
    """

    def __init__(self, path: Path, total: int) -> None:
        self._path, self._window = path, -(-total // CURVE_ROWS)
        self._part: list[StepResult] = []

    def begin(self, history: Sequence[StepResult]) -> None:
        """Write what is known so far, and nothing that a later checkpoint would have known."""
        whole = len(history) - len(history) % self._window
        parts = [history[start : start + self._window] for start in range(0, whole, self._window)]
        self._part = list(history[whole:])
        if parts:
            write_text(self._path, _lines([_header(history[0]), *map(_row, parts)]))
        else:
            self._path.unlink(missing_ok=True)

    def add(self, result: StepResult) -> None:
        """One more step; a line is written in one piece."""
        self._part.append(result)
        if len(self._part) == self._window:
            self._write(self._part)

    def end(self, history: Sequence[StepResult]) -> None:
        """Write the whole file, its last row of what steps are left."""
        parts = [history[start : start + self._window] for start in range(0, len(history), self._window)]
        write_text(self._path, _lines([_header(history[0]), *map(_row, parts)]))

    def _write(self, part: list[StepResult]) -> None:
        first = [] if self._path.exists() else [_header(part[0])]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, _lines([*first, _row(part)]).encode())
        finally:
            os.close(descriptor)
        self._part = []


def _header(result: StepResult) -> list[str]:
    return ["step", "epoch", "lr", "total", *result.losses, "grad_norm"]


def _row(part: Sequence[StepResult]) -> list[Any]:
    columns = zip(*([result.total, *result.losses.values()] for result in part), strict=True)
    norms = [result.grad_norm for result in part if result.grad_norm is not None]
    means = [statistics.fmean(column) for column in columns] + ([statistics.fmean(norms)] if norms else [])
    return [part[-1].position, part[-1].epoch, *(f"{x:.6g}" for x in (part[-1].lr, *means))]


def _lines(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def unwatched(name: str, result: StepResult) -> None:
    """Losses go into losses.csv and the progress bar alone."""


@contextmanager
def tracked(tracker: TrackerName, folders: Mapping[str, Path]) -> Iterator[Watch]:
    """Shows the steps of heads to ``runtime.tracker``, each in a folder of that name in the head's of ``folders``.

    Raises ConfigError where the tracker's library is not installed.
    """
    if not tracker:
        yield unwatched
        return
    opened: dict[str, Callable[[StepResult], None]] = {}
    with ExitStack() as stack:
        start = _tensorboard(stack) if tracker == "tensorboard" else _dvclive(stack)

        def watch(name: str, result: StepResult) -> None:
            if name not in opened:
                opened[name] = start(folders[name] / tracker, result.position)
            opened[name](result)

        yield watch


Start = Callable[[Path, int], Callable[[StepResult], None]]


def _tensorboard(stack: ExitStack) -> Start:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise _not_installed("tensorboard", error) from error

    def start(folder: Path, step: int) -> Callable[[StepResult], None]:
        # What was written past the checkpoint that training goes on from is withdrawn.
        writer = SummaryWriter(folder, purge_step=step)  # type: ignore[no-untyped-call]
        stack.callback(writer.close)

        def watch(result: StepResult) -> None:
            for name, value in _scalars(result).items():
                writer.add_scalar(name, value, result.position)  # type: ignore[no-untyped-call]

        return watch

    return start


def _dvclive(stack: ExitStack) -> Start:
    try:
        from dvclive.live import Live
    except ImportError as error:
        raise _not_installed("dvclive", error) from error

    def start(folder: Path, step: int) -> Callable[[StepResult], None]:
        live = stack.enter_context(Live(str(folder), resume=step > 0, save_dvc_exp=False, dvcyaml=None))

        def watch(result: StepResult) -> None:
            live.step = result.position
            for name, value in _scalars(result).items():
                live.log_metric(name, value)
            live.make_summary()

        return watch

    return start


def _scalars(result: StepResult) -> dict[str, float]:
    found = {"loss/total": result.total, "lr": result.lr}
    return found | {f"loss/{name}": value for name, value in result.losses.items()}


def _not_installed(tracker: str, error: ImportError) -> ConfigError:
    return ConfigError(f"runtime.tracker {tracker}: {error}; `pip install 'diffps[trackers]'`, or leave the key empty")
