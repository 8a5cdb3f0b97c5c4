"""From pixels to what the UNet sees: the VAE's moments, the latent drawn from them, the noise of a timestep.

Moments are channels last, (B, h, w, 8): mean and log variance. Everything random is drawn on the CPU from a
counter-based generator, so it depends on (image, view, timestep, seed) and on nothing else.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffps.backbone.parts import DiffusersModel
from diffps.records import View

LatentRule = Literal["mean", "sample"]
NoiseRule = Literal["seeded", "none"]

# diffusers clamps the log variance to this range before it draws.
_LOGVAR_RANGE = (-30.0, 20.0)


class NoiseKey(NamedTuple):
    """What one image's random numbers depend on besides the seed: the digest of its file and the view."""

    digest: str
    view: View


class LatentEncoder:
    """The encoder half of a frozen VAE."""

    def __init__(self, vae: DiffusersModel, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.scaling_factor = float(vae.config["scaling_factor"])
        self.shift_factor = float(vae.config.get("shift_factor") or 0.0)
        self._vae = vae.to(self.device)
        self._vae.decoder = None  # never used, half of the memory

    @torch.inference_mode()
    def moments(self, pixels: Tensor) -> Tensor:
        """Posterior of ``pixels`` (B, 3, H, W) in [-1, 1]: (B, H/8, W/8, 8) float32, mean then log variance."""
        posterior = self._vae.encode(pixels.to(self.device, self._vae.dtype)).latent_dist
        moments: Tensor = posterior.parameters
        return moments.float().permute(0, 2, 3, 1).contiguous()

    def latents(self, moments: Tensor, rule: LatentRule, keys: Sequence[NoiseKey], seed: int) -> Tensor:
        """The clean latents z (B, 4, h, w) float32, scaled as the UNet wants them; ``sample`` draws one per image."""
        return scaled_latents(moments, rule, keys, seed, self.scaling_factor, self.shift_factor)


def scaled_latents(
    moments: Tensor,
    rule: LatentRule,
    keys: Sequence[NoiseKey],
    seed: int,
    scaling_factor: float,
    shift_factor: float = 0.0,
) -> Tensor:
    """z = (mean or sample of the posterior - shift) * scaling_factor: moments (B, h, w, 8) -> (B, 4, h, w) float32."""
    mean, logvar = moments.float().permute(0, 3, 1, 2).chunk(2, dim=1)
    if rule == "sample":
        std = (0.5 * logvar.clamp(*_LOGVAR_RANGE)).exp()
        mean = mean + std * _normal(("latent", seed), keys, mean.shape).to(mean.device)
    return (mean - shift_factor) * scaling_factor


def add_noise(
    latents: Tensor, timestep: int, alpha_bar: float, rule: NoiseRule, keys: Sequence[NoiseKey], seed: int
) -> Tensor:
    """sqrt(alpha_bar) z + sqrt(1 - alpha_bar) eps, with eps seeded per image; ``none`` gives z itself."""
    return _mixed(latents, timestep, float(np.sqrt(alpha_bar)), float(np.sqrt(1 - alpha_bar)), rule, keys, seed)


def add_flow_noise(
    latents: Tensor, timestep: int, sigma: float, rule: NoiseRule, keys: Sequence[NoiseKey], seed: int
) -> Tensor:
    """(1 - sigma) z + sigma eps, of models of rectified flow; the same eps as :func:`add_noise`'s."""
    return _mixed(latents, timestep, 1 - sigma, sigma, rule, keys, seed)


def _mixed(
    latents: Tensor, timestep: int, kept: float, added: float, rule: NoiseRule, keys: Sequence[NoiseKey], seed: int
) -> Tensor:
    if rule == "none":
        return latents
    noise = _normal(("noise", timestep, seed), keys, latents.shape).to(latents.device)
    return kept * latents + added * noise


def _normal(purpose: tuple[str | int, ...], keys: Sequence[NoiseKey], shape: torch.Size) -> Tensor:
    rows: list[NDArray[np.float32]] = []
    for key in keys:
        text = "/".join(map(str, (*purpose, *key)))
        counter = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
        generator = np.random.Generator(np.random.Philox(key=counter))
        rows.append(generator.standard_normal(tuple(shape[1:]), dtype=np.float32))
    return torch.from_numpy(np.stack(rows))
