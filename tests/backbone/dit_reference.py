"""The transformers' forward (PixArt, SD 3) written out with explicit attention: what hooks are compared with.

Takes only weights from the diffusers model. Grid values (B, H, W, C), maps of words (B, H, W, heads).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Reference:
    """``words``: places of each word in the text."""

    def __init__(self, model: Any, words: Mapping[str, Sequence[int]]) -> None:
        self.model, self.config, self.words = model, model.config, words
        self.heads = int(model.config.num_attention_heads)
        self.taps: dict[str, Tensor] = {}
        self.grid = (0, 0)

    def keep(self, name: str, tokens: Tensor) -> None:
        self.taps[name] = tokens.reshape(len(tokens), *self.grid, -1)

    def keep_maps(self, name: str, maps: Tensor) -> None:
        """``maps`` (B, heads, image tokens, text tokens)."""
        for word, places in self.words.items():
            self.keep(f"{name}.{word}", maps[..., list(places)].mean(-1).mT)

    def patches(self, x: Tensor) -> Tensor:
        """Tokens of the patches, without their positions."""
        patch = self.config.patch_size
        self.grid = (x.shape[2] // patch, x.shape[3] // patch)
        projection = self.model.pos_embed.proj
        cells = x.unfold(2, patch, patch).unfold(3, patch, patch)  # (B, C, H, W, patch, patch)
        cells = cells.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        return cells @ projection.weight.flatten(1).mT + projection.bias

    def unpatched(self, tokens: Tensor) -> Tensor:
        patch, channels = self.config.patch_size, self.model.out_channels
        cells = tokens.reshape(len(tokens), *self.grid, patch, patch, channels)
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), channels, *(side * patch for side in self.grid))

    def by_head(self, x: Tensor, norm: Any = None) -> Tensor:
        x = x.reshape(len(x), x.shape[1], self.heads, -1).transpose(1, 2)
        if norm is not None:
            x = x * (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt() * norm.weight
        return x


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities, and what they give as tokens."""
    maps = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
    return maps, (maps @ v).transpose(1, 2).flatten(2)


def normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def waves(numbers: Tensor, size: int) -> Tensor:
    half = size // 2
    angles = numbers[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()], 1)


