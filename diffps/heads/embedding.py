"""Part encoder: two maps of a RoI -> one embedding of unit length."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from diffps.heads.config import EmbeddingConfig


def split_evenly(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` whole numbers; the remainder goes to the first ones."""
    return [total // parts + (index < total % parts) for index in range(parts)]


def strongest(x: Float[Tensor, "R C H W"]) -> Float[Tensor, "R C"]:
    """Global max pool. Its backward is several times faster than that of ``amax``."""
    return F.adaptive_max_pool2d(x, 1).flatten(1)


def strongest_product(x: Float[Tensor, "R C H W"], scale: Float[Tensor, "R 1 H W"]) -> Float[Tensor, "R C"]:
    """Global max pool of ``x`` times ``scale``.

    The backward needs only where the maxima lie, so the product is not kept for it.
    """
    with torch.no_grad():
        _, places = F.adaptive_max_pool2d(x * scale.to(x.dtype), 1, return_indices=True)
    places = places.flatten(2).transpose(1, 2)  # (R, 1, C)
    values = x.permute(0, 2, 3, 1).flatten(1, 2).gather(1, places)
    return (values * scale.flatten(1)[:, None].gather(2, places).to(x.dtype))[:, 0]


class CBAM(nn.Module):
    """Channel, then spatial attention: the first's map and the second's weights."""

    def __init__(self, channels: int, reduction: int, kernel: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))
        self.spatial = nn.Conv2d(2, 1, kernel, padding=kernel // 2)

    def forward(self, x: Float[Tensor, "R C H W"]) -> tuple[Float[Tensor, "R C H W"], Float[Tensor, "R 1 H W"]]:
        attention = torch.sigmoid(self.channel(x.mean((2, 3))) + self.channel(strongest(x)))
        x = x * attention[:, :, None, None].to(x.dtype)
        pooled = torch.cat([x.max(1, keepdim=True).values, x.mean(1, keepdim=True)], dim=1)
        return x, torch.sigmoid(self.spatial(pooled))


class Strip(nn.Module):
    """The embedding of one horizontal strip: CBAM, global max pool, linear, BN, drop path."""

    def __init__(self, channels: int, size: int, config: EmbeddingConfig) -> None:
        super().__init__()
        self.attention = CBAM(channels, config.reduction, config.kernel)
        self.linear = nn.Linear(channels, size, bias=False)
        self.norm = nn.BatchNorm1d(size)
        self.drop_path = config.drop_path

    def forward(self, strip: Float[Tensor, "R C h W"]) -> Float[Tensor, "R D"]:
        x = self.norm(self.linear(strongest_product(*self.attention(strip))))
        dropped: Tensor = stochastic_depth(x, self.drop_path, "row", self.training)
        return dropped


class MGE(nn.Module):
    """Multi-granularity embedding of ``size`` numbers: branch b cuts the map into b horizontal strips."""

    def __init__(self, channels: int, size: int, config: EmbeddingConfig) -> None:
        super().__init__()
        branches = enumerate(split_evenly(size, config.branches), start=1)
        self.branches = nn.ModuleList(
            nn.ModuleList(Strip(channels, part, config) for part in split_evenly(branch_size, strips))
            for strips, branch_size in branches
        )

    def forward(self, x: Float[Tensor, "R C H W"]) -> Float[Tensor, "R D"]:
        parts = []
        for branch in self.branches:
            assert isinstance(branch, nn.ModuleList)
            strips = torch.split(x, split_evenly(x.shape[2], len(branch)), dim=2)  # type: ignore[no-untyped-call]
            parts += [strip(rows) for strip, rows in zip(branch, strips, strict=True)]
        return torch.cat(parts, dim=1)


class GFE(nn.Module):
    """Global feature embedding of ``size`` numbers: global max pool, linear, BN."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, size)
        self.norm = nn.BatchNorm1d(size)

    def forward(self, x: Float[Tensor, "R C H W"]) -> Float[Tensor, "R D"]:
        embedded: Tensor = self.norm(self.linear(strongest(x)))
        return embedded


class PartEncoder(nn.Module):
    """The maps before and after the backbone head -> rows of unit length."""

    def __init__(self, widths: Sequence[int], config: EmbeddingConfig) -> None:
        super().__init__()
        sizes = split_evenly(config.size, len(widths))
        self.encoders = nn.ModuleList(
            MGE(width, size, config) if config.kind == "mge" else GFE(width, size)
            for width, size in zip(widths, sizes, strict=True)
        )

    def forward(self, maps: Sequence[Float[Tensor, "R _ _ _"]]) -> Float32[Tensor, "R D"]:
        parts = [encoder(x) for encoder, x in zip(self.encoders, maps, strict=True)]
        return F.normalize(torch.cat(parts, dim=1).float(), dim=1)
