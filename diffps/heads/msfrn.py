"""Multi-scale frequency refinement (Eq. 5): LPM, SRB, FRM and the network over three levels of the UNet."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffps.features import Feature
from diffps.heads.config import MSFRNConfig, TapsConfig
from diffps.heads.lpm import LPM, depthwise
from diffps.heads.wavelets import Bands, Wavelet


class SRB(nn.Module):
    """Refines one sub-band: depth-wise 3x3 and 1x1 conv, BN, ReLU, channel attention, scale gamma."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            depthwise(channels),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.attention = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.tensor(1.0))

    def forward(self, band: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        x: Tensor = self.mix(band)
        scale = self.gamma * torch.sigmoid(self.attention(x.mean((2, 3))))
        return x * scale[:, :, None, None].to(x.dtype)


class FRM(nn.Module):
    """Eq. 5: transform, refine the bands, transform back, add the input."""

    def __init__(self, channels: int, config: MSFRNConfig) -> None:
        super().__init__()
        self.wavelet = Wavelet(config.wavelet)
        self.low = SRB(channels) if config.refine_low_band else nn.Identity()
        self.high_y, self.high_x, self.high_xy = SRB(channels), SRB(channels), SRB(channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        bands = self.wavelet.analyse(x)
        refined = Bands(
            self.low(bands.low), self.high_y(bands.high_y), self.high_x(bands.high_x), self.high_xy(bands.high_xy)
        )
        return x + self.wavelet.synthesise(refined, (x.shape[2], x.shape[3]))


class Level(nn.Module):
    """The taps of one level: the shared LPM on each, concatenated, 1x1 conv to C. A single tap of level 1 skips the
    conv."""

    def __init__(self, taps: Sequence[str], in_channels: int, channels: int, *, fuse: bool) -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.lpm = LPM(in_channels, channels)
        self.fuse = nn.Conv2d(channels * len(taps), channels, 1, bias=False) if fuse else None

    def forward(self, features: Mapping[str, Feature]) -> Float[Tensor, "B C H W"]:
        maps = (self.lpm(features[tap]) for tap in self.taps)
        if self.fuse is None:
            x: Tensor = next(maps)
            return x
        # conv(concat(x_i)) is the sum of conv_i(x_i): the concatenated map is never built.
        parts = self.fuse.weight.chunk(len(self.taps), dim=1)
        fused = F.conv2d(next(maps), parts[0])
        for x, part in zip(maps, parts[1:], strict=True):
            fused += F.conv2d(x, part)
        return fused


class MSFRN(nn.Module):
    """Taps of up to three levels -> F_refined, on the grid of level 3. ``config`` None leaves the FRMs out.

    ``widths`` gives the channels of each level's taps, by level name.
    """

    def __init__(self, taps: TapsConfig, widths: Mapping[str, int], channels: int, config: MSFRNConfig | None) -> None:
        super().__init__()
        levels = {"level1": taps.level1, "level2": taps.level2, "level3": taps.level3}
        self.levels = nn.ModuleDict(
            {
                name: Level(names, widths[name], channels, fuse=name != "level1" or len(names) > 1)
                for name, names in levels.items()
                if names
            }
        )
        self.norm = nn.LayerNorm(channels) if taps.level2 else None
        refined = [name for name in self.levels if name != "level1"] if config else []
        self.frm = nn.ModuleDict({name: FRM(channels, config) for name in refined if config})
        self.leave = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, features: Mapping[str, Feature], *, refine: bool = True) -> Float[Tensor, "B C H W"]:
        """F_refined; with ``refine`` false the same without the FRMs, for a picture of what they change."""
        x: Tensor | None = None
        for name, level in self.levels.items():
            fused: Tensor = level(features)
            if x is not None:
                fused = fused + F.interpolate(x, fused.shape[2:], mode="bilinear", align_corners=False)
            if name == "level2" and self.norm is not None:
                fused = self.norm(fused.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            x = self.frm[name](fused) if refine and name in self.frm else fused
        refined: Tensor = self.leave(x)
        return refined
