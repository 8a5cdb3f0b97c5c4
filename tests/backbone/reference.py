"""The UNets' forward (SD, SDXL) written out with explicit attention, keeping everything: what hooks are compared with.

Takes only weights from the diffusers model. Grid values (B, C, H, W), text (B, T, C), maps (B, heads, queries, keys).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffps.taps import TapSpec


def as_reference(tap: TapSpec, value: Tensor) -> Tensor:
    """A tap as the reader gives it, in the reference's order of axes."""
    if tap.kind == "grid":
        return value.movedim(3, 1)
    return value if tap.kind == "text" else value.flatten(1, 2).movedim(2, 1)


class Reference:
    def __init__(self, unet: Any) -> None:
        self.unet = unet
        self.taps: dict[str, Tensor] = {}

    def __call__(
        self, x: Tensor, timestep: int, text: Tensor, added: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        unet, self.taps = self.unet, {}
        time = self._time(timestep, len(x)).to(x)
        if added is not None:
            time = time + self._added(**added)
        self.taps["unet-in"] = x
        x = unet.conv_in(x)
        self.taps["unet-after-conv-in"] = x
        skips = [x]
        for level, block in enumerate(unet.down_blocks):
            for repeat, resnet in enumerate(block.resnets):
                name = f"down-level{level}-repeat{repeat}"
                x = self._resnet(f"{name}-res", resnet, x, time)
                if hasattr(block, "attentions"):
                    x = self._transformer(f"{name}-vit", block.attentions[repeat], x, text)
                skips.append(x)
            if block.downsamplers is not None:
                x = block.downsamplers[0].conv(x)
                self.taps[f"down-level{level}-downsampler-out"] = x
                skips.append(x)
        middle = unet.mid_block
        x = self._resnet("mid-repeat0-res", middle.resnets[0], x, time)
        x = self._transformer("mid-vit", middle.attentions[0], x, text)
        x = self._resnet("mid-repeat1-res", middle.resnets[1], x, time)
        for level, block in enumerate(unet.up_blocks):
            for repeat, resnet in enumerate(block.resnets):
                name = f"up-level{level}-repeat{repeat}"
                x = self._resnet(f"{name}-res", resnet, torch.cat([x, skips.pop()], 1), time)
                if hasattr(block, "attentions"):
                    x = self._transformer(f"{name}-vit", block.attentions[repeat], x, text)
            if block.upsamplers is not None:
                x = block.upsamplers[0].conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))
                self.taps[f"up-level{level}-upsampler-out"] = x
        self.taps["unet-out"] = unet.conv_out(F.silu(unet.conv_norm_out(x)))
        return self.taps

    def _time(self, timestep: int, batch: int) -> Tensor:
        embedding = self.unet.time_embedding
        size = self.unet.config.block_out_channels[0]
        waves = _waves(torch.tensor([timestep]), size).to(embedding.linear_1.weight).expand(batch, -1)
        out: Tensor = embedding.linear_2(F.silu(embedding.linear_1(waves)))
        return out

    def _added(self, text_embeds: Tensor, time_ids: Tensor) -> Tensor:
        size, embedding = self.unet.config.addition_time_embed_dim, self.unet.add_embedding
        waves = _waves(time_ids.flatten(), size).to(text_embeds).reshape(1, -1)
        out: Tensor = embedding.linear_2(F.silu(embedding.linear_1(torch.cat([text_embeds, waves], 1))))
        return out

    def _resnet(self, name: str, block: Any, x: Tensor, time: Tensor) -> Tensor:
        h = block.conv1(F.silu(block.norm1(x))) + block.time_emb_proj(F.silu(time))[:, :, None, None]
        h = block.conv2(F.silu(block.norm2(h)))
        self.taps[f"{name}-increment"] = h
        shortcut = x if block.conv_shortcut is None else block.conv_shortcut(x)
        self.taps[f"{name}-out"] = shortcut + h
        return self.taps[f"{name}-out"]

    def _transformer(self, name: str, module: Any, x: Tensor, text: Tensor) -> Tensor:
        height, width = x.shape[2:]

        def grid(rows: Tensor) -> Tensor:
            return rows.reshape(len(x), height, width, -1).movedim(3, 1)

        h = module.norm(x)
        h = module.proj_in(h.flatten(2).mT) if module.use_linear_projection else module.proj_in(h).flatten(2).mT
        for index, block in enumerate(module.transformer_blocks):
            at = f"{name}-block{index}"
            n = block.norm1(h)
            h = h + self._attention(f"{at}-self", block.attn1, n, n, grid, grid)
            h = h + self._attention(f"{at}-cross", block.attn2, block.norm2(h), text, grid, lambda rows: rows)
            value, gate = block.ff.net[0].proj(block.norm3(h)).chunk(2, -1)
            inner = value * F.gelu(gate)
            self.taps[f"{at}-ffn-inner"] = grid(inner)
            h = h + block.ff.net[2](inner)
            self.taps[f"{at}-out"] = grid(h)
        out = grid(module.proj_out(h)) if module.use_linear_projection else module.proj_out(grid(h))
        self.taps[f"{name}-out"] = out + x
        return self.taps[f"{name}-out"]

    def _attention(self, name: str, module: Any, x: Tensor, context: Tensor, on_grid: Any, on_context: Any) -> Tensor:
        q, k, v = module.to_q(x), module.to_k(context), module.to_v(context)
        self.taps[f"{name}-q"] = on_grid(q)
        self.taps[f"{name}-k"], self.taps[f"{name}-v"] = on_context(k), on_context(v)
        size = q.shape[-1] // module.heads
        qs, ks, vs = (t.reshape(len(x), -1, module.heads, size).transpose(1, 2) for t in (q, k, v))
        maps = (qs @ ks.mT / math.sqrt(size)).softmax(-1)
        self.taps[f"{name}-map"] = maps
        out: Tensor = module.to_out[0]((maps @ vs).transpose(1, 2).flatten(2))
        return out


def _waves(numbers: Tensor, size: int) -> Tensor:
    half = size // 2
    angles = numbers[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()], 1)
