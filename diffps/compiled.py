"""Numba behind one typed decorator, so that compiled functions keep their signatures."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")

prange = numba.prange


def compiled(*, parallel: bool = False, reassociate: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile to machine code, kept on disk between runs.

    ``reassociate`` lets a sum be vectorised; only for sums that are exact in every order.
    """
    fast = {"reassoc", "contract"} if reassociate else False

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        result: Callable[P, R] = numba.njit(cache=True, nogil=True, parallel=parallel, fastmath=fast)(function)
        return result

    return decorate
