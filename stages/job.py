"""What a stage is handed by whoever runs it: how to run (:class:`Runtime`), how to report, when to stop."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from diffps.errors import ConfigError

log = logging.getLogger("diffps")

TrackerName = Literal["", "tensorboard", "dvclive"]

# Field, least, most: what machines have, with room above.
_RANGES = (
    ("threads", 0, 4096),
    ("batch", 0, 65536),
    ("vae_batch", 0, 65536),
    ("readers", 1, 256),
    ("shard", 1, 65536),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Section ``runtime`` of params.yaml: how to run, never what comes out. DVC does not track it."""

    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""

    threads: int = 0
    """CPU threads; 0: as many as there are cores."""

    batch: int = 0
    """Images the UNet takes at once; 0: as many as the device takes well. Halved where they do not fit."""

    vae_batch: int = 0
    """The same of the VAE."""

    readers: int | Literal["auto"] = "auto"
    """Threads that read the store ahead of training; auto: 8 where it is larger than memory, else one for each
    processor, 2 to 8."""

    scheduler: str = ""
    """Empty: this process. local:N: N worker processes here, which nobody else can reach. Else a dask
    scheduler's address, or its scheduler file (.json)."""

    store: str = "data/features"
    """The store's folder."""

    tracker: TrackerName = ""
    """Who is shown losses while heads are trained, beside losses.csv: tensorboard or dvclive, each through its own
    library (`pip install 'diffps[trackers]'`), into a folder of that name beside the head."""

    shard: int = 16
    """Images a shard; a store keeps the number it was made with."""

    skip_unreadable: bool = False
    """Go on without images that cannot be decoded."""

    takeover: bool = False
    """Go past the lock of another machine that has fallen silent."""

    keep_removed: bool = False
    """`diffps cache gc` keeps images that the index has no longer; else it forgets them."""

    compile: bool = False
    """The UNet by torch.compile."""

    @property
    def reading_threads(self) -> int | None:
        """``readers`` as the ring takes them: None to choose itself."""
        return None if self.readers == "auto" else self.readers

    def __post_init__(self) -> None:
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if value != "auto" and not least <= value <= most:
                raise ConfigError(f"runtime.{name} {value}: must be {least} to {most}")
        if not self.store.strip():
            raise ConfigError("runtime.store: names no folder; the default is data/features")


class Tracker(Protocol):
    """Progress of one piece of long work."""

    def advance(self, done: int = 1, nbytes: int = 0, note: str = "") -> None:
        """``done`` more units are finished, and ``nbytes`` more bytes written or read; ``note`` is how it stands."""


class Job(Protocol):
    """The shell around a stage. ``stopping`` becomes true after the first SIGINT or SIGTERM."""

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

    stopping: bool = False

    def say(self, message: str, **fields: object) -> None:
        log.info(message)

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Tracker]:
        yield _NoTracker()


class _NoTracker:
    def advance(self, done: int = 1, nbytes: int = 0, note: str = "") -> None:
        pass
