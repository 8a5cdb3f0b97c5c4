"""The method as one writes it down first: levels concatenated, neighbourhoods unfolded, one feature tensor per word, a
loop over samples, torch's default memory layout. It takes the tested parts' weights, so both give the same numbers."""

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import pywt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from diffps.features import Feature
from diffps.heads.detection import BoxHead
from diffps.heads.dgrpn import DGRPN
from diffps.heads.embedding import CBAM, PartEncoder
from diffps.heads.lpm import LPM, Aggregation
from diffps.heads.msfrn import FRM, MSFRN, SRB
from diffps.heads.oim import OIM
from diffps.heads.reid import ReIDHead
from diffps.heads.sfan import SFAN
from diffps.model import PersonSearcher

M = TypeVar("M", bound=nn.Module)


def own_copy(module: M) -> M:
    """The module with weights of its own, in the default layout, with ReLUs that keep their input."""
    copied = copy.deepcopy(module).to(memory_format=torch.contiguous_format)
    for part in copied.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False
    return copied


class PlainFirstLayers(nn.Module):
    """LPM or aggregation on the expanded tap."""

    def __init__(self, layers: LPM | Aggregation) -> None:
        super().__init__()
        self.layers = own_copy(layers)

    def forward(self, feature: Feature) -> Tensor:
        return self.layers.mix(self.layers.enter(feature.dense().contiguous()))


