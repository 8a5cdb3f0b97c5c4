"""Training of the UNet and the text encoder: predict the noise, and let the word maps lie on what the word names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffps.backbone.builtin.topology import Parts
from diffps.backbone.capture import Request, TapReader
from diffps.pretraining.config import PretrainConfig
from diffps.pretraining.optimise import descend, settling, step_generator
from diffps.pretraining.scenes import WORDS, TrainingScenes, sample_batch
from diffps.taps import tap_table

_LEAST_CELLS = 0.7  # a word seen on less than this area of latent cells is not asked for
_EARLY = 1.8  # timesteps are drawn as 999 u^1.8: features are read early, where little noise is


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean squared error of the predicted noise; mean divergence of the maps in nats, NaN where no word was asked."""

    denoising: float
    maps: float


class DenoiserTrainer:
    """UNet, text encoder and their optimiser; ``step(k)`` depends on k, the scenes and the state alone."""

    def __init__(self, parts: Parts, alphas_cumprod: Tensor, config: PretrainConfig, device: torch.device) -> None:
        self.unet = parts.unet.to(device, memory_format=torch.channels_last).train()
        self.text_encoder = parts.text_encoder.to(device).train()
        self._tokenizer = parts.tokenizer
        self._alphas, self._config, self._device = alphas_cumprod.to(device), config, device
        table = tap_table(dict(parts.unet.config))
        self._maps = tuple(tap for tap, spec in table.items() if tap.startswith("up-") and spec.kind == "cross-map")
        self._table = table
        self._words = torch.tensor(word_tokens(parts.tokenizer, WORDS), device=device)
        parameters = [*self.unet.parameters(), *self.text_encoder.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, config.lr, betas=(0.9, 0.98), weight_decay=1e-3)

    def step(self, step: int, scenes: TrainingScenes) -> Losses:
        """Learn from one batch of ``scenes``. Raises DivergedError."""
        config = self._config
        rng = np.random.default_rng([config.seed, 47, step])
        side = scenes.latents.shape[-1]
        settled = step >= config.steps - config.settle
        crop = side if settled else min(config.crop, side)
        size = max(1, config.batch * min(config.crop, side) ** 2 // crop**2)
        batch = sample_batch(scenes, rng, size, crop)
        timesteps = torch.from_numpy((999 * rng.random(size) ** _EARLY).astype(np.int64)).to(self._device)
        noise = torch.randn(batch.latents.shape, generator=step_generator(config.seed, 2, step)).to(self._device)
        alpha = self._alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * batch.latents.to(self._device) + (1 - alpha).sqrt() * noise
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        ids = self._tokenizer(list(batch.captions), padding="max_length", truncation=True, return_tensors="pt")
        tokens = ids.input_ids.to(self._device)
        context = self.text_encoder(tokens).last_hidden_state
        with TapReader(self.unet, self._table, Request((*self._maps, "unet-out"))) as reader:
            taken = reader.run(noisy, timesteps, context, stop=False)
        denoising = F.mse_loss(taken["unet-out"].permute(0, 3, 1, 2), noise)
        columns = (tokens[:, None, :] == self._words[None, :, None]).float()
        masks = batch.masks.to(self._device)
        asked = (columns.sum(2) > 0) & (masks.sum((2, 3)) > _LEAST_CELLS)
        asked &= (timesteps < config.map_timesteps)[:, None]
        divergence = map_divergence([taken[tap][..., 0, :] for tap in self._maps], columns, masks, asked)
        loss = denoising if divergence is None else denoising + config.map_weight * divergence
        descend(loss, self.optimiser, config.lr * settling(step, config.steps, config.settle, 100), "UNet", step)
        return Losses(float(denoising.detach()), float("nan") if divergence is None else float(divergence.detach()))


def map_divergence(maps: Sequence[Tensor], columns: Tensor, masks: Tensor, asked: Tensor) -> Tensor | None:
    """Mean Kullback-Leibler divergence KL(mask || map) over (sample, word) pairs ``asked`` (B, W), and over ``maps``.

    ``maps`` are (B, h, w, T) attention probabilities; ``columns`` (B, W, T) marks a word's tokens; ``masks``
    (B, W, c, c) says where the word is seen. Mask and map are each normalised over positions. None if nothing is asked.
    """
    if not bool(asked.any()):
        return None
    total = masks.new_zeros(())
    for probabilities in maps:
        height, width = probabilities.shape[1:3]
        drawn = F.adaptive_avg_pool2d(masks, (height, width)).flatten(2)[asked]
        seen = torch.einsum("bnt,bwt->bwn", probabilities.flatten(1, 2), columns)[asked]
        drawn = drawn / drawn.sum(1, keepdim=True)
        seen = seen / seen.sum(1, keepdim=True)
        total = total + (torch.special.xlogy(drawn, drawn) - drawn * (seen + 1e-6).log()).sum(1).mean()
    return total / len(maps)


def word_tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The one token of each of ``words``."""
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    assert all(len(tokens) == 1 for tokens in ids), "a trained word is one token of the vocabulary"
    return [int(tokens[0]) for tokens in ids]
