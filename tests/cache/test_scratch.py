"""A thread's memory is its own, grows, and is used again."""

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.scratch import LARGE_PAGE, Scratch, in_large_pages


def address(array: NDArray[Any]) -> int:
    return array.ctypes.data


def test_memory_is_used_again_until_more_is_asked_for() -> None:
    scratch = Scratch()
    first = scratch.array("a", 24, np.float32, (2, 3))
    assert first.shape == (2, 3)
    assert first.dtype == np.float32
    first[:] = 7
    again = scratch.array("a", 24, np.int8, (24,))
    assert address(again) == address(first)
    assert address(scratch.array("a", 8, "float16", (4,))) == address(first)
    assert again.view(np.float32).tolist() == [7] * 6
    assert not np.shares_memory(scratch.array("b", 24, np.int8, (24,)), first)
    larger = scratch.array("a", 25, np.int8, (25,))
    assert not np.shares_memory(larger, first)
    assert np.shares_memory(scratch.array("a", 24, np.int8, (24,)), larger)


def test_threads_have_memory_of_their_own() -> None:
    scratch, found = Scratch(), list[NDArray[Any]]()
    mine = scratch.array("a", 24, np.int8, (24,)), scratch.aligned(24)

    def theirs() -> None:
        found.extend((scratch.array("a", 24, np.int8, (24,)), scratch.aligned(24)))

    thread = threading.Thread(target=theirs)
    thread.start()
    thread.join()
    assert not np.shares_memory(mine[0], found[0])
    assert not np.shares_memory(mine[1], found[1])


def test_large_pages_are_whole_and_used_again() -> None:
    for nbytes, pages in ((1, 1), (LARGE_PAGE, 1), (LARGE_PAGE + 1, 2)):
        memory = in_large_pages(nbytes)
        assert len(memory) == pages * LARGE_PAGE
        assert address(memory) % LARGE_PAGE == 0
        memory[[0, -1]] = 1
    scratch = Scratch()
    first = scratch.aligned(LARGE_PAGE)
    assert scratch.aligned(1) is scratch.aligned(LARGE_PAGE) is first
    assert scratch.aligned(LARGE_PAGE + 1) is not first
    assert LARGE_PAGE == 2**21
