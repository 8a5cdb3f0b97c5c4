"""What a stage is handed by whoever runs it: where to compute, how to report, when to stop."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

log = logging.getLogger("diffps")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeConfig:
    """Section ``runtime`` of params.yaml: how to run, never what comes out. DVC does not track it.

    ``batch`` 0 means: as many as the device takes well, halved where they do not fit; ``vae_batch`` is that of the VAE.
    ``threads`` 0 means: as many as there are cores. ``readers``: threads that read the store ahead of training.
    ``scheduler`` is empty (this process), ``local:N`` (N worker processes) or a dask scheduler's address.
    ``store``: its folder; ``shard``: images a file. ``skip_unreadable`` goes on without images that cannot be decoded,
    ``takeover`` past the lock of another machine that has fallen silent. ``compile``: the UNet by torch.compile.
    """

    device: str = "auto"
    threads: int = 0
    batch: int = 0
    vae_batch: int = 0
    readers: int = 2
    scheduler: str = ""
    store: str = "data/features"
    shard: int = 16
    skip_unreadable: bool = False
    takeover: bool = False
    compile: bool = False


class Tracker(Protocol):
    """Progress of one piece of long work."""

    def advance(self, done: int = 1, nbytes: int = 0) -> None:
        """``done`` more units are finished, and ``nbytes`` more bytes written or read."""


class Job(Protocol):
    """The shell around a stage. ``stopping`` becomes true after the first SIGINT or SIGTERM."""

    runtime: RuntimeConfig

    @property
    def stopping(self) -> bool: ...

    def say(self, message: str, **fields: object) -> None:
        """One line for people, the same with its fields in the JSON-lines log."""

    def track(self, label: str, total: int, unit: str) -> AbstractContextManager[Tracker]:
        """A progress bar in a terminal, a line every 30 s elsewhere."""


class StoppedError(Exception):
    """The stage stopped on request after finishing what must not be torn; the same command continues it."""


@dataclass
class QuietJob:
    """A job without a shell, for tests and for use as a library."""

    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    stopping: bool = False

    def say(self, message: str, **fields: object) -> None:
        log.info(message)

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Tracker]:
        yield _NoTracker()


class _NoTracker:
    def advance(self, done: int = 1, nbytes: int = 0) -> None:
        pass
