"""Training of the VAE: from a linear colour codec to one that also keeps edges."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diffps.backbone.builtin.codec import whiten
from diffps.pretraining.config import PretrainConfig
from diffps.pretraining.optimise import cosine, descend, step_generator
from diffps.pretraining.scenes import to_tensor

_MSE, _EDGES, _KL = 2.0, 0.3, 1e-3  # beside the mean absolute error


class CodecTrainer:
    """One VAE and its optimiser; ``step(k)`` depends on k, the images and the state alone."""

    def __init__(self, vae: Any, config: PretrainConfig, device: torch.device) -> None:
        self.vae = vae.to(device, memory_format=torch.channels_last).train()
        self._config, self._device = config, device
        self.optimiser = torch.optim.AdamW(vae.parameters(), config.vae_lr, betas=(0.9, 0.99), weight_decay=0.0)

    def step(self, step: int, images: Sequence[NDArray[np.uint8]]) -> float:
        """Learn from crops of ``images``; returns the loss. Raises DivergedError."""
        config = self._config
        rng = np.random.default_rng([config.seed, 43, step])
        crops = []
        for index in rng.integers(len(images), size=config.vae_batch):
            image = images[index]
            y, x = rng.integers(image.shape[0] - config.vae_crop + 1, size=2)
            crops.append(image[y : y + config.vae_crop, x : x + config.vae_crop])
        x = to_tensor(crops).to(self._device, memory_format=torch.channels_last)
        posterior = self.vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=step_generator(config.seed, 1, step)).to(self._device)
        y = self.vae.decode(posterior.mean + posterior.std * noise).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        loss = F.l1_loss(y, x) + _MSE * F.mse_loss(y, x) + _EDGES * _edge_loss(y, x) + _KL * kl
        descend(loss, self.optimiser, config.vae_lr * cosine(step, config.vae_steps, 60), "VAE", step)
        return float(loss.detach())

    def finish(self, images: Sequence[NDArray[np.uint8]]) -> Any:
        """The VAE in eval mode, its latents whitened over ``images``."""
        vae = self.vae.to(memory_format=torch.contiguous_format).eval()
        with torch.inference_mode():
            latents = torch.cat([vae.encode(to_tensor([image]).to(self._device)).latent_dist.mean for image in images])
            mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        whiten(vae, mean, std)
        return vae


def psnr(vae: Any, images: Sequence[NDArray[np.uint8]], device: torch.device) -> float:
    """Mean peak signal-to-noise ratio in dB of ``images`` through the VAE's mean latents."""
    values = []
    with torch.inference_mode():
        for image in images:
            x = to_tensor([image]).to(device)
            y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
            values.append(10 * math.log10(4.0 / float(F.mse_loss(y, x))))
    return float(np.mean(values))


def _edge_loss(y: Tensor, x: Tensor) -> Tensor:
    return F.l1_loss(y.diff(dim=3), x.diff(dim=3)) + F.l1_loss(y.diff(dim=2), x.diff(dim=2))