def axis_waves(places: np.ndarray, size: int) -> np.ndarray:
    rates = 1 / 10000 ** (np.arange(size // 2) / (size / 2))
    return np.concatenate([np.sin(places[:, None] * rates), np.cos(places[:, None] * rates)], 1)


class PixArtReference(Reference):
    def __call__(self, x: Tensor, timestep: int, text: Tensor) -> Tensor:
        model = self.model
        tokens = self.patches(x)
        tokens = tokens + self._positions().to(x)
        embedder = model.adaln_single.emb.timestep_embedder
        time = embedder.linear_2(F.silu(embedder.linear_1(waves(torch.tensor([float(timestep)]), 256).to(x))))
        shifts = model.adaln_single.linear(F.silu(time)).reshape(6, -1)
        caption = model.caption_projection
        text = caption.linear_2(F.gelu(caption.linear_1(text), approximate="tanh"))
        for index, block in enumerate(model.transformer_blocks):
            tokens = self._block(f"vit-block{index:02}", block, tokens, text, block.scale_shift_table + shifts)
        shift, scale = model.scale_shift_table + time
        return self.unpatched(model.proj_out(normed(tokens) * (1 + scale) + shift))

    def _positions(self) -> Tensor:
        """(N, C): half of the channels for columns, half for rows, of a grid as large as the model's own."""
        own = self.config.sample_size // self.config.patch_size
        size = self.heads * self.config.attention_head_dim // 2
        rows, columns = (np.arange(side) / (side / own) / self.config.interpolation_scale for side in self.grid)
        along, down = axis_waves(columns, size), axis_waves(rows, size)
        both = [np.concatenate([along[w], down[h]]) for h in range(self.grid[0]) for w in range(self.grid[1])]
        return torch.from_numpy(np.stack(both)).float()

    def _block(self, name: str, block: Any, tokens: Tensor, text: Tensor, modulation: Tensor) -> Tensor:
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = modulation
        given = normed(tokens) * (1 + scale) + shift
        self.keep(f"{name}-modulated", given)
        attention = block.attn1
        q, k, v = attention.to_q(given), attention.to_k(given), attention.to_v(given)
        for part, value in (("q", q), ("k", k), ("v", v)):
            self.keep(f"{name}-self-{part}", value)
        out = attention.to_out[0](attend(self.by_head(q), self.by_head(k), self.by_head(v))[1])
        self.keep(f"{name}-self-out", out)
        tokens = tokens + gate * out
        attention = block.attn2
        q, k, v = attention.to_q(tokens), attention.to_k(text), attention.to_v(text)
        self.keep(f"{name}-cross-q", q)
        maps, out = attend(self.by_head(q), self.by_head(k), self.by_head(v))
        self.keep_maps(f"{name}-cross-map", maps)
        out = attention.to_out[0](out)
        self.keep(f"{name}-cross-out", out)
        tokens = tokens + out
        inner = F.gelu(block.ff.net[0].proj(normed(tokens) * (1 + scale_ffn) + shift_ffn), approximate="tanh")
        self.keep(f"{name}-ffn-inner", inner)
        tokens = tokens + gate_ffn * block.ff.net[2](inner)
        self.keep(f"{name}-out", tokens)
        return tokens


class SD3Reference(Reference):
    def __call__(self, x: Tensor, timestep: int, text: Tensor, pooled: Tensor) -> Tensor:
        model = self.model
        tokens = self.patches(x)
        most = self.config.pos_embed_max_size
        top, left = (most - self.grid[0]) // 2, (most - self.grid[1]) // 2
        positions = model.pos_embed.pos_embed.reshape(most, most, -1)
        tokens = tokens + positions[top : top + self.grid[0], left : left + self.grid[1]].flatten(0, 1)
        embed = model.time_text_embed
        time = embed.timestep_embedder
        time = time.linear_2(F.silu(time.linear_1(waves(torch.tensor([float(timestep)]), 256).to(x))))
        condition = time + embed.text_embedder.linear_2(F.silu(embed.text_embedder.linear_1(pooled)))
        condition = F.silu(condition)
        text = model.context_embedder(text)
        for index, block in enumerate(model.transformer_blocks):
            text, tokens = self._block(f"joint-block{index:02}", block, tokens, text, condition)
        scale, shift = model.norm_out.linear(condition).chunk(2, 1)
        return self.unpatched(model.proj_out(normed(tokens) * (1 + scale[:, None]) + shift[:, None]))

    def _block(self, name: str, block: Any, x: Tensor, text: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        own = block.norm1.linear(condition)[:, None]
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn, *again = own.chunk(9 if block.use_dual_attention else 6, 2)
        given = normed(x) * (1 + scale) + shift
        other = block.norm1_context.linear(condition)[:, None]
        if block.context_pre_only:
            scale_text, shift_text = other.chunk(2, 2)
        else:
            shift_text, scale_text, gate_text, shift_text_ffn, scale_text_ffn, gate_text_ffn = other.chunk(6, 2)
        given_text = normed(text) * (1 + scale_text) + shift_text
        attention = block.attn
        q, k, v = self._projected(f"{name}-img", attention, given)
        added = [layer(given_text) for layer in (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj)]
        queries = torch.cat([self.by_head(q, attention.norm_q), self.by_head(added[0], attention.norm_added_q)], 2)
        keys = torch.cat([self.by_head(k, attention.norm_k), self.by_head(added[1], attention.norm_added_k)], 2)
        values = torch.cat([self.by_head(v), self.by_head(added[2])], 2)
        maps, out = attend(queries, keys, values)
        count = x.shape[1]
        self.keep_maps(f"{name}-map", maps[:, :, :count, count:])
        image = attention.to_out[0](out[:, :count])
        self.keep(f"{name}-img-attn-out", image)
        first, x = x, x + gate * image
        if again:
            attention = block.attn2
            q, k, v = self._projected(f"{name}-img-self", attention, normed(first) * (1 + again[1]) + again[0])
            heads = self.by_head(q, attention.norm_q), self.by_head(k, attention.norm_k), self.by_head(v)
            image = attention.to_out[0](attend(*heads)[1])
            self.keep(f"{name}-img-self-attn-out", image)
            x = x + again[2] * image
        inner = F.gelu(block.ff.net[0].proj(normed(x) * (1 + scale_ffn) + shift_ffn), approximate="tanh")
        self.keep(f"{name}-img-ffn-inner", inner)
        x = x + gate_ffn * block.ff.net[2](inner)
        self.keep(f"{name}-img-out", x)
        if not block.context_pre_only:
            text = text + gate_text * block.attn.to_add_out(out[:, count:])
            given_text = normed(text) * (1 + scale_text_ffn) + shift_text_ffn
            inner = F.gelu(block.ff_context.net[0].proj(given_text), approximate="tanh")
            text = text + gate_text_ffn * block.ff_context.net[2](inner)
        return text, x

    def _projected(self, name: str, attention: Any, given: Tensor) -> tuple[Tensor, ...]:
        self.keep(f"{name}-modulated", given)
        found = attention.to_q(given), attention.to_k(given), attention.to_v(given)
        for part, value in zip("qkv", found, strict=True):
            self.keep(f"{name}-{part}", value)
        return found
