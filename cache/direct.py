"""Reading past the page cache, for a store that memory does not hold.

Through the page cache every byte is copied and every page of it found room for, to be thrown out before it is read
again: most of the processor time that reading takes. Direct reads go from the disk into the caller's memory, in large
pages: a request takes a limited number of pages, and a disk gives more the fewer requests it gets.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from cache.errors import DamagedError
from cache.shards import REPAIR
from cache.system import refusal

ALIGNED = 4096  # offsets, lengths and addresses of direct reads are multiples of the disk's blocks, which divide this
LARGER = 7  # times the pieces read through the page cache: 7 MB and the blocks at its ends are two requests of 4 MB
TRIED = 6  # batches each way is timed over
CLEARLY = 0.75  # of the time past the cache: a disk that others share varies by less
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class NotDirectError(Exception):
    """A disk takes no direct reads of this alignment; its files are read through the page cache."""


class Bypass:
    """The way past the page cache, taken for a store that memory does not hold (``larger``) while ``on``.

    Past it costs half of the processor time, but a disk may give less: virtual ones do. The first batches of a stream
    are read past it, the next through it; from then on it goes past it, unless the other took less than
    :data:`CLEARLY` of its time. To a consumer that is slower than the disk both are alike.
    """

    def __init__(self, larger: bool) -> None:
        self.larger = self.on = larger
        self._settled = not larger
        self._seconds: list[float] = []

    def batch_came(self, seconds: float, ahead: int) -> None:
        """``seconds`` after the one before; ``ahead`` batches were asked for before the way could change."""
        if self._settled:
            return
        self._seconds.append(seconds)
        turn = ahead + TRIED
        if len(self._seconds) == turn:
            self.on = False
        elif len(self._seconds) == 2 * turn:
            past, through = median(self._seconds[ahead:turn]), median(self._seconds[turn + ahead :])
            self.on, self._settled = through >= CLEARLY * past, True

    def give_up(self) -> None:
        """The disk takes no direct reads."""
        self.on, self._settled = False, True


def page_cache_room() -> int:
    """Bytes that the page cache could hold: the memory that is available here, within a container's limit."""
    room = 1 << 62
    with contextlib.suppress(OSError, ValueError, IndexError):
        (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
        room = int(line.split()[1]) * 1024
    for limit in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            room = min(room, int(Path(limit).read_text()))
    return room


def go_direct(descriptor: int) -> bool:
    """Have what is read from a file skip the page cache; false where its file system cannot."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_DIRECT)
    except (OSError, AttributeError):  # macOS has no such flag
        return False
    return True


def go_through_cache(descriptor: int) -> None:
    """Undo :func:`go_direct`."""
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT)


def direct_pieces(
    descriptor: int, offset: int, nbytes: int, piece: int, buffer: NDArray[np.uint8], path: Path
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(start, bytes) of ``nbytes`` from ``offset`` on, ``piece`` bytes each but the last, in ``buffer``.

    A piece is there until the next one is. Raises DamagedError at the file's end, NotDirectError where the disk
    refuses the first of them for its alignment.
    """
    view = buffer.data
    for start in range(0, nbytes, piece):
        length = min(piece, nbytes - start)
        first = (offset + start) // ALIGNED * ALIGNED
        skipped = offset + start - first
        wanted = -(-(skipped + length) // ALIGNED) * ALIGNED
        got = 0
        while got < skipped + length:
            try:
                more = os.preadv(descriptor, [view[got:wanted]], first + got)
            except OSError as error:
                if error.errno == errno.EINVAL and start == got == 0:
                    raise NotDirectError from error
                raise refusal(error, path, "read") from error
            got += more
            if more <= 0 or (got % ALIGNED and got < skipped + length):
                raise DamagedError(f"{path}: ends before byte {offset + start + length}; {REPAIR}")
        yield start, buffer[skipped : skipped + length]
