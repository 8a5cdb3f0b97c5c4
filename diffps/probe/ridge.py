"""Ridge regression from streamed normal equations, with an intercept and every channel scaled to unit variance."""

import torch
from torch import Tensor

RIDGE = 1e-2  # of a channel's variance; decides only where channels are more than the samples can tell apart


def ridge(gram: Tensor, cross: Tensor, strength: float = RIDGE) -> Tensor:
    """Weights (C + 1, T) of T targets, the intercepts in the last row, from sums over samples in float64.

    ``gram`` (C + 1, C + 1) sums z z' and ``cross`` (C + 1, T) sums z y' of rows z = (channels, 1). A channel that never
    changes gets weight 0, and so does everything where there is no sample.
    """
    weights = torch.zeros_like(cross)
    count = float(gram[-1, -1])
    if not count:
        return weights
    mean, target = gram[-1, :-1] / count, cross[-1] / count
    covariance = gram[:-1, :-1] / count - mean[:, None] * mean
    variance = covariance.diagonal().clamp_min(0)
    # What rounding leaves of a constant channel's variance is no variance.
    scale = torch.where(variance > 1e-12 * mean.square(), variance.rsqrt(), 0.0)
    correlation = covariance * scale[:, None] * scale
    correlation.diagonal().add_(strength)
    slope = torch.linalg.solve(correlation, (cross[:-1] / count - mean[:, None] * target) * scale[:, None])
    weights[:-1] = slope * scale[:, None]
    weights[-1] = target - mean @ weights[:-1]
    return weights
