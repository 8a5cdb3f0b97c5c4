"""Priors that read images as they are: no VAE, no noise, no timestep."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from diffps.backbone.prior import Encoder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from diffps.backbone.latents import NoiseKey

Normalisation = Mapping[str, Sequence[float]]  # "mean" and "std" of the channels, of values in [0, 1]


class Reader(Protocol):
    """Hooks on a model, that read taps of normalised pixels (B, 3, H, W)."""

    def run(self, pixels: "Tensor", stop: bool = True) -> "dict[str, Tensor]":
        """The taps, (B, H, W, C); ``stop`` ends the forward after the last of them."""

    def close(self) -> None:
        """Take the hooks off."""


class Pixels(Encoder):
    """The canvas is what the model reads: (B, 3, H, W) -> (B, H, W, 3)."""

    def moments(self, pixels: "Tensor") -> "Tensor":
        return pixels.permute(0, 2, 3, 1).contiguous()


class FromPixels:
    """What priors that read images as they are say of themselves."""

    latent_channels = None
    largest = None
    last_timestep = 0

    def open_encoder(self, device: "torch.device | str", dtype: str) -> Encoder:
        return Pixels()


class PixelPass:
    """A pass of a model on ``device`` in ``dtype``, whose hooks ``open_reader`` sets; see
    :class:`~diffps.backbone.prior.Pass`."""

    def __init__(
        self,
        open_reader: Callable[[], Reader],
        normalisation: Normalisation,
        device: "torch.device | str",
        dtype: "torch.dtype",
        *,
        compiled: bool = False,
    ) -> None:
        self._open, self._normalisation, self._compiled = open_reader, normalisation, compiled
        self._device, self._dtype = device, dtype

    def __enter__(self) -> "PixelPass":
        import torch

        self._reader = self._open()
        self._run = torch.compile(self._reader.run) if self._compiled else self._reader.run
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def features(self, starts: "Tensor", timestep: int, keys: "Sequence[NoiseKey]") -> "dict[str, Tensor]":
        """Taps of canvases (B, H, W, 3) in [-1, 1], normalised as the model was trained."""
        import torch

        mean, std = (torch.tensor(self._normalisation[name], device=self._device) for name in ("mean", "std"))
        with torch.inference_mode():
            normal = ((starts.to(self._device) + 1) / 2 - mean) / std
            return self._run(normal.permute(0, 3, 1, 2).contiguous().to(self._dtype), not self._compiled)
