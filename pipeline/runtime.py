"""The shell around a stage: progress, a log beside the results, and stopping on request."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from stages.job import Tracker
from stages.text import duration, size

LINE_SECONDS = 30.0


class Shell:
    """The job a stage gets from the command line (see :class:`stages.job.Job`).

    In a terminal long work shows a bar; elsewhere one line every ``line_seconds``. Everything said and the end of every
    piece of work also goes to ``log``, one JSON object a line; nowhere where it is None.
    """

    def __init__(self, log: Path | None, out: TextIO | None = None, line_seconds: float = LINE_SECONDS) -> None:
        self.signal: int | None = None
        self._out = sys.stderr if out is None else out
        self._line_seconds = line_seconds
        self._log_path = log
        self._bars: Any = None  # rich.progress.Progress while something is tracked in a terminal
        self._depth = 0

    @property
    def stopping(self) -> bool:
        """Whether someone asked to stop: finish what must not be torn, then raise StoppedError."""
        return self.signal is not None

    def say(self, message: str, **fields: object) -> None:
        """One line for people; the same with its fields in the log."""
        self._print(message)
        self.record("message", message=message, **fields)

    def record(self, event: str, **fields: object) -> None:
        """One line in the log only."""
        if self._log_path is None:
            return
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), "event": event, **fields}, default=str) + "\n")

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Tracker]:
        """Progress of ``total`` units of work; nested calls show below one another."""
        work = _Work(label, total, unit)
        self.record("start", label=label, total=total, unit=unit)
        show = self._bar(work) if self._out.isatty() else self._lines(work)
        try:
            with show:
                yield work
        finally:
            self.record(
                "end", label=label, done=work.done, total=total, unit=unit, bytes=work.nbytes, seconds=work.seconds()
            )

    @contextmanager
    def signals(self) -> Iterator[None]:
        """While this is open the first SIGINT or SIGTERM asks the stage to stop; the second ends the process."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self.signal is not None:
                os._exit(128 + number)
            self.signal = number
            # The terminal's ^C stands on the line of the bar.
            self._out.write("\nstopping after the work at hand; once more to stop now\n")
            self._out.flush()

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _print(self, line: str) -> None:
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            self._out.write(line + "\n")
            self._out.flush()

    @contextmanager
    def _bar(self, work: "_Work") -> Iterator[None]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=Console(file=self._out),
            )
            self._bars.start()
        self._depth += 1
        task = self._bars.add_task(work.label, total=work.total, text="")
        work.changed = lambda: self._bars.update(task, completed=work.done, text=work.text())
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._bars.stop()
                self._bars = None

    @contextmanager
    def _lines(self, work: "_Work") -> Iterator[None]:
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(self._line_seconds):
                self._print(work.line())

        thread = threading.Thread(target=report, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._print(work.line())


class _Work:
    """One piece of tracked work: what is done, how fast, what is left."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.nbytes = 0
        self.note = ""
        self.started = time.monotonic()
        self.changed = _nothing

    def advance(self, done: int = 1, nbytes: int = 0, note: str = "") -> None:
        self.done += done
        self.nbytes += nbytes
        self.note = note or self.note
        self.changed()

    def seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)

    def line(self) -> str:
        return f"{self.label}: {self.text()}"

    def text(self) -> str:
        seconds = self.seconds()
        parts = [f"{self.done}/{self.total} {self.unit}"]
        if self.done and seconds > 0:
            rate = self.done / seconds
            parts.append(f"{rate:.3g}/s")
            if self.done < self.total:
                parts.append(f"{duration((self.total - self.done) / rate)} left")
        if self.nbytes:
            parts.append(size(self.nbytes))
        if self.note:
            parts.append(self.note)
        if self.done >= self.total:
            parts.append(f"in {duration(seconds)}")
        return ", ".join(parts)


def _nothing() -> None:
    pass
