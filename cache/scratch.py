"""Memory that a thread uses again for each chunk."""

import contextlib
import mmap
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGE_PAGE = 2 << 20  # bytes; of x86-64, and of ARM with pages of 4 kB


class Scratch:
    """Buffers of the calling thread, grown to the largest that was asked for; what was in them may be overwritten."""

    def __init__(self) -> None:
        self._local = threading.local()

    def array(self, key: str, nbytes: int, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """``nbytes`` as an array."""
        buffer = getattr(self._local, key, None)
        if buffer is None or buffer.nbytes < nbytes:
            buffer = np.empty(nbytes, np.uint8)
            setattr(self._local, key, buffer)
        view: NDArray[Any] = buffer[:nbytes].view(dtype).reshape(shape)
        return view

    def aligned(self, nbytes: int) -> NDArray[np.uint8]:
        """At least ``nbytes`` from the beginning of a large page on, in large pages where the system has them."""
        buffer: NDArray[np.uint8] | None = getattr(self._local, "aligned", None)
        if buffer is None or len(buffer) < nbytes:
            buffer = self._local.aligned = in_large_pages(nbytes)
        return buffer


def in_large_pages(nbytes: int) -> NDArray[np.uint8]:
    """New memory that a disk can fill with few requests: one takes a limited number of pages, whatever their size."""
    whole = -(-nbytes // LARGE_PAGE) * LARGE_PAGE
    # Private: memory that processes could share has small pages unless the system was told otherwise.
    memory = mmap.mmap(-1, whole + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    buffer = np.frombuffer(memory, np.uint8)
    first = -buffer.ctypes.data % LARGE_PAGE
    return buffer[first : first + whole]
