"""The method's equations written plainly in NumPy and float64: loops where the equation has an index, nothing fused."""

import itertools

import numpy as np
import pywt
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]


def array(tensor: torch.Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float64)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Random numbers in every parameter, so that no scale of 1 or 0 hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)


# --- layers ---------------------------------------------------------------------------------------------------------


def conv1x1(x: Array, layer: nn.Conv2d) -> Array:
    out = np.einsum("oc,bchw->bohw", array(layer.weight)[:, :, 0, 0], x)
    return out if layer.bias is None else out + array(layer.bias)[:, None, None]


def conv(x: Array, layer: nn.Conv2d) -> Array:
    """A dense or depth-wise k x k convolution that keeps the grid."""
    weight, radius = array(layer.weight), layer.padding[0]
    padded = np.pad(x, ((0, 0), (0, 0), (radius, radius), (radius, radius)))
    height, width = x.shape[2:]
    out = np.zeros((len(x), len(weight), height, width))
    for dy, dx in itertools.product(range(weight.shape[2]), range(weight.shape[3])):
        window = padded[:, :, dy : dy + height, dx : dx + width]
        if layer.groups == 1:
            out += np.einsum("oc,bchw->bohw", weight[:, :, dy, dx], window)
        else:
            out += weight[:, 0, dy, dx][:, None, None] * window
    return out if layer.bias is None else out + array(layer.bias)[:, None, None]


def batch_norm(x: Array, layer: nn.Module) -> Array:
    """With the statistics of the batch, over all axes but the second."""
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    shape = [1, -1] + [1] * (x.ndim - 2)
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + layer.eps)
    return normal * array(layer.weight).reshape(shape) + array(layer.bias).reshape(shape)


def linear(x: Array, layer: nn.Linear) -> Array:
    out = x @ array(layer.weight).T
    return out if layer.bias is None else out + array(layer.bias)


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def bilinear(x: Array, height: int, width: int) -> Array:
    """Resampling with pixel centres at half numbers (align_corners false), borders repeated."""

    def weights(old: int, new: int) -> Array:
        matrix = np.zeros((new, old))
        for i in range(new):
            centre = max((i + 0.5) * old / new - 0.5, 0.0)
            low = int(centre)
            matrix[i, low] += 1 - (centre - low)
            matrix[i, min(low + 1, old - 1)] += centre - low
        return matrix

    return np.einsum("ih,bchw,jw->bcij", weights(x.shape[2], height), x, weights(x.shape[3], width))


# --- MSFRN ----------------------------------------------------------------------------------------------------------


def lpm(x: Array, module: nn.Module) -> Array:
    x = relu(batch_norm(conv1x1(x, module.enter), module.mix[0]))
    x = relu(batch_norm(conv(x, module.mix[2]), module.mix[3]))
    return batch_norm(conv1x1(x, module.mix[5]), module.mix[6])


def aggregation(x: Array, module: nn.Module) -> Array:
    x = relu(batch_norm(conv1x1(x, module.enter), module.mix[0]))
    return batch_norm(conv(x, module.mix[2]), module.mix[3])


def srb(x: Array, module: nn.Module) -> Array:
    x = relu(batch_norm(conv1x1(conv(x, module.mix[0]), module.mix[1]), module.mix[2]))
    attention = sigmoid(linear(x.mean((2, 3)), module.attention))
    return array(module.gamma) * x * attention[:, :, None, None]


def frm(x: Array, module: nn.Module, wavelet: str, *, refine_low_band: bool) -> Array:
    low, (high_y, high_x, high_xy) = pywt.dwt2(x, wavelet)
    if refine_low_band:
        low = srb(low, module.low)
    high = srb(high_y, module.high_y), srb(high_x, module.high_x), srb(high_xy, module.high_xy)
    return x + pywt.idwt2((low, high), wavelet)[:, :, : x.shape[2], : x.shape[3]]


# --- DGRPN ----------------------------------------------------------------------------------------------------------


def normalise(guidance: NDArray[np.float32]) -> NDArray[np.float32]:
    span = guidance.max() - guidance.min()
    return (guidance - guidance.min()) / span if span > 0 else np.zeros_like(guidance)


def peaks(strength: Array, window: int, count: int) -> list[tuple[int, int]]:
    """Rows and columns, strongest first, equals by linear index."""
    height, width = strength.shape
    radius, found = window // 2, []
    for y, x in itertools.product(range(height), range(width)):
        around = [
            (-strength[v, u], v * width + u)
            for v in range(max(0, y - radius), min(height, y + radius + 1))
            for u in range(max(0, x - radius), min(width, x + radius + 1))
        ]
        if strength[y, x] > 0 and min(around)[1] == y * width + x:
            found.append((-strength[y, x], y, x))
    return [(y, x) for _, y, x in sorted(found)[:count]]


