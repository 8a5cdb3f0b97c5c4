"""First layers on a tap: the lightweight processing module and the detection branch's aggregation.

Both begin with a 1x1 convolution without bias; where a tap is stored as PCA coefficients, the basis is folded into it.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffps.features import Feature
from diffps.heads.precision import full_precision


def enter(feature: Feature, conv: nn.Conv2d) -> Float[Tensor, "B C H W"]:
    """``conv`` (1x1, no bias) on a feature (B, H, W, K); equal to ``conv(feature.dense())``, never expanding K to C."""
    dtype = conv.weight.dtype
    x = feature.coefficients(dtype)
    if feature.basis is None:
        return F.conv2d(x, conv.weight)
    with full_precision(x):
        weight = conv.weight.flatten(1)
        folded = weight @ feature.basis.vectors.to(dtype).T
        bias = weight @ feature.basis.mean.to(dtype)
    return F.conv2d(x, folded[:, :, None, None], bias)


def depthwise(channels: int) -> nn.Conv2d:
    """A 3x3 depth-wise convolution that keeps the grid."""
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)


class LPM(nn.Module):
    """1x1 conv to C, BN, ReLU, 3x3 depth-wise conv, BN, ReLU, 1x1 conv, BN."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.mix = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            depthwise(channels),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, feature: Feature) -> Float[Tensor, "B C H W"]:
        x: Tensor = self.mix(enter(feature, self.enter))
        return x


class Aggregation(nn.Module):
    """1x1 conv to C, BN, ReLU, 3x3 depth-wise conv, BN, on the detection tap."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.mix = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(inplace=True), depthwise(channels), nn.BatchNorm2d(channels)
        )

    def forward(self, feature: Feature) -> Float[Tensor, "B C H W"]:
        x: Tensor = self.mix(enter(feature, self.enter))
        return x
