"""One level of the 2-D discrete wavelet transform and its inverse, differentiable, equal to ``pywt.dwt2`` and
``pywt.idwt2`` with their default (half-sample symmetric) boundary, for any discrete wavelet and any size.

Bands are named by their filter along rows, then along columns of the image: LL is PyWavelets' cA, LH (high along the
height) its cH, HL (high along the width) its cV, HH its cD.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pywt
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from diffps.errors import ConfigError


class Bands(NamedTuple):
    """The four sub-bands, of one shape."""

    low: Float[Tensor, "B C h w"]
    high_y: Float[Tensor, "B C h w"]
    high_x: Float[Tensor, "B C h w"]
    high_xy: Float[Tensor, "B C h w"]


class Wavelet:
    """A filter bank by its PyWavelets name. Raises ConfigError for a name that is none."""

    def __init__(self, name: str) -> None:
        if name not in pywt.wavelist(kind="discrete"):
            raise ConfigError(
                f"model.msfrn.wavelet {name!r}: not a discrete wavelet of PyWavelets; haar, db2, sym4, bior2.2 are some"
            )
        bank = pywt.Wavelet(name)
        self.name = name
        self._is_haar = name in ("haar", "db1")
        self._analysis = (_taps(bank.dec_lo[::-1]), _taps(bank.dec_hi[::-1]))
        self._synthesis = (_taps(bank.rec_lo), _taps(bank.rec_hi))

    def analyse(self, x: Float[Tensor, "B C H W"]) -> Bands:
        """The sub-bands of ``x``."""
        if self._is_haar:
            return Bands(*_HaarAnalysis.apply(_even(x)))
        low, high = (_analyse(x, taps, dim=2) for taps in self._analysis)
        (low_low, low_high), (high_low, high_high) = (
            tuple(_analyse(half, taps, dim=3) for taps in self._analysis) for half in (low, high)
        )
        return Bands(low_low, high_low, low_high, high_high)

    def synthesise(self, bands: Bands, size: tuple[int, int] | None = None) -> Float[Tensor, "B C H W"]:
        """Inverse of :meth:`analyse`, cropped to ``size`` (height, width) where that was odd."""
        if self._is_haar:
            x: Tensor = _HaarSynthesis.apply(*bands)
        else:
            low = _synthesise(bands.low, bands.high_x, self._synthesis, dim=3)
            high = _synthesise(bands.high_y, bands.high_xy, self._synthesis, dim=3)
            x = _synthesise(low, high, self._synthesis, dim=2)
        return x if size is None else x[:, :, : size[0], : size[1]]


def _taps(values: Sequence[float]) -> Float64[Tensor, " taps"]:
    return torch.tensor(values, dtype=torch.float64)


def _kernel(taps: Tensor, x: Tensor, dim: int) -> Tensor:
    shape = [1, 1, 1, 1]
    shape[dim] = len(taps)
    return taps.to(x).reshape(shape).expand(x.shape[1], 1, -1, -1)


def _stride(dim: int) -> tuple[int, int]:
    return (2, 1) if dim == 2 else (1, 2)


def _analyse(x: Tensor, taps: Tensor, dim: int) -> Tensor:
    """Filter and keep every second value along ``dim``, which is continued by half-sample symmetry."""
    size, length = x.shape[dim], len(taps)
    position = torch.arange(2 - length, 2 * ((size + length - 1) // 2), device=x.device) % (2 * size)
    x = x.index_select(dim, torch.where(position < size, position, 2 * size - 1 - position))
    return F.conv2d(x, _kernel(taps, x, dim), stride=_stride(dim), groups=x.shape[1])


def _synthesise(low: Tensor, high: Tensor, filters: tuple[Tensor, Tensor], dim: int) -> Tensor:
    channels, stride = low.shape[1], _stride(dim)
    x = sum(
        F.conv_transpose2d(band, _kernel(taps, band, dim), stride=stride, groups=channels)
        for band, taps in zip((low, high), filters, strict=True)
    )
    assert isinstance(x, Tensor)
    edge = len(filters[0]) - 2
    return x.narrow(dim, edge, x.shape[dim] - 2 * edge)


def _even(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C 2*((H+1)//2) 2*((W+1)//2)"]:
    """An odd side repeats its last line, which is its half-sample symmetric continuation."""
    height, width = x.shape[2:]
    return F.pad(x, (0, width % 2, 0, height % 2), mode="replicate") if height % 2 or width % 2 else x


def _haar_bands(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    top_left, top_right = x[:, :, 0::2, 0::2], x[:, :, 0::2, 1::2]
    bottom_left, bottom_right = x[:, :, 1::2, 0::2], x[:, :, 1::2, 1::2]
    top, bottom = top_left + top_right, bottom_left + bottom_right
    low, high_y = top.add(bottom).mul_(0.5), top.sub_(bottom).mul_(0.5)
    top, bottom = top_left - top_right, bottom_left - bottom_right
    high_x, high_xy = top.add(bottom).mul_(0.5), top.sub_(bottom).mul_(0.5)
    return low, high_y, high_x, high_xy


def _haar_image(low: Tensor, high_y: Tensor, high_x: Tensor, high_xy: Tensor) -> Tensor:
    batch, channels, height, width = low.shape
    x = low.new_empty(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
    for row, sign in enumerate((torch.add, torch.sub)):
        even, odd = sign(low, high_y), sign(high_x, high_xy)
        x[:, :, row::2, 0::2] = (even + odd).mul_(0.5)
        x[:, :, row::2, 1::2] = even.sub_(odd).mul_(0.5)
    return x


class _HaarAnalysis(torch.autograd.Function):
    """The transform is orthonormal: the gradient of one direction is the other direction."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _haar_bands(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _haar_image(*grads)


class _HaarSynthesis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *bands: Tensor) -> Tensor:
        return _haar_image(*bands)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _haar_bands(grad)
