"""Diffusion-guided region proposals (Eq. 1-4): the cross-attention map of the word lifts the features around its
peaks."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from diffps.heads.config import DGRPNConfig
from diffps.heads.gate import gated


class Peaks(NamedTuple):
    """The K strongest local maxima of each map: row, column, and which of the K are real."""

    row: Int64[Tensor, "B K"]
    column: Int64[Tensor, "B K"]
    real: Bool[Tensor, "B K"]


def normalise(guidance: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Min-max normalisation of each map to [0, 1]; a constant map becomes 0."""
    low, high = guidance.amin((1, 2), keepdim=True), guidance.amax((1, 2), keepdim=True)
    return (guidance - low) / (high - low).clamp_min(torch.finfo(guidance.dtype).tiny)


def threshold(guidance: Float[Tensor, "B H W"], tau: float) -> Float[Tensor, "B H W"]:
    """Eq. 1: S = M where M > tau, else 0."""
    return torch.where(guidance > tau, guidance, 0.0)


def find_peaks(strength: Float32[Tensor, "B H W"], window: int, count: int) -> Peaks:
    """The ``count`` strongest local maxima of S in a square window; of equals the lowest linear index."""
    batch, height, width = strength.shape
    size = height * width
    _, best = F.max_pool2d(strength[:, None], window, stride=1, padding=window // 2, return_indices=True)
    index = torch.arange(size, device=strength.device)
    flat = strength.reshape(batch, size)
    is_peak = (best.reshape(batch, size) == index) & (flat > 0)
    if torch.compiler.is_exporting():  # ONNX does not know the bits of floats
        top, order = (
            each[:, :count] for each in flat.masked_fill(~is_peak, -1).sort(dim=1, stable=True, descending=True)
        )
        return Peaks(order // width, order % width, top >= 0)
    # Positive floats are ordered as their bits are: one integer key holds strength first, lowest index second.
    keys = flat.contiguous().view(torch.int32).long() * size + (size - 1 - index)
    top, order = keys.masked_fill(~is_peak, -1).topk(min(count, size))
    return Peaks(order // width, order % width, top >= 0)


def extents(
    strength: Float[Tensor, "B H W"], peaks: Peaks, neighbourhood: int, delta: float
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    """Eq. 2: s_w and s_h of each peak, at least ``delta``; positions outside the map count nothing."""
    radius = neighbourhood // 2
    padded = F.pad(strength, (radius, radius, radius, radius))
    offset = torch.arange(neighbourhood, device=strength.device)
    images = torch.arange(len(strength), device=strength.device)[:, None, None, None]
    patches = padded[
        images, peaks.row[:, :, None, None] + offset[:, None], peaks.column[:, :, None, None] + offset
    ]  # (B, K, n, n)
    squares = (offset - radius).to(strength.dtype).square()
    s_w = (patches.sum(2) @ squares).sqrt().clamp_min(delta)
    s_h = (patches.sum(3) @ squares).sqrt().clamp_min(delta)
    return s_w, s_h


def nearest_peak(
    peaks: Peaks, s_w: Float[Tensor, "B K"], s_h: Float[Tensor, "B K"], grid: tuple[int, int]
) -> Float[Tensor, "B {grid[0]} {grid[1]}"]:
    """min over peaks of (x - c_x)^2 / s_w^2 + (y - c_y)^2 / s_h^2 at every position; inf without a peak.

    As exp falls, the largest Gaussian of Eq. 3 is the one of the smallest exponent, whatever beta: the exponential is
    taken once per position, not once per peak and position.
    """
    height, width = grid
    y = torch.arange(height, device=s_w.device, dtype=s_w.dtype)
    x = torch.arange(width, device=s_w.device, dtype=s_w.dtype)
    rows = ((y - peaks.row[..., None]) / s_h[..., None]).square()
    columns = ((x - peaks.column[..., None]) / s_w[..., None]).square()
    rows = rows.masked_fill(~peaks.real[..., None], torch.inf)
    distance = torch.full((len(s_w), height, width), torch.inf, device=s_w.device, dtype=s_w.dtype)
    for k in range(rows.shape[1]):
        torch.minimum(distance, rows[:, k, :, None] + columns[:, k, None, :], out=distance)
    return distance


class DGRPN(nn.Module):
    """F_det = F + gamma (G * F); the result for an image does not depend on the rest of its batch."""

    def __init__(self, config: DGRPNConfig) -> None:
        super().__init__()
        self.config = config
        self.beta = nn.Parameter(torch.tensor(config.beta))
        self.gamma = nn.Parameter(torch.tensor(config.gamma))

    @torch.no_grad()
    def peaks(self, guidance: Float[Tensor, "B H W"]) -> tuple[Float32[Tensor, "B H W"], Peaks]:
        """S in [0, 1] and its peaks, from a raw map."""
        strength = threshold(normalise(guidance.float()), self.config.tau)
        return strength, find_peaks(strength, self.config.peak_window, self.config.peaks)

    def gaussians(self, guidance: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
        """Eq. 3: G in [0, 1], the maximum over the peaks' Gaussians; 0 where a map has no peak."""
        with torch.no_grad():
            strength, peaks = self.peaks(guidance)
            s_w, s_h = extents(strength, peaks, self.config.neighbourhood, self.config.delta)
            distance = nearest_peak(peaks, s_w, s_h, (strength.shape[1], strength.shape[2]))
            reached = distance.isfinite()
            distance = distance.masked_fill(~reached, 0.0)  # inf * 0 would make beta's gradient NaN
        return torch.exp(-distance / (self.beta.abs() + 1e-6)) * reached

    def forward(self, features: Float[Tensor, "B C H W"], guidance: Float[Tensor, "B h w"]) -> Float[Tensor, "B C H W"]:
        """Eq. 4 on ``features`` with a raw map ``guidance``, resized where the grids differ."""
        grid = features.shape[2:]
        if guidance.shape[1:] != grid:
            guidance = F.interpolate(guidance[:, None], grid, mode="bilinear", align_corners=False)[:, 0]
        return gated(features, 1 + self.gamma * self.gaussians(guidance))