class PlainDGRPN(nn.Module):
    """Every position's neighbourhood unfolded, every peak's Gaussian a whole map."""

    def __init__(self, module: DGRPN) -> None:
        super().__init__()
        self.config = module.config
        self.beta, self.gamma = copy.deepcopy(module.beta), copy.deepcopy(module.gamma)

    def forward(self, features: Tensor, guidance: Tensor) -> Tensor:
        config, (batch, _, height, width) = self.config, features.shape
        low, high = guidance.amin((1, 2), keepdim=True), guidance.amax((1, 2), keepdim=True)
        normal = (guidance - low) / (high - low)
        strength = torch.where(normal > config.tau, normal, 0.0)[:, None]

        windows = F.unfold(strength, config.peak_window, padding=config.peak_window // 2)
        best = windows.amax(1).reshape(batch, -1)
        flat = strength.reshape(batch, -1)
        score, index = torch.where((flat == best) & (flat > 0), flat, 0.0).topk(config.peaks)
        c_y, c_x = (index // width).float(), (index % width).float()

        ys, xs = torch.meshgrid(
            torch.arange(height, device=features.device).float(),
            torch.arange(width, device=features.device).float(),
            indexing="ij",
        )
        size, pad = config.neighbourhood, config.neighbourhood // 2

        def neighbours(maps: Tensor) -> Tensor:
            unfolded = F.unfold(maps, size, padding=pad).transpose(1, 2)  # (B, HW, size^2)
            return unfolded.gather(1, index[..., None].expand(-1, -1, size * size))

        weight = neighbours(strength)
        grid = torch.stack([xs, ys]).expand(batch, -1, -1, -1)
        around_x, around_y = neighbours(grid[:, :1]), neighbours(grid[:, 1:])
        s_w = ((around_x - c_x[..., None]) ** 2 * weight).sum(2).sqrt().clamp_min(config.delta)
        s_h = ((around_y - c_y[..., None]) ** 2 * weight).sum(2).sqrt().clamp_min(config.delta)

        beta = self.beta.abs() + 1e-6
        gaussians = torch.exp(
            -((xs - c_x[..., None, None]) ** 2) / (beta * s_w[..., None, None] ** 2)
            - (ys - c_y[..., None, None]) ** 2 / (beta * s_h[..., None, None] ** 2)
        )
        g = (gaussians * (score > 0)[..., None, None]).amax(1)[:, None]
        return features + self.gamma * (g * features)


class PlainFRM(nn.Module):
    """The transform as a strided convolution with four stacked filters per channel."""

    def __init__(self, module: FRM) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(own_copy(block) for block in (module.high_y, module.high_x, module.high_xy))
        bank = pywt.Wavelet(module.wavelet.name)
        low, high = torch.tensor(bank.rec_lo), torch.tensor(bank.rec_hi)
        filters = torch.stack([torch.outer(a, b) for a, b in ((low, low), (high, low), (low, high), (high, high))])
        self.register_buffer("filters", filters[:, None].float())

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        weight = self.filters.repeat(channels, 1, 1, 1)
        bands = F.conv2d(x, weight, stride=2, groups=channels).reshape(batch, channels, 4, height // 2, width // 2)
        refined = [bands[:, :, 0], *(self._srb(block, bands[:, :, i]) for i, block in enumerate(self.blocks, start=1))]
        stacked = torch.stack(refined, dim=2).reshape(batch, 4 * channels, height // 2, width // 2)
        return x + F.conv_transpose2d(stacked, weight, stride=2, groups=channels)

    @staticmethod
    def _srb(block: SRB, band: Tensor) -> Tensor:
        x = block.mix(band.contiguous())
        attention = torch.sigmoid(block.attention(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        return block.gamma * (x * attention[:, :, None, None])


class PlainMSFRN(nn.Module):
    """Each level's maps concatenated before the 1x1 convolution."""

    def __init__(self, module: MSFRN) -> None:
        super().__init__()
        self.taps = {name: level.taps for name, level in module.levels.items()}
        self.lpm = nn.ModuleDict({name: PlainFirstLayers(level.lpm) for name, level in module.levels.items()})
        self.fuse = nn.ModuleDict(
            {name: own_copy(level.fuse) for name, level in module.levels.items() if level.fuse is not None}
        )
        self.norm, self.leave = own_copy(module.norm), own_copy(module.leave)
        self.frm = nn.ModuleDict({name: PlainFRM(frm) for name, frm in module.frm.items()})

    def forward(self, features: Mapping[str, Feature]) -> Tensor:
        x = None
        for name, taps in self.taps.items():
            fused = torch.cat([self.lpm[name](features[tap]) for tap in taps], dim=1)
            if name in self.fuse:
                fused = self.fuse[name](fused)
            if x is not None:
                fused = fused + F.interpolate(x, fused.shape[2:], mode="bilinear", align_corners=False)
            if name == "level2":
                fused = self.norm(fused.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
            x = self.frm[name](fused) if name in self.frm else fused
        return self.leave(x)


class PlainSFAN(nn.Module):
    """One feature tensor per word, stacked."""

    def __init__(self, module: SFAN) -> None:
        super().__init__()
        self.module = own_copy(module)

    def forward(self, x: Tensor) -> Tensor:
        text = F.normalize(self.module.project(self.module.words), dim=1)
        similarity = torch.einsum("wc,rchv->rwhv", text, F.normalize(x, dim=1)).softmax(1)
        stacked = similarity[:, :, None] * x[:, None]  # (R, words, C, h, w)
        weights = self.module.part_weights.softmax(0)
        summed = (weights[None, :, None, None, None] * stacked).sum(1)
        return x + self.module.alpha * (summed - x)


class PlainPartEncoder(nn.Module):
    """Every attended map is built, then pooled."""

    def __init__(self, encoder: PartEncoder) -> None:
        super().__init__()
        self.encoders = own_copy(encoder.encoders)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        parts = []
        for encoder, x in zip(self.encoders, maps, strict=True):
            for branch in encoder.branches:
                for strip, rows in zip(branch, torch.tensor_split(x, len(branch), dim=2), strict=True):
                    parts.append(strip.norm(strip.linear(self._attended(strip.attention, rows).amax((2, 3)))))
        return F.normalize(torch.cat(parts, dim=1), dim=1)

    @staticmethod
    def _attended(cbam: CBAM, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(cbam.channel(x.mean((2, 3))) + cbam.channel(x.amax((2, 3))))[:, :, None, None]
        return x * torch.sigmoid(cbam.spatial(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)))


class PlainOIM(nn.Module):
    """The table is updated one sample at a time."""

    def __init__(self, module: OIM) -> None:
        super().__init__()
        self.module = copy.deepcopy(module)
        self.pending: tuple[Tensor, Tensor] | None = None

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        self.pending = embeddings.detach(), labels
        oim = self.module
        logits = oim.config.scale * embeddings @ torch.cat([oim.table, oim.queue]).T
        return F.cross_entropy(logits, labels.masked_fill(labels < 0, -100), ignore_index=-100)

    @torch.no_grad()
    def update(self) -> None:
        assert self.pending is not None
        oim, momentum = self.module, self.module.config.momentum
        for embedding, label in zip(*self.pending, strict=True):
            if label >= 0:
                oim.table[label] = F.normalize(momentum * oim.table[label] + (1 - momentum) * embedding, dim=0)
            elif label == -1:
                oim.queue[oim.head] = embedding
                oim.head.copy_((oim.head + 1) % len(oim.queue))


class PlainBoxHead(BoxHead):
    """RoIs in the layout RoIAlign gives them."""

    def __init__(self, module: BoxHead) -> None:
        super().__init__(module.config, own_copy(module.body), module.classifier.in_features, module.canvas)
        self.load_state_dict(module.state_dict())

    def forward(self, features: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        scale = features.shape[2] / self.canvas[0]
        rois = roi_align(features, list(boxes), self.config.grid, scale, self.config.sampling_ratio)
        pooled = F.adaptive_avg_pool2d(self.body(rois), 1).flatten(1)
        return self.classifier(pooled), self.regressor(pooled)


class PlainReIDHead(nn.Module):
    """RoIs in the layout RoIAlign gives them, and the stack of word maps."""

    def __init__(self, module: ReIDHead) -> None:
        super().__init__()
        self.config, self.canvas, self.sample = module.config, module.canvas, module.sample
        self.sfan, self.body = PlainSFAN(module.sfan), own_copy(module.body)
        self.encoder = PlainPartEncoder(module.encoder)

    def forward(self, features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        scale = features.shape[2] / self.canvas[0]
        rois = self.sfan(roi_align(features, list(boxes), self.config.grid, scale, self.config.sampling_ratio))
        return self.encoder([rois, self.body(rois)])


def plain_searcher(searcher: PersonSearcher) -> PersonSearcher:
    """The same searcher, weight for weight, made of plain parts."""
    plain = own_copy(searcher)
    plain.aggregation = PlainFirstLayers(searcher.aggregation)
    plain.dgrpn = PlainDGRPN(searcher.dgrpn)
    plain.msfrn = PlainMSFRN(searcher.msfrn)
    plain.box_head = PlainBoxHead(searcher.box_head)
    plain.reid_head = PlainReIDHead(searcher.reid_head)
    plain.oim = PlainOIM(searcher.oim)
    return plain
