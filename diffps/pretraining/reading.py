"""Many prompts and timesteps over the same images: each image is encoded once."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffps.backbone.capture import Request
from diffps.backbone.frozen import Extractor, FrozenUNet
from diffps.backbone.latents import NoiseKey
from diffps.pretraining.scenes import to_tensor

_BATCH = 8


@dataclass(frozen=True, slots=True)
class Reader:
    """``latents`` (N, 4, h, w) of some images under one frozen UNet; its noise is that of FrozenUNet.extract."""

    unet: FrozenUNet
    latents: Tensor
    keys: tuple[NoiseKey, ...]

    @classmethod
    def of(cls, unet: FrozenUNet, images: Sequence[NDArray[np.uint8]]) -> "Reader":
        tensors = [to_tensor([image]) for image in images]
        keys = tuple(
            NoiseKey(hashlib.sha256(tensor[0].numpy().tobytes()).hexdigest(), "identity") for tensor in tensors
        )
        moments = torch.cat([unet.encoder.moments(tensor) for tensor in tensors])
        return cls(unet, unet.encoder.latents(moments, "mean", keys, 0), keys)

    def read(
        self, taps: Sequence[str], timestep: int, prompt: str, words: Sequence[str] = ()
    ) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """The taps of eight images at a time, channels last, with the place of these images among all."""
        encoded = self.unet.prompts.encode(prompt, words)
        request = Request(tuple(taps), encoded.spans, "mean")
        alphas = self.unet.checkpoint.alphas_cumprod()
        with Extractor(self.unet.unet, self.unet.taps, alphas, request, encoded.embedding) as extractor:
            for start in range(0, len(self.latents), _BATCH):
                part = slice(start, start + _BATCH)
                yield part, extractor.features(self.latents[part], timestep, "seeded", self.keys[part], 0)
