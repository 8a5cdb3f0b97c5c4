"""Features as heads receive them: in their stored form, expanded only where a head asks.

Axes: B batch, H x W grid of the tap, K stored channels, C the tap's channels (K < C under ``project:k``).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from diffps.records import View

SCALE_BLOCK = 256  # consecutive positions that share one int8 scale per channel


class Ref(NamedTuple):
    """One sample: a scene and the view of it."""

    scene_id: str
    view: View = "identity"


class FeatureShape(NamedTuple):
    """Grid and channels of a tap on the canvas at hand, after any expansion."""

    height: int
    width: int
    channels: int


@dataclass(frozen=True, slots=True)
class Basis:
    """Channel PCA of ``project:k``: feature = mean (C,) + coefficients (..., K) @ vectors (K, C); float32."""

    mean: Tensor
    vectors: Tensor


@dataclass(frozen=True, slots=True)
class Feature:
    """One tap of one batch.

    ``values`` (B, H, W, K) int8, float16 or float32, contiguous; ``scales`` (B, ceil(HW / 256), K) float16 beside int8
    only; ``basis`` where K is not the tap's own width; ``mirror`` (B,) bool: samples to be flipped left-right when read
    (``flip: feature``).
    """

    values: Tensor
    scales: Tensor | None = None
    basis: Basis | None = None
    mirror: Tensor | None = None

    def to(self, device: torch.device | str) -> "Feature":
        """The same feature on another device, copied asynchronously from pinned memory."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        basis = self.basis and Basis(self.basis.mean.to(device), self.basis.vectors.to(device))
        return replace(
            self,
            values=self.values.to(device, non_blocking=True),
            scales=move(self.scales),
            basis=basis,
            mirror=move(self.mirror),
        )

    def coefficients(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Dequantised stored channels, (B, K, H, W) in channels_last memory; equal to :meth:`dense` without a basis."""
        batch, height, width, stored = self.values.shape
        values = self.values.to(dtype)
        if self.scales is not None:
            # In place, block by block: scales written out for every position would be as large as the feature.
            scales, positions = self.scales.to(dtype), values.view(batch, height * width, stored)
            whole = height * width // SCALE_BLOCK
            blocks, rest = positions[:, : whole * SCALE_BLOCK], positions[:, whole * SCALE_BLOCK :]
            blocks.view(batch, whole, SCALE_BLOCK, stored).mul_(scales[:, :whole, None])
            rest.mul_(scales[:, whole:])
        if self.mirror is not None:
            values = torch.where(self.mirror[:, None, None, None], values.flip(2), values)
        return values.permute(0, 3, 1, 2)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The tap itself, (B, C, H, W) in channels_last memory."""
        coefficients = self.coefficients(dtype)
        if self.basis is None:
            return coefficients
        rows = coefficients.permute(0, 2, 3, 1) @ self.basis.vectors.to(dtype) + self.basis.mean.to(dtype)
        return rows.permute(0, 3, 1, 2)


def expand_once(feature: Feature, mirror: Tensor | None, device: torch.device) -> Feature:
    """The feature on ``device`` in float32, scales and mirroring applied, so that no head does it again.

    ``mirror`` (B,) bool: samples to be flipped left-right; None where there are none.
    """
    moved = replace(feature, mirror=mirror if mirror is not None and mirror.any() else None).to(device)
    return Feature(moved.coefficients().permute(0, 2, 3, 1), basis=moved.basis)


class FeatureSource(Protocol):
    """Where heads get features from: the backbone now (live) or the store (cached). Names are tap ids, or
    ``<cross-map tap>.<word>`` for attention maps, which have one channel."""

    @property
    def shapes(self) -> Mapping[str, FeatureShape]:
        """Every name this source can give, with its grid and channels."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What a head trained on these features has to be shown again; empty where nobody recorded it."""

    def skipped(self) -> frozenset[str]:
        """Scenes this source has no features of, as their images could not be read."""

    def stream(self, batches: Iterable[Sequence[Ref]], names: Sequence[str]) -> Iterator[Mapping[str, Feature]]:
        """One mapping per batch, in order; a yielded mapping's tensors are valid until the next is asked for."""
