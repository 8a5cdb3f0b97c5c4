"""Forwards of timm's models written out with explicit attention and convolutions, keeping every tap.

Take only weights from the models, and of rotary positions the angles. Grid values (B, H, W, C).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def vit(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """VisionTransformer and Eva: norms, attention and feed-forward of every block, the prefix tokens dropped."""
    patch = model.patch_embed.proj
    size = patch.kernel_size[0]
    grid = (pixels.shape[2] // size, pixels.shape[3] // size)
    patches = pixels.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(3)
    x = patches @ patch.weight.flatten(1).T
    x = (x if patch.bias is None else x + patch.bias).flatten(1, 2)
    prefix = model.num_prefix_tokens
    tokens = [getattr(model, name, None) for name in ("cls_token", "reg_token")]
    tokens = [token.expand(len(x), -1, -1) for token in tokens if token is not None]
    if model.pos_embed is not None:
        own = model.pos_embed.shape[1] - model.patch_embed.num_patches  # positions of prefix tokens
        positions = torch.cat([model.pos_embed[:, :own], _resampled(model, own, grid)], 1)
        x = torch.cat([*tokens, x], 1) + positions if own else torch.cat([*tokens, x + positions], 1)
    else:
        x = torch.cat([*tokens, x], 1)
    x = model.norm_pre(x) if hasattr(model, "norm_pre") else x
    rope = model.rope.get_embed(shape=grid) if getattr(model, "rope", None) is not None else None
    taps: dict[str, Tensor] = {}

    def keep(name: str, rows: Tensor) -> Tensor:
        taps[name] = rows[:, prefix:].reshape(len(rows), *grid, -1)
        return rows

    for number, block in enumerate(model.blocks):
        at = f"vit-block{number:02}"
        n = keep(f"{at}-norm1", _norm(block.norm1, x))
        attended = keep(
            f"{at}-attn-out", _attention(block.attn, n, rope, prefix, lambda p, v, a=at: keep(f"{a}-{p}", v))
        )
        x = x + _scaled(block, 1, attended)
        inner = keep(f"{at}-ffn-inner", _inner(block.mlp, _norm(block.norm2, x)))
        x = keep(f"{at}-out", x + _scaled(block, 2, inner @ block.mlp.fc2.weight.T + block.mlp.fc2.bias))
    if not isinstance(model.norm, torch.nn.Identity):
        keep("vit-norm", _norm(model.norm, x))
    return taps


def _resampled(model: Any, own: int, grid: tuple[int, int]) -> Tensor:
    positions, (height, width) = model.pos_embed[:, own:], model.patch_embed.grid_size
    image = positions.reshape(1, height, width, -1).permute(0, 3, 1, 2)
    if (height, width) != grid:
        image = F.interpolate(image, grid, mode="bicubic", antialias=True, align_corners=False)
    return image.flatten(2).transpose(1, 2)


def _norm(layer: Any, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def _scaled(block: Any, number: int, x: Tensor) -> Tensor:
    scale = getattr(getattr(block, f"ls{number}", None), "gamma", None)
    scale = getattr(block, f"gamma_{number}", None) if scale is None else scale
    return x if scale is None else x * scale


def _attention(attention: Any, x: Tensor, rope: Tensor | None, prefix: int, keep: Any) -> Tensor:
    if attention.qkv is None:
        layers = [getattr(attention, f"{part}_proj") for part in "qkv"]
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    else:
        weights = list(attention.qkv.weight.chunk(3))
        joined = attention.qkv.bias
        if getattr(attention, "q_bias", None) is not None:
            joined = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
        biases = [None] * 3 if joined is None else list(joined.chunk(3))
    q, k, v = (x @ w.T if b is None else x @ w.T + b for w, b in zip(weights, biases, strict=True))
    for part, value in zip("qkv", (q, k, v), strict=True):
        keep(part, value)
    q, k, v = (value.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for value in (q, k, v))
    q, k = attention.q_norm(q), attention.k_norm(k)
    if rope is not None:
        half = getattr(attention, "rotate_half", False)
        q, k = (torch.cat([t[:, :, :prefix], _rotated(t[:, :, prefix:], rope, half)], 2) for t in (q, k))
    maps = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    out = attention.norm((maps @ v).transpose(1, 2).flatten(2))
    return out @ attention.proj.weight.T + attention.proj.bias


def _rotated(x: Tensor, rope: Tensor, half: bool) -> Tensor:
    sines, cosines = rope.chunk(2, -1)
    if half:
        first, second = x.chunk(2, -1)
        turned = torch.cat([-second, first], -1)
    else:
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * cosines + turned * sines


def _inner(mlp: Any, x: Tensor) -> Tensor:
    """What the second layer of a feed-forward gets: plain, or gated as SwiGLU is."""
    if hasattr(mlp, "fc1_g"):
        gate, value = (x @ layer.weight.T + layer.bias for layer in (mlp.fc1_g, mlp.fc1_x))
        hidden = F.silu(gate) * value
    else:
        hidden = mlp.act(x @ mlp.fc1.weight.T + mlp.fc1.bias)
    return _norm(mlp.norm, hidden) if isinstance(getattr(mlp, "norm", None), torch.nn.LayerNorm) else hidden


def resnet(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """ResNet with bottleneck blocks."""
    x = F.max_pool2d(F.relu(_convolved(model.conv1, model.bn1, pixels)), 3, 2, 1)
    taps = {}
    for stage in range(1, 5):
        for place, block in enumerate(getattr(model, f"layer{stage}")):
            h = F.relu(_convolved(block.conv1, block.bn1, x))
            h = F.relu(_convolved(block.conv2, block.bn2, h))
            h = _convolved(block.conv3, block.bn3, h)
            x = F.relu(h + (x if block.downsample is None else _convolved(*block.downsample, x)))
            taps[f"cnn-stage{stage}-block{place:02}-out"] = x.permute(0, 2, 3, 1)
    return taps


def convnext(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """ConvNeXt, in the variant with the tangent's approximation of GELU."""
    x = model.stem(pixels)
    taps = {}
    for number, stage in enumerate(model.stages, 1):
        x = stage.downsample(x)
        for place, block in enumerate(stage.blocks):
            h = block.conv_dw(x).permute(0, 2, 3, 1)
            h = F.gelu(_norm(block.norm, h) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias, approximate="tanh")
            h = (h @ block.mlp.fc2.weight.T + block.mlp.fc2.bias) * block.gamma
            x = x + h.permute(0, 3, 1, 2)
            taps[f"cnn-stage{number}-block{place:02}-out"] = x.permute(0, 2, 3, 1)
    return taps


