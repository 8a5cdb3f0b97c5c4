"""What is not finite in an array, in words."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


def not_finite(x: NDArray[Any], limit: float | None = None) -> str:
    """What is wrong with an array that has something not finite, or beyond ``limit``, in it."""
    kind: Literal["NaN", "infinity", "overflow"]
    if np.isnan(x).any():
        kind, bad = "NaN", np.isnan(x)
    elif np.isinf(x).any():
        kind, bad = "infinity", np.isinf(x)
    else:
        kind, bad = "overflow", np.abs(x) >= (limit or 0.0)
        if not bad.any():
            bad = np.abs(x) == np.abs(x).max()
    where = tuple(int(i) for i in np.argwhere(bad)[0][1:])
    return f"{kind} at {where}, {int(bad.sum())} of {bad.size} values" + (
        f" (largest magnitude {np.abs(x).max():.4g}, limit {limit:.4g})" if kind == "overflow" and limit else ""
    )
