"""RoIAlign of boxes as products of a row's and a column's weights, summed where they are not 0.

n boxes, each cut by R profiles of rows and J of columns; a grid of h x w positions with C channels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffps.compiled import compiled, prange

BLOCK = 16  # of rows and columns that are turned at a time


@dataclass(frozen=True, slots=True)
class Weights:
    """Of positions in each box: products of each of ``rows`` (n, R, h) with each of ``columns`` (n, J, w), whose sums
    are 1, put together to K parts by ``mix`` (K, R * J)."""

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    mix: NDArray[np.float64]

    def dense(self) -> NDArray[np.float64]:
        """(n, K, h * w)."""
        product: NDArray[np.float64] = self.rows[:, :, None, :, None] * self.columns[:, None, :, None, :]
        return self.mix @ product.reshape(len(product), -1, self.rows.shape[-1] * self.columns.shape[-1])


def in_order(features: Tensor) -> Tensor:
    """``features`` (B, h * w, C) with channels side by side, in float32 or wider; no copy where they are so."""
    exact = features.to(torch.promote_types(features.dtype, torch.float32))
    if exact.device.type != "cpu" or exact.stride(-1) == 1 or exact.stride(-2) != 1:
        return exact.contiguous()
    return torch.from_numpy(_turned(exact.mT.contiguous().numpy()))


def pool(features: Tensor, images: NDArray[np.int64], weights: Weights) -> Tensor:
    """Means (n, K, C) over the parts of boxes that lie on ``images`` (n,) of ``features`` (B, h * w, C), which are
    :func:`in_order`. In float64 whatever the features' type, so that they do not depend on how they are summed."""
    if features.device.type == "cpu":
        pooled = _pooled(features.numpy(), images, weights.rows, weights.columns, weights.mix)
        return torch.from_numpy(pooled)
    dense = torch.from_numpy(weights.dense()).to(features.device)
    found = dense.new_zeros(*dense.shape[:2], features.shape[-1])
    for image in np.unique(images).tolist():
        mine = torch.from_numpy(np.flatnonzero(images == image)).to(features.device)
        found[mine] = dense[mine] @ features[image].double()
    return found


@compiled(parallel=True)
def _turned(features: NDArray[np.floating]) -> NDArray[np.floating]:
    """(B, C, N) as (B, N, C), block by block, as both lie in rows."""
    images, channels, positions = features.shape
    found = np.empty((images, positions, channels), features.dtype)
    blocks = (positions + BLOCK - 1) // BLOCK
    for place in prange(images * blocks):
        image, start = place // blocks, place % blocks * BLOCK
        stop = min(start + BLOCK, positions)
        for first in range(0, channels, BLOCK):
            for position in range(start, stop):
                for channel in range(first, min(first + BLOCK, channels)):
                    found[image, position, channel] = features[image, channel, position]
    return found


@compiled(parallel=True)
def _pooled(
    features: NDArray[np.floating],
    images: NDArray[np.int64],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    mix: NDArray[np.float64],
) -> NDArray[np.float64]:
    count, down, height = rows.shape
    across, width, channels = columns.shape[1], columns.shape[2], features.shape[2]
    found = np.zeros((count, len(mix), channels))
    for box in prange(count):
        line, part = np.zeros(channels), np.zeros((down * across, channels))
        for j in range(across):
            for y in range(height):
                if not rows[box, :, y].any():
                    continue
                line[:] = 0.0
                for x in range(width):
                    weight = columns[box, j, x]
                    if weight != 0.0:
                        position = features[images[box], y * width + x]
                        for channel in range(channels):
                            line[channel] += weight * position[channel]
                for r in range(down):
                    weight = rows[box, r, y]
                    if weight != 0.0:
                        for channel in range(channels):
                            part[r * across + j, channel] += weight * line[channel]
        for k in range(len(mix)):
            for each in range(len(part)):
                weight = mix[k, each]
                if weight != 0.0:
                    for channel in range(channels):
                        found[box, k, channel] += weight * part[each, channel]
    return found