def efficientnet(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """EfficientNet-Lite: no squeeze, ReLU6, padding as TensorFlow does it."""
    x = F.relu6(_convolved(model.conv_stem, model.bn1, pixels))
    taps = {}
    for number, stage in enumerate(model.blocks, 1):
        for place, block in enumerate(stage):
            h = x
            if hasattr(block, "conv_pwl"):
                h = F.relu6(_convolved(block.conv_pw, block.bn1, h))
                h = F.relu6(_convolved(block.conv_dw, block.bn2, h))
                h = _convolved(block.conv_pwl, block.bn3, h)
            else:
                h = F.relu6(_convolved(block.conv_dw, block.bn1, h))
                h = _convolved(block.conv_pw, block.bn2, h)
            x = h + x if h.shape == x.shape else h
            taps[f"cnn-stage{number}-block{place:02}-out"] = x.permute(0, 2, 3, 1)
    return taps


def _convolved(convolution: Any, norm: Any, x: Tensor) -> Tensor:
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    if type(convolution).__name__ == "Conv2dSame":
        total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]]
        x = F.pad(x, [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2])
    padding = 0 if type(convolution).__name__ == "Conv2dSame" else convolution.padding[0]
    x = F.conv2d(x, convolution.weight, convolution.bias, stride, padding, 1, convolution.groups)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return x * scale[:, None, None] + (norm.bias - norm.running_mean * scale)[:, None, None]
