"""CRC-32C of memory, without holding the interpreter lock.

google_crc32c's own functions keep the lock, so two reading threads would take turns. The library it ships is called
directly where it can be found.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

CHECKSUM_BYTES = 4


def _bind() -> Callable[[int, int, int], int]:
    try:
        from google_crc32c import _crc32c

        function: Any = ctypes.CDLL(_crc32c.__file__).crc32c_extend
    except (ImportError, AttributeError, OSError):
        return _extend_slowly
    function.argtypes = (ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t)
    function.restype = ctypes.c_uint32
    bound: Callable[[int, int, int], int] = function
    return bound


def _extend_slowly(checksum: int, address: int, nbytes: int) -> int:
    return int(google_crc32c.extend(checksum, ctypes.string_at(address, nbytes)))


CHECKSUM_BYTES = 4
extend = _bind()  # (checksum so far, address, bytes) -> checksum


def crc32c(data: NDArray[Any] | bytes) -> int:
    """Checksum of the bytes of a contiguous array, or of a bytes object."""
    array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    assert array.flags.c_contiguous
    return extend(0, array.ctypes.data, array.nbytes)
