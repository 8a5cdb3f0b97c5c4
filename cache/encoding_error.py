"""What an encoding costs in accuracy, measured on features."""

from dataclasses import dataclass

import numpy as np

from cache.encodings import Encoding, Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorStatement:
    """What an encoding loses: L2 over all, and at each location over its channels; fractions, cosine in [-1, 1]."""

    relative_l2: float
    location_median: float
    location_p99: float
    cosine_p1: float


def state_error(x: Floats, encoding: Encoding) -> ErrorStatement:
    """Loss of one encode and decode of ``x`` (n, H, W, C). Locations that are zero throughout do not count."""
    exact = x.astype(np.float64).reshape(-1, x.shape[-1])
    found = encoding.decode(encoding.encode(x)).astype(np.float64).reshape(exact.shape)
    norm = np.linalg.norm(exact, axis=1)
    there = norm > 0
    exact, found, norm = exact[there], found[there], norm[there]
    relative = np.linalg.norm(found - exact, axis=1) / norm
    cosine = (exact * found).sum(1) / (norm * np.maximum(np.linalg.norm(found, axis=1), 1e-300))
    return ErrorStatement(
        relative_l2=float(np.linalg.norm(found - exact) / np.linalg.norm(exact)),
        location_median=float(np.median(relative)),
        location_p99=float(np.quantile(relative, 0.99)),
        cosine_p1=float(np.quantile(cosine, 0.01)),
    )