def gaussian(guidance: NDArray[np.float32], config: object, beta: float) -> Array:
    strength = normalise(guidance).astype(np.float64)
    strength[strength <= config.tau] = 0
    height, width = strength.shape
    radius, result = config.neighbourhood // 2, np.zeros((height, width))
    for c_y, c_x in peaks(strength, config.peak_window, config.peaks):
        sum_x = sum_y = 0.0
        for y in range(max(0, c_y - radius), min(height, c_y + radius + 1)):
            for x in range(max(0, c_x - radius), min(width, c_x + radius + 1)):
                sum_x += (x - c_x) ** 2 * strength[y, x]
                sum_y += (y - c_y) ** 2 * strength[y, x]
        s_w, s_h = max(config.delta, np.sqrt(sum_x)), max(config.delta, np.sqrt(sum_y))
        scale = abs(beta) + 1e-6
        for y, x in itertools.product(range(height), range(width)):
            value = np.exp(-((x - c_x) ** 2) / (scale * s_w**2) - (y - c_y) ** 2 / (scale * s_h**2))
            result[y, x] = max(result[y, x], value)
    return result


# --- SFAN, part encoder, OIM ----------------------------------------------------------------------------------------


def sfan(x: Array, text: Array, part_weights: Array, alpha: float, temperature: float = 1.0) -> Array:
    norm_x = x / np.linalg.norm(x, axis=1, keepdims=True)
    norm_text = text / np.linalg.norm(text, axis=1, keepdims=True)
    similarity = softmax(np.einsum("wc,rcyx->rwyx", norm_text, norm_x) / temperature, axis=1)
    stacked = similarity[:, :, None] * x[:, None]  # (R, words, C, H, W)
    summed = np.einsum("w,rwcyx->rcyx", softmax(part_weights, axis=0), stacked)
    return x + alpha * (summed - x)


def cbam(x: Array, module: nn.Module) -> Array:
    def channel(pooled: Array) -> Array:
        return linear(relu(linear(pooled, module.channel[0])), module.channel[2])

    x = x * sigmoid(channel(x.mean((2, 3))) + channel(x.max((2, 3))))[:, :, None, None]
    pooled = np.stack([x.max(1), x.mean(1)], axis=1)
    return x * sigmoid(conv(pooled, module.spatial))


def mge(x: Array, module: nn.Module) -> Array:
    parts = []
    for number, branch in enumerate(module.branches, start=1):
        for rows, strip in zip(np.array_split(x, number, axis=2), branch, strict=True):
            pooled = cbam(rows, strip.attention).max((2, 3))
            parts.append(batch_norm(linear(pooled, strip.linear), strip.norm))
    return np.concatenate(parts, axis=1)


class OIM:
    """One sample at a time."""

    def __init__(self, identities: int, queue: int, size: int, momentum: float, scale: float) -> None:
        self.table, self.queue, self.head = np.zeros((identities, size)), np.zeros((queue, size)), 0
        self.momentum, self.scale = momentum, scale

    def loss(self, embeddings: Array, labels: list[int]) -> float:
        memory, losses = np.concatenate([self.table, self.queue]), []
        for embedding, label in zip(embeddings, labels, strict=True):
            if label >= 0:
                logits = self.scale * memory @ embedding
                losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])
        return float(np.mean(losses)) if losses else 0.0

    def update(self, embeddings: Array, labels: list[int]) -> None:
        for embedding, label in zip(embeddings, labels, strict=True):
            if label >= 0:
                mixed = self.momentum * self.table[label] + (1 - self.momentum) * embedding
                self.table[label] = mixed / np.linalg.norm(mixed)
            elif label == -1 and len(self.queue):
                self.queue[self.head] = embedding
                self.head = (self.head + 1) % len(self.queue)


# --- RoIs -----------------------------------------------------------------------------------------------------------


def roi_align(x: Array, box: Array, grid: tuple[int, int], scale: float, ratio: int) -> Array:
    """One RoI of one map (C, H, W): means of ratio x ratio bilinear samples per cell, corners not shifted."""
    height, width = x.shape[1:]
    x1, y1, x2, y2 = box * scale
    cell_w, cell_h = max(x2 - x1, 1.0) / grid[1], max(y2 - y1, 1.0) / grid[0]

    def sample(y: float, x_: float) -> Array:
        if y < -1 or y > height or x_ < -1 or x_ > width:
            return np.zeros(len(x))
        y, x_ = min(max(y, 0.0), height - 1.0), min(max(x_, 0.0), width - 1.0)
        low_y, low_x = int(y), int(x_)
        high_y, high_x = min(low_y + 1, height - 1), min(low_x + 1, width - 1)
        dy, dx = y - low_y, x_ - low_x
        upper = x[:, low_y, low_x] * (1 - dx) + x[:, low_y, high_x] * dx
        lower = x[:, high_y, low_x] * (1 - dx) + x[:, high_y, high_x] * dx
        return upper * (1 - dy) + lower * dy

    out = np.zeros((len(x), *grid))
    for i, j, sy, sx in itertools.product(range(grid[0]), range(grid[1]), range(ratio), range(ratio)):
        y = y1 + cell_h * (i + (sy + 0.5) / ratio)
        out[:, i, j] += sample(y, x1 + cell_w * (j + (sx + 0.5) / ratio)) / ratio**2
    return out
