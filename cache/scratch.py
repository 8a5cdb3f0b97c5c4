"""Memory that a thread uses again for each chunk."""

import contextlib
import mmap
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
        """At least ``nbytes`` from the beginning of a page on, on large pages where the system has them."""
        buffer: NDArray[np.uint8] | None = getattr(self._local, "aligned", None)
        if buffer is None or len(buffer) < nbytes:
            memory = mmap.mmap(-1, nbytes)
            with contextlib.suppress(OSError, AttributeError):
                memory.madvise(mmap.MADV_HUGEPAGE)
            buffer = self._local.aligned = np.frombuffer(memory, np.uint8)
        return buffer
