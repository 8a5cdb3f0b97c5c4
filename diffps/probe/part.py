"""What probing a stretch of scenes leaves behind. Parts add up: in one order to the same bits, in any to rounding.

Everything is an array with a name, so that a part can be written, read and added without knowing what is in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """``sums`` of a stretch of scenes are added to those of another; its ``rows`` are put below its rows."""

    sums: Arrays = field(default_factory=dict)
    rows: Arrays = field(default_factory=dict)


def together(parts: Sequence[Part]) -> Part:
    """All of ``parts``, in their order."""
    names = list(dict.fromkeys(name for part in parts for name in part.rows))
    rows = {name: np.concatenate([part.rows[name] for part in parts if name in part.rows]) for name in names}
    sums: Arrays = {}
    for part in parts:
        for name, array in part.sums.items():
            sums[name] = sums[name] + array if name in sums else array
    return Part(sums, rows)
