"""Batches of one size, worked ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")


def ahead(function: Callable[[T], R], items: Iterable[T], *, threads: int, depth: int) -> Iterator[R]:
    """``map`` that works up to ``depth`` items ahead in ``threads`` threads, in order."""
    with ThreadPoolExecutor(threads) as pool:
        remaining = iter(items)
        waiting = deque(pool.submit(function, item) for item in islice(remaining, depth))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last one shorter."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


def padded(tensors: Sequence[Tensor], size: int) -> Tensor | None:
    """``tensors`` stacked to a batch of exactly ``size``, zeros behind them; None when there are none.

    One batch size means one choice of kernels: an image's bits then do not depend on how full its batch is.
    """
    if not tensors:
        return None
    batch = tensors[0].new_zeros((size, *tensors[0].shape))
    torch.stack(list(tensors), out=batch[: len(tensors)])
    return batch
